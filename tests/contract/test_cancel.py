"""Cancel: at once before a job runs, by request while it does."""

from __future__ import annotations

import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import Applied, CancelAnswer
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Park, Release, Retry, Skip

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_queued_job_is_cancelled_and_never_starts(world: World) -> None:
    job_id = await world.emit()

    assert await world.cancel(job_id, reason="not needed") is CancelAnswer.CANCELLED

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (JobState.CANCELLED, "not needed")
    assert (stored.attempt, stored.started_at_ms) == (0, None)
    assert stored.finished_at_ms is not None
    assert await (await world.worker()).take() == []


async def test_a_delayed_job_is_cancelled_and_never_becomes_due(world: World) -> None:
    job_id = await world.emit(delay_ms=20)

    assert await world.cancel(job_id) is CancelAnswer.CANCELLED

    await world.pass_ms(21)
    assert await (await world.worker()).take() == []
    assert await world.state(job_id) is JobState.CANCELLED
    assert (await world.counts()).delayed == 0


async def test_a_job_that_waits_for_its_retry_is_cancelled(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Retry(delay_ms=LONG_MS))

    assert await world.cancel(job_id) is CancelAnswer.CANCELLED
    stored = await world.read(job_id)
    assert (stored.state, stored.attempt) == (JobState.CANCELLED, 1)


async def test_a_released_job_is_cancelled(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Release(counted=True, began=True))

    assert await world.cancel(job_id) is CancelAnswer.CANCELLED
    assert await worker.take() == []
    assert (await world.read(job_id)).attempt == 1


async def test_a_running_job_gets_a_request_that_every_beat_repeats(world: World) -> None:
    job_id = await world.emit()
    worker, other = await world.worker(), await world.worker("other")
    delivery = await worker.take_one()

    assert await world.cancel(job_id, reason="stop") is CancelAnswer.NOTED

    for _ in range(2):
        assert list((await worker.beat()).cancels) == [(job_id, "stop")]
    assert list((await other.beat()).cancels) == []
    assert await world.state(job_id) is JobState.RUNNING
    await worker.end(delivery, Cancel("stop"))
    assert list((await worker.beat()).cancels) == []


async def test_a_completion_wins_over_a_cancel_request(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.cancel(job_id)

    assert await worker.end(delivery, result=b"1") is Applied.APPLIED

    assert await world.state(job_id) is JobState.COMPLETED
    assert list((await worker.beat()).cancels) == []


@pytest.mark.parametrize(
    "verdict",
    [
        Retry(delay_ms=0),
        Park(delay_ms=0, since_ms=1),
        Release(counted=False, began=True),
        Die("x"),
        Skip("x"),
    ],
    ids=lambda verdict: type(verdict).__name__,
)
async def test_any_other_outcome_becomes_a_cancel(world: World, verdict: Complete) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.cancel(job_id, reason="stop")

    assert await worker.end(delivery, verdict) is Applied.CANCELLED

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (JobState.CANCELLED, "stop")
    assert await worker.take() == []
    assert await world.listed(JobState.DEAD) == []
    counts = await world.counts()
    assert (counts.cancelled, counts.delayed, counts.queued) == (1, 0, 0)


async def test_who_takes_a_job_over_learns_of_the_cancel_request(world: World) -> None:
    job_id = await world.emit()
    dead, heir = await world.worker("dead"), await world.worker("heir")
    await dead.take_one()
    await world.cancel(job_id, reason="stop")
    await world.kill(dead)

    assert (await heir.take_one()).cancel_reason == "stop"


async def test_a_first_start_has_no_cancel_reason(world: World) -> None:
    await world.emit()

    assert (await (await world.worker()).take_one()).cancel_reason is None


@pytest.mark.parametrize("verdict", [Complete(), Die("x"), Skip("x"), Cancel("x")])
async def test_an_ended_job_cannot_be_cancelled(world: World, verdict: Complete) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), verdict)
    before = await world.read(job_id)

    assert await world.cancel(job_id) is CancelAnswer.FINAL

    assert await world.read(job_id) == before


async def test_a_job_that_nobody_knows_is_missing(world: World) -> None:
    assert await world.cancel("nobody") is CancelAnswer.MISSING


async def test_a_cancel_by_emit_number_reaches_only_its_own_life(world: World) -> None:
    first, second, attached = (world.job("nightly") for _ in range(3))
    await world.send(first)
    worker = await world.worker()
    await worker.end(await worker.take_one())
    await world.broker.emit([second, attached])

    assert await world.cancel("nightly", number=first.number) is CancelAnswer.FINAL
    assert await world.state("nightly") is JobState.QUEUED
    assert await world.cancel("nightly", number=attached.number) is CancelAnswer.CANCELLED


async def test_a_cancel_without_a_number_reaches_the_present_life(world: World) -> None:
    await world.emit("nightly")

    assert await world.cancel("nightly") is CancelAnswer.CANCELLED


async def test_a_cancelled_chosen_id_can_be_emitted_anew(world: World) -> None:
    await world.emit("nightly")
    await world.cancel("nightly")

    await world.emit("nightly")

    assert await (await world.worker()).take_ids(2) == ["nightly"]


async def test_a_request_for_a_former_life_does_not_reach_the_next(world: World) -> None:
    await world.emit("nightly")
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.cancel("nightly", reason="stop")
    await worker.end(delivery, Cancel("stop"))
    await world.emit("nightly")

    delivery = await worker.take_one()

    assert delivery.cancel_reason is None
    assert list((await worker.beat()).cancels) == []
    assert await worker.end(delivery, Retry(delay_ms=LONG_MS)) is Applied.APPLIED
