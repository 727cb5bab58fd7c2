"""A tiny world with jobs in it: a server and its workers as plain data, no store, no clock.

It moves jobs by the lifecycle table and asks the real Processor what to do, so everything that is
checked here is checked of those two. What the world adds is what the semantics leave to the
server: it counts starts, keeps the due instants, and turns what becomes of a job that somebody
has asked to cancel into *cancelled* (unless it completed).

The checks are written beside the moves they belong to; their numbers are those of the list of
invariants: 5 attempts, 6 attempt never falls, 7 backoff, 8 due, 9 DLQ, 10 requeue, 17 cancel,
18 deadline, 28 poison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

import pytest

from trio_tasks.job import JobState
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Decision,
    Die,
    Park,
    Release,
    Retry,
    Run,
    Skip,
)
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import (
    AskedDeadLetter,
    BadData,
    BadResult,
    CancelRequested,
    DebounceAnswered,
    Failed,
    HandedOut,
    Input,
    Interrupted,
    OutcomeRefused,
    Succeeded,
    TimedOut,
)
from trio_tasks.processor.lifecycle import IllegalTransitionError, Step, transition
from trio_tasks.processor.processor import Processor

RUNNABLE = "known"
"""The event that every worker has a handler for."""

HAND_OUTS_OF_POISON = 60
"""More than any grace in these tests has five-second steps, and than any job has attempts."""


@dataclass(slots=True)
class Generation:
    """What happened to a job since it was emitted, requeued or revived."""

    starts: int = 0
    given_back: int = 0
    hand_outs: int = 0
    deaths: int = 0
    waits: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class WorldJob:
    """A job as the server has it. `used`: attempts used, or the number of the one that runs."""

    id: str
    event: str
    data: bytes
    readable: bool
    supported: bool
    attempts: int | None
    retry_delay_ms: int | None
    deadline_at_ms: int | None
    state: JobState | None = None
    used: int = 0
    due_at_ms: int | None = None
    interruptions: int = 0
    unknown_since_ms: int | None = None
    cancel_reason: str | None = None
    began: bool = False
    worker_lives: bool = True
    now: Generation = field(default_factory=Generation)
    generation: int = 0
    ever_begun: bool = False
    cancelled_before_it_began: bool = False

    def facts(self) -> JobFacts:
        assert self.state is not None
        return JobFacts(
            id=self.id,
            event=self.event,
            state=self.state,
            attempt=self.used,
            attempts=self.attempts,
            retry_delay_ms=self.retry_delay_ms,
            deadline_at_ms=self.deadline_at_ms,
            interruptions=self.interruptions,
            unknown_since_ms=self.unknown_since_ms,
        )

    def move(self, step: Step) -> None:
        self.state = transition(self.state, step, job_id=self.id)


class World:
    """All jobs, the clock, and which events the workers know."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.now_ms = 1_000_000
        self.jobs: dict[str, WorldJob] = {}
        self.known = {RUNNABLE}

    def in_state(self, *states: JobState) -> list[WorldJob]:
        return [job for job in self.jobs.values() if job.state in states]

    def running(self, *, began: bool, worker_lives: bool = True) -> list[WorldJob]:
        return [
            job
            for job in self.in_state(JobState.RUNNING)
            if job.began == began and job.worker_lives == worker_lives
        ]

    def orphans(self) -> list[WorldJob]:
        return [job for job in self.in_state(JobState.RUNNING) if not job.worker_lives]

    def due(self) -> list[WorldJob]:
        return [
            job
            for job in self.in_state(JobState.DELAYED)
            if job.due_at_ms is not None and job.due_at_ms <= self.now_ms
        ]

    # --- emitters and users -------------------------------------------------------------------

    def emit(self, job: WorldJob, delay_ms: int | None) -> None:
        self.jobs[job.id] = job
        if delay_ms is None:
            job.move(Step.EMIT)
        else:
            job.move(Step.EMIT_DELAYED)
            job.due_at_ms = self.now_ms + delay_ms

    def emit_again(self, job: WorldJob, delay_ms: int | None) -> None:
        """A chosen id is emitted once more: attached while the job lives, else a new life."""
        step = Step.REVIVE if delay_ms is None else Step.REVIVE_DELAYED
        if job.state is not None and not job.state.is_final:
            with pytest.raises(IllegalTransitionError):
                transition(job.state, step)
            return
        job.move(step)
        job.due_at_ms = None if delay_ms is None else self.now_ms + delay_ms
        self._begin_anew(job)

    def requeue(self, job: WorldJob) -> bool:
        data = job.data
        others = {other.id: other.state for other in self.jobs.values() if other is not job}
        if job.state is not JobState.DEAD:
            with pytest.raises(IllegalTransitionError):
                transition(job.state, Step.REQUEUE)
            return False
        job.move(Step.REQUEUE)
        self._begin_anew(job)
        # 10: one job is moved, with its data.
        assert job.state is JobState.QUEUED
        assert job.data == data
        assert others == {o.id: o.state for o in self.jobs.values() if o is not job}
        return True

    def cancel(self, job: WorldJob, reason: str) -> None:
        assert job.state is not None
        if job.state is JobState.RUNNING:
            job.cancel_reason = reason
        elif not job.state.is_final:
            job.move(Step.CANCEL)
            job.cancelled_before_it_began = not job.ever_begun
            job.due_at_ms = None

    def _begin_anew(self, job: WorldJob) -> None:
        job.generation += 1
        job.now = Generation()
        job.used = job.interruptions = 0
        job.deadline_at_ms = job.unknown_since_ms = job.cancel_reason = None
        job.began = job.ever_begun = job.cancelled_before_it_began = False

    # --- the server and its workers -----------------------------------------------------------

    def promote(self, job: WorldJob) -> None:
        assert job.due_at_ms is not None
        assert job.due_at_ms <= self.now_ms
        job.move(Step.PROMOTE)

    def hand_out(
        self, job: WorldJob, *, debounced_by: str | None = None, stopping: bool = False
    ) -> Decision:
        """A worker takes a job; what the Processor says is done at once.

        With `stopping` the worker has no time for it any more: what would run is given back.
        """
        job.move(Step.TAKE_OVER if job.state is JobState.RUNNING else Step.START)
        job.used += 1
        job.began, job.worker_lives = False, True
        job.now.hand_outs += 1
        hand_out = HandedOut(
            known=job.event in self.known,
            readable=job.readable,
            supported=job.supported,
            cancel_reason=job.cancel_reason,
        )
        decision = self.decide(job, hand_out)
        if isinstance(decision, Run) and debounced_by is not None:
            decision = self.decide(job, DebounceAnswered(debounced_by))
            assert isinstance(decision, Skip) == (debounced_by != job.id)
        if isinstance(decision, Run) and stopping:
            decision = self.decide(job, Interrupted(began=False))
            assert decision == Release(counted=False, began=False)
        self.apply(job, hand_out, decision)
        if not job.readable and job.cancel_reason is None:
            assert job.state is JobState.DEAD  # 28: at its first hand-out
        return decision

    def finish(self, job: WorldJob, happened: Input, luck: float = 0.5) -> Decision:
        """The attempt of a job has ended like this."""
        decision = self.decide(job, happened, luck)
        if job.cancel_reason is not None and not isinstance(decision, Complete):
            decision = Cancel(job.cancel_reason)
        self.apply(job, happened, decision)
        return decision

    def kill_worker(self, job: WorldJob) -> None:
        job.worker_lives = False

    def decide(self, job: WorldJob, happened: Input, luck: float = 0.5) -> Decision:
        before = job.facts()
        decision = self.processor.decide(before, happened, now_ms=self.now_ms, jitter=luck)
        assert job.facts() == before
        return decision

    def apply(self, job: WorldJob, happened: Input, decision: Decision) -> None:
        if isinstance(decision, Run):
            self._begin(job)
            return
        attempt = job.used
        job.move(decision.step)
        match decision:
            case Complete() | Skip() | Cancel():
                job.cancel_reason = None
            case Retry():
                job.due_at_ms = self.now_ms + decision.delay_ms
                self._check_retry(job, happened, decision)
            case Park():
                job.used -= 1
                job.due_at_ms = self.now_ms + decision.delay_ms
                job.unknown_since_ms = decision.since_ms
                grace_ms = self.processor.unknown_event_grace_ms
                assert self.now_ms < job.due_at_ms <= decision.since_ms + grace_ms  # 28
            case Release():
                if not decision.counted:
                    job.used -= 1
                    if decision.began:
                        job.interruptions += 1
                        job.now.given_back += 1
                assert job.due_at_ms is None or job.due_at_ms <= self.now_ms
            case Die():
                self._check_death(job, happened, decision)
            case _:
                assert_never(decision)
        # 6: the number falls only where an attempt is given back, and by one.
        given_back = isinstance(decision, Park) or (
            isinstance(decision, Release) and not decision.counted
        )
        assert job.used == attempt - given_back
        job.began = False

    # --- the invariants -----------------------------------------------------------------------

    def attempts_of(self, job: WorldJob) -> int:
        return self.processor.attempts if job.attempts is None else job.attempts

    def _begin(self, job: WorldJob) -> None:
        """A handler begins."""
        assert job.state is JobState.RUNNING
        assert job.due_at_ms is None or job.due_at_ms <= self.now_ms  # 8
        assert job.deadline_at_ms is None or self.now_ms < job.deadline_at_ms  # 18
        assert job.cancel_reason is None  # 17
        assert not job.cancelled_before_it_began  # 17
        assert job.readable  # 28
        assert job.supported  # 28
        assert job.event in self.known  # 28
        job.began = job.ever_begun = True
        job.now.starts += 1
        # 5: what is given back is not a start that counts, and ten times at most.
        assert job.now.starts - job.now.given_back <= self.attempts_of(job)
        assert job.now.given_back <= 10
        assert 1 <= job.used <= self.attempts_of(job)

    def _check_retry(self, job: WorldJob, happened: Input, decision: Retry) -> None:
        assert job.cancel_reason is None  # 17
        assert job.used < self.attempts_of(job)  # 5: there is another attempt to have
        assert decision.delay_ms >= 0
        if isinstance(happened, Failed | TimedOut):
            # 7: the machine decides without jitter, so the delays themselves must not fall.
            assert decision.delay_ms >= max(job.now.waits, default=0)
            job.now.waits.append(decision.delay_ms)

    def _check_death(self, job: WorldJob, happened: Input, decision: Die) -> None:
        job.now.deaths += 1
        assert job.now.deaths == 1  # 9: once per generation
        job.cancel_reason = None
        since_ms = self.now_ms if job.unknown_since_ms is None else job.unknown_since_ms
        grace_over = self.now_ms >= since_ms + self.processor.unknown_event_grace_ms
        match decision.reason:  # 9: only for these reasons, and only where they hold
            case "exhausted":
                assert job.used >= self.attempts_of(job)
            case "expired":
                assert job.deadline_at_ms is not None
                assert self.now_ms >= job.deadline_at_ms
            case "undecodable":
                assert not job.readable
            case "unsupported":
                assert not job.supported
                assert grace_over
            case "no_handler":
                assert job.event not in self.known
                assert grace_over
                assert decision.unless_served
            case "not_retryable" | "should_retry_raised":
                assert isinstance(happened, Failed | TimedOut)
            case "invalid_call":
                assert isinstance(happened, Failed)
            case "invalid_data":
                assert isinstance(happened, BadData)
            case "invalid_result":
                assert isinstance(happened, BadResult)
            case "internal":
                assert isinstance(happened, OutcomeRefused)
            case _:
                assert isinstance(happened, AskedDeadLetter)
                assert decision.reason == happened.reason

    def check(self) -> None:
        """What holds of every job at every moment."""
        for job in self.jobs.values():
            assert (job.state is JobState.DEAD) == (job.now.deaths == 1)  # 9
            assert job.now.hand_outs <= HAND_OUTS_OF_POISON or job.ever_begun  # 28
            if job.cancelled_before_it_began:
                assert job.state is JobState.CANCELLED  # 17
                assert job.now.starts == 0
            if job.state is JobState.DELAYED:
                assert job.due_at_ms is not None

    def drain(self, *, failing: bool) -> None:
        """Work until every job has ended: 28, no job loops or stops the others."""
        rounds = 0
        while unfinished := [j for j in self.jobs.values() if not (j.state and j.state.is_final)]:
            rounds += 1
            assert rounds < 500, unfinished
            for job in unfinished:
                if job.state is JobState.QUEUED or not job.worker_lives:
                    self.hand_out(job)
                elif job.state is JobState.DELAYED:
                    assert job.due_at_ms is not None
                    self.now_ms = max(self.now_ms, job.due_at_ms)
                    self.promote(job)
                elif job.cancel_reason is not None:
                    self.finish(job, CancelRequested(job.cancel_reason))
                else:
                    self.finish(job, Failed(ValueError()) if failing else Succeeded())
            self.check()
