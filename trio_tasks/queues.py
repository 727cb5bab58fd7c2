"""Looking at queues and schedules, and steering them; the numbers that a manager shows."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from trio_tasks.broker import NewJob, ScheduleRecord
from trio_tasks.environment import Ids, wall_clock_ms
from trio_tasks.errors import ConfigurationError
from trio_tasks.job import JobInfo, JobState, instant
from trio_tasks.options import check_id, check_int, check_name
from trio_tasks.processor.clock_shifts import zone_of
from trio_tasks.processor.repeat import Repeat
from trio_tasks.refs import BrokerAccess, JobRef, info_of

__all__ = [
    "Queue",
    "QueueStatistics",
    "QueueStats",
    "Schedule",
    "Schedules",
    "Statistics",
    "StopReport",
]

_LISTED = (JobState.QUEUED, JobState.RUNNING, JobState.DELAYED, JobState.DEAD)
_MOST_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue in numbers, all read in one step.

    Attributes:
        queued, delayed, waiting, running, dead: jobs that are in that state now. A worker's jobs
            are running from the moment in which it gets them, and may have to wait a few
            milliseconds until their handlers begin.
        paused: whether the queue is paused.
        completed, skipped, cancelled: totals since the queue exists.
    """

    queued: int
    delayed: int
    waiting: int
    running: int
    dead: int
    paused: bool
    completed: int
    skipped: int
    cancelled: int


class Queue:
    """A queue, looked at or steered from outside. Making one costs no I/O.

    Every method may raise `BrokerUnavailableError`, and `RuntimeError` while the manager is not
    entered. A queue that nobody has used yet is empty.

    Attributes:
        name: its name.
    """

    __slots__ = ("_access", "name")

    name: str

    def __init__(self, name: str, access: BrokerAccess) -> None:
        """Name a queue.

        Raises:
            ConfigurationError: no queue can have that name.
        """
        self.name = check_name("queue", name)
        self._access = access

    async def pause(self) -> None:
        """Hand out no more jobs, in any process, until `resume()`.

        A job that was handed out before may still begin a round trip later; running handlers
        finish. Jobs can be emitted meanwhile.
        """
        await self._access.broker.pause(self.name, True)

    async def resume(self) -> None:
        """Hand out jobs again."""
        await self._access.broker.pause(self.name, False)

    async def is_paused(self) -> bool:
        """Whether the queue is paused."""
        return (await self._access.broker.counts(self.name)).paused

    async def stats(self) -> QueueStats:
        """The queue in numbers, now."""
        counts = await self._access.broker.counts(self.name)
        return QueueStats(
            queued=counts.queued,
            delayed=counts.delayed,
            waiting=counts.waiting,
            running=counts.running,
            dead=counts.dead,
            paused=counts.paused,
            completed=counts.completed,
            skipped=counts.skipped,
            cancelled=counts.cancelled,
        )

    async def jobs(
        self, state: JobState | str, limit: int = 100, after: str | None = None
    ) -> list[JobInfo]:
        """Jobs in a state, in the order in which they start, are due, or died; without logs.

        Args:
            state: "queued", "running", "delayed" or "dead".
            limit: how many at most, 1 to 10000.
            after: the id of the last job seen, to go on from there; one that has left the state
                starts from the beginning.

        Raises:
            ConfigurationError: an argument is wrong.
        """
        if state not in _LISTED:
            allowed = ", ".join(repr(listed.value) for listed in _LISTED)
            raise ConfigurationError(f"state={state!r}: jobs are listed by one of {allowed}")
        check_int("limit", limit, least=1, most=_MOST_LISTED)
        if after is not None:
            check_id("after", after, minted=True)
        broker = self._access.broker
        found = await broker.jobs(self.name, JobState(state), limit=limit, after=after)
        return [info_of(stored) for stored in found]

    async def job(self, id: str) -> JobInfo:  # noqa: A002 - the public name
        """A job, with its log lines.

        Raises:
            JobNotFoundError: there is none of that id, or its retention has passed.
            ConfigurationError: no job can have that id.
        """
        return await self.ref(id).info()

    async def dead_letters(self, limit: int = 100, after: str | None = None) -> list[JobInfo]:
        """The jobs in the DLQ, the oldest first; see `jobs()`."""
        return await self.jobs(JobState.DEAD, limit, after)

    async def requeue(self, id: str) -> bool:  # noqa: A002 - the public name
        """Give a dead job a new start: queued, with fresh attempts, without its deadline.

        Returns:
            `True`: it is queued now. `False`: it is not dead, for example because it was requeued
            already.

        Raises:
            JobNotFoundError, ConfigurationError: as in `job()`.
        """
        return await self._access.broker.requeue(self.name, check_id("id", id, minted=True))

    def ref(self, id: str) -> JobRef[Any]:  # noqa: A002 - the public name
        """A ref of a job of this queue, without looking whether it is there.

        Raises:
            ConfigurationError: no job can have that id.
        """
        return JobRef(check_id("id", id, minted=True), self.name, self._access)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"


# --- Schedules ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it lies in the broker.

    Attributes:
        name: the event of its handler, or the `id` (else the event) that it was emitted with.
        event: the event of its jobs.
        queue: the queue of its jobs.
        pattern: the cron pattern; `None`: it repeats at an interval.
        every: the interval in seconds; `None`: it has a pattern.
        timezone: the zone that the pattern speaks of.
        next: when the next job is due, in that zone.
    """

    name: str
    event: str
    queue: str
    pattern: str | None
    every: float | None
    timezone: str
    next: datetime


class Schedules:
    """The schedules of all queues: those of handlers, and those that `emit(repeat=)` stored.

    Every method may raise `BrokerUnavailableError`, and `RuntimeError` while the manager is not
    entered.
    """

    __slots__ = ("_access", "_ids", "_known")

    def __init__(self, access: BrokerAccess, ids: Ids, known: Callable[[], Iterable[str]]) -> None:
        """Look at the queues that the broker knows, and at those that `known` names."""
        self._access = access
        self._ids = ids
        self._known = known

    async def list(self) -> builtins.list[Schedule]:
        """All schedules, by queue and name."""
        return [_schedule_of(record) for record in await self._records()]

    async def remove(self, name: str, queue: str | None = None) -> bool:
        """Remove a schedule. Jobs that it made stay.

        The schedule of a handler is declared again when a manager with that handler starts.

        Args:
            name: its name.
            queue: its queue, where several have a schedule of that name.

        Returns:
            Whether it was there.

        Raises:
            ConfigurationError: several queues have one, and `queue` was not given.
        """
        found = await self._find(name, queue)
        return found is not None and await self._access.broker.remove_schedule(found.queue, name)

    async def trigger(self, name: str, queue: str | None = None) -> JobRef[Any]:
        """Emit a job as the schedule would, now. Its next occurrence stays as it is.

        Returns:
            The ref of the job; it has an id of its own and no `scheduled_for`.

        Raises:
            ConfigurationError: there is no such schedule, or several queues have one and `queue`
                was not given.
        """
        found = await self._find(name, queue)
        if found is None:
            names = sorted({record.name for record in await self._records()})
            raise ConfigurationError(
                f"name={name!r}: no such schedule; there are:"
                f" {', '.join(map(repr, names)) or 'none'}"
            )
        record = msgspec.structs.replace(found.template, emitted_at_ms=wall_clock_ms())
        job = NewJob(
            id=self._ids.job_id(),
            queue=found.queue,
            record=record,
            priority=found.priority,
            deadline_ms=found.deadline_ms,
        )
        (emitted,) = await self._access.broker.emit([job])
        return JobRef(job.id, job.queue, self._access, created=emitted.created)

    async def _find(self, name: str, queue: str | None) -> ScheduleRecord | None:
        check_name("name", name)
        where = None if queue is None else [check_name("queue", queue)]
        found = [record for record in await self._records(where) if record.name == name]
        if len(found) > 1:
            raise ConfigurationError(
                f"name={name!r}: the queues {', '.join(repr(record.queue) for record in found)}"
                " have a schedule of that name; give queue="
            )
        return found[0] if found else None

    async def _records(self, queues: Iterable[str] | None = None) -> builtins.list[ScheduleRecord]:
        broker = self._access.broker
        if queues is None:
            queues = sorted({*await broker.queues(), *self._known()})
        return [record for queue in queues for record in await broker.schedules(queue)]


def _schedule_of(record: ScheduleRecord) -> Schedule:
    repeat = Repeat.from_json(record.definition)
    every_ms = repeat.every_ms
    return Schedule(
        name=record.name,
        event=record.template.event,
        queue=record.queue,
        pattern=repeat.pattern,
        every=None if every_ms is None else every_ms / 1000,
        timezone=repeat.timezone,
        next=instant(record.next_at_ms).astimezone(zone_of(repeat.timezone)),
    )


# --- Numbers of this process --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """What this process did in one queue since it first served it.

    Attributes:
        started: attempts that began.
        completed: attempts whose handler returned.
        failed: attempts that ended in an error; `RetryLater` and `Discard` are none.
        retried: attempts after which the job is tried again: failed ones, and those that raised
            `RetryLater`.
        dead: jobs that were dead-lettered.
        in_flight: attempts that run now.
        last_error: class and time of the last error; never data.
    """

    started: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    in_flight: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of what this process does. The totals are sums over its queues.

    Attributes:
        connected: whether the broker can be reached.
        last_error: the last trouble with the broker; `None`: there was none.
        queues: the numbers of each queue that is or was served here.
    """

    connected: bool
    last_error: str | None
    queues: Mapping[str, QueueStatistics]

    @property
    def started(self) -> int:
        """Attempts that began."""
        return sum(queue.started for queue in self.queues.values())

    @property
    def completed(self) -> int:
        """Attempts whose handler returned."""
        return sum(queue.completed for queue in self.queues.values())

    @property
    def failed(self) -> int:
        """Attempts that ended in an error; `RetryLater` and `Discard` are none."""
        return sum(queue.failed for queue in self.queues.values())

    @property
    def retried(self) -> int:
        """Attempts after which the job is tried again."""
        return sum(queue.retried for queue in self.queues.values())

    @property
    def dead(self) -> int:
        """Jobs that were dead-lettered."""
        return sum(queue.dead for queue in self.queues.values())

    @property
    def in_flight(self) -> int:
        """Attempts that run now."""
        return sum(queue.in_flight for queue in self.queues.values())


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of the jobs of this process, counted since its last `start()`.

    Attributes:
        completed: jobs whose handler returned.
        interrupted: attempts that the end of the grace cut short; their jobs were given back.
        released: jobs that were given back, those that had not begun included.
        abandoned: sync handlers that were left behind in their threads, each to its lease.
    """

    completed: int = 0
    interrupted: int = 0
    released: int = 0
    abandoned: int = 0
