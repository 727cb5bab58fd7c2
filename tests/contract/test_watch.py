"""Watch: a visible change wakes whoever waits for it."""

from __future__ import annotations

import anyio
import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import Watch
from trio_tasks.processor.decisions import Cancel, Complete, Die, Skip

pytestmark = pytest.mark.anyio


async def notices(watch: Watch) -> None:
    """Fails unless the watch returns well before its own time-out."""
    with anyio.fail_after(5):
        await watch.wait(60)


@pytest.mark.both_loops
@pytest.mark.parametrize("verdict", [Complete(), Die("x"), Skip("x"), Cancel("x")])
async def test_the_end_of_a_job_wakes_who_waits_for_it(world: World, verdict: Complete) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    async def await_the_end() -> None:
        async with world.broker.watch("default", job_id) as watch:
            waiting.set()
            while not (await world.state(job_id)).is_final:
                await notices(watch)

    waiting = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(await_the_end)
        await waiting.wait()
        await world.pass_ms(5)
        await worker.end(delivery, verdict)


async def test_a_change_before_the_wait_counts(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    async with world.broker.watch("default", job_id) as watch:
        await worker.end(delivery)

        await notices(watch)


async def test_a_cancel_by_a_user_wakes_who_waits(world: World) -> None:
    job_id = await world.emit()

    async with world.broker.watch("default", job_id) as watch:
        await world.cancel(job_id)

        await notices(watch)


async def test_several_who_wait_for_one_job_are_all_woken(world: World) -> None:
    job_id = await world.emit()

    async with (
        world.broker.watch("default", job_id) as one,
        world.broker.watch("default", job_id) as two,
    ):
        await world.cancel(job_id)

        await notices(one)
        await notices(two)


async def test_a_watch_of_a_queue_notices_any_job(world: World) -> None:
    for job_id in (await world.emit(), await world.emit()):
        async with world.broker.watch("default") as watch:
            await world.cancel(job_id)

            await notices(watch)


async def test_a_watch_of_a_job_sleeps_through_what_happens_to_others(world: World) -> None:
    one, other = await world.emit(), await world.emit()
    async with world.broker.watch("default", one) as watch:
        await world.cancel(other)

        with anyio.move_on_after(0.05) as scope:
            await watch.wait(60)
        assert scope.cancelled_caught

        await world.cancel(one)
        await notices(watch)


async def test_a_watch_returns_when_its_time_is_over(world: World) -> None:
    job_id = await world.emit(delay_ms=LONG_MS)

    with anyio.fail_after(5):
        async with world.broker.watch("default", job_id) as watch:
            await watch.wait(0.01)
            await watch.wait(0)
