"""`processor/processor.py` by example: a job's fate, read as sentences."""

from __future__ import annotations

import pytest

from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.job import JobState
from trio_tasks.options import ProcessorOptions, RetryPolicy
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
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
from trio_tasks.processor.lifecycle import IllegalTransitionError
from trio_tasks.processor.processor import Processor
from trio_tasks.processor.signals import RetryLater

JOB = JobFacts(id="j")
LAST = JobFacts(id="j", attempt=4)
NOW = 1_000_000


@pytest.mark.parametrize(
    ("job", "happened", "decision"),
    [
        (JOB, HandedOut(), Run()),
        (JOB, Succeeded(), Complete()),
        (JOB, Failed(ValueError()), Retry(1_000)),
        (JobFacts(id="j", attempt=3), Failed(ValueError()), Retry(4_000)),
        (LAST, Failed(ValueError()), Die("exhausted")),
        (JOB, Failed(SystemExit()), Die("not_retryable")),
        (JOB, Failed(ConfigurationError()), Die("invalid_call")),
        (LAST, Failed(SerializationError()), Die("invalid_call")),
        (JOB, Failed(ExceptionGroup("", [OSError(), SerializationError()])), Die("invalid_call")),
        (JOB, TimedOut(5_000), Retry(1_000)),
        (LAST, TimedOut(5_000), Die("exhausted")),
        (JOB, AskedRetry(70_000), Retry(70_000)),
        (JOB, AskedRetry(), Retry(1_000)),
        (LAST, AskedRetry(0), Die("exhausted")),
        (JOB, AskedDeadLetter("no such user"), Die("no such user")),
        (JOB, AskedDiscard("already sent"), Skip("already sent")),
        (JOB, BadData(), Die("invalid_data")),
        (JOB, BadResult(), Die("invalid_result")),
        (JOB, Interrupted(began=True), Release(counted=False, began=True)),
        (JOB, Interrupted(began=False), Release(counted=False, began=False)),
        (JOB, LeaseLost(began=True), Release(counted=False, began=True)),
        (LAST, Interrupted(began=True), Release(counted=False, began=True)),
        (JOB, CancelRequested("user"), Cancel("user")),
        (JOB, DebounceAnswered(None), Release(counted=False, began=False)),
        (JOB, DebounceAnswered("j"), Run()),
        (JOB, DebounceAnswered("other"), Skip("debounced", by="other")),
        (JOB, OutcomeRefused(), Die("internal")),
    ],
)
def test_with_the_default_options(job: JobFacts, happened: Input, decision: object) -> None:
    assert Processor().decide(job, happened, now_ms=NOW) == decision


def test_a_job_whose_workers_died_in_all_its_attempts_is_dead_when_it_is_handed_out() -> None:
    job = JobFacts(id="j", attempt=5)
    assert Processor().decide(job, HandedOut(), now_ms=NOW) == Die("exhausted")


def test_after_ten_interruptions_the_attempt_counts_and_the_next_hand_out_finds_the_end() -> None:
    processor = Processor(attempts=1)
    tired = JobFacts(id="j", interruptions=10)
    decision = processor.decide(tired, Interrupted(began=True), now_ms=NOW)
    assert decision == Release(counted=True, began=True)
    again = JobFacts(id="j", attempt=2, interruptions=10)
    assert processor.decide(again, HandedOut(), now_ms=NOW) == Die("exhausted")


def test_a_job_does_not_start_at_its_deadline() -> None:
    job = JobFacts(id="j", deadline_at_ms=NOW)
    assert Processor().decide(job, HandedOut(), now_ms=NOW - 1) == Run()
    assert Processor().decide(job, HandedOut(), now_ms=NOW) == Die("expired")


def test_a_failure_after_the_deadline_is_retried_and_expires_at_its_next_start() -> None:
    job = JobFacts(id="j", deadline_at_ms=NOW)
    assert Processor().decide(job, Failed(ValueError()), now_ms=NOW + 5) == Retry(1_000)


def test_a_cancel_request_comes_before_everything_else() -> None:
    hand_out = HandedOut(known=False, readable=False, cancel_reason="user")
    assert Processor().decide(LAST, hand_out, now_ms=NOW) == Cancel("user")


def test_bytes_that_nobody_can_decode_are_dead_at_once() -> None:
    hand_out = HandedOut(known=False, readable=False)
    assert Processor().decide(JOB, hand_out, now_ms=NOW) == Die("undecodable")


def test_an_unknown_event_is_parked_for_a_minute_and_then_dead_unless_somebody_serves_it() -> None:
    processor, hand_out = Processor(), HandedOut(known=False)
    assert processor.decide(JOB, hand_out, now_ms=NOW) == Park(5_000, since_ms=NOW)
    parked = JobFacts(id="j", unknown_since_ms=NOW)
    assert processor.decide(parked, hand_out, now_ms=NOW + 58_000) == Park(2_000, since_ms=NOW)
    dead = processor.decide(parked, hand_out, now_ms=NOW + 60_000)
    assert dead == Die("no_handler", unless_served=True)
    assert processor.decide(parked, HandedOut(), now_ms=NOW + 60_000) == Run()


def test_only_a_job_without_a_handler_may_be_parked_where_it_would_end() -> None:
    assert (Die("exhausted").unless_served, Skip("debounced").unless_served) == (False, False)


def test_an_unknown_event_is_skipped_where_configuration_errors_are_ignored() -> None:
    processor = Processor({"ignore_config_errors": True}, unknown_event_grace_ms=0)
    decision = processor.decide(JOB, HandedOut(known=False), now_ms=NOW)
    assert decision == Skip("no_handler", unless_served=True)


def test_a_record_of_a_newer_version_is_parked_and_then_dead_even_if_its_event_is_served() -> None:
    processor = Processor({"ignore_config_errors": True})
    hand_out = HandedOut(supported=False)
    assert processor.decide(JOB, hand_out, now_ms=NOW) == Park(5_000, since_ms=NOW)
    parked = JobFacts(id="j", unknown_since_ms=NOW - 60_000)
    assert processor.decide(parked, hand_out, now_ms=NOW) == Die("unsupported")


def test_should_retry_is_not_asked_after_the_last_attempt() -> None:
    asked: list[int] = []

    def should_retry(_error: BaseException, attempt: int) -> bool:
        asked.append(attempt)
        return True

    processor = Processor({"retry": {"max_retries": 1, "should_retry": should_retry}})
    for attempt in (1, 2):
        processor.decide(JobFacts(id="j", attempt=attempt), Failed(ValueError()), now_ms=NOW)
    assert asked == [1]


def test_a_broken_should_retry_is_a_reason_of_its_own_and_can_be_reported() -> None:
    def should_retry(_error: BaseException, attempt: int) -> bool:
        return [True][attempt]

    processor = Processor(retry=RetryPolicy(should_retry=should_retry))
    error = ValueError()
    decision = processor.decide(JOB, Failed(error), now_ms=NOW)
    assert decision == Die("should_retry_raised")
    assert isinstance(processor.judge(error, 1).objection, IndexError)


def test_a_job_of_which_nothing_is_said_runs_for_the_first_time() -> None:
    job = JobFacts(id="j")
    assert (job.state, job.attempt, job.interruptions) == (JobState.RUNNING, 1, 0)


def test_should_retry_is_given_the_one_exception_of_a_group() -> None:
    asked: list[BaseException] = []

    def should_retry(error: BaseException, _attempt: int) -> bool:
        asked.append(error)
        return True

    processor = Processor(retry=RetryPolicy(should_retry=should_retry))
    error = ValueError()
    group = ExceptionGroup("nursery", [ExceptionGroup("nursery", [error])])
    processor.decide(JOB, Failed(group), now_ms=NOW)
    processor.judge(group, 1)
    assert asked == [error, error]


def test_signals_beside_a_failure_do_not_make_it_hopeless() -> None:
    processor = Processor(retry=RetryPolicy(retry_on=(ConnectionError,)))
    group = ExceptionGroup("two", [ConnectionError(), RetryLater()])
    assert processor.decide(JOB, Failed(group), now_ms=NOW) == Retry(1_000)


def test_emit_comes_before_handler_and_handler_before_processor() -> None:
    processor = Processor({"retry": {"max_retries": 1, "delay": 2}})
    handler = processor.for_handler(retry={"max_retries": 5, "delay": 3})
    emitted = JobFacts(id="j", attempts=9, retry_delay_ms=7_000)
    assert [
        processor.attempts_of(JOB),
        handler.attempts_of(JOB),
        handler.attempts_of(emitted),
    ] == [2, 6, 9]
    failed = Failed(ValueError())
    assert processor.decide(JOB, failed, now_ms=NOW) == Retry(2_000)
    assert handler.decide(JOB, failed, now_ms=NOW) == Retry(3_000)
    assert handler.decide(emitted, failed, now_ms=NOW) == Retry(7_000)


def test_attempts_of_a_handler_keep_the_policy_of_the_processor() -> None:
    handler = Processor({"retry": {"delay": 2}}).for_handler(attempts=9)
    assert handler.attempts == 9
    assert handler.retry.delay == 2


def test_a_handler_keeps_the_grace_of_its_processor() -> None:
    assert Processor(unknown_event_grace_ms=7).for_handler().unknown_event_grace_ms == 7


def test_a_jobs_luck_makes_its_delay_shorter_or_longer() -> None:
    processor = Processor()
    found = [
        processor.decide(JOB, Failed(ValueError()), now_ms=NOW, jitter=luck)
        for luck in (0.0, 0.5, 0.999)
    ]
    assert found == [Retry(900), Retry(1_000), Retry(1_100)]


def test_a_decision_that_is_not_legal_names_job_state_and_input() -> None:
    done = JobFacts(id="j-17", state=JobState.COMPLETED)
    with pytest.raises(IllegalTransitionError, match=r"'j-17' is completed.*Succeeded"):
        Processor().decide(done, Succeeded(), now_ms=NOW)
    with pytest.raises(IllegalTransitionError, match=r"'j-17' is completed.*HandedOut"):
        Processor().decide(done, HandedOut(), now_ms=NOW)


@pytest.mark.parametrize(
    ("options", "own", "message"),
    [
        ({"retries": 3}, {}, "did you mean 'retry'"),
        ({"retry": {"retry_delay": 3}}, {}, "no field 'retry_delay'"),
        ([], {}, "processor="),
        (None, {"attempts": 0}, "attempts=0"),
        (None, {"attempts": 2, "retry": {"max_retries": 2}}, "disagree"),
        (None, {"debounce": 0}, "debounce=0"),
        (None, {"unknown_event_grace_ms": -1}, "unknown_event_grace_ms=-1"),
    ],
)
def test_bad_options_are_refused_at_once(
    options: dict[str, object] | None, own: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Processor(options, **own)  # pyright: ignore[reportArgumentType]


def test_options_may_be_given_as_a_group_or_as_a_mapping() -> None:
    group = ProcessorOptions(retry=RetryPolicy(max_retries=7))
    assert Processor(group).options is group
    assert Processor({"retry": {"max_retries": 7}}).options == group
