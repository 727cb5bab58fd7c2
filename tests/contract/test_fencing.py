"""Fencing: an outcome is applied at most once, and only for the present start."""

from __future__ import annotations

import msgspec
import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import Applied
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Park, Release, Retry, Skip

pytestmark = pytest.mark.anyio

VERDICTS = [
    Complete(),
    Retry(delay_ms=LONG_MS),
    Park(delay_ms=LONG_MS, since_ms=1),
    Release(counted=False, began=True),
    Die("x"),
    Skip("x"),
    Cancel("x"),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: type(verdict).__name__)
async def test_an_outcome_whose_answer_was_lost_is_known_when_it_comes_again(
    world: World, verdict: Complete
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), verdict)

    assert await worker.commit(outcome) == [Applied.APPLIED]
    once = await world.read(job_id)
    assert await worker.commit(outcome) == [Applied.REPEATED]

    assert await world.read(job_id) == once


async def test_a_repeated_completion_makes_no_second_child(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), children=[world.job()])

    await worker.commit(outcome)
    await worker.commit(outcome)

    assert (await world.counts()).queued == 1


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: type(verdict).__name__)
async def test_a_start_that_was_taken_over_changes_nothing(world: World, verdict: Complete) -> None:
    job_id = await world.emit()
    dead, heir = await world.worker("dead"), await world.worker("heir")
    stale = await dead.take_one()
    await world.kill(dead)
    present = await heir.take_one()
    before = await world.read(job_id)

    applied = await dead.end(stale, verdict, children=[world.job()], result=b"1")

    assert applied is Applied.STALE
    # The start of a running job is told to the millisecond before or after.
    after = msgspec.structs.replace(await world.read(job_id), started_at_ms=before.started_at_ms)
    assert after == before
    assert (await world.counts()).queued == 0
    assert await heir.end(present, result=b"2") is Applied.APPLIED
    assert (await world.read(job_id)).result == b"2"


async def test_an_earlier_start_of_the_same_worker_is_stale_too(world: World) -> None:
    await world.emit()
    one, two = await world.worker("one"), await world.worker("two")
    first = await one.take_one()
    await one.end(first, Release(counted=False, began=True))
    second = await two.take_one()
    await two.end(second, Release(counted=False, began=True))
    third = await one.take_one()

    assert await one.end(first) is Applied.STALE
    assert await two.end(second) is Applied.REPEATED
    assert await one.end(third) is Applied.APPLIED


async def test_an_outcome_that_comes_again_after_the_next_start_changes_nothing(
    world: World,
) -> None:
    await world.emit()
    worker = await world.worker()
    first = await worker.take_one()
    await worker.end(first, Retry(delay_ms=0))
    second = await worker.take_one()

    assert await worker.end(first) is Applied.REPEATED
    assert await worker.end(second) is Applied.APPLIED


async def test_a_former_outcome_of_the_same_worker_does_not_vouch_for_a_later_start(
    world: World,
) -> None:
    job_id = await world.emit()
    worker, heir = await world.worker(), await world.worker("heir")
    await worker.end(await worker.take_one(), Retry(delay_ms=0))
    second = await worker.take_one()
    await world.kill(worker)
    await heir.take_one()

    assert await worker.end(second, result=b"1") is Applied.STALE

    assert await world.state(job_id) is JobState.RUNNING


async def test_a_worker_that_died_may_commit_while_nobody_has_taken_its_job(
    world: World,
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.kill(worker)

    assert await worker.end(delivery, result=b"1") is Applied.APPLIED

    assert await world.state(job_id) is JobState.COMPLETED
    assert await (await world.worker("heir")).take() == []


async def test_an_outcome_of_a_former_incarnation_is_applied(world: World) -> None:
    job_id = await world.emit()
    former = await world.worker()
    outcome = former.outcome(await former.take_one(), result=b"1")
    await world.kill(former)
    present = await world.worker()

    assert await present.commit(outcome) == [Applied.APPLIED]
    assert await world.state(job_id) is JobState.COMPLETED


async def test_an_outcome_of_a_job_that_nobody_knows_is_told_so(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    token = msgspec.structs.replace(delivery.token, job_id="nobody")
    await worker.end(delivery)

    applied = await worker.end(msgspec.structs.replace(delivery, token=token), result=b"1")

    assert applied is Applied.GONE
    assert await world.is_gone("nobody")


async def test_a_stale_outcome_does_not_hold_up_the_others_of_its_step(world: World) -> None:
    ids = [await world.emit() for _ in range(2)]
    worker, heir = await world.worker(), await world.worker("heir")
    first, second = await worker.take(2)
    await worker.end(first, Release(counted=False, began=False))
    await heir.take_one()

    applied = await worker.commit(
        worker.outcome(first, Die("x")), worker.outcome(second, result=b"1")
    )

    assert applied == [Applied.REPEATED, Applied.APPLIED]
    assert [await world.state(job_id) for job_id in ids] == [
        JobState.RUNNING,
        JobState.COMPLETED,
    ]


async def test_a_stale_outcome_does_not_hide_the_present_start_of_the_same_job(
    world: World,
) -> None:
    job_id = await world.emit()
    dead, heir = await world.worker("dead"), await world.worker("heir")
    stale = dead.outcome(await dead.take_one(), result=b"1")
    await world.kill(dead)
    present = heir.outcome(await heir.take_one(), result=b"2")

    assert await heir.commit(stale, present) == [Applied.STALE, Applied.APPLIED]

    assert (await world.read(job_id)).result == b"2"


async def test_one_start_ends_once_in_a_step(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    applied = await worker.commit(
        worker.outcome(delivery, Release(counted=False, began=True)),
        worker.outcome(delivery, Release(counted=False, began=True)),
    )

    assert applied == [Applied.APPLIED, Applied.REPEATED]
    assert (await world.read(job_id)).interruptions == 1


async def test_an_outcome_of_a_requeued_jobs_former_generation_is_stale(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), Die("x"))
    await worker.commit(outcome)
    await world.broker.requeue("default", job_id)

    assert await worker.commit(outcome) == [Applied.STALE]

    assert await world.state(job_id) is JobState.QUEUED
