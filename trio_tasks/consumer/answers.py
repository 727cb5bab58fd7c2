"""What the broker answers to outcomes: counted, told to listeners, logged where it matters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trio_tasks.broker import Applied, Outcome
from trio_tasks.consumer.committer import Entry, Outcomes
from trio_tasks.consumer.events import Events, QueueCounters
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.reports import report_death
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Complete, Die, Park, Release, Retry

if TYPE_CHECKING:
    from trio_tasks.consumer.attempt import Attempts

__all__ = ["Answers"]

log = logging.getLogger("trio_tasks.consumer")


class Answers:
    """Hears what a queue's broker answers to outcomes."""

    def __init__(
        self,
        queue: str,
        *,
        held: set[Held],
        outcomes: Outcomes,
        attempts: Attempts,
        events: Events,
        counters: QueueCounters,
        relay: Callable[[str], None],
    ) -> None:
        """Hear for a queue.

        Args:
            queue: its name.
            held: its jobs in this process's memory; those that are answered for leave it.
            outcomes: where those go that are to be committed otherwise.
            attempts: says how a job ends whose outcome is refused.
            events: who listens.
            counters: of the queue.
            relay: asks for children to be carried.
        """
        self._queue = queue
        self._held = held
        self._outcomes = outcomes
        self._attempts = attempts
        self._events = events
        self._counters = counters
        self._relay = relay

    def hear(self, entries: Sequence[Entry], answers: Sequence[Applied]) -> None:
        """Account for what a step answered, outcome by outcome."""
        completed = 0
        for (held, outcome), applied in zip(entries, answers, strict=True):
            if applied is Applied.APPLIED and isinstance(outcome.verdict, Complete):
                self._held.discard(held)
                completed += 1
                if self._events.listened:
                    self._events.publish("succeeded", held, JobState.COMPLETED)
            else:
                self._applied(held, outcome, applied)
        self._counters.completed += completed

    def _applied(self, held: Held, outcome: Outcome, applied: Applied) -> None:
        if applied is Applied.REFUSED:
            self._outcomes.waiting.append((held, self._attempts.refused(outcome, held)))
            self._events.publish("error", held, JobState.RUNNING)
            return
        self._held.discard(held)
        match applied:
            case Applied.APPLIED:
                self._count(held, outcome)
            case Applied.REPEATED:
                self._count(held, outcome)
                self._relay(self._queue)  # the answer that was lost may have asked for it
            case Applied.CANCELLED:
                self._counters.cancelled += 1
                self._events.publish("cancelled", held, JobState.CANCELLED)
            case Applied.PARKED:
                self._counters.parked += 1
                self._events.publish("parked", held, JobState.DELAYED)
            case Applied.STALE | Applied.GONE:
                self._counters.stale += 1
                log.warning(
                    "job %r: the outcome of attempt %d came too late, the job is %s",
                    outcome.token.job_id,
                    outcome.attempt,
                    "somebody else's" if applied is Applied.STALE else "gone",
                )

    def _count(self, held: Held, outcome: Outcome) -> None:
        counters, verdict = self._counters, outcome.verdict
        if isinstance(verdict, Complete):
            counters.completed += 1
            self._events.publish("succeeded", held, JobState.COMPLETED)
            return
        if outcome.error is not None and not held.asked:
            counters.failed += 1
            self._events.publish("failed", held, JobState.RUNNING)
        match verdict:
            case Retry():
                counters.retried += 1
                self._events.publish("retried", held, JobState.DELAYED)
            case Park():
                counters.parked += 1
                self._events.publish("parked", held, JobState.DELAYED)
            case Release(began=False) if held.cause is None:
                pass  # it never started here
            case Release():
                counters.released += 1
                self._events.publish("released", held, JobState.QUEUED)
            case _:
                if isinstance(verdict, Die) and not held.told:
                    report_death(outcome, verdict)
                kind, state = {
                    "die": ("dead", JobState.DEAD),
                    "skip": ("skipped", JobState.SKIPPED),
                    "cancel": ("cancelled", JobState.CANCELLED),
                }[verdict.step.value]
                setattr(counters, kind, getattr(counters, kind) + 1)
                self._events.publish(kind, held, state)
