"""What a job is, as data: what a handler gets, what `info()` shows, which states there are.

Nothing here talks to Redis; `Job.logger` hands its line to whoever runs the job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, NewType, Protocol

from typing_extensions import TypeVar

__all__ = [
    "FINAL_STATES",
    "Job",
    "JobError",
    "JobEvent",
    "JobId",
    "JobInfo",
    "JobState",
    "LogLine",
    "Millis",
]

Millis = NewType("Millis", int)
"""An instant (milliseconds since the epoch) or a duration (milliseconds), by the name it bears."""

JobId = str

T_co = TypeVar("T_co", covariant=True, default=Any)


class JobState(StrEnum):
    """Where a job is in its life. The legal moves between them: `processor/lifecycle.py`."""

    QUEUED = "queued"
    """Ready to start as soon as a slot is free."""
    DELAYED = "delayed"
    """Waits for an instant: a delay, a retry, an event that nobody here knows yet."""
    WAITING = "waiting"
    """Waits for other jobs."""
    RUNNING = "running"
    """Handed out to a worker."""
    COMPLETED = "completed"
    """Its handler returned."""
    SKIPPED = "skipped"
    """It will not run: another stood in for it (debounce), or its handler raised `Discard`."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    DEAD = "dead"
    """It failed for good and lies in the DLQ."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended. A dead job can be requeued all the same."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.SKIPPED, JobState.CANCELLED, JobState.DEAD})


class LineLog(Protocol):
    """What keeps the lines that a handler leaves with its job."""

    def log(self, message: object) -> Awaitable[None]:
        """Keep a line; see `Job.logger`."""
        ...


class Job(Generic[T_co]):
    """One attempt of a job, as its handler sees it. Read-only.

    Attributes:
        id: the job's id.
        name: the event that it was emitted under.
        queue: its queue.
        data: the data, converted to the type that the handler's annotation names.
        attempt: which run this is, from 1.
        attempts: how many runs the job may have in all.
        priority: 0 to 9.
        emitted_at: when it was emitted, by the emitter's clock.
        scheduled_for: the instant that it was delayed until or the occurrence of its schedule;
            else `None`.
    """

    __slots__ = (
        "_emitted_at_ms",
        "_lines",
        "_scheduled_for_ms",
        "attempt",
        "attempts",
        "data",
        "id",
        "name",
        "priority",
        "queue",
    )

    # Read-only by contract and by type (properties would cost 40 ns a field on the hot path).
    id: str
    name: str
    queue: str
    data: T_co
    attempt: int
    attempts: int
    priority: int

    def __init__(
        self,
        id: str,  # noqa: A002 - the public attribute's name
        name: str,
        queue: str,
        data: T_co,
        attempt: int,
        attempts: int,
        priority: int,
        emitted_at_ms: int,
        scheduled_for_ms: int | None,
        lines: LineLog,
    ) -> None:
        self.id = id
        self.name = name
        self.queue = queue
        self.data = data
        self.attempt = attempt
        self.attempts = attempts
        self.priority = priority
        self._emitted_at_ms = emitted_at_ms
        self._scheduled_for_ms = scheduled_for_ms
        self._lines = lines

    @property
    def emitted_at(self) -> datetime:
        """When it was emitted, by the emitter's clock (aware, UTC)."""
        return instant(self._emitted_at_ms)

    @property
    def scheduled_for(self) -> datetime | None:
        """The instant it was delayed until, or the occurrence of its schedule (aware, UTC)."""
        return None if self._scheduled_for_ms is None else instant(self._scheduled_for_ms)

    def logger(self, message: str | Mapping[str, object]) -> Awaitable[None]:
        """Keep a line with the job; `info().logs` shows it.

        It takes effect at the call, from the event loop or from a sync handler's thread. Awaiting
        what it returns is optional and waits until Redis has the line. Beyond the handler's
        `max_logs` lines the oldest are dropped.

        Raises:
            SerializationError: the message is neither text nor a JSON object.
            RuntimeError: the handler has already returned.
        """
        return self._lines.log(message)

    def __repr__(self) -> str:
        return (
            f"<Job {self.id!r} {self.name!r} in {self.queue!r},"
            f" attempt {self.attempt} of {self.attempts}>"
        )


@dataclass(frozen=True, slots=True)
class JobError:
    """The error of a failed attempt.

    Attributes:
        type: the exception's class name, qualified with its module unless it is a builtin.
        message: its text, at most 1 KiB.
        traceback: the formatted traceback, at most 8 KiB; its end is kept.
    """

    type: str
    message: str = field(repr=False)
    traceback: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a handler left with `job.logger(...)`."""

    at: datetime
    message: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job in this process.

    Attributes:
        kind: "started", "succeeded", "failed" (an attempt ended in an error; `RetryLater` and
            `Discard` are none), "retried", "dead", "skipped", "cancelled", "released", "parked" or
            "error" (the outcome was refused).
        state: the state that the job is in afterwards.
        at: when, by this machine's clock.
    """

    kind: str
    id: str
    name: str
    queue: str
    state: JobState
    at: datetime


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as the broker has it, at the moment it was read.

    Attributes:
        data: plain JSON; `None` also for bytes that cannot be decoded (then `.raw` has them).
        raw: the bytes of the data as they lie in Redis.
        attempt: attempts used so far, or the number of the one that runs.
        attempts: as given at emit, else as the last worker saw it; `None` while nobody ran it.
        scheduled_for: the instant it was delayed until, or the occurrence of its schedule.
        due_at: when a delayed job is due.
        result: plain JSON.
        error: that of the last failed attempt, also while a retry waits.
        reason: why it is delayed (delay, retry, parked, debounce) or how it ended; for a
            cancelled job the text given to `cancel`.
        stood_in_by: the job that ran in the place of this one, if debounce skipped it.
        generation: how often it was requeued or began a new life.
    """

    id: str
    name: str
    queue: str
    state: JobState
    data: object = field(repr=False)
    raw: bytes = field(repr=False)
    attempt: int
    attempts: int | None
    priority: int
    emitted_at: datetime
    scheduled_for: datetime | None
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    result: object = field(repr=False)
    error: JobError | None = field(repr=False)
    reason: str | None
    stood_in_by: str | None
    parent_id: str | None
    generation: int
    progress: float | None
    logs: tuple[LogLine, ...] = field(repr=False)


def instant(at_ms: int) -> datetime:
    """The aware UTC `datetime` of an instant in milliseconds since the epoch."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
