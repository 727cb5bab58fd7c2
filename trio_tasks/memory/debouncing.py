"""Debounce keys.

A *leading* key is taken by the first job that starts under it and lasts for its window. A
*trailing* key is taken by each emit, in place of the last; it goes on naming the last job, so that
a former one that is already on its way is skipped at its start.
"""

from __future__ import annotations

from trio_tasks.broker import Debounce, DebounceAsk, NewJob
from trio_tasks.job import JobState
from trio_tasks.memory.ending import finish
from trio_tasks.memory.records import DebounceKey, StoredJob
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.lifecycle import Step

__all__ = ["ask_debounce", "become_last", "trailing_debounce"]

REPLACED_RETENTION_MS = 300_000
"""How long a job that was replaced can be read, where its successor names no retention."""


def trailing_debounce(new: NewJob) -> Debounce | None:
    """The trailing debounce that an emit carries, if it does."""
    debounce = new.record.debounce
    if debounce is None or debounce.edge != "trailing" or debounce.digest is None:
        return None
    return debounce


def become_last(queue: QueueStore, job: StoredJob, debounce: Debounce, now_ms: int) -> None:
    """Take a trailing key, in place of its last job if that is delayed (perhaps for a retry)."""
    digest = debounce.digest
    assert digest is not None, "see trailing_debounce"
    key = queue.keys.get(digest)
    last = None if key is None else queue.jobs.get(key.job_id)
    if key is not None and last is not None and key.names(last) and last.state is JobState.DELAYED:
        retention_ms = None if job.record is None else job.record.retention_ms
        finish(
            queue,
            last,
            Step.REPLACE,
            now_ms,
            why="debounced",
            by=job.id,
            retention_ms=REPLACED_RETENTION_MS if retention_ms is None else retention_ms,
        )
    _name_last(queue, digest, job.id, job.maker, now_ms + debounce.window_ms)


def ask_debounce(queue: QueueStore, ask: DebounceAsk, now_ms: int) -> str | None:
    """Who holds the key, the asker if nobody else; `None`: its start was superseded.

    A leading key that names nobody goes to the asker; a trailing one is renewed.
    """
    job = queue.started(ask.token)
    if job is None:
        return None
    key = queue.keys.get(ask.digest)
    match ask.edge:
        case "leading":
            if key is None:
                key = DebounceKey(job.id, job.maker, now_ms + ask.window_ms)
                queue.hold_key(ask.digest, key)
            if key.names(job):
                job.now.holds = ask.digest
        case "trailing":
            if key is not None:
                _name_last(queue, ask.digest, key.job_id, key.maker, now_ms + ask.window_ms)
    if key is None:
        return job.id
    if ask.edge == "leading" and key.job_id == job.id and not key.names(job):
        return f"{key.job_id}@{key.maker or '-'}"  # an earlier life: somebody else
    return key.job_id


def _name_last(
    queue: QueueStore, digest: str, job_id: str, maker: str | None, window_ends_at_ms: int
) -> None:
    """Let a trailing key name a job beyond its window, as long as a tombstone lasts."""
    expires_at_ms = window_ends_at_ms + queue.tombstone_ms
    queue.hold_key(digest, DebounceKey(job_id, maker, expires_at_ms))
