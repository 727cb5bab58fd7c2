"""Take: hand jobs out. Every hand-out is a counted start; nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from trio_tasks.broker import Delivery, StartToken, Taken, TakeStatus
from trio_tasks.memory.members import begin_lease, end_leases, renew_after_outage
from trio_tasks.memory.records import RELEASED, Entry, StoredJob
from trio_tasks.memory.store import LEVELS, QueueStore
from trio_tasks.processor.lifecycle import Step

__all__ = ["take"]

PROMOTED = 250


def take(queue: QueueStore, incarnation: str, want: int, now_ms: int, *, lease_ms: int) -> Taken:
    """Hand out up to `want` jobs to a member.

    Highest level first; inside a level first what the dead left and what was given back, oldest
    first, then new entries in their order.
    """
    renew_after_outage(queue, lease_ms, now_ms)
    end_leases(queue, now_ms)
    next_tick_in_ms = _next_tick_in_ms(queue, now_ms)
    if incarnation not in queue.members:
        return Taken(TakeStatus.DEAD, now_ms, None, next_tick_in_ms)

    # Whatever has become startable so far is this worker's business, or left behind by it. Instants
    # are not: a wait of its own may have begun before.
    queue.startable = False
    if queue.paused:
        queue.forget_hints()
        return Taken(TakeStatus.PAUSED, now_ms, queue.next_due_in_ms(now_ms), next_tick_in_ms)
    begin_lease(queue, incarnation, now_ms)
    promote(queue, now_ms)
    startable = _startable(queue)
    deliveries = [
        _start(queue, entry, job, incarnation, now_ms) for entry, job in islice(startable, want)
    ]
    next_due_in_ms = queue.next_due_in_ms(now_ms)
    is_full = len(deliveries) == want
    leaves_some = is_full and next(startable, None) is not None
    queue.startable = leaves_some or (is_full and next_due_in_ms is not None)
    return Taken(TakeStatus.TAKEN, now_ms, next_due_in_ms, next_tick_in_ms, deliveries)


def promote(queue: QueueStore, now_ms: int) -> None:
    """Make ready what is due, in the order in which it became due; so many jobs at a time."""
    for _ in range(PROMOTED):
        job = queue.next_due(now_ms)
        if job is None:
            return
        queue.move(job, Step.PROMOTE)
        job.now.due_at_ms = job.now.why = None
        queue.add_entry(job)


def _startable(queue: QueueStore) -> Iterator[tuple[Entry, StoredJob]]:
    """Entries that may be handed out, in their order. Removing the last one yielded is fine."""
    left_behind = sorted(
        (
            entry
            for owner, entries in queue.pending.items()
            if owner not in queue.members
            for entry in entries.values()
        ),
        key=lambda entry: (-entry.level, entry.sequence),
    )
    for level in LEVELS:
        while left_behind and left_behind[0].level == level:
            entry = left_behind.pop(0)
            job = queue.jobs.get(entry.job_id)
            if job is None or job.entry is not entry:
                queue.defects += 1
                queue.remove_entry(entry)
            else:
                yield entry, job
        while queue.ready[level]:
            entry = next(iter(queue.ready[level].values()))
            yield entry, queue.jobs[entry.job_id]


def _start(
    queue: QueueStore, entry: Entry, job: StoredJob, incarnation: str, now_ms: int
) -> Delivery:
    fresh = entry.owner in (None, RELEASED)
    queue.move(job, Step.START if fresh else Step.TAKE_OVER)
    queue.hand_over(entry, incarnation)
    entry.deliveries += 1
    entry.delivered_at_ms = now_ms
    return Delivery(
        token=StartToken(
            queue=queue.name,
            job_id=job.id,
            incarnation=incarnation,
            entry=entry.id,
            level=entry.level,
            deliveries=entry.deliveries,
        ),
        attempt=job.attempt,
        record=job.readable,
        raw=job.unreadable,
        version=job.version,
        deadline_at_ms=job.now.deadline_at_ms,
        unknown_since_ms=job.now.unknown_since_ms,
        interruptions=job.now.interruptions,
        generation=job.now.number,
        requeued=job.now.requeued,
        cancel_reason=queue.cancels.get(job.id),
    )


def _next_tick_in_ms(queue: QueueStore, now_ms: int) -> int | None:
    instants = [schedule.record.next_at_ms for schedule in queue.schedules.values()]
    return max(0, min(instants) - now_ms) if instants else None
