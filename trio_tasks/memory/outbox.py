"""The outbox: what a commit leaves for other queues, and the relay that carries it there.

A queue's atomic step reaches that queue alone. Children for other queues and entries of
dead-letter streams are written down in the same step and carried over afterwards, by whoever
comes first; carrying a row twice does no harm.
"""

from __future__ import annotations

from msgspec.structs import replace

from trio_tasks.broker import RELAY_TOO_LATE_MS, NewJob, Outcome
from trio_tasks.memory.emitting import enqueue
from trio_tasks.memory.records import DeadLetterRow, OutRow, StoredJob
from trio_tasks.memory.store import QueueStore, Store

__all__ = ["add_child", "publish", "relay"]


def add_child(queue: QueueStore, child: NewJob, now_ms: int) -> None:
    """Emit into this queue at once; leave a row for another one, its delays made instants."""
    if child.queue == queue.name:
        enqueue(queue, child, now_ms)
        return
    if child.delay_ms is not None:
        child = replace(child, delay_ms=None, due_at_ms=now_ms + child.delay_ms)
    if child.deadline_ms is not None:
        child = replace(child, deadline_ms=None, deadline_at_ms=now_ms + child.deadline_ms)
    queue.out.append(OutRow(now_ms, child))


def publish(queue: QueueStore, job: StoredJob, outcome: Outcome, now_ms: int) -> None:
    """Leave a row for the dead-letter stream that the outcome names, if it does."""
    if outcome.dead_letter_stream is None:
        return
    fields = {
        "id": job.id.encode(),
        "generation": b"%d" % outcome.generation,
        "queue": queue.name.encode(),
        "event": outcome.event.encode(),
        "reason": (job.now.why or "").encode(),
        "attempts": b"%d" % job.attempt,
        "at_ms": b"%d" % now_ms,
        "error": outcome.error or b"",
        "data": job.raw if job.record is None else job.record.data,
    }
    queue.out.append(OutRow(now_ms, DeadLetterRow(outcome.dead_letter_stream, fields)))


def relay(store: Store, queue: QueueStore, now_ms: int) -> int:
    """Carry all rows to where they belong; how many there were."""
    rows, queue.out = queue.out, []
    for row in rows:
        match row.content:
            case DeadLetterRow(stream=stream, fields=fields):
                store.streams.setdefault(stream, []).append(fields)
            case NewJob() as child:
                store.names.add(child.queue)
                late = now_ms - row.written_at_ms > RELAY_TOO_LATE_MS
                with store.step(child.queue) as (target, _):
                    enqueue(target, child, now_ms, relayed=True, late=late)
    if rows:
        queue.notices.changed()
    return len(rows)
