"""The Processor: a job, and what happened to it → what to do about it.

It composes the policies, each of which is a module of its own that knows nothing of the others:

- `retry` says who is retried and when, `signals` what a handler asks for by raising;
- `debounce` says which window a job asks for;
- `lease` says when a give-back counts and how long a job is parked;
- `dead_letter` has the reasons.

What a job brought from its emit comes before what its handler says, and that before what the
processor says for all jobs. Every decision is a row of the lifecycle table, or it is not made.

When a job is handed out, these questions are asked in this order, before its data are touched:

1. Has somebody asked to cancel it? It is cancelled.
2. Can its record be decoded? If not, it is dead: `undecodable`.
3. Is this run beyond its attempts, because workers died in the others? It is dead: `exhausted`.
4. Has its deadline passed? It is dead: `expired`.
5. Is its record of a newer version than ours? It is parked, after the grace dead: `unsupported`.
6. Has this worker a handler for its event? If not, it is parked, after the grace dead or
   (`ignore_config_errors`) skipped: `no_handler`. Unless another living worker serves the event:
   the broker looks in the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, assert_never

from trio_tasks.job import JobState
from trio_tasks.options import (
    DebouncePolicy,
    Duration,
    JobLike,
    ProcessorOptions,
    RetryPolicy,
    attempts_from,
    check_int,
    group_from,
)
from trio_tasks.processor import debounce as debouncing
from trio_tasks.processor.dead_letter import (
    DEBOUNCED,
    EXHAUSTED,
    EXPIRED,
    INTERNAL,
    INVALID_CALL,
    INVALID_DATA,
    INVALID_RESULT,
    NO_HANDLER,
    NOT_RETRYABLE,
    SHOULD_RETRY_RAISED,
    UNDECODABLE,
    UNSUPPORTED,
)
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
from trio_tasks.processor.groups import unwrapped
from trio_tasks.processor.inputs import (
    AskedDeadLetter,
    AskedDiscard,
    AskedRetry,
    BadData,
    BadResult,
    CancelRequested,
    DebounceAnswered,
    Failed,
    HandedOut,
    Input,
    Interrupted,
    LeaseLost,
    OutcomeRefused,
    Succeeded,
    TimedOut,
)
from trio_tasks.processor.lease import give_back_counts, park_delay_ms
from trio_tasks.processor.lifecycle import IllegalTransitionError, transition
from trio_tasks.processor.retry import (
    Judgement,
    agreed_attempts,
    delay_after_ms,
    is_misuse,
    judge,
    timeout_error,
)
from trio_tasks.processor.signals import failures

__all__ = ["COMPLETE", "Processor"]

_RUN = Run()
COMPLETE = Complete()


class _Limited(Protocol):
    """`JobFacts`, or a job's record."""

    @property
    def attempts(self) -> int | None:
        """Total runs as given at emit."""
        ...


class Processor:
    """Decides what becomes of jobs. Immutable and pure: same arguments, same decision.

    Args:
        options: the policies for all jobs; a mapping with the same fields will do.
        retry: a handler's own retry policy, in the place of that in `options`.
        attempts: a handler's own number of total runs, ≥ 1.
        debounce: a handler's own debounce policy, or its window in seconds.
        unknown_event_grace_ms: how long a job is parked that no worker met so far could run.

    Attributes:
        options: the policies for all jobs.
        retry: the retry policy in force.
        attempts: total runs of a job whose emit did not say, first one included.
        debounce: the handler's own debounce policy, or `None`.
        unknown_event_grace_ms: as given.

    Raises:
        ConfigurationError: an argument is wrong, or `attempts` and `retry` disagree.
    """

    __slots__ = ("attempts", "debounce", "options", "retry", "unknown_event_grace_ms")

    def __init__(
        self,
        options: ProcessorOptions | Mapping[str, object] | None = None,
        *,
        retry: RetryPolicy | Mapping[str, object] | None = None,
        attempts: int | None = None,
        debounce: DebouncePolicy | Duration | Mapping[str, object] | None = None,
        unknown_event_grace_ms: int = 60_000,
    ) -> None:
        self.options = group_from(ProcessorOptions, "processor", {} if options is None else options)
        own_retry = None if retry is None else group_from(RetryPolicy, "retry", retry)
        self.retry = self.options.retry if own_retry is None else own_retry
        own_attempts = agreed_attempts(attempts_from(attempts), own_retry)
        self.attempts = self.retry.max_retries + 1 if own_attempts is None else own_attempts
        self.debounce = (
            None if debounce is None else DebouncePolicy.from_value("debounce", debounce)
        )
        self.unknown_event_grace_ms = check_int(
            "unknown_event_grace_ms", unknown_event_grace_ms, least=0
        )

    def for_handler(
        self,
        *,
        retry: RetryPolicy | Mapping[str, object] | None = None,
        attempts: int | None = None,
        debounce: DebouncePolicy | Duration | Mapping[str, object] | None = None,
    ) -> Processor:
        """A processor for one handler's jobs: what the handler does not say is as in `options`.

        Raises:
            ConfigurationError: an argument is wrong, or `attempts` and `retry` disagree.
        """
        return Processor(
            self.options,
            retry=retry,
            attempts=attempts,
            debounce=debounce,
            unknown_event_grace_ms=self.unknown_event_grace_ms,
        )

    def decide(
        self,
        job: JobFacts,
        input: Input,  # noqa: A002 - the word of the public contract
        *,
        now_ms: int,
        jitter: float = 0.5,
    ) -> Decision:
        """What to do about a job to which `input` has happened.

        Args:
            job: the job as the worker knows it.
            input: what happened.
            now_ms: server time.
            jitter: luck in [0, 1) for the delay of a retry; 0.5 is none.

        Raises:
            IllegalTransitionError: the decision is no legal move from the job's state.
        """
        match input:
            case HandedOut():
                decision = self._on_hand_out(job, input, now_ms)
            case Succeeded():
                decision = COMPLETE
            case Failed():
                decision = self._on_failure(job, input.error, jitter)
            case TimedOut():
                decision = self._on_failure(job, timeout_error(input.timeout_ms), jitter)
            case AskedRetry():
                decision = self._again(job, input.delay_ms, jitter)
            case AskedDeadLetter():
                decision = Die(input.reason)
            case AskedDiscard():
                decision = Skip(input.reason)
            case BadData():
                decision = Die(INVALID_DATA)
            case BadResult():
                decision = Die(INVALID_RESULT)
            case Interrupted() | LeaseLost():
                # Counted on the last attempt, it is released all the same: the next hand-out
                # finds it exhausted, as it does when a worker died in the last attempt.
                counted = give_back_counts(began=input.began, interruptions=job.interruptions)
                decision = Release(counted=counted, began=input.began)
            case CancelRequested():
                decision = Cancel(input.reason)
            case DebounceAnswered():
                decision = self._on_debounce(job, input.holder)
            case OutcomeRefused():
                decision = Die(INTERNAL)
            case _:
                assert_never(input)
        _check(job, input, decision)
        return decision

    @staticmethod
    def runs_surely(*, attempt: int, deadline_at_ms: int | None, cancel_reason: str | None) -> bool:
        """Whether every policy lets a job run that can be read and whose event is known here.

        `decide` answers `Run` to such a hand-out, whatever else the job is; most are of this kind,
        and asking it would cost a tenth of a job's time. Likewise `COMPLETE` is what `decide`
        answers to any success.
        """
        return attempt == 1 and deadline_at_ms is None and cancel_reason is None

    def judge(self, error: BaseException, attempt: int) -> Judgement:
        """What the retry rules say about a failure of run `attempt`, for a log line.

        `decide` asks the same; where it answered `Die` with `SHOULD_RETRY_RAISED`, `.objection`
        is the exception. Asks `should_retry` (again).
        """
        error = unwrapped(error)
        return judge(self.retry, error, failures(error), attempt)

    def attempts_of(self, job: _Limited) -> int:
        """Total runs that the job may have: as given at emit, else by handler or policy."""
        return self.attempts if job.attempts is None else job.attempts

    def debounce_at_emit(
        self,
        asked: DebouncePolicy | str | None,
        *,
        job: JobLike,
        data: bytes,
        scheduled: bool = False,
    ) -> tuple[debouncing.Carried | None, str | None]:
        """What a job that is being emitted carries about debounce; see `debounce.at_emit`.

        Args:
            asked: the `debounce=` of the emit, through `debounce.asked_from`.
            job: what a key function may look at.
            data: the data as JSON bytes.
            scheduled: it is an occurrence of a schedule.
        """
        return debouncing.at_emit(asked, base=self._debounce_base(scheduled), job=job, data=data)

    def debounce_at_start(
        self,
        carried: debouncing.CarriedLike | None,
        carried_key: str | None,
        *,
        job: JobLike,
        data: bytes,
        requeued: bool = False,
        scheduled: bool = False,
    ) -> debouncing.Window | debouncing.NotDebounced:
        """The window that a job asks for when it starts; see `debounce.at_start`.

        Args:
            carried: the window that came with the job.
            carried_key: the key that came with it without a window.
            job: what a key function may look at.
            data: the data as JSON bytes.
            requeued: it was dead in this life, and somebody put it back.
            scheduled: it is an occurrence of a schedule.
        """
        return debouncing.at_start(
            carried,
            carried_key,
            base=self._debounce_base(scheduled),
            job=job,
            data=data,
            requeued=requeued,
        )

    def _debounce_base(self, scheduled: bool) -> DebouncePolicy | None:
        if self.debounce is not None or scheduled:
            return self.debounce
        return self.options.debounce_policy

    def _on_hand_out(self, job: JobFacts, what: HandedOut, now_ms: int) -> Decision:
        if what.cancel_reason is not None:
            return Cancel(what.cancel_reason)
        if not what.readable:
            return Die(UNDECODABLE)
        if job.attempt > self.attempts_of(job):
            return Die(EXHAUSTED)
        if job.deadline_at_ms is not None and now_ms >= job.deadline_at_ms:
            return Die(EXPIRED)
        if what.known and what.supported:
            return _RUN
        since_ms = now_ms if job.unknown_since_ms is None else job.unknown_since_ms
        delay_ms = park_delay_ms(now_ms, since_ms, self.unknown_event_grace_ms)
        if delay_ms is not None:
            return Park(delay_ms, since_ms)
        if not what.supported:
            return Die(UNSUPPORTED)
        if self.options.ignore_config_errors:
            return Skip(NO_HANDLER, unless_served=True)
        return Die(NO_HANDLER, unless_served=True)

    def _on_debounce(self, job: JobFacts, holder: str | None) -> Decision:
        if holder is None:
            return Release(counted=False, began=False)
        return _RUN if holder == job.id else Skip(DEBOUNCED, by=holder)

    def _on_failure(self, job: JobFacts, error: BaseException, jitter: float) -> Decision:
        if is_misuse(failures(error)):
            return Die(INVALID_CALL)
        if job.attempt >= self.attempts_of(job):
            return Die(EXHAUSTED)
        judgement = self.judge(error, job.attempt)
        if judgement.objection is not None:
            return Die(SHOULD_RETRY_RAISED)
        if not judgement.retry:
            return Die(NOT_RETRYABLE)
        return self._again(job, None, jitter)

    def _again(self, job: JobFacts, delay_ms: int | None, jitter: float) -> Decision:
        if job.attempt >= self.attempts_of(job):
            return Die(EXHAUSTED)
        if delay_ms is not None:
            return Retry(delay_ms)
        return Retry(
            delay_after_ms(
                self.retry, job.attempt, retry_delay_ms=job.retry_delay_ms, jitter=jitter
            )
        )


def _check(job: JobFacts, happened: Input, decision: Decision) -> None:
    """Whether the lifecycle table has the decision."""
    if isinstance(decision, Run):
        # The hand-out was the start: nothing moves, but only a running job may run.
        if job.state is not JobState.RUNNING:
            raise IllegalTransitionError(
                f"job {job.id!r} is {job.state.value}: it cannot run"
                f" (input {type(happened).__name__})"
            )
        return
    try:
        transition(job.state, decision.step, job_id=job.id)
    except IllegalTransitionError as error:
        raise IllegalTransitionError(f"{error} (input {type(happened).__name__})") from None
