"""When memory is full, emits are refused at once, and all that ends or moves jobs passes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
from redis.exceptions import OutOfMemoryError

from tests.lua.desk import Desk
from trio_tasks.broker import RECORD_VERSION, Applied, Outcome, Record, ScheduleRecord
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die, Release, Retry
from trio_tasks.redis_streams import calls


@contextmanager
def memory_full(desk: Desk) -> Generator[None]:
    desk.do("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        desk.do("CONFIG", "SET", "maxmemory", "0")


def schedule(desk: Desk) -> ScheduleRecord:
    return ScheduleRecord(
        queue="q",
        name="nightly",
        definition=b"{}",
        template=Record(RECORD_VERSION, "work", b"null"),
        next_at_ms=desk.now_ms() + 60_000,
    )


def refused(desk: Desk, ask: Callable[[], object]) -> None:
    with memory_full(desk), pytest.raises(OutOfMemoryError):
        ask()


def test_emits_logs_and_new_schedules_are_refused(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    refused(desk, desk.emit)
    refused(desk, lambda: clerk.log(delivery, b"1"))
    refused(desk, lambda: desk.ask(calls.declare(desk.keys, schedule(desk), replace=False)))

    assert desk.counts().emitted == 1
    assert desk.ask(calls.schedules(desk.keys)) == []


def test_jobs_are_handed_out_and_finished_with_their_children(desk: Desk, other: Desk) -> None:
    clerk = desk.clerk()
    ids = [desk.emit() for _ in range(4)]
    unreadable = desk.word("XADD", desk.keys.out, "999-0", "what", "ever") or ""
    with memory_full(desk):
        one, two, three, four = clerk.take(4)
        outcomes: list[Outcome] = [
            clerk.outcome(one, children=[desk.job("child"), other.job("far")], result=b'"x"'),
            clerk.outcome(two, Die("x"), error=b"{}"),
            clerk.outcome(three, Retry(delay_ms=60_000)),
            clerk.outcome(four, Release(counted=False, began=True)),
        ]
        assert clerk.commit(*outcomes) == [Applied.APPLIED] * 4
        _, row = desk.ask(calls.relay_read(desk.keys))
        assert isinstance(row, calls.ChildRow)
        other.ask(calls.relay_deliver(other.keys, [row]))
        desk.ask(calls.relay_done(desk.keys, [row.row]))
        assert desk.ask(calls.set_aside(desk.keys, [unreadable])) == 1

    assert desk.state(ids[0]) is JobState.COMPLETED
    assert desk.state("child") is JobState.QUEUED
    assert other.state("far") is JobState.QUEUED


def test_workers_come_and_go_and_people_steer(desk: Desk) -> None:
    clerk = desk.clerk("w:1")
    dead = clerk.start()
    clerk.end(dead, Die("x"))
    running, waiting = clerk.start(), desk.emit(delay_ms=60_000)
    declared = desk.ask(calls.declare(desk.keys, schedule(desk), replace=False))
    desk.do("ZADD", desk.keys.cron, desk.now_ms() - 5, "nightly")
    with memory_full(desk):
        (due,) = desk.ask(calls.due_schedules(desk.keys)).due
        job = desk.job("occurrence")
        ticked = calls.tick(desk.keys, due, next_at_ms=declared.next_at_ms + 1, job=job)
        assert desk.ask(ticked).value == "created"
        assert clerk.beat().alive
        clerk.own([running.token])
        clerk.debounce(running)
        assert desk.cancel(running.token.job_id).value == "noted"
        assert desk.cancel(waiting).value == "cancelled"
        desk.ask(calls.requeue(desk.keys, dead.token.job_id, generation=0))
        desk.ask(calls.pause(desk.keys, paused=True, number=1))
        desk.clerk("w:2").leave()
        assert desk.ask(calls.remove_schedule(desk.keys, "nightly"))
        desk.read("occurrence")

    assert desk.counts().cancelled == 1


def test_every_script_says_whether_it_may_run_then() -> None:
    from trio_tasks.redis_streams.scripts import all_scripts

    refused_ones = {s.name for s in all_scripts() if s.source.startswith("#!lua\n")}
    reading = {s.name for s in all_scripts() if s.source.startswith("#!lua flags=no-writes\n")}
    allowed = {s.name for s in all_scripts() if s.source.startswith("#!lua flags=allow-oom\n")}

    assert refused_ones == {"enqueue", "enqueue_plain", "log", "declare"}
    assert reading == {"counts", "jobs", "read", "relay_read", "schedules", "time"}
    assert len(refused_ones | reading | allowed) == len(all_scripts())
