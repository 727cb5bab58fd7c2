"""Looking: jobs and numbers, read in one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trio_tasks.broker import Counts, Stored
from trio_tasks.job import JobState
from trio_tasks.memory.records import RELEASED, Entry, StoredJob
from trio_tasks.memory.store import QueueStore

__all__ = ["counts", "list_jobs", "read"]


def read(queue: QueueStore, now_ms: int, ids: Sequence[str], *, logs: bool) -> list[Stored | None]:
    """Jobs by id; `None` for those that cannot be read any more."""
    found = [queue.visible(job_id, now_ms) for job_id in ids]
    return [None if job is None else _describe(queue, job, logs=logs) for job in found]


def _describe(queue: QueueStore, job: StoredJob, *, logs: bool = False) -> Stored:
    """A job as others may see it."""
    now, started_at_ms = job.now, job.now.started_at_ms
    if job.state is JobState.RUNNING and job.entry is not None:
        started_at_ms = job.entry.delivered_at_ms
    return Stored(
        id=job.id,
        queue=queue.name,
        state=job.state,
        record=job.readable,
        raw=job.unreadable,
        priority=job.level,
        attempt=job.attempt,
        attempts=now.attempts,
        due_at_ms=now.due_at_ms,
        deadline_at_ms=now.deadline_at_ms,
        started_at_ms=started_at_ms,
        finished_at_ms=now.finished_at_ms,
        why=now.why,
        by=now.by,
        result=now.result,
        error=now.error,
        numbers=tuple(job.numbers),
        generation=now.number,
        interruptions=now.interruptions,
        unknown_since_ms=now.unknown_since_ms,
        logs=tuple(job.logs) if logs else (),
    )


def list_jobs(queue: QueueStore, state: JobState, *, limit: int, after: str | None) -> list[Stored]:
    """Jobs in one state, from the one after `after` on, or from the first."""
    ids = _in_order(queue, state)
    start = ids.index(after) + 1 if after in ids else 0
    return [_describe(queue, queue.jobs[job_id]) for job_id in ids[start : start + limit]]


def _in_order(queue: QueueStore, state: JobState) -> list[str]:
    match state:
        case JobState.QUEUED:
            released = queue.pending.get(RELEASED, {}).values()
            ready = (entry for level in queue.ready.values() for entry in level.values())
            return _as_served([*released, *ready])
        case JobState.RUNNING:
            return _as_served(
                entry
                for owner, entries in queue.pending.items()
                if owner != RELEASED
                for entry in entries.values()
            )
        case JobState.DELAYED:
            delayed = (job for job in queue.jobs.values() if job.state is JobState.DELAYED)
            return [job.id for job in sorted(delayed, key=lambda j: (j.now.due_at_ms, j.id))]
        case JobState.DEAD:
            return sorted(queue.dead, key=lambda job_id: (queue.dead[job_id], job_id))
        case _:
            raise ValueError(f"jobs in state {state.value!r} are not listed")


def _as_served(entries: Iterable[Entry]) -> list[str]:
    ordered = sorted(entries, key=lambda entry: (-entry.level, entry.sequence))
    return [entry.job_id for entry in ordered]


def counts(queue: QueueStore, now_ms: int) -> Counts:
    """The queue in numbers."""
    states = Counter(job.state for job in queue.jobs.values())
    due = sum(
        job.now.due_at_ms is not None and job.now.due_at_ms <= now_ms for job in queue.jobs.values()
    )
    return Counts(
        queued=states[JobState.QUEUED],
        delayed=states[JobState.DELAYED],
        waiting=states[JobState.WAITING],
        running=states[JobState.RUNNING],
        dead=states[JobState.DEAD],
        paused=queue.paused,
        due=due,
        outgoing=len(queue.out),
        emitted=queue.emitted,
        completed=queue.completed,
        skipped=queue.skipped,
        cancelled=queue.cancelled,
        removed=queue.removed,
    )
