"""MemoryBroker: the Broker contract in plain Python, without a server. Its asynchronous face.

Every method looks like this: one checkpoint, at which it may be cancelled or others may run, then
one atomic step over a `QueueStore`, without an await, so that a cancelled call has done nothing
and an answer is never lost. Only `wait` and `watch` really wait, on events of the loop, so a
virtual clock may jump whenever everybody waits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from anyio.lowlevel import checkpoint

from trio_tasks.broker import (
    TOMBSTONE_MS,
    CancelAnswer,
    Counts,
    DueSchedules,
    Emitted,
    Membership,
    NewJob,
    Registration,
    ScheduleRecord,
    StartToken,
    Stored,
    TickAnswer,
    Watch,
)
from trio_tasks.job import JobState
from trio_tasks.memory import emitting, looking, members, outbox, scheduling, steering
from trio_tasks.memory.hints import JobWatch
from trio_tasks.memory.membership import MemoryMembership
from trio_tasks.memory.store import Store, named_store

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Keeps jobs in this process, for tests and for trying things out.

    It keeps the whole contract of `trio_tasks.broker.Broker`, in the letter of the Redis
    protocol; what is missing is a life beyond the process. Time is the event loop's, so under
    Trio's `MockClock(autojump_threshold=0)` a year of cron takes no time.

    Args:
        name: brokers of this process with the same name share one store, which lives as long
            as any of them is held, in one event loop at a time; `None`: a store of its own.
        starts_at_ms: what its clock shows when the store is first entered (milliseconds since
            the epoch); `None`: what the wall clock shows.
        tombstone_ms: for how long after its retention an ended job's id answers repeats.
            `starts_at_ms` and `tombstone_ms` of a shared store are those of the first broker.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        starts_at_ms: int | None = None,
        tombstone_ms: int = TOMBSTONE_MS,
    ) -> None:
        self.name = name
        if name is None:
            self.store = Store(starts_at_ms=starts_at_ms, tombstone_ms=tombstone_ms)
        else:
            self.store = named_store(name, starts_at_ms=starts_at_ms, tombstone_ms=tombstone_ms)
        self._open = False
        self._memberships: list[MemoryMembership] = []

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name or ''!r}, {'open' if self._open else 'closed'}>"

    @property
    def remote(self) -> bool:
        """No hint is ever lost here, and members cannot vanish unseen."""
        return False

    @property
    def private(self) -> bool:
        """Without a name nobody can share its store."""
        return self.name is None

    @property
    def arms(self) -> bool:
        """There are no round trips."""
        return False

    @property
    def connected(self) -> bool:
        """Whether it is entered."""
        return self._open

    @property
    def last_error(self) -> str | None:
        """Nothing ever goes wrong."""
        return None

    async def __aenter__(self) -> Self:
        if self._open:
            raise RuntimeError("this MemoryBroker is entered already")
        await checkpoint()
        self.store.open()
        self._open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close. Members that have not left are dead at once, as nobody is there to poll."""
        for membership in self._memberships:
            membership.vanish()
        self._memberships.clear()
        self._open = False
        self.store.close()

    # -- emitting ------------------------------------------------------------------------------

    async def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs, those of one queue in one step."""
        await checkpoint()
        by_queue: dict[str, list[NewJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        stored: dict[str, Iterator[Emitted]] = {}
        for name, some in by_queue.items():
            self.store.names.add(name)
            with self.store.step(name) as (queue, now_ms):
                stored[name] = iter([emitting.enqueue(queue, job, now_ms) for job in some])
        return [next(stored[job.queue]) for job in jobs]

    # -- working -------------------------------------------------------------------------------

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],  # noqa: ARG002
        lost: Callable[[Sequence[StartToken]], None],  # noqa: ARG002
    ) -> Membership:
        """Join a queue. There is no connection to lose, so `have` and `lost` are never called."""
        await checkpoint()
        self.store.names.add(registration.queue)
        with self.store.step(registration.queue) as (queue, now_ms):
            members.register(queue, registration, now_ms)
        membership = MemoryMembership(self.store, registration)
        self._memberships = [*(m for m in self._memberships if m.alive), membership]
        return membership

    async def relay(self, queue: str) -> int:
        """Carry the outbox of `queue` to where its rows belong; how many there were."""
        await checkpoint()
        with self.store.step(queue) as (source, now_ms):
            return outbox.relay(self.store, source, now_ms)

    # -- schedules -----------------------------------------------------------------------------

    async def time_ms(self, queue: str) -> int:
        """Server time."""
        await checkpoint()
        with self.store.step(queue) as (_, now_ms):
            return now_ms

    async def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule; the one that is in force afterwards (see the protocol)."""
        await checkpoint()
        self.store.names.add(schedule.queue)
        with self.store.step(schedule.queue) as (queue, now_ms):
            return scheduling.declare(queue, schedule, now_ms, replace_options=replace)

    async def schedules(self, queue: str) -> list[ScheduleRecord]:
        """All schedules of the queue, by name."""
        await checkpoint()
        with self.store.step(queue) as (where, _):
            return [schedule.record for _, schedule in sorted(where.schedules.items())]

    async def remove_schedule(self, queue: str, name: str) -> bool:
        """Remove a schedule; whether it was there."""
        await checkpoint()
        with self.store.step(queue) as (where, _):
            return where.schedules.pop(name, None) is not None

    async def due_schedules(self, queue: str) -> DueSchedules:
        """The schedules whose next occurrence has come."""
        await checkpoint()
        with self.store.step(queue) as (where, now_ms):
            return scheduling.due_schedules(where, now_ms)

    async def tick(
        self, schedule: ScheduleRecord, *, next_at_ms: int | None, job: NewJob | None
    ) -> TickAnswer:
        """Turn an occurrence into `job`, or pass it over, and advance the schedule."""
        await checkpoint()
        with self.store.step(schedule.queue) as (queue, now_ms):
            return scheduling.tick(queue, schedule, next_at_ms, job, now_ms)

    # -- looking and steering ------------------------------------------------------------------

    async def queues(self) -> list[str]:
        """Names of the queues that anybody has used, sorted."""
        await checkpoint()
        return sorted(self.store.names)

    async def read(
        self, queue: str, ids: Sequence[str], *, logs: bool = False
    ) -> list[Stored | None]:
        """Jobs by id; `None` for those that are gone or past their retention."""
        await checkpoint()
        with self.store.step(queue) as (where, now_ms):
            return looking.read(where, now_ms, ids, logs=logs)

    async def jobs(
        self, queue: str, state: JobState, *, limit: int, after: str | None = None
    ) -> list[Stored]:
        """Jobs in one of the states queued, running, delayed, dead, in their order there."""
        await checkpoint()
        with self.store.step(queue) as (where, _):
            return looking.list_jobs(where, state, limit=limit, after=after)

    async def counts(self, queue: str) -> Counts:
        """The queue in numbers."""
        await checkpoint()
        with self.store.step(queue) as (where, now_ms):
            return looking.counts(where, now_ms)

    async def cancel(
        self, queue: str, job_id: str, *, number: str | None, reason: str, retention_ms: int
    ) -> CancelAnswer:
        """Cancel a job that has not started, or note the request for the one who runs it."""
        await checkpoint()
        with self.store.step(queue) as (where, now_ms):
            return steering.cancel(
                where, now_ms, job_id, number=number, reason=reason, retention_ms=retention_ms
            )

    async def requeue(self, queue: str, job_id: str) -> bool:
        """Give a dead job fresh attempts; `False`: it was not dead.

        Raises:
            JobNotFoundError: there is no such job.
        """
        await checkpoint()
        with self.store.step(queue) as (where, now_ms):
            return steering.requeue(where, now_ms, job_id)

    async def pause(self, queue: str, paused: bool) -> None:
        """Stop handing out jobs of the queue, or go on."""
        await checkpoint()
        with self.store.step(queue) as (where, _):
            steering.pause(where, paused)

    @asynccontextmanager
    async def watch(self, queue: str, job_id: str | None = None) -> AsyncGenerator[Watch]:
        """Watch a job, or (`None`) a queue."""
        notices = self.store.queue(queue).notices
        watch = JobWatch(job_id)
        notices.add(watch)
        try:
            yield watch
        finally:
            notices.remove(watch)
