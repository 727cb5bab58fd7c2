"""Release, and the arithmetic of attempts: attempts used + deliveries - those that do not count."""

from __future__ import annotations

import pytest

from tests.contract.world import World, error_bytes
from trio_tasks.broker import Applied
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Release, Retry

pytestmark = pytest.mark.anyio

UNBEGUN = Release(counted=False, began=False)
INTERRUPTED = Release(counted=False, began=True)
COUNTED = Release(counted=True, began=True)


async def test_a_released_job_is_queued_and_can_start_elsewhere_at_once(world: World) -> None:
    job_id = await world.emit()
    one, two = await world.worker("one"), await world.worker("two")

    assert await one.end(await one.take_one(), UNBEGUN) is Applied.APPLIED

    stored = await world.read(job_id)
    assert (stored.state, stored.attempt, stored.started_at_ms) == (JobState.QUEUED, 0, None)
    assert await two.take_ids(1) == [job_id]


async def test_a_job_that_was_given_back_unbegun_has_used_no_attempt(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    for _ in range(3):
        delivery = await worker.take_one()
        assert (delivery.attempt, delivery.interruptions) == (1, 0)
        await worker.end(delivery, UNBEGUN)


async def test_an_interrupted_attempt_is_given_back_and_remembered(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    for interruptions in range(3):
        delivery = await worker.take_one()
        assert (delivery.attempt, delivery.interruptions) == (1, interruptions)
        await worker.end(delivery, INTERRUPTED)

    stored = await world.read(job_id)
    assert (stored.attempt, stored.interruptions) == (0, 3)


async def test_a_counted_release_uses_its_attempt(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), COUNTED)

    assert (await world.read(job_id)).attempt == 1
    delivery = await worker.take_one()
    assert (delivery.attempt, delivery.interruptions) == (2, 0)


async def test_the_starts_of_workers_that_died_count(world: World) -> None:
    job_id = await world.emit()
    for attempt in (1, 2, 3):
        worker = await world.worker(f"w{attempt}")
        assert (await worker.take_one()).attempt == attempt
        await world.kill(worker)

    assert (await world.read(job_id)).attempt == 3


async def test_attempts_add_up_over_deaths_releases_and_retries(world: World) -> None:
    await world.emit()
    dead, worker = await world.worker("dead"), await world.worker()
    assert (await dead.take_one()).attempt == 1
    await world.kill(dead)
    assert (delivery := await worker.take_one()).attempt == 2
    await worker.end(delivery, INTERRUPTED)
    assert (delivery := await worker.take_one()).attempt == 2
    await worker.end(delivery, Retry(delay_ms=0))
    assert (delivery := await worker.take_one()).attempt == 3
    await worker.end(delivery, UNBEGUN)
    assert (delivery := await worker.take_one()).attempt == 3
    await worker.end(delivery, COUNTED)
    assert (delivery := await worker.take_one()).attempt == 4
    assert delivery.interruptions == 1


async def test_interruptions_are_counted_over_retries(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), INTERRUPTED)
    await worker.end(await worker.take_one(), Retry(delay_ms=0))

    assert (await worker.take_one()).interruptions == 1


async def test_a_release_may_tell_an_error(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    error = error_bytes("lease lost")

    await worker.end(await worker.take_one(), COUNTED, error=error)

    assert (await world.read(job_id)).error == error


async def test_released_jobs_come_back_in_the_order_of_their_emits(world: World) -> None:
    ids = [await world.emit() for _ in range(3)]
    worker = await world.worker()
    one, two, three = await worker.take(3)

    for delivery in (two, three, one):
        await worker.end(delivery, UNBEGUN)

    assert await worker.take_ids(3) == ids
