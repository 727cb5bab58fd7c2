"""Schedules: `time`, `declare`, `schedules`, `due_schedules`, `tick`, `remove_schedule`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trio_tasks.broker import (
    RECORD_VERSION,
    TOMBSTONE_MS,
    DueSchedules,
    NewJob,
    Record,
    ScheduleRecord,
    TickAnswer,
)
from trio_tasks.redis_streams.calls.emitting import Argument, job_arguments
from trio_tasks.redis_streams.calls.values import found, items, optional_ms, raw, text, whole
from trio_tasks.redis_streams.codec import decode_record, encode_record
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = ["declare", "due_schedules", "remove_schedule", "schedules", "tick", "time"]

_NONE: Final = -1


def time(keys: QueueKeys) -> Call[int]:
    """Server time, in milliseconds, of the node that has this queue."""
    return Call(script("time"), keys.fixed, [keys.prefix], parser("time", whole))


def declare(keys: QueueKeys, schedule: ScheduleRecord, *, replace: bool) -> Call[ScheduleRecord]:
    """Store a schedule; the one in force afterwards. See `Broker.declare`.

    Repeating it is harmless. Refused (OOM) when memory is full.
    """
    args: list[Argument] = [
        keys.prefix,
        schedule.name,
        schedule.definition,
        encode_record(schedule.template),
        schedule.priority,
        _or_none(schedule.deadline_ms),
        _or_none(schedule.expires_after_ms),
        schedule.next_at_ms,
        int(replace),
    ]

    def parse(reply: Reply) -> ScheduleRecord:
        return _schedule(keys.queue, items(reply))

    return Call(script("declare"), keys.fixed, args, parser("declare", parse))


def schedules(keys: QueueKeys) -> Call[list[ScheduleRecord]]:
    """All schedules of the queue, by name."""

    def parse(reply: Reply) -> list[ScheduleRecord]:
        found_ = [_schedule(keys.queue, items(row)) for row in items(reply)]
        return sorted(found_, key=lambda schedule: schedule.name)

    return Call(script("schedules"), keys.fixed, [keys.prefix], parser("schedules", parse))


def due_schedules(keys: QueueKeys) -> Call[DueSchedules]:
    """The schedules whose next occurrence has come; forgets those whose lifetime is over."""

    def parse(reply: Reply) -> DueSchedules:
        now, next_in, *rows = items(reply)
        due = [_schedule(keys.queue, items(row)) for row in rows]
        return DueSchedules(whole(now), due, optional_ms(next_in))

    args = [keys.prefix]
    return Call(script("due_schedules"), keys.fixed, args, parser("due_schedules", parse))


def tick(
    keys: QueueKeys,
    schedule: ScheduleRecord,
    *,
    next_at_ms: int | None,
    job: NewJob | None,
    tombstone_ms: int = TOMBSTONE_MS,
) -> Call[TickAnswer]:
    """Turn the occurrence `schedule.next_at_ms` into `job`, or pass it over. See `Broker.tick`.

    Repeating it is harmless: the second call answers TAKEN.
    """
    args: list[Argument] = [
        keys.prefix,
        tombstone_ms,
        schedule.name,
        schedule.definition,
        schedule.next_at_ms,
        _or_none(next_at_ms),
    ]
    if job is not None:
        args += job_arguments(job)
    return Call(
        script("tick"), keys.fixed, args, parser("tick", lambda reply: TickAnswer(text(reply)))
    )


def remove_schedule(keys: QueueKeys, name: str) -> Call[bool]:
    """Remove a schedule; whether it was there. Repeating it is harmless."""
    args = [keys.prefix, name]
    return Call(script("remove_schedule"), keys.fixed, args, parser("remove_schedule", found))


def _schedule(queue: str, row: Sequence[Reply]) -> ScheduleRecord:
    name, definition, blob, priority, deadline, expires, next_at, last = row
    record, _version = decode_record(raw(blob))
    return ScheduleRecord(
        queue=queue,
        name=text(name),
        definition=raw(definition),
        # A template of a newer release: nobody here can tick it, but it can be listed.
        template=record or Record(RECORD_VERSION + 1, "", b""),
        priority=whole(priority),
        deadline_ms=optional_ms(deadline),
        expires_after_ms=optional_ms(expires),
        next_at_ms=whole(next_at),
        last_at_ms=optional_ms(last),
    )


def _or_none(value: int | None) -> int:
    return _NONE if value is None else value
