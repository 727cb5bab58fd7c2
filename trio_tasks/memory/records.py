"""The records of the memory store: entries, jobs, members, keys, rows.

A job that is ready has an `Entry`: in its level's stream until it is first handed out, then
pending under whoever it was handed to. *Running* is to be pending under somebody other than
`RELEASED`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from trio_tasks.broker import RECORD_VERSION, NewJob, Record, ScheduleRecord
from trio_tasks.job import JobState

__all__ = [
    "RELEASED",
    "DeadLetterRow",
    "DebounceKey",
    "Entry",
    "Generation",
    "Member",
    "OutRow",
    "StoredJob",
    "StoredSchedule",
]

RELEASED = "~released"
"""The owner of entries that were given back. It is never a member."""

StartName: TypeAlias = tuple[str, str, int]

KEPT_NUMBERS = 16
"""How many emit numbers a job answers for."""


@dataclass(slots=True)
class Entry:
    """A job's place among those that are ready, and the record of its starts.

    `deliveries` never falls, so that the token (owner, entry, deliveries) names one start.
    """

    sequence: int
    job_id: str
    level: int
    owner: str | None = None
    deliveries: int = 0
    delivered_at_ms: int = 0

    @property
    def id(self) -> str:
        """The entry as tokens name it."""
        return f"{self.sequence}-0"


@dataclass(slots=True)
class Generation:
    """All of a job that a requeue or a new life begins afresh.

    Attributes:
        used: attempts used by former entries.
        uncounted: deliveries of the present entry that do not count.
        interruptions: how often a begun attempt was given back uncounted.
        requeued: somebody put it back from the DLQ in this life.
        holds: leading debounce key that it got.
        given_back: (entry, incarnation, deliveries) of the last start that did not end the job.
        ended_by: the same of the start that did.
        kept_until_ms: until then the ended job can be read.
        expires_at_ms: then its record (by now a tombstone) vanishes; `None`: it stays.
    """

    number: int = 0
    used: int = 0
    uncounted: int = 0
    interruptions: int = 0
    attempts: int | None = None
    deadline_at_ms: int | None = None
    due_at_ms: int | None = None
    why: str | None = None
    by: str | None = None
    result: bytes | None = None
    error: bytes | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    kept_until_ms: int | None = None
    expires_at_ms: int | None = None
    unknown_since_ms: int | None = None
    requeued: bool = False
    holds: str | None = None
    given_back: StartName | None = None
    ended_by: StartName | None = None


@dataclass(slots=True)
class StoredJob:
    """A job: what is fixed at emit, and what changes.

    Attributes:
        record: `None` only for bytes that nobody can decode, which are in `raw` then.
        maker: the emit number of the call that began this life; `None`: a minted id.
        attached: numbers of later calls that this life answered.
        earlier: numbers that former lives answered.
        relayed: it came from another queue, and may come once more.
    """

    id: str
    record: Record | None
    level: int
    maker: str | None
    state: JobState
    raw: bytes = b""
    attached: list[str] = field(default_factory=list[str])
    earlier: list[str] = field(default_factory=list[str])
    relayed: bool = False
    logs: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    entry: Entry | None = None
    now: Generation = field(default_factory=Generation)

    @property
    def readable(self) -> Record | None:
        """The record, unless it is of a newer version than ours or cannot be decoded at all."""
        record = self.record
        return None if record is None or record.version > RECORD_VERSION else record

    @property
    def unreadable(self) -> bytes:
        """The bytes of a record that is not readable."""
        if self.readable is not None:
            return b""
        return self.raw if self.record is None else msgspec.msgpack.encode(self.record)

    @property
    def version(self) -> int | None:
        """The record's schema version; `None`: it cannot be decoded."""
        return None if self.record is None else self.record.version

    @property
    def numbers(self) -> list[str]:
        """The emit numbers that belong to the present life."""
        return [] if self.maker is None else [self.maker, *self.attached]

    def trim_numbers(self) -> None:
        """Forget the oldest numbers beyond what is kept: those of former lives first."""
        while len(self.numbers) + len(self.earlier) > KEPT_NUMBERS:
            (self.earlier or self.attached).pop(0)

    @property
    def attempt(self) -> int:
        """Attempts used, or the number of the one that runs."""
        used = self.now.used
        if self.entry is not None:
            used += self.entry.deliveries - self.now.uncounted
        return used


@dataclass(slots=True)
class Member:
    """An incarnation that lives.

    `attached`: somebody in this process works through it.
    """

    incarnation: str
    consumer_id: str
    host: str
    events: frozenset[str]
    lease_ms: int
    lease_until_ms: int
    attached: bool = True


@dataclass(slots=True)
class DebounceKey:
    """Who holds a debounce key: one life of a job."""

    job_id: str
    maker: str | None
    expires_at_ms: int

    def names(self, job: StoredJob) -> bool:
        """Whether this life of the job holds the key."""
        return self.job_id == job.id and self.maker == job.maker


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """What the outbox holds for a dead-letter stream."""

    stream: str
    fields: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class OutRow:
    """One row of the outbox: a child for another queue, or a dead letter."""

    written_at_ms: int
    content: NewJob | DeadLetterRow


@dataclass(slots=True)
class StoredSchedule:
    """A schedule, and when it vanishes unless somebody renews it."""

    record: ScheduleRecord
    expires_at_ms: int | None
