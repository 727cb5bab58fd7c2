"""Identity: minted and chosen ids, emit numbers, new lives, generations."""

from __future__ import annotations

import pytest

from tests.lua.desk import Clerk, Desk
from trio_tasks.broker import Applied, CancelAnswer, NewJob
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Retry, Skip, Verdict
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.calls import RequeueAnswer


def run(desk: Desk, clerk: Clerk, verdict: Verdict | None = None) -> None:
    assert clerk.end(clerk.take_one(), verdict) is Applied.APPLIED


def again(desk: Desk, job: NewJob) -> NewJob:
    """Another emit of a chosen id."""
    return desk.job(job.id)


def requeue(desk: Desk, job_id: str, generation: int) -> RequeueAnswer:
    return desk.ask(calls.requeue(desk.keys, job_id, generation=generation))


@pytest.mark.parametrize("ended", [False, True])
def test_a_minted_id_never_gets_a_second_life(desk: Desk, ended: bool) -> None:
    clerk, job = desk.clerk(), desk.job()
    assert desk.send(job) == [True]
    if ended:
        run(desk, clerk)

    assert desk.send(job, job) == [True, True]

    assert desk.counts().emitted == 1
    assert desk.length() == (0 if ended else 1)


def test_a_repeated_emit_of_a_chosen_id_is_known_by_its_number(desk: Desk) -> None:
    clerk, job = desk.clerk(), desk.job("nightly")
    assert desk.send(job, job) == [True, True]
    run(desk, clerk)

    assert desk.send(job) == [True]

    assert desk.counts().emitted == 1
    assert desk.state("nightly") is JobState.COMPLETED


def test_an_emit_of_a_delayed_id_changes_nothing_but_its_numbers(desk: Desk) -> None:
    first, second = desk.job("nightly", delay_ms=60_000), desk.job("nightly")
    desk.send(first)
    before = desk.record("nightly")

    assert desk.send(second) == [False]

    assert desk.record("nightly") == {**before, "n": f"{second.number} {first.number}"}


def test_a_minted_job_has_no_emit_number(desk: Desk) -> None:
    job_id = desk.emit(delay_ms=60_000)

    assert set(desk.record(job_id)) == {"s", "p", "due", "why"}


def test_an_emit_of_an_unfinished_id_is_attached_to_it(desk: Desk) -> None:
    first, second = desk.job("nightly"), desk.job("nightly")
    assert desk.send(first, second, second) == [True, False, False]

    assert desk.read("nightly").numbers == [first.number, second.number]
    assert desk.record("nightly")["n"] == f"{second.number} {first.number}"


@pytest.mark.parametrize("verdict", [Complete(), Skip("x"), Cancel("x"), Die("x")])
def test_a_chosen_id_that_has_ended_begins_a_new_life(desk: Desk, verdict: Verdict) -> None:
    clerk, first = desk.clerk(), desk.job("nightly", deadline_ms=60_000)
    desk.send(first)
    delivery = clerk.take_one()
    clerk.log(delivery, b'"old"')
    clerk.end(delivery, verdict, error=b'"old"', logged=True)
    second = again(desk, first)

    assert desk.send(second) == [True]

    record = desk.record("nightly")
    assert record == {
        "s": "q",
        "e": record["e"],
        "p": "0",
        "gen": "1",
        "n": f"{second.number}|{first.number}",
    }
    assert desk.ttl_ms(desk.keys.job("nightly")) == -1
    assert desk.do("EXISTS", desk.keys.log("nightly")) == 0
    assert desk.listed(JobState.DEAD) == []
    assert desk.events() == ["nightly", "nightly"]
    delivery = clerk.take_one()
    assert (delivery.attempt, delivery.generation, delivery.requeued) == (1, 1, False)


def test_a_record_that_has_lost_its_emit_numbers_still_is_that_job(desk: Desk) -> None:
    desk.emit("nightly")
    desk.do("HDEL", desk.keys.job("nightly"), "n")

    assert desk.send(desk.job("nightly")) == [False]


def test_a_number_of_an_earlier_life_begins_no_other(desk: Desk) -> None:
    clerk, first = desk.clerk(), desk.job("nightly")
    desk.send(first)
    attached = again(desk, first)
    desk.send(attached)
    run(desk, clerk)
    desk.send(again(desk, first))
    run(desk, clerk)

    assert desk.send(first, attached) == [False, False]

    assert desk.counts().emitted == 2


def test_a_new_life_may_begin_delayed(desk: Desk) -> None:
    clerk, first = desk.clerk(), desk.job("nightly")
    desk.send(first)
    run(desk, clerk)

    desk.send(desk.job("nightly", delay_ms=60_000))

    assert desk.state("nightly") is JobState.DELAYED
    assert desk.ttl_ms(desk.keys.job("nightly")) == -1


def test_sixteen_numbers_are_kept_the_oldest_are_dropped_and_the_maker_stays(desk: Desk) -> None:
    clerk, first = desk.clerk(), desk.job("nightly")
    desk.send(first)
    run(desk, clerk)
    maker = again(desk, first)
    attached = [again(desk, first) for _ in range(20)]
    desk.send(maker, *attached)

    kept = [job.number for job in attached[-15:]]
    assert desk.read("nightly").numbers == [maker.number, *kept]
    assert desk.record("nightly")["n"].split() == [*kept[::-1], maker.number]


def test_earlier_lives_are_forgotten_from_the_oldest_on(desk: Desk) -> None:
    clerk = desk.clerk()
    jobs = [desk.job("nightly") for _ in range(18)]
    for job in jobs:
        desk.send(job)
        run(desk, clerk)

    present, earlier = desk.record("nightly")["n"].split("|")

    assert present == jobs[-1].number
    assert earlier.split() == [job.number for job in jobs[-2:-17:-1]]


def test_a_cancel_concerns_the_life_that_its_number_belongs_to(desk: Desk) -> None:
    clerk, first = desk.clerk(), desk.job("nightly")
    desk.send(first)
    run(desk, clerk)
    second = again(desk, first)
    desk.send(second)

    assert desk.cancel("nightly", number=first.number) is CancelAnswer.FINAL
    assert desk.state("nightly") is JobState.QUEUED
    assert desk.cancel("nightly", number=second.number) is CancelAnswer.CANCELLED


def test_a_cancel_by_an_attached_number_or_by_none_concerns_the_present_life(desk: Desk) -> None:
    first, second = desk.job("nightly"), desk.job("nightly")
    desk.send(first, second)
    assert desk.cancel("nightly", number=second.number) is CancelAnswer.CANCELLED

    desk.send(again(desk, first))
    assert desk.cancel("nightly") is CancelAnswer.CANCELLED


def test_a_requeued_job_is_as_if_it_were_new_but_for_its_generation(desk: Desk) -> None:
    clerk, job = desk.clerk(), desk.job("nightly", deadline_ms=60_000, priority=4)
    desk.send(job)
    clerk.end(clerk.take_one(), Retry(0), error=b'"no"')
    delivery = clerk.take_one()
    clerk.log(delivery, b"1")
    clerk.end(delivery, Die("x"), error=b'"no"')

    assert requeue(desk, "nightly", 0) is RequeueAnswer.REQUEUED

    record = desk.record("nightly")
    expected = {"s": "q", "p": "4", "gen": "1", "rq": "1", "n": job.number}
    assert record == {**expected, "e": record["e"]}
    assert (desk.ttl_ms(desk.keys.job("nightly")), desk.listed(JobState.DEAD)) == (-1, [])
    assert desk.events() == ["nightly"] * 3
    again_ = clerk.take_one()
    assert (again_.attempt, again_.generation, again_.requeued) == (1, 1, True)
    assert again_.deadline_at_ms is None
    assert len(desk.read("nightly", logs=True).logs) == 1


def test_one_requeue_per_generation(desk: Desk) -> None:
    clerk = desk.clerk()
    job_id = desk.emit()
    run(desk, clerk, Die("x"))
    assert requeue(desk, job_id, 0) is RequeueAnswer.REQUEUED
    assert requeue(desk, job_id, 0) is RequeueAnswer.NOT_DEAD
    run(desk, clerk, Die("x"))

    # A request of somebody who had read the job before it was requeued and died again.
    assert requeue(desk, job_id, 0) is RequeueAnswer.NOT_DEAD

    assert desk.listed(JobState.DEAD) == [job_id]
    assert requeue(desk, job_id, 1) is RequeueAnswer.REQUEUED
    assert desk.read(job_id).generation == 2


def test_a_tombstone_is_not_requeued(desk: Desk) -> None:
    clerk = desk.clerk()
    job_id = desk.emit()
    clerk.end(clerk.take_one(), retention_ms=0)

    assert requeue(desk, job_id, 0) is RequeueAnswer.MISSING


def test_a_job_that_nobody_knows_is_not_requeued(desk: Desk) -> None:
    assert requeue(desk, "nobody", 0) is RequeueAnswer.MISSING


def test_generations_go_on_over_requeues_and_lives(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit("nightly")
    run(desk, clerk, Die("x"))
    requeue(desk, "nightly", 0)
    run(desk, clerk)
    desk.emit("nightly")

    delivery = clerk.take_one()

    assert (delivery.generation, delivery.requeued) == (2, False)


def test_a_dead_job_that_begins_a_new_life_counts_as_removed(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit("nightly")
    run(desk, clerk, Die("x"))

    desk.emit("nightly")

    assert desk.meta("rm") == "1"
    counts = desk.counts()
    assert (counts.emitted, counts.queued, counts.dead) == (2, 1, 0)
