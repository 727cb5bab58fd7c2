"""Pause: nothing is handed out, nothing is lost."""

from __future__ import annotations

import pytest

from tests.contract.world import World
from trio_tasks.broker import Applied, TakeStatus
from trio_tasks.processor.decisions import Release

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_paused_queue_hands_nothing_out_until_it_is_resumed(world: World) -> None:
    ids = [await world.emit() for _ in range(2)]
    worker = await world.worker()

    await world.broker.pause("default", True)
    _, taken = await worker.step([], 2)

    assert (taken.status, list(taken.deliveries)) == (TakeStatus.PAUSED, [])
    assert (await world.counts()).paused
    await world.broker.pause("default", False)
    assert not (await world.counts()).paused
    assert await worker.take_ids(2) == ids


async def test_jobs_that_run_when_the_queue_is_paused_may_finish(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.broker.pause("default", True)

    assert await worker.end(delivery) is Applied.APPLIED


async def test_a_paused_queue_accepts_jobs_and_keeps_their_order(world: World) -> None:
    await world.broker.pause("default", True)
    low = await world.emit(priority=0)
    high = await world.emit(priority=5)
    worker = await world.worker()

    await world.broker.pause("default", False)

    assert await worker.take_ids(2) == [high, low]


async def test_nothing_is_taken_over_while_paused(world: World) -> None:
    job_id = await world.emit()
    dead, heir = await world.worker("dead"), await world.worker("heir")
    await dead.take_one()
    await world.kill(dead)
    await world.broker.pause("default", True)

    _, taken = await heir.step([], 1)
    assert list(taken.deliveries) == []

    await world.broker.pause("default", False)
    assert await heir.take_ids(1) == [job_id]


async def test_nothing_that_was_released_is_handed_out_while_paused(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.broker.pause("default", True)
    await worker.end(delivery, Release(counted=False, began=False))

    _, taken = await worker.step([], 1)

    assert list(taken.deliveries) == []


async def test_jobs_that_become_due_while_paused_start_after_the_resume(world: World) -> None:
    job_id = await world.emit(delay_ms=10)
    worker = await world.worker()
    await world.broker.pause("default", True)
    await world.pass_ms(11)
    _, taken = await worker.step([], 1)
    assert list(taken.deliveries) == []

    await world.broker.pause("default", False)

    assert await worker.take_ids(1) == [job_id]


async def test_pausing_twice_and_resuming_once_resumes(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    await world.broker.pause("default", True)
    await world.broker.pause("default", True)

    await world.broker.pause("default", False)

    assert len(await worker.take()) == 1


async def test_a_queue_may_be_paused_again_and_again(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    for _ in range(3):
        await world.broker.pause("default", True)
        assert (await world.counts()).paused
        _, taken = await worker.step([], 1)
        assert (taken.status, list(taken.deliveries)) == (TakeStatus.PAUSED, [])
        await world.broker.pause("default", False)
        assert not (await world.counts()).paused

    assert len(await worker.take()) == 1


async def test_a_pause_stops_its_own_queue_only(world: World) -> None:
    await world.emit(queue="other")
    await world.broker.pause("default", True)

    assert len(await (await world.worker(queue="other")).take()) == 1
