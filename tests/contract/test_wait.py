"""Wait: hints that there is work. Each wakes one worker; none is lost, at most a poll late."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.contract.world import LONG_MS, Worker, World
from trio_tasks.broker import Applied, Taken
from trio_tasks.processor.decisions import Die, Release, Retry

pytestmark = pytest.mark.anyio


async def is_woken(worker: Worker) -> bool:
    """Whether a hint lies there."""
    return await worker.membership.wait(0.05)


async def drained(worker: Worker) -> None:
    """Take the hint that may lie there from what was done before."""
    while await is_woken(worker):
        pass


@asynccontextmanager
async def woken(worker: Worker) -> AsyncGenerator[None]:
    """What is done in the block must wake the worker, which waits already."""

    async def wait() -> None:
        with anyio.fail_after(5):
            assert await worker.membership.wait(60)

    await drained(worker)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.02)
        yield


async def test_without_a_hint_a_wait_ends_with_its_time(world: World) -> None:
    worker = await world.worker()
    await drained(worker)

    assert not await worker.membership.wait(0.01)


@pytest.mark.both_loops
async def test_an_emit_wakes_a_worker(world: World) -> None:
    worker = await world.worker()

    async with woken(worker):
        await world.emit()


async def test_a_hint_that_came_before_the_wait_is_kept(world: World) -> None:
    worker = await world.worker()
    await drained(worker)
    await world.emit()

    assert await worker.membership.wait(5)


async def test_a_step_of_nothing_passes_a_hint_on(world: World) -> None:
    full, other = await world.worker("full"), await world.worker("other")
    await drained(full)
    await world.emit()
    assert await is_woken(full)

    async with woken(other):
        await full.membership.step((), 0)


async def test_many_hints_that_nobody_took_are_one(world: World) -> None:
    worker = await world.worker()
    await drained(worker)
    for _ in range(5):
        await world.emit()

    assert await worker.membership.wait(5)
    assert not await is_woken(worker)


async def test_one_hint_wakes_one_worker(world: World) -> None:
    workers = [await world.worker(f"w{number}") for number in range(3)]
    await drained(workers[0])
    woken_ones: list[Worker] = []

    async def wait(worker: Worker) -> None:
        if await worker.membership.wait(0.1):
            woken_ones.append(worker)

    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(wait, worker)
        await anyio.sleep(0.02)
        await world.emit()

    assert len(woken_ones) == 1


async def test_a_new_earliest_instant_wakes_a_worker(world: World) -> None:
    worker = await world.worker()

    async with woken(worker):
        await world.emit(delay_ms=LONG_MS)


async def test_a_later_instant_wakes_nobody(world: World) -> None:
    worker = await world.worker()
    await world.emit(delay_ms=LONG_MS)
    await drained(worker)

    await world.emit(delay_ms=2 * LONG_MS)

    assert not await is_woken(worker)


async def test_a_retry_that_is_due_first_wakes_a_worker(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    async with woken(worker):
        await worker.end(delivery, Retry(delay_ms=LONG_MS))


async def test_a_release_wakes_a_worker(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    async with woken(worker):
        await worker.end(delivery, Release(counted=False, began=False))


async def test_a_requeue_wakes_a_worker(world: World) -> None:
    job_id = await world.bury()
    worker = await world.worker()

    async with woken(worker):
        await world.broker.requeue("default", job_id)


async def test_a_resume_wakes_a_worker(world: World) -> None:
    worker = await world.worker()
    await world.broker.pause("default", True)
    await world.emit()

    async with woken(worker):
        await world.broker.pause("default", False)


async def test_children_wake_a_worker(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    async with woken(worker):
        await worker.end(delivery, children=[world.job()])


async def test_relayed_children_wake_a_worker_of_their_queue(world: World) -> None:
    await world.emit()
    worker, other = await world.worker(), await world.worker(queue="other")
    await worker.end(await worker.take_one(), children=[world.job(queue="other")])

    async with woken(other):
        await world.broker.relay("default")


async def test_a_worker_that_leaves_passes_the_hint_on(world: World) -> None:
    leaver, worker = await world.worker("leaver"), await world.worker()

    async with woken(worker):
        await leaver.leave()


async def test_a_death_that_leaves_jobs_behind_wakes_a_worker(world: World) -> None:
    await world.emit()
    worker, beater = await world.worker(), await world.worker("beater")
    dead = await world.worker("dead")
    await dead.take_one()
    await world.kill(dead)

    async with woken(worker):
        await beater.beat()


async def test_a_take_that_leaves_jobs_behind_passes_the_hint_on(world: World) -> None:
    await world.emit()
    await world.emit()
    busy, idle = await world.worker("busy"), await world.worker("idle")

    async with woken(idle):
        await busy.take(1)


async def test_a_take_that_leaves_nothing_behind_wakes_nobody(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    await drained(worker)

    await worker.take(1)

    assert not await is_woken(worker)


async def test_a_worker_that_is_full_lets_another_watch_the_next_instant(world: World) -> None:
    await world.emit()
    await world.emit(delay_ms=LONG_MS)
    busy, idle = await world.worker("busy"), await world.worker("idle")

    async with woken(idle):
        await busy.take(1)


async def test_a_dead_letter_wakes_nobody(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await drained(worker)

    await worker.end(delivery, Die("x"))

    assert not await is_woken(worker)


async def test_a_cancelled_wait_loses_no_hint(world: World) -> None:
    worker, other = await world.worker(), await world.worker("other")
    await drained(worker)
    with anyio.move_on_after(0.02):
        await worker.membership.wait(60)

    async with woken(other):
        await world.emit()


async def test_hints_do_not_cross_queues(world: World) -> None:
    worker = await world.worker(queue="other")
    await drained(worker)

    await world.emit()

    assert not await is_woken(worker)


async def test_an_armed_wait_brings_the_job_that_wakes_it(world: World) -> None:
    worker = await world.worker()
    emitted: list[str] = []
    taken: list[Taken | None] = []

    async def emit() -> None:
        await anyio.sleep(0.02)
        emitted.append(await world.emit())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(emit)
        taken.append(await worker.wait_and_take(5))

    assert taken[0] is not None
    (delivery,) = taken[0].deliveries
    assert [delivery.token.job_id] == emitted
    assert await worker.end(delivery) is Applied.APPLIED


async def test_an_armed_wait_whose_time_is_over_has_looked(world: World) -> None:
    worker = await world.worker()
    job_id = await world.emit()
    assert await world.backdoor.take_hint("default")

    taken = await worker.wait_and_take(0.01)

    assert taken is not None
    assert [delivery.token.job_id for delivery in taken.deliveries] == [job_id]


async def test_an_armed_wait_that_was_cancelled_starts_nothing(world: World) -> None:
    worker, other = await world.worker(), await world.worker("other")
    await world.backdoor.take_hint("default")
    with anyio.move_on_after(0.02):
        await worker.wait_and_take(0.1)

    await world.emit()
    await anyio.sleep(0.2)  # its time is over on the server, too

    delivery = await other.take_one()
    assert delivery.attempt == 1
    assert await other.end(delivery) is Applied.APPLIED


async def test_an_armed_wait_does_not_keep_hints_from_others(world: World) -> None:
    armed, other = await world.worker(), await world.worker(queue="other")
    await drained(armed)
    await drained(other)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(armed.wait_and_take, 1)
        await anyio.sleep(0.02)

        async with woken(other):
            await world.emit(queue="other")
        tasks.cancel_scope.cancel()
