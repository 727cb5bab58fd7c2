"""What a job costs the server: counted commands, so that nobody makes it dearer unawares."""

from __future__ import annotations

from collections import Counter

from tests.lua.desk import Desk
from trio_tasks.processor.decisions import Retry
from trio_tasks.redis_streams import calls

JOBS = 100


def reset(desk: Desk) -> None:
    desk.do("CONFIG", "RESETSTAT")


def fixed(commands: Counter[str]) -> dict[str, int]:
    """Those that do not depend on the number of jobs."""
    return {name: n for name, n in commands.items() if n < JOBS and name in CORE}


CORE = {
    "xreadgroup", "xpending", "xack", "xdel", "xadd", "xclaim", "xinfo|consumers", "xrange",
    "xlen", "hincrby", "hlen", "zrangebyscore", "zscore", "zrange", "hmget",
}  # fmt: skip


def test_a_new_job_costs_three_commands(desk: Desk) -> None:
    jobs = [desk.job() for _ in range(JOBS)]
    desk.ask(calls.enqueue(desk.keys, jobs))  # the script is known, the level in use
    more = [desk.job() for _ in range(JOBS)]
    reset(desk)

    desk.send(*more)

    commands = desk.commands()
    assert {name: n for name, n in commands.items() if n >= JOBS} == {
        "exists": JOBS,
        "xadd": JOBS,
        "hset": JOBS,
    }
    assert commands["evalsha"] == 1
    assert commands.total() <= 3 * JOBS + 8


def test_a_start_costs_one_command_and_a_plain_completion_two(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.beat()
    desk.send(*(desk.job() for _ in range(2 * JOBS)))
    outcomes = [clerk.outcome(delivery) for delivery in clerk.take(JOBS)]
    reset(desk)

    reply = clerk.step(outcomes, want=JOBS)

    commands = desk.commands()
    assert reply.taken is not None
    assert len(reply.taken.deliveries) == JOBS
    per_job = {name: n for name, n in commands.items() if n >= JOBS}
    assert per_job == {"hget": JOBS + 1, "hset": JOBS, "pexpire": JOBS}
    per_step = fixed(commands)
    assert per_step == {
        "xreadgroup": 1,
        "xpending": 1,
        "xack": 1,
        "xdel": 1,
        "xadd": 1,
        "hincrby": 1,
        "hlen": 1,
        "hmget": 1,
        "zscore": 1,
        "zrangebyscore": 1,
        "zrange": 2,
    } | ({"xrevrange": 1} if "xrevrange" in per_step else {})
    assert commands["evalsha"] == 1


def test_an_idle_step_is_cheap(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.beat()
    clerk.take(1)
    reset(desk)

    clerk.take(1)

    assert desk.commands().total() <= 9


def test_retries_do_not_fall_back_to_a_request_for_each_fence(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.send(*(desk.job() for _ in range(JOBS)))
    outcomes = [clerk.outcome(delivery, Retry(60_000)) for delivery in clerk.take(JOBS)]
    reset(desk)

    clerk.commit(*outcomes)

    commands = desk.commands()
    assert commands["xpending"] == 1
    assert commands.total() <= 4 * JOBS + 10


def test_stale_outcomes_do_not_either(desk: Desk) -> None:
    clerk, heir = desk.clerk("w:1"), desk.clerk("heir:1")
    desk.send(*(desk.job() for _ in range(JOBS)))
    outcomes = [clerk.outcome(delivery) for delivery in clerk.take(JOBS)]
    clerk.die()
    heir.take(JOBS)
    reset(desk)

    clerk.commit(*outcomes)

    assert desk.commands()["xpending"] == 1


def test_a_waiting_job_of_200_bytes_fits_into_800(desk: Desk) -> None:
    job_id = desk.emit()
    blob = b"x" * 250  # the data, the event's name and what msgpack adds
    desk.do("HSET", desk.keys.job(job_id), "b", blob)

    assert desk.number("MEMORY", "USAGE", desk.keys.job(job_id)) <= 650
