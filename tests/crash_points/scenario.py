"""A program that uses every method of a broker, as the processes that run it see it.

It consists of steps, each of which may be repeated: after a `BrokerUnavailableError` the same
process does it again, after a death the next process goes on with it. What it has done, and what
the handlers have done, is kept in a `Site`, which outlives the processes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio

from trio_tasks import (
    BrokerUnavailableError,
    Context,
    DeadLetter,
    DebouncePolicy,
    Discard,
    Emit,
    Handlers,
    Job,
    JobFailedError,
    JobNotFoundError,
    JobRef,
    JobState,
    Repeat,
    RetryLater,
    TaskManager,
)
from trio_tasks.consumer.pulse import Pulse

__all__ = ["QUEUES", "Site", "program"]

QUEUES = ("main", "other")


class Site:
    """What remains when a process dies: the outside world.

    Attributes:
        emits: how often each piece of work was asked for, repeats included.
        starts, effects: how often its handler began, and how often it came to its end.
        children: the ids of the children that ran, by the piece of work whose parent emitted them.
        ticks: how often each occurrence of the schedule ran.
        done: the steps of the program that were completed.
        refs: id and queue of what was emitted, by piece of work.
    """

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.emits = Counter[str]()
        self.starts = Counter[str]()
        self.effects = Counter[str]()
        self.children = defaultdict[str, set[str]](set)
        self.done: list[str] = []
        self.ticks = Counter[datetime]()
        self.refs: dict[str, tuple[str, str]] = {}
        self.mended = False
        self.releasing = False
        self.paused = False
        self.begun_while_paused: list[str] = []
        self._progress = Pulse()

    def handlers(self) -> tuple[Handlers[Any], Handlers[Any]]:
        """Handlers for both queues, with the site as their outside world."""
        main, other = Handlers[Any](queue="main"), Handlers[Any](queue="other")

        @main.handler("parent", attempts=5)
        async def parent(job: Job[str], ctx: Context[Any]) -> str:
            self._begin(job)
            job.logger(f"attempt {job.attempt}")
            ctx.emit("child", job.data, queue="main")
            await anyio.sleep(0.001)
            ctx.emit("child", job.data, queue="other", delay=0.01)
            return self._end(job)

        for group in (main, other):

            @group.handler("child", attempts=5)
            async def child(job: Job[str]) -> None:
                self.children[f"{job.data} in {job.queue}"].add(job.id)

        @main.handler("flaky", attempts=5)
        async def flaky(job: Job[str]) -> str:
            self._begin(job)
            if job.attempt == 1:
                raise ConnectionError
            return self._end(job)

        @main.handler("later", attempts=5)
        async def later(job: Job[str]) -> str:
            self._begin(job)
            if job.attempt == 1:
                raise RetryLater(0.02)
            return self._end(job)

        @main.handler("late", attempts=5, timeout=0.03)
        async def late(job: Job[str]) -> str:
            self._begin(job)
            if job.attempt == 1:
                await anyio.sleep_forever()
            return self._end(job)

        @main.handler("discarded", attempts=5)
        async def discarded(job: Job[str]) -> None:
            self._begin(job)
            raise Discard("not wanted")

        @main.handler("broken", attempts=5)
        async def broken(job: Job[str]) -> str:
            self._begin(job)
            if not self.mended:
                raise DeadLetter("to be mended")
            return self._end(job)

        @main.handler("endless", attempts=5)
        async def endless(job: Job[str]) -> None:
            self._begin(job)
            await anyio.sleep_forever()

        @main.handler("long", attempts=5)
        async def long(job: Job[str]) -> str:
            self._begin(job)
            if not self.releasing:
                await anyio.sleep_forever()  # until the stop, whose grace is none
            return self._end(job)

        @main.handler("once", attempts=5, debounce=DebouncePolicy(window=60, key="once"))
        async def once(job: Job[str]) -> str:
            self._begin(job)
            return self._end(job)

        @main.handler("last", debounce=DebouncePolicy(window=0.05, key="last", edge="trailing"))
        async def last(job: Job[str]) -> str:
            self._begin(job)
            return self._end(job)

        @other.handler("tick", repeat=Repeat(every=0.2))
        async def tick(job: Job[None]) -> None:
            assert job.scheduled_for is not None
            self.ticks[job.scheduled_for] += 1
            self._progress.fire()

        return main, other

    async def begun(self, key: str) -> None:
        """Wait until a handler has begun with a piece of work."""
        while not self.starts[key]:
            await self._progress.wait()

    async def ticked(self) -> None:
        """Wait until the schedule has gone on for two occurrences."""
        enough = len(self.ticks) + 2
        while len(self.ticks) < enough:
            await self._progress.wait()

    def _begin(self, job: Job[str]) -> None:
        self.starts[job.data] += 1
        self._progress.fire()
        if self.paused:
            self.begun_while_paused.append(job.data)

    def _end(self, job: Job[str]) -> str:
        self.effects[job.data] += 1
        return job.data


# -- the steps ---------------------------------------------------------------------------------

Step = Callable[[TaskManager[Any], Site], Awaitable[None]]


async def program(tasks: TaskManager[Any], site: Site) -> None:
    """Do what is left to do, and leave nothing behind; `tasks` is entered."""
    await _insist(tasks.start)
    for step in STEPS:
        name = step.__name__
        if name not in site.done:
            await _insist(lambda step=step: step(tasks, site))
            site.done.append(name)
    await _insist(lambda: _no_more_ticks(tasks))
    await _insist(lambda: _nothing_left(tasks))


async def _no_more_ticks(tasks: TaskManager[Any]) -> None:
    await tasks.schedules().remove("tick")


async def _nothing_left(tasks: TaskManager[Any]) -> None:
    rounds = 0
    while rounds < 2:  # what was delayed in the first look may have had children by the second
        await tasks.until_idle()
        stats = [await tasks.queue(queue).stats() for queue in QUEUES]
        if any(queue.delayed or queue.queued or queue.running for queue in stats):
            rounds = 0
            await anyio.sleep(0.01)
        else:
            rounds += 1


async def _insist(call: Callable[[], Awaitable[None]]) -> None:
    """Do it again until the broker has answered."""
    while True:
        try:
            return await call()
        except BrokerUnavailableError:
            await anyio.sleep(0.01)


async def _emit(
    tasks: TaskManager[Any], site: Site, event: str, key: str, **options: Any
) -> JobRef[Any]:
    """Emit a piece of work that has not been emitted yet, as somebody who wants it once.

    A minted id whose emit has an unknown outcome is emitted again, which is harmless.
    """
    site.emits[key] += 1
    options.setdefault("queue", "main")
    try:
        ref = await tasks.emit(event, key, **options)
    except BrokerUnavailableError as error:
        if options.get("id") is not None:
            raise
        (options["id"],) = error.ids
        while True:
            try:
                ref = await tasks.emit(event, key, **options)
                break
            except BrokerUnavailableError:
                await anyio.sleep(0.01)
    site.refs[key] = (ref.id, ref.queue)
    return ref


async def _ended(tasks: TaskManager[Any], site: Site, key: str) -> JobState:
    """Wait until a piece of work has ended."""
    job_id, queue = site.refs[key]
    ref = tasks.queue(queue).ref(job_id)
    try:
        await ref.result(timeout=30)
    except JobFailedError as error:
        return error.state
    return JobState.COMPLETED


async def parents_and_children(tasks: TaskManager[Any], site: Site) -> None:
    await _emit(tasks, site, "parent", "minted")
    await _emit(tasks, site, "parent", "chosen", id="chosen", priority=3)
    await _emit(tasks, site, "parent", "delayed", delay=0.02)
    await _emit(tasks, site, "parent", "repeated", id="repeated")
    await _emit(tasks, site, "parent", "repeated", id="repeated")


async def outcomes_of_all_kinds(tasks: TaskManager[Any], site: Site) -> None:
    kinds = ("flaky", "later", "late", "discarded", "broken", "unknown")
    for kind in kinds:
        if kind not in site.refs:
            await _emit(tasks, site, kind, kind, id="broken" if kind == "broken" else None)
    for kind in kinds:
        site.done.append(f"{kind} {await _ended(tasks, site, kind)}")


async def a_batch_of_emits(tasks: TaskManager[Any], site: Site) -> None:
    keys = [f"batch {number}" for number in range(2)]
    site.emits.update(keys)
    refs = await tasks.emit_many(
        Emit("parent", key, queue="main", id=f"batch-{place}") for place, key in enumerate(keys)
    )
    site.refs |= {key: (ref.id, ref.queue) for key, ref in zip(keys, refs, strict=True)}
    for key in keys:
        assert await _ended(tasks, site, key) is JobState.COMPLETED


async def the_dead_one_is_mended(tasks: TaskManager[Any], site: Site) -> None:
    job_id, _ = site.refs["broken"]
    queue = tasks.queue("main")
    dead = await queue.dead_letters()
    info = await queue.job(job_id)
    assert info.state is not JobState.DEAD or job_id in [job.id for job in dead]
    site.mended = True
    await queue.requeue(job_id)
    assert await _ended(tasks, site, "broken") is JobState.COMPLETED


async def debounced(tasks: TaskManager[Any], site: Site) -> None:
    keys = ("once 1", "once 2", "last 1", "last 2")
    for key in keys:
        if key not in site.refs:
            await _emit(tasks, site, key[:4], key, id=key.replace(" ", "-"))
    for key in keys:
        await _ended(tasks, site, key)


async def too_late(tasks: TaskManager[Any], site: Site) -> None:
    queue = tasks.queue("main")
    await queue.pause()
    if "expired" not in site.refs:
        await _emit(tasks, site, "parent", "expired", deadline=0.01)
    await anyio.sleep(0.02)
    await queue.resume()
    assert await _ended(tasks, site, "expired") is JobState.DEAD


async def cancelled_before_it_starts(tasks: TaskManager[Any], site: Site) -> None:
    ref = await _emit(tasks, site, "parent", "never", id="never", delay=3600)
    while True:
        try:
            await ref.cancel("changed my mind")
            break
        except BrokerUnavailableError:
            await anyio.sleep(0.01)
    assert await _ended(tasks, site, "never") is JobState.CANCELLED


async def cancelled_while_it_runs(tasks: TaskManager[Any], site: Site) -> None:
    if "endless" not in site.refs:
        await _emit(tasks, site, "endless", "endless", id="endless")
    job_id, queue = site.refs["endless"]
    await site.begun("endless")
    await tasks.queue(queue).ref(job_id).cancel(wait=True)
    assert await _ended(tasks, site, "endless") is JobState.CANCELLED


async def paused_for_a_while(tasks: TaskManager[Any], site: Site) -> None:
    queue = tasks.queue("main")
    await queue.pause()
    assert await queue.is_paused()
    await anyio.sleep(0.01)  # what was handed out before has begun
    site.paused = True
    if "waits" not in site.refs:
        await _emit(tasks, site, "parent", "waits")
    await anyio.sleep(0.02)
    site.paused = False
    await queue.resume()
    assert await _ended(tasks, site, "waits") is JobState.COMPLETED


async def schedules(tasks: TaskManager[Any], site: Site) -> None:
    await tasks.emit("child", "scheduled", queue="main", id="sched", repeat=Repeat(every=0.1))
    names = {schedule.name for schedule in await tasks.schedules().list()}
    assert names >= {"sched", "tick"}
    await tasks.schedules().trigger("sched")
    await anyio.sleep(0.15)
    await tasks.schedules().remove("sched")


async def looked_at(tasks: TaskManager[Any], site: Site) -> None:
    assert set(await tasks.queues()) == set(QUEUES)
    for name in QUEUES:
        queue = tasks.queue(name)
        for state in ("queued", "running", "delayed", "dead"):
            await queue.jobs(state)
        await queue.stats()
    assert await _ended(tasks, site, "minted") is JobState.COMPLETED
    info = await tasks.queue("main").job(site.refs["minted"][0])
    assert [line.message for line in info.logs][-1] == f"attempt {info.attempt}"


async def posted(tasks: TaskManager[Any], site: Site) -> None:
    site.emits["posted"] += 1
    tasks.get_context().emit("parent", "posted", queue="main", id="posted")
    site.refs["posted"] = ("posted", "main")
    while True:
        try:
            await _ended(tasks, site, "posted")
            break
        except JobNotFoundError:
            await anyio.sleep(0.01)


async def given_back_at_a_stop(tasks: TaskManager[Any], site: Site) -> None:
    if "long" not in site.refs:
        await _emit(tasks, site, "long", "long", id="long")
    await site.begun("long")
    await anyio.sleep(0.4 * site.lease)  # long enough for a renewal
    await tasks.stop(grace=0)
    site.releasing = True
    await tasks.start()
    assert await _ended(tasks, site, "long") is JobState.COMPLETED


async def the_schedule_goes_on(tasks: TaskManager[Any], site: Site) -> None:
    await site.ticked()


STEPS: tuple[Step, ...] = (
    parents_and_children,
    outcomes_of_all_kinds,
    a_batch_of_emits,
    the_dead_one_is_mended,
    debounced,
    too_late,
    cancelled_before_it_starts,
    cancelled_while_it_runs,
    paused_for_a_while,
    schedules,
    looked_at,
    posted,
    given_back_at_a_stop,
    the_schedule_goes_on,
)
