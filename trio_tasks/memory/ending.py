"""How a job ends, whoever ends it."""

from __future__ import annotations

from trio_tasks.job import JobState
from trio_tasks.memory.records import RELEASED, StoredJob
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.lifecycle import Step

__all__ = ["bury", "finish"]


def finish(
    queue: QueueStore,
    job: StoredJob,
    step: Step,
    now_ms: int,
    *,
    why: str | None,
    retention_ms: int,
    by: str | None = None,
) -> None:
    """End a job as completed, skipped or cancelled; it is kept for a while."""
    _end(queue, job, step, now_ms, why)
    job.now.by = by
    match job.state:
        case JobState.COMPLETED:
            queue.completed += 1
        case JobState.SKIPPED:
            queue.skipped += 1
        case _:
            queue.cancelled += 1
            _reopen(queue, job)
    queue.keep(job, now_ms, retention_ms)


def bury(queue: QueueStore, job: StoredJob, step: Step, now_ms: int, *, why: str) -> None:
    """Put a job into the DLQ, where it stays until somebody requeues it."""
    _end(queue, job, step, now_ms, why)
    queue.dead[job.id] = now_ms
    _reopen(queue, job)


def _reopen(queue: QueueStore, job: StoredJob) -> None:
    """Let a later job have the leading debounce key that this life of the job holds."""
    digest = job.now.holds
    if digest is not None:
        key = queue.keys.get(digest)
        if key is not None and key.names(job):
            del queue.keys[digest]


def _end(queue: QueueStore, job: StoredJob, step: Step, now_ms: int, why: str | None) -> None:
    queue.move(job, step)
    if job.entry is not None and job.entry.owner not in (None, RELEASED):
        job.now.started_at_ms = job.entry.delivered_at_ms
    queue.drop_entry(job)
    queue.cancels.pop(job.id, None)
    job.now.due_at_ms = None
    job.now.finished_at_ms = now_ms
    job.now.why = why
