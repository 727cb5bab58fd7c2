"""Commit: apply what starts have come to, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from trio_tasks.broker import Applied, Outcome, StartToken
from trio_tasks.memory.ending import bury, finish
from trio_tasks.memory.members import is_alive
from trio_tasks.memory.outbox import add_child, publish
from trio_tasks.memory.records import RELEASED, StoredJob
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Die,
    Park,
    Release,
    Retry,
    Skip,
    Verdict,
)
from trio_tasks.processor.lease import PARK_MS

__all__ = ["commit", "log"]


def commit(queue: QueueStore, outcome: Outcome, now_ms: int) -> Applied:
    """Apply one outcome, unless its start was superseded.

    A cancel request turns every verdict but a completion into a cancel; `unless_served` turns
    the end of a job into a park.
    """
    token = outcome.token
    job = queue.started(token)
    if job is None:
        known = queue.jobs.get(token.job_id)
        if known is None:
            return Applied.GONE
        applied_before = _name(token) in (known.now.ended_by, known.now.given_back)
        return Applied.REPEATED if applied_before else Applied.STALE

    applied, verdict = Applied.APPLIED, outcome.verdict
    reason = queue.cancels.get(job.id)
    if reason is not None and not isinstance(verdict, Complete | Cancel):
        applied, verdict = Applied.CANCELLED, Cancel(reason)
    elif (
        isinstance(verdict, Die | Skip)
        and verdict.unless_served
        and _served(queue, outcome.event, now_ms)
    ):
        applied, verdict = Applied.PARKED, Park(PARK_MS, since_ms=now_ms)

    if isinstance(verdict, Die | Skip | Cancel) and not outcome.ran:
        job.now.used -= 1  # the start was counted, but no handler began
    _apply(queue, job, outcome, verdict, now_ms)
    if job.state.is_final:
        job.now.ended_by = _name(token)
    else:
        job.now.given_back = _name(token)
    if outcome.attempts is not None:
        job.now.attempts = outcome.attempts
    if outcome.error is not None and not isinstance(verdict, Complete):
        job.now.error = outcome.error
    return applied


def _apply(
    queue: QueueStore, job: StoredJob, outcome: Outcome, verdict: Verdict, now_ms: int
) -> None:
    step, retention_ms = verdict.step, outcome.retention_ms
    match verdict:
        case Complete():
            finish(queue, job, step, now_ms, why=None, retention_ms=retention_ms)
            job.now.result = outcome.result
            for child in outcome.children:
                add_child(queue, child, now_ms)
        case Skip(reason=why, by=by):
            finish(queue, job, step, now_ms, why=why, by=by, retention_ms=retention_ms)
        case Cancel(reason=why):
            finish(queue, job, step, now_ms, why=why, retention_ms=retention_ms)
        case Die(reason=why):
            bury(queue, job, step, now_ms, why=why)
            publish(queue, job, outcome, now_ms)
        case Retry():
            queue.move(job, step)
            queue.drop_entry(job)
            queue.add_delay(job, now_ms + verdict.delay_ms, "retry")
        case Park():
            queue.move(job, step)
            queue.drop_entry(job)
            queue.add_delay(job, now_ms + verdict.delay_ms, "parked")
            job.now.used -= 1
            if job.now.unknown_since_ms is None:
                job.now.unknown_since_ms = verdict.since_ms
        case Release():
            queue.move(job, step)
            _give_back(queue, job, verdict)
        case _:
            assert_never(verdict)


def _give_back(queue: QueueStore, job: StoredJob, release: Release) -> None:
    """The entry keeps its place and its count of deliveries, so that the token is spent."""
    assert job.entry is not None, "a running job has an entry"
    queue.hand_over(job.entry, RELEASED)
    queue.startable = True
    if not release.counted:
        job.now.uncounted += 1
        job.now.interruptions += release.began


def _served(queue: QueueStore, event: str, now_ms: int) -> bool:
    """Whether a living member has a handler for the event."""
    return any(
        event in member.events and is_alive(queue, member, now_ms)
        for member in queue.members.values()
    )


def _name(token: StartToken) -> tuple[str, str, int]:
    return token.entry, token.incarnation, token.deliveries


def log(
    queue: QueueStore, token: StartToken, lines: Sequence[bytes], max_lines: int, now_ms: int
) -> None:
    """Keep lines with the job of a present start, the last `max_lines` of all."""
    job = queue.started(token)
    if job is not None:
        job.logs = [*job.logs, *((now_ms, line) for line in lines)][-max_lines:]
