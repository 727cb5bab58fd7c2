"""Steering: cancel, requeue, pause, on behalf of people."""

from __future__ import annotations

from trio_tasks.broker import CancelAnswer
from trio_tasks.errors import JobNotFoundError
from trio_tasks.job import JobState
from trio_tasks.memory.ending import finish
from trio_tasks.memory.records import Generation
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.lifecycle import Step

__all__ = ["cancel", "pause", "requeue"]


def cancel(
    queue: QueueStore,
    now_ms: int,
    job_id: str,
    *,
    number: str | None,
    reason: str,
    retention_ms: int,
) -> CancelAnswer:
    """End a job that does not run; leave a request for the one who runs it.

    With an emit number it concerns only the life that the number belongs to: a former one has
    ended.
    """
    job = queue.visible(job_id, now_ms)
    if job is None:
        return CancelAnswer.MISSING
    if job.state.is_final or (number is not None and number not in job.numbers):
        return CancelAnswer.FINAL
    if job.state is JobState.RUNNING:
        queue.cancels[job_id] = reason
        return CancelAnswer.NOTED
    finish(queue, job, Step.CANCEL, now_ms, why=reason, retention_ms=retention_ms)
    return CancelAnswer.CANCELLED


def requeue(queue: QueueStore, now_ms: int, job_id: str) -> bool:
    """Give a dead job fresh attempts, in a new generation, without its deadline.

    Raises:
        JobNotFoundError: there is no such job.
    """
    job = queue.visible(job_id, now_ms)
    if job is None:
        raise JobNotFoundError(f"there is no job {job_id!r} in queue {queue.name!r}")
    if job.state is not JobState.DEAD:
        return False
    queue.move(job, Step.REQUEUE)
    del queue.dead[job_id]
    job.now = Generation(number=job.now.number + 1, requeued=True)
    queue.add_entry(job)
    return True


def pause(queue: QueueStore, paused: bool) -> None:
    """Stop handing out, or go on."""
    queue.paused = paused
    if not paused:
        queue.startable = True
