"""Schedules as they are stored, and what became of a tick."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from trio_tasks.broker.jobs import Record

__all__ = [
    "DueSchedules",
    "ScheduleRecord",
    "TickAnswer",
]


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule: which job it makes, and when next.

    Attributes:
        definition: `Repeat.to_json()`; compared byte by byte.
        template: the record of its jobs (`emitted_at_ms` and `scheduled_for_ms` are set anew).
        priority, deadline_ms: of its jobs.
        expires_after_ms: the schedule vanishes when nobody declared or ticked it for so long;
            `None`: never (made by `emit(repeat=)`).
        next_at_ms: the next occurrence (server time).
        last_at_ms: the last occurrence that became a job or was passed over; `None`: none yet.
    """

    queue: str
    name: str
    definition: bytes
    template: Record
    priority: int = 0
    deadline_ms: int | None = None
    expires_after_ms: int | None = None
    next_at_ms: int = 0
    last_at_ms: int | None = None


class DueSchedules(msgspec.Struct, frozen=True):
    """The schedules whose next occurrence has come, and when the one after them comes."""

    now_ms: int
    due: Sequence[ScheduleRecord]
    next_in_ms: int | None


class TickAnswer(StrEnum):
    """What became of a tick."""

    CREATED = "created"
    PASSED = "passed"
    """Advanced without a job, as asked."""
    TAKEN = "taken"
    """Somebody else has ticked it, or it was changed or removed."""
    EARLY = "early"
    """Not due by the server's clock."""
