"""Requeue: a dead job comes back."""

from __future__ import annotations

import anyio
import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.errors import JobNotFoundError
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die, Release, Skip

pytestmark = pytest.mark.anyio


async def test_a_requeued_job_has_fresh_attempts_in_a_new_generation(world: World) -> None:
    job_id = await world.bury(data=b'"keep"', priority=3, deadline_ms=LONG_MS)

    assert await world.broker.requeue("default", job_id)

    stored = await world.read(job_id)
    assert (stored.state, stored.attempt, stored.generation) == (JobState.QUEUED, 0, 1)
    assert (stored.why, stored.error, stored.deadline_at_ms) == (None, None, None)
    assert (stored.finished_at_ms, stored.attempts, stored.priority) == (None, None, 3)
    assert stored.record is not None
    assert stored.record.data == b'"keep"'
    delivery = await (await world.worker()).take_one()
    assert (delivery.attempt, delivery.generation, delivery.deadline_at_ms) == (1, 1, None)


async def test_requeueing_twice_moves_the_job_once(world: World) -> None:
    job_id = await world.bury()

    assert await world.broker.requeue("default", job_id)
    assert not await world.broker.requeue("default", job_id)

    assert (await world.counts()).queued == 1


async def test_many_who_requeue_at_once_move_the_job_once(world: World) -> None:
    job_id = await world.bury()
    answers: list[bool] = []

    async def requeue() -> None:
        answers.append(await world.broker.requeue("default", job_id))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(requeue)

    assert any(answers)
    stored = await world.read(job_id)
    assert stored.generation == 1
    assert (await world.counts()).queued == 1


async def test_requeue_moves_no_other_job(world: World) -> None:
    ids = [await world.bury() for _ in range(3)]

    await world.broker.requeue("default", ids[1])

    assert await world.listed(JobState.DEAD) == [ids[0], ids[2]]


@pytest.mark.parametrize("stage", ["queued", "running", "completed", "skipped"])
async def test_a_job_that_is_not_dead_is_not_requeued(world: World, stage: str) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    if stage != "queued":
        delivery = await worker.take_one()
        if stage == "completed":
            await worker.end(delivery)
        elif stage == "skipped":
            await worker.end(delivery, Skip("x"))

    assert not await world.broker.requeue("default", job_id)

    assert (await world.read(job_id)).generation == 0


async def test_a_job_that_nobody_knows_cannot_be_requeued(world: World) -> None:
    with pytest.raises(JobNotFoundError):
        await world.broker.requeue("default", "nobody")


async def test_a_requeued_job_may_die_again_once_per_generation(world: World) -> None:
    job_id = await world.bury()
    worker = await world.worker()
    for generation in (1, 2, 3):
        await world.broker.requeue("default", job_id)
        delivery = await worker.take_one()
        assert (delivery.attempt, delivery.generation) == (1, generation)
        await worker.end(delivery, Die("again"))

        assert await world.listed(JobState.DEAD) == [job_id]


async def test_interruptions_are_counted_anew_in_each_generation(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Release(counted=False, began=True))
    await worker.end(await worker.take_one(), Die("x"))
    await world.broker.requeue("default", job_id)

    assert (await worker.take_one()).interruptions == 0


async def test_generations_go_on_through_a_new_life(world: World) -> None:
    await world.bury("nightly")
    await world.broker.requeue("default", "nightly")
    worker = await world.worker()
    await worker.end(await worker.take_one())

    await world.emit("nightly")

    assert (await worker.take_one()).generation == 2
