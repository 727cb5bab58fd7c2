"""Operations that are cancelled, each in a little program round it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
from anyio.lowlevel import checkpoint
from trio.lowlevel import Task

from tests.cancellation.canceller import Canceller
from trio_tasks import (
    Context,
    DeadLetter,
    Emit,
    Handlers,
    Job,
    JobFailedError,
    JobState,
    TaskManager,
)
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.context import CancelReason

__all__ = ["OPERATIONS", "Operation", "Site", "a_thread", "entering", "leaving"]


class Site:
    """The outside world: what handlers leave behind, and what was acknowledged.

    Attributes:
        acknowledged: jobs whose emit returned: (queue, id).
        may_be_cancelled: jobs that somebody has asked to cancel.
        lifespans: how many were entered and not left yet.
    """

    def __init__(self) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self.may_be_cancelled: set[str] = set()
        self.began = Counter[str]()
        self.effects = Counter[str]()
        self.children = defaultdict[str, set[str]](set)
        self.progress = Pulse()
        self.lifespans = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """What managers enter when they start; it must be left as often."""
        self.lifespans += 1
        try:
            await checkpoint()
            yield
        finally:
            self.lifespans -= 1

    def handlers(self) -> tuple[Handlers[Any], Handlers[Any]]:
        main, other = Handlers[Any](queue="main"), Handlers[Any](queue="other")

        @main.handler("work", attempts=5)
        async def work(job: Job[None], ctx: Context[Any]) -> str:
            self._began(job.id)
            await job.logger("begun")
            ctx.emit("child", job.id, queue="main")
            ctx.emit("child", job.id, queue="other")
            async with anyio.create_task_group() as nursery:
                nursery.start_soon(anyio.sleep, 0.003)
                nursery.start_soon(anyio.sleep, 0.002)
            self.effects[job.id] += 1
            return job.id

        @main.handler("sends", attempts=5)
        async def sends(job: Job[None], ctx: Context[Any]) -> None:
            self._began(job.id)
            ref = await ctx.emit_now("note", queue="main", id=f"note-{job.id.partition('@')[2]}")
            self.acknowledged.append((ref.queue, ref.id))
            self.effects[job.id] += 1

        @main.handler("note", attempts=5)
        async def note(job: Job[None]) -> None:
            self.effects[job.id] += 1

        @main.handler("fails", attempts=1)
        async def fails(job: Job[None]) -> None:
            self.began[job.id] += 1
            if self.began[job.id] == 1:
                raise DeadLetter("audit")
            self.effects[job.id] += 1

        @main.handler("keyed", attempts=5, debounce=3600)
        async def keyed(job: Job[int]) -> None:
            self._began(job.id)
            await anyio.sleep(0.001)
            self.effects[job.id] += 1

        @main.handler("endless", attempts=5)
        async def endless(job: Job[None]) -> None:
            self._began(job.id)
            if job.id not in self.may_be_cancelled:
                self.effects[job.id] += 1
            else:
                await anyio.sleep_forever()

        @main.handler("blocking", attempts=5)
        def blocking(job: Job[None]) -> None:
            self.began[job.id] += 1
            time.sleep(0.003)
            self.effects[job.id] += 1

        for group in (main, other):

            @group.handler("child", attempts=5)
            async def child(job: Job[str]) -> None:
                self.children[job.data].add(job.id)

        return main, other

    def _began(self, job_id: str) -> None:
        self.began[job_id] += 1
        self.progress.fire()

    async def began_one(self) -> None:
        """Wait until a handler has begun."""
        while not self.began:
            await self.progress.wait()

    async def emit(self, tasks: TaskManager[Any], event: str = "work", data: object = None) -> Any:
        """Emit a job, and note it when it is acknowledged."""
        ref = await tasks.emit(event, data, queue="main")
        self.acknowledged.append((ref.queue, ref.id))
        return ref

    async def emit_some(self, tasks: TaskManager[Any]) -> None:
        """Three jobs, one of which has a debounce key."""
        await self.emit(tasks)
        await self.emit(tasks, "keyed", 1)
        await self.emit(tasks)


Operation = Callable[[TaskManager[Any], Site, Canceller], Awaitable[None]]


async def emit(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        with canceller.cancelling():
            await site.emit_some(tasks)
        await site.emit(tasks)  # others are not disturbed
        await tasks.until_idle()


async def emit_many(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        with canceller.cancelling():
            refs = await tasks.emit_many(Emit("work", queue="main") for _ in range(3))
            site.acknowledged += [(ref.queue, ref.id) for ref in refs]
        await site.emit(tasks)
        await tasks.until_idle()


async def result(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        ref = await site.emit(tasks)
        with canceller.cancelling():
            assert await ref.result() == ref.id
        assert await ref.result() == ref.id


async def look(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        ref = await site.emit(tasks)
        queue = tasks.queue("main")
        with canceller.cancelling():
            await ref.info()
            await queue.job(ref.id)
            await queue.stats()
            await queue.jobs("queued")
            await queue.dead_letters()
            await queue.is_paused()
            await tasks.queues()
            await tasks.schedules().list()
        assert (await ref.info()).state is JobState.QUEUED


async def pause(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        queue = tasks.queue("main")
        with canceller.cancelling():
            await queue.pause()
            await site.emit(tasks)
            await queue.resume()
        await queue.resume()


async def requeue(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        ref = await site.emit(tasks, "fails")
        await tasks.until_idle()
        with canceller.cancelling():
            assert await tasks.queue("main").requeue(ref.id)
        await tasks.queue("main").requeue(ref.id)
        await tasks.until_idle()
        assert (await ref.info()).state is JobState.COMPLETED


async def schedule(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    """Declare a schedule, trigger it, remove it."""
    async with tasks:
        await tasks.start()
        schedules = tasks.schedules()
        with canceller.cancelling():
            await tasks.emit("note", queue="main", id="yearly", repeat="0 0 1 1 *")
            ref = await schedules.trigger("yearly")
            site.acknowledged.append((ref.queue, ref.id))
            await schedules.remove("yearly")
        if "yearly" in [found.name for found in await schedules.list()]:
            await schedules.remove("yearly")
        await tasks.until_idle()


async def emit_now(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    """The surroundings are cancelled at a step of a handler that emits durably."""
    with canceller.scope:
        async with tasks:
            await tasks.start()
            for _ in range(2):
                await site.emit(tasks, "sends")
            with canceller.counting(_in_a_slot):
                await tasks.until_idle()


async def cancel_a_job_that_runs(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        ref = tasks.queue("main").ref("endless")
        site.may_be_cancelled.add(ref.id)
        await tasks.emit("endless", queue="main", id=ref.id)
        site.acknowledged.append((ref.queue, ref.id))
        await site.began_one()
        with canceller.cancelling():
            assert await ref.cancel(wait=True)
        if canceller.fired:
            await ref.cancel(wait=True)
        assert (await ref.info()).state is JobState.CANCELLED


async def cancel_a_job_that_waits(
    tasks: TaskManager[Any], site: Site, canceller: Canceller
) -> None:
    async with tasks:
        ref = await site.emit(tasks)
        site.may_be_cancelled.add(ref.id)
        with canceller.cancelling():
            assert await ref.cancel()
        await tasks.start()
        await site.emit(tasks)


async def start(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await site.emit_some(tasks)
        with canceller.cancelling():
            await tasks.start()
        if tasks.state == "connected":
            await tasks.start()
        await tasks.until_idle()


async def stop(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        await site.emit_some(tasks)
        await site.began_one()
        with canceller.cancelling():
            await tasks.stop(grace=0.001)
        await tasks.stop()
        assert tasks.state == "connected"
        await site.emit(tasks)


async def stop_in_good_time(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        await site.emit_some(tasks)
        await site.began_one()
        with canceller.cancelling():
            await tasks.stop(grace=5)
        await tasks.stop()
        await tasks.start()
        await site.emit(tasks)
        await tasks.until_idle()


async def until_idle(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await tasks.start()
        await site.emit_some(tasks)
        with canceller.cancelling():
            await tasks.until_idle()
        await tasks.until_idle()


async def entering(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    with canceller.scope:
        counting = canceller.counting()
        counting.__enter__()
        try:
            async with tasks:
                counting.__exit__(None, None, None)
                await site.emit_some(tasks)
                await tasks.start()
                await tasks.until_idle()
        except BaseException:
            counting.__exit__(None, None, None)
            raise


async def leaving(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    with canceller.scope:
        async with tasks:
            await tasks.start()
            await site.emit_some(tasks)
            tasks.get_context().emit("work", queue="main", id="posted")
            await site.began_one()
            counting = canceller.counting()
            counting.__enter__()
        counting.__exit__(None, None, None)


async def run(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    async with tasks:
        await site.emit_some(tasks)
    with canceller.cancelling():
        await tasks.run(until_idle=True, handle_signals=False)
    assert tasks.state == "closed"


async def a_handler_from_outside(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    """The surroundings are cancelled at a step of a handler."""
    with canceller.scope:
        async with tasks:
            await tasks.start()
            await site.emit_some(tasks)
            with canceller.counting(_in_a_slot):
                await tasks.until_idle()


def _reason(reason: CancelReason) -> Operation:
    async def a_handler(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
        """An attempt is cancelled at a step of its handler."""

        def deliver() -> None:
            assert tasks._engine is not None
            consumer = tasks._engine.consumer
            assert consumer is not None
            for feed in consumer.feeds.values():
                for held in tuple(feed.held):
                    record = held.delivery.record
                    if record is None or record.event == "child":
                        continue
                    if reason is CancelReason.USER:
                        site.may_be_cancelled.add(held.delivery.token.job_id)
                    held.cancel(reason, "audit")

        canceller.deliver = deliver
        async with tasks:
            await tasks.start()
            await site.emit_some(tasks)
            with canceller.counting(_in_a_slot):
                await tasks.until_idle()

    a_handler.__name__ = f"a_handler_for_{reason.value}"
    return a_handler


async def a_thread(tasks: TaskManager[Any], site: Site, canceller: Canceller) -> None:
    """Everything is cancelled, while handlers run in threads. For real clocks."""
    with canceller.scope:
        async with tasks:
            await tasks.start()
            for _ in range(3):
                await site.emit(tasks, "blocking")
            with canceller.counting():
                await tasks.until_idle()


def _in_a_slot(task: Task) -> bool:
    return "Slots.run" in task.name


async def the_surrounding_nursery(
    tasks: TaskManager[Any], site: Site, canceller: Canceller
) -> None:
    """Everything is cancelled, at any step of any task."""

    async def program(ended: trio.Event) -> None:
        async with tasks:
            await tasks.start()
            await site.emit_some(tasks)
            tasks.get_context().emit("work", queue="main", id="posted")
            ref = await site.emit(tasks)
            try:
                await ref.result()
            except JobFailedError:
                raise AssertionError("nobody fails") from None
            await tasks.stop()
            await tasks.start()
            await site.emit(tasks)
        ended.set()

    with canceller.scope:
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            with canceller.counting():
                nursery.start_soon(program, ended)
                await ended.wait()


OPERATIONS: tuple[Operation, ...] = (
    emit,
    emit_many,
    result,
    look,
    pause,
    requeue,
    schedule,
    emit_now,
    cancel_a_job_that_runs,
    cancel_a_job_that_waits,
    start,
    stop,
    stop_in_good_time,
    until_idle,
    entering,
    leaving,
    run,
    a_handler_from_outside,
    *(_reason(reason) for reason in (CancelReason.USER, CancelReason.TIMEOUT)),
    *(_reason(reason) for reason in (CancelReason.SHUTDOWN, CancelReason.LEASE_LOST)),
    the_surrounding_nursery,
)
