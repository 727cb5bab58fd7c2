"""Jobs as they cross the border to storage: new ones, stored ones, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from trio_tasks.job import JobState
from trio_tasks.options import Edge

__all__ = [
    "BATCH",
    "RECORD_VERSION",
    "RELAYED_RETENTION_MS",
    "RELAY_TOO_LATE_MS",
    "STEP_BYTES",
    "TOMBSTONE_MS",
    "CancelAnswer",
    "Counts",
    "Debounce",
    "Emitted",
    "NewJob",
    "Record",
    "Stored",
]

RECORD_VERSION = 1
"""Schema version of `Record`. A record of a newer one is parked, then dead-lettered."""

TOMBSTONE_MS = 600_000
"""How long after its retention an ended job's id still answers repeated emits and outcomes."""

RELAY_TOO_LATE_MS = 50 * 60_000
"""A child that was under way to another queue for longer than this arrives dead."""

RELAYED_RETENTION_MS = 3_600_000
"""A relayed child is kept at least this long after its end, so that a late relay meets its id."""

BATCH = 250
"""The most jobs that one atomic step enqueues."""

STEP_BYTES = 262_144
"""About as many bytes of data and results go out in one step: with eight of them under way even a
line of 10 Mbit/s has carried all within two seconds, well before their deadline."""


class Debounce(msgspec.Struct, frozen=True, array_like=True):
    """The debounce that a job carries: as given at emit, or decided there (trailing).

    `digest` names edge, queue, event and key; `None` where the key is up to the one who runs it.
    """

    edge: Edge
    window_ms: int
    digest: str | None


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All of a job that is fixed at emit. Redis keeps it as one opaque blob.

    Attributes:
        version: schema version, `RECORD_VERSION`.
        data: the data as JSON bytes.
        attempts, timeout_ms, retention_ms, retry_delay_ms: as given at emit, else `None`.
        emitted_at_ms, scheduled_for_ms: by the emitter's clock; shown only.
        debounce: as given at emit, or of a trailing debounce that the emitter decided.
        debounce_key: a key given at emit without a window of its own.
        schedule: the schedule whose occurrence it is.
    """

    version: int
    event: str
    data: bytes
    attempts: int | None = None
    timeout_ms: int | None = None
    retention_ms: int | None = None
    retry_delay_ms: int | None = None
    parent_id: str | None = None
    emitted_at_ms: int = 0
    scheduled_for_ms: int | None = None
    debounce: Debounce | None = None
    debounce_key: str | None = None
    schedule: str | None = None


class NewJob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job to be emitted.

    Attributes:
        number: the emit number of this call for a chosen id; `None` for a minted id.
        delay_ms: due so long after the broker applies the emit. At most one of this and
            `due_at_ms` (an instant); neither: ready at once. A trailing debounce in the record
            overrides both: due `window_ms` after the emit.
        deadline_ms, deadline_at_ms: no attempt starts later than this after the emit / then.
    """

    id: str
    queue: str
    record: Record
    number: str | None = None
    priority: int = 0
    delay_ms: int | None = None
    due_at_ms: int | None = None
    deadline_ms: int | None = None
    deadline_at_ms: int | None = None


class Emitted(msgspec.Struct, frozen=True, gc=False):
    """The answer to one emit: the job's id, and whether this emit made it.

    A repeated emit (the same minted id, or the same emit number) gets the same answer again.
    """

    id: str
    created: bool


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it lies in the broker, read in one step.

    Attributes:
        attempt: attempts used, or the number of the one that runs.
        attempts: as the last runner saw them.
        why: of a delay (delay, retry, parked, debounce) or of an end (its reason).
        result, error: JSON bytes.
        numbers: the emit numbers that belong to the present life (chosen ids only).
        logs: (instant, JSON bytes), oldest first.
    """

    id: str
    queue: str
    state: JobState
    record: Record | None
    raw: bytes = b""
    priority: int = 0
    attempt: int = 0
    attempts: int | None = None
    due_at_ms: int | None = None
    deadline_at_ms: int | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    why: str | None = None
    by: str | None = None
    result: bytes | None = None
    error: bytes | None = None
    numbers: Sequence[str] = ()
    generation: int = 0
    interruptions: int = 0
    unknown_since_ms: int | None = None
    logs: Sequence[tuple[int, bytes]] = ()


class CancelAnswer(StrEnum):
    """What a cancel request met."""

    CANCELLED = "cancelled"
    NOTED = "noted"
    FINAL = "final"
    MISSING = "missing"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A queue in numbers: those that are there now, and totals since the queue exists.

    They add up: `emitted` is the sum of the jobs that are there (queued, delayed, waiting, running,
    dead) and of those that are no more (completed, skipped, cancelled, removed).

    Attributes:
        due: delayed jobs whose instant has passed (part of `delayed`).
        outgoing: children that are still under way from this queue to others.
        emitted: jobs that came into being; a new life of an id is one.
        removed: dead jobs that are dead no more, since a new life of their id has begun.
    """

    queued: int
    delayed: int
    waiting: int
    running: int
    dead: int
    paused: bool
    due: int
    outgoing: int
    emitted: int
    completed: int
    skipped: int
    cancelled: int
    removed: int
