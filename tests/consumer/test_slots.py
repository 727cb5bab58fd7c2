"""Slots: none is ever lost, none waits while there is work, and none outlives its cancel."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import (
    check_slots,
    emit,
    eventually,
    feed_of,
    manager_on,
    onlooker,
    sleeper,
    slots_of,
    stored,
)
from trio_tasks import Context, Emit, Job, JobRef, JobState, RetryPolicy, TaskManager
from trio_tasks.consumer.feeder import Feed
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.slots import Slot, Slots

pytestmark = pytest.mark.anyio


# -- counting --------------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("seed", range(4))
async def test_slots_are_never_lost_whatever_happens_to_jobs_and_requests(
    seed: int, broker: FaultyBroker
) -> None:
    luck = random.Random(seed)
    manager = manager_on(broker, concurrency=3)
    queues = ["a", "b", "c"]

    async def handler(job: Job[int]) -> None:
        check_slots(manager)
        match job.data % 7:
            case 0:
                raise ValueError("fails at once")
            case 1:
                await anyio.sleep(0.002)
                raise ValueError("fails later")
            case 2:
                await anyio.sleep(30)
            case 3:
                async with anyio.create_task_group() as nursery:  # noqa: ASYNC112 - the test is about that
                    nursery.start_soon(anyio.sleep, 0.001)
            case 4:
                async with anyio.create_task_group():
                    raise KeyError("in a nursery")
            case _:
                await anyio.lowlevel.checkpoint()

    for queue in queues:
        manager.register_handler(
            handler, event=f"e-{queue}", queue=queue, timeout=0.01, retry=RetryPolicy(1, delay=0)
        )

    async def trouble() -> None:
        while True:
            if not broker.faults.get("step"):
                broker.break_next("step", luck.choice([Fault.BEFORE, Fault.AFTER, Fault.REFUSED]))
            await anyio.sleep(0.02 * luck.random())
            check_slots(manager)

    async with manager:
        await manager.start()
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(trouble)
            refs: list[JobRef[Any]] = []
            for number in range(60):
                queue = luck.choice(queues)
                refs.append(await manager.emit(f"e-{queue}", number, queue=queue))
                if luck.random() < 0.3:
                    await luck.choice(refs).cancel()
                if luck.random() < 0.5:
                    await anyio.sleep(0.003 * luck.random())
            nursery.cancel_scope.cancel()
        broker.come_back()
        await manager.until_idle()
        check_slots(manager)
        slots = slots_of(manager)
        assert (slots.free, slots.running, len(slots.ready)) == (3, 0, 0)
        for queue in queues:
            counts = await broker.counts(queue)
            assert (counts.queued, counts.running, counts.delayed) == (0, 0, 0)


async def test_as_many_jobs_run_at_once_as_there_are_slots_however_they_come(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=4)
    sleep = sleeper(manager)
    async with manager:
        await manager.start()
        for _ in range(4):
            await manager.emit(sleep, 1)
            await anyio.sleep(0.01)
        assert slots_of(manager).running == 4
        await manager.until_idle()
        await manager.emit_many([Emit(sleep, 1) for _ in range(9)])
        await anyio.sleep(0.5)
        assert slots_of(manager).running == 4
        await anyio.sleep(1)
        assert slots_of(manager).running == 4
        await anyio.sleep(1)
        assert slots_of(manager).running == 1


# -- waiting for each other ------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_handler_may_wait_for_a_job_that_it_has_emitted(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=2)

    @manager.handler("inner")
    async def inner(job: Job[int]) -> int:
        return job.data + 1

    @manager.handler("outer")
    async def outer(job: Job[int], ctx: Context[Any]) -> int:
        total = job.data
        for _ in range(5):
            total = await (await ctx.emit_now(inner, total)).result(timeout=5)
        return total

    async with manager:
        await manager.start()
        assert await (await manager.emit(outer, 0)).result(timeout=5) == 5


async def test_jobs_of_one_batch_may_wait_for_each_other(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=8)
    arrived = 0
    everybody = anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 8:
            everybody.set()
        await everybody.wait()

    async with manager:
        await manager.emit_many([Emit(handler) for _ in range(8)])
        await manager.start()
        with anyio.fail_after(1):
            await manager.until_idle()
    assert arrived == 8


async def test_a_job_begins_though_the_one_before_it_suspends_only_the_second_time(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=2)
    begun = anyio.Event()

    @manager.handler("first")
    async def first(job: Job[None]) -> None:
        await anyio.sleep(0.1)  # by now nothing lies ready
        await begun.wait()

    @manager.handler("second")
    async def second(job: Job[None]) -> None:
        begun.set()

    async with manager:
        await manager.start()
        await manager.emit(first)
        await anyio.sleep(0.05)
        await manager.emit(second)
        with anyio.fail_after(1):
            await manager.until_idle()


# -- cancelling ------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_cancel_in_the_tick_in_which_a_job_ends_hits_no_other_job(
    broker: FaultyBroker, calls: list[str]
) -> None:
    manager = manager_on(broker, concurrency=1)
    gate = anyio.Event()

    @manager.handler("first")
    async def first(job: Job[None]) -> str:
        await gate.wait()
        calls.append("first")
        return "ended"

    @manager.handler("second")
    async def second(job: Job[None]) -> str:
        await anyio.sleep(0.01)
        calls.append("second")
        return "untouched"

    async with manager:
        await manager.start()
        one = await manager.emit(first)
        two = await manager.emit(second)
        await eventually(lambda: bool(slots_of(manager).running))
        gate.set()  # the slot is about to run, and in the same tick:
        feed_of(manager).cancel(one.id, "too late")
        # Whoever came first has won; the other job never hears of it.
        assert await two.result(timeout=5) == "untouched"
        assert (await stored(broker, one.id)).state in (JobState.COMPLETED, JobState.CANCELLED)
        check_slots(manager)
    assert calls[-1] == "second"


async def test_a_cancel_for_a_job_that_has_ended_does_nothing(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=1)
    broker.delay = 0.1  # the outcome is on its way for so long
    sleep = sleeper(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(sleep, 0.01)
        await eventually(lambda: bool(feed_of(manager).outcomes.waiting) or _under_way(manager))
        feed_of(manager).cancel(ref.id, "too late")
        await ref.result(timeout=5)
        assert await (await manager.emit(sleep, 0.01)).result(timeout=5) is None


def _under_way(manager: TaskManager[Any]) -> bool:
    return feed_of(manager).outcomes.under_way > 0


async def test_a_job_that_swallows_its_cancel_does_not_take_the_next_one_with_it(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=1)

    @manager.handler("stubborn", timeout=0.05)
    async def stubborn(job: Job[None]) -> str:
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - the test is about that
            return "swallowed"  # noqa: ASYNC104 - as above
        return "never"

    sleep = sleeper(manager)
    async with manager:
        await manager.start()
        for _ in range(3):
            one = await manager.emit(stubborn)
            two = await manager.emit(sleep, 0.01)
            assert await one.result(timeout=5) == "swallowed"
            await two.result(timeout=5)
        check_slots(manager)


async def test_a_cancel_beside_exceptions_of_the_handlers_own_fails_or_cancels_that_job_alone(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=1)

    @manager.handler("mixed", attempts=1, timeout=0.05)
    async def mixed(job: Job[None]) -> None:
        async def fails_while_it_is_cancelled() -> None:
            try:
                await anyio.sleep(60)
            finally:
                raise KeyError("cleaning up")

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(fails_while_it_is_cancelled)
            nursery.start_soon(anyio.sleep, 60)

    sleep = sleeper(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(mixed)
        await (await manager.emit(sleep, 0)).result(timeout=5)
        job = await stored(broker, ref.id)
        assert job.state is JobState.DEAD
        assert job.error is not None
        assert b"KeyError" in job.error
        check_slots(manager)


async def test_an_outer_cancel_beside_exceptions_of_the_handlers_own_ends_everything(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=2)
    begun = anyio.Event()

    @manager.handler("mixed", attempts=1)
    async def mixed(job: Job[None]) -> None:
        async def fails_while_it_is_cancelled() -> None:
            begun.set()
            try:
                await anyio.sleep(60)
            finally:
                raise KeyError("cleaning up")

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(fails_while_it_is_cancelled)
            nursery.start_soon(anyio.sleep, 60)

    async with onlooker(broker) as aside:
        await emit(aside, "mixed", id="m")
        with anyio.CancelScope() as scope:
            async with manager:
                await manager.start()
                await begun.wait()
                scope.cancel()
                await anyio.sleep(60)
        assert scope.cancelled_caught
        # What it raised while it was broken off is no failure: it was given back.
        job = await stored(aside, "m")
        assert (job.state, job.attempt) == (JobState.QUEUED, 0)


@pytest.mark.asyncio_only
async def test_a_cancelled_error_of_somebody_elses_task_fails_the_job_not_the_slot(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=1)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        await anyio.lowlevel.checkpoint()
        other.cancel()
        await other  # raises CancelledError, though nobody has cancelled us

    @manager.handler("own", attempts=1)
    async def own(job: Job[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep(60)

    sleep = sleeper(manager)
    async with manager:
        await manager.start()
        refs = [await manager.emit(handler), await manager.emit(own)]
        await (await manager.emit(sleep, 0)).result(timeout=5)
        for ref in refs:
            assert (await stored(broker, ref.id)).state is JobState.DEAD
        check_slots(manager)


# -- turns -----------------------------------------------------------------------------------------


async def test_a_busy_queue_does_not_keep_a_slot_from_another_one(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=1)
    busy, rare = sleeper(manager, "busy"), sleeper(manager, "rare")
    async with manager:
        await manager.emit_many([Emit(busy, 1) for _ in range(50)])
        await manager.start()
        await anyio.sleep(0.5)
        began = anyio.current_time()
        await (await manager.emit(rare, 0)).result(timeout=60)
        assert anyio.current_time() - began <= 3


@pytest.mark.parametrize("concurrency", [1, 2, 8])
async def test_no_queue_gets_less_than_half_of_its_share_of_the_slots(
    concurrency: int, broker: FaultyBroker, calls: list[str]
) -> None:
    manager = manager_on(broker, concurrency=concurrency)

    async def handler(job: Job[None]) -> None:
        calls.append(job.queue)
        await anyio.sleep(0.01)

    queues = ["a", "b", "c", "d"]
    for queue in queues:
        manager.register_handler(handler, event=f"e-{queue}", queue=queue)
    async with manager:
        for queue in queues:
            await manager.emit_many([Emit(f"e-{queue}", queue=queue) for _ in range(40)])
        await manager.start()
        await manager.until_idle()
    first_half = calls[: len(calls) // 2]
    for queue in queues:
        assert first_half.count(queue) >= len(first_half) / len(queues) / 2, first_half


class Customer:
    """What slots tell a feed."""

    def __init__(self, slots: Slots) -> None:
        self.told = 0
        slots.join(cast("Feed", self))

    def has_turn(self, room: int) -> None:
        assert room > 0
        self.told += 1

    def slots_available(self) -> None: ...

    def slots_full(self) -> None: ...


async def test_who_stands_behind_a_feed_that_gives_up_its_turn_is_told(loop: str) -> None:
    slots = Slots(
        1,
        attempt=_nothing,
        broken_off=lambda held, error: None,
        too_late=lambda held: None,
    )
    customers = [Customer(slots) for _ in range(3)]
    first, second, third = (cast("Feed", customer) for customer in customers)
    assert slots.reserve(first, 5) == 1
    slots.line_up(second)
    slots.line_up(third)
    slots.release(1)
    assert slots.reserve(third, 1) == 0  # the second one comes first,
    told = customers[2].told
    slots.step_out(second)  # but has no use for it any more
    assert customers[2].told == told + 1
    assert slots.reserve(third, 1) == 1


async def _nothing(slot: Slot, held: Held) -> None: ...


async def test_a_queue_that_cannot_be_joined_does_not_stop_the_others(
    remote: FaultyBroker,
) -> None:
    manager = manager_on(remote, concurrency=1, lease=600)
    one, two = sleeper(manager, "one"), sleeper(manager, "two")
    async with manager:
        await manager.start()
        hog = await manager.emit(two, 1)
        await anyio.sleep(0.1)
        await manager.emit(one, 0)  # stands in line first,
        await anyio.sleep(0.1)
        ref = await manager.emit(two, 0)  # and this one behind it
        remote.always["register"] = Fault.BEFORE
        feed_of(manager, "one").died()
        await hog.result(timeout=10)
        await ref.result(timeout=5)


async def test_a_paused_queue_does_not_stop_the_others(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=1)
    one, two = sleeper(manager, "one"), sleeper(manager, "two")
    async with manager:
        await manager.emit_many([Emit(one, 0.1) for _ in range(10)])
        await manager.start()
        await anyio.sleep(0.15)
        await manager.queue("one").pause()
        await (await manager.emit(two, 0)).result(timeout=1)
        await manager.queue("one").resume()
        await manager.until_idle()
