"""Schedules: compare-and-set of the next occurrence.

Who declares or ticks has computed instants from a schedule as it read it. Both are refused
unless it still is as they saw it, so over any number of them an occurrence becomes one job.
"""

from __future__ import annotations

from msgspec.structs import replace

from trio_tasks.broker import DueSchedules, NewJob, ScheduleRecord, TickAnswer
from trio_tasks.memory.emitting import enqueue
from trio_tasks.memory.store import QueueStore

__all__ = ["declare", "due_schedules", "tick"]


def declare(
    queue: QueueStore, schedule: ScheduleRecord, now_ms: int, *, replace_options: bool
) -> ScheduleRecord:
    """Store a schedule; an unchanged definition keeps its instants, overdue or not."""
    stored = queue.schedules.get(schedule.name)
    former = None if stored is None else stored.record
    if former is not None and former.definition == schedule.definition:
        instants = former.next_at_ms, former.last_at_ms
        chosen = schedule if replace_options else former
        schedule = replace(chosen, next_at_ms=instants[0], last_at_ms=instants[1])
    else:
        last_at_ms = None if former is None else former.last_at_ms
        if schedule.next_at_ms <= max(now_ms, last_at_ms or 0):
            return replace(schedule, next_at_ms=0, last_at_ms=last_at_ms)
        schedule = replace(schedule, last_at_ms=last_at_ms)
        # Whoever times the next occurrence may have to do it sooner.
        instants = [stored.record.next_at_ms for stored in queue.schedules.values()]
        queue.startable = schedule.next_at_ms < min(instants, default=schedule.next_at_ms + 1)
    queue.put_schedule(schedule, now_ms)
    return schedule


def due_schedules(queue: QueueStore, now_ms: int) -> DueSchedules:
    """The schedules whose next occurrence has come, and when another one comes."""
    records = sorted(
        (stored.record for stored in queue.schedules.values()),
        key=lambda record: (record.next_at_ms, record.name),
    )
    due = [record for record in records if record.next_at_ms <= now_ms]
    later = records[len(due) :]
    return DueSchedules(now_ms, due, later[0].next_at_ms - now_ms if later else None)


def tick(
    queue: QueueStore,
    schedule: ScheduleRecord,
    next_at_ms: int | None,
    job: NewJob | None,
    now_ms: int,
) -> TickAnswer:
    """Turn an occurrence into a job, or pass it over, and advance; in one step or not at all."""
    stored = queue.schedules.get(schedule.name)
    if stored is None:
        return TickAnswer.TAKEN
    record, occurrence_ms = stored.record, schedule.next_at_ms
    if record.definition != schedule.definition or record.next_at_ms != occurrence_ms:
        return TickAnswer.TAKEN
    if record.last_at_ms is not None and occurrence_ms <= record.last_at_ms:
        return TickAnswer.TAKEN
    if occurrence_ms > now_ms:
        return TickAnswer.EARLY
    if job is not None:
        enqueue(queue, job, now_ms)
    if next_at_ms is None:
        del queue.schedules[schedule.name]
    else:
        advanced = replace(record, next_at_ms=next_at_ms, last_at_ms=occurrence_ms)
        queue.put_schedule(advanced, now_ms)
    return TickAnswer.PASSED if job is None else TickAnswer.CREATED
