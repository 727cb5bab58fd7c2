"""Retention: how long an ended job can be read, and its id answers."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Worlds
from tests.contract.world import World
from trio_tasks.broker import RELAYED_RETENTION_MS, Applied, CancelAnswer, Debounce
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Retry, Skip, Verdict

pytestmark = pytest.mark.anyio

DAY_MS = 24 * 3_600_000


async def test_an_ended_job_can_be_read_for_its_retention(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    ended_at_ms = await world.now_ms()
    await worker.end(await worker.take_one(), retention_ms=200, result=b"1")
    assert (await world.read(job_id)).result == b"1"

    await world.until(lambda: world.is_gone(job_id))

    assert await world.now_ms() >= ended_at_ms + 200


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("verdict", [Complete(), Skip("x"), Cancel("x")])
async def test_without_retention_a_job_is_gone_when_it_has_ended(
    world: World, verdict: Verdict, again: bool
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    if again:
        await worker.end(await worker.take_one(), Retry(delay_ms=0))

    await worker.end(await worker.take_one(), verdict, retention_ms=0)

    assert await world.is_gone(job_id)
    counts = await world.counts()
    assert counts.completed + counts.skipped + counts.cancelled == 1


async def test_a_dead_job_needs_no_retention(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), Die("x"), retention_ms=0)
    await world.pass_ms(2)

    assert await world.state(job_id) is JobState.DEAD
    assert await world.broker.requeue("default", job_id)


async def test_a_cancelled_job_is_kept_as_long_as_its_canceller_says(world: World) -> None:
    kept, gone = await world.emit(), await world.emit()

    await world.cancel(kept)
    await world.cancel(gone, retention_ms=0)

    assert await world.state(kept) is JobState.CANCELLED
    assert await world.is_gone(gone)


async def test_a_tombstone_still_answers_for_its_minted_id(world: World) -> None:
    job = world.job()
    await world.send(job)
    worker = await world.worker()
    await worker.end(await worker.take_one(), retention_ms=0)

    await world.send(job)

    assert await worker.take() == []
    assert await world.is_gone(job.id)
    assert (await world.counts()).emitted == 1


async def test_a_tombstone_still_knows_its_emit_numbers_and_outcomes(world: World) -> None:
    job = world.job("nightly")
    await world.send(job)
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), retention_ms=0)
    await worker.commit(outcome)

    await world.send(job)

    assert await worker.commit(outcome) == [Applied.REPEATED]
    assert await worker.take() == []
    assert await world.cancel("nightly") is CancelAnswer.MISSING


async def test_a_tombstone_makes_way_for_a_new_life(world: World) -> None:
    await world.emit("nightly")
    worker = await world.worker()
    await worker.end(await worker.take_one(), retention_ms=0)

    assert (await world.send(world.job("nightly"))).created

    assert (await world.read("nightly")).generation == 1


async def test_after_the_tombstones_time_nothing_is_left(worlds: Worlds) -> None:
    async with worlds(tombstone_ms=100) as world:
        worker = await world.worker()
        debounce = Debounce("trailing", 1, "digest")
        jobs = [world.job(), world.job("nightly"), world.job(debounce=debounce)]
        await world.broker.emit(jobs)
        await world.pass_ms(2)
        for _ in jobs:
            delivery = await worker.take_one()
            await worker.membership.log(delivery.token, [b"1"], 10)
            await worker.ask(delivery, delivery.token.job_id, edge="leading", window_ms=5)
            await worker.end(delivery, retention_ms=10, logged=True)
        await world.emit("cancelled")
        await world.cancel("cancelled", retention_ms=10)
        assert await world.backdoor.leftovers() != []

        await world.pass_ms(120)

        assert await world.backdoor.leftovers() == []
        assert (await world.counts()).emitted == 4


async def test_an_outcome_of_a_job_whose_tombstone_is_gone_is_told_so(worlds: Worlds) -> None:
    async with worlds(tombstone_ms=20) as world:
        job_id = await world.emit()
        worker = await world.worker()
        outcome = worker.outcome(await worker.take_one(), retention_ms=0)
        await worker.commit(outcome)
        await world.pass_ms(25)

        assert await worker.commit(outcome) == [Applied.GONE]
        assert await world.is_gone(job_id)


async def test_a_new_life_outlives_its_predecessors_tombstone(worlds: Worlds) -> None:
    async with worlds(tombstone_ms=30) as world:
        await world.emit("nightly")
        worker = await world.worker()
        await worker.end(await worker.take_one(), retention_ms=0)
        await world.emit("nightly")

        await world.pass_ms(40)

        assert await worker.take_ids(1) == ["nightly"]
        assert await world.state("nightly") is JobState.RUNNING


@pytest.mark.virtual_time
async def test_a_dead_job_stays_until_somebody_requeues_it(world: World) -> None:
    job_id = await world.bury()

    await world.pass_ms(365 * DAY_MS)

    assert await world.state(job_id) is JobState.DEAD
    assert await world.broker.requeue("default", job_id)


@pytest.mark.virtual_time
async def test_a_requeued_job_never_expires_while_it_waits(world: World) -> None:
    job_id = await world.bury()
    await world.broker.requeue("default", job_id)

    await world.pass_ms(365 * DAY_MS)

    assert await world.state(job_id) is JobState.QUEUED


@pytest.mark.virtual_time
async def test_a_relayed_childs_id_answers_for_an_hour_at_least(world: World) -> None:
    await world.emit()
    worker, other = await world.worker(), await world.worker(queue="other")
    child = world.job(queue="other")
    await worker.end(await worker.take_one(), children=[child])
    await world.broker.relay("default")
    await other.end(await other.take_one(), retention_ms=0)
    assert await world.is_gone(child.id, "other")

    await world.pass_ms(RELAYED_RETENTION_MS - 1_000)
    await world.send(child)
    assert await world.is_gone(child.id, "other")

    await world.pass_ms(2_000)
    await world.send(child)
    assert not await world.is_gone(child.id, "other")
