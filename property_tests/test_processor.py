"""`processor/processor.py`: what is decided, over all jobs, inputs and policies."""

from __future__ import annotations

import copy
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from property_tests import strategies
from property_tests.strategies import answer_of, flat, members_of
from trio_tasks.job import JobState
from trio_tasks.options import RetryPolicy
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
from trio_tasks.processor.lifecycle import TABLE, IllegalTransitionError
from trio_tasks.processor.processor import COMPLETE, Processor
from trio_tasks.processor.retry import delay_after_ms

KNOWN, UNKNOWN = HandedOut(), HandedOut(known=False)


@given(
    strategies.processors(),
    strategies.job_facts,
    strategies.inputs,
    strategies.instants_ms,
    strategies.luck,
)
def test_every_input_has_a_decision_that_is_legal_and_always_the_same(
    processor: Processor, job: JobFacts, happened: Input, now_ms: int, luck: float
) -> None:
    decision = processor.decide(job, happened, now_ms=now_ms, jitter=luck)
    assert isinstance(decision, get_args(Decision))
    if not isinstance(decision, Run):
        assert any(row.source is JobState.RUNNING and row.step is decision.step for row in TABLE)
    again = processor.decide(copy.copy(job), happened, now_ms=now_ms, jitter=luck)
    assert again == decision


@given(
    strategies.processors(),
    strategies.job_facts,
    st.sampled_from([state for state in JobState if state is not JobState.RUNNING]),
    strategies.inputs,
)
def test_a_job_that_does_not_run_is_never_moved_off_the_table(
    processor: Processor, job: JobFacts, state: JobState, happened: Input
) -> None:
    job = msgspec.structs.replace(job, state=state)
    try:
        decision = processor.decide(job, happened, now_ms=0)
    except IllegalTransitionError as error:
        message = str(error)
        assert repr(job.id) in message
        assert state.value in message
        assert type(happened).__name__ in message
    else:
        # Only a cancel is legal for a job that no worker holds, and only while it waits.
        assert isinstance(decision, Cancel)
        assert any(row.source is state and row.step is decision.step for row in TABLE)


@given(
    strategies.processors(),
    strategies.job_facts,
    st.sampled_from([state for state in JobState if state is not JobState.RUNNING]),
    st.sampled_from([KNOWN, DebounceAnswered("j")]),
)
def test_only_a_running_job_is_let_run(
    processor: Processor, job: JobFacts, state: JobState, happened: Input
) -> None:
    job = msgspec.structs.replace(job, id="j", attempt=1, deadline_at_ms=None)
    assert processor.decide(job, happened, now_ms=0) == Run()
    with pytest.raises(IllegalTransitionError):
        processor.decide(msgspec.structs.replace(job, state=state), happened, now_ms=0)


# --- a hand-out -------------------------------------------------------------------------------


@given(strategies.processors(), strategies.job_facts, strategies.hand_outs, st.data())
def test_a_job_runs_iff_nothing_speaks_against_it(
    processor: Processor, job: JobFacts, hand_out: HandedOut, data: st.DataObject
) -> None:
    now_ms = data.draw(st.just(job.deadline_at_ms or 0) | strategies.instants_ms, label="now")
    attempts = processor.attempts if job.attempts is None else job.attempts
    reasons_against = {
        "cancelled": hand_out.cancel_reason is not None,
        "undecodable": not hand_out.readable,
        "exhausted": job.attempt > attempts,
        "expired": job.deadline_at_ms is not None and now_ms >= job.deadline_at_ms,
        "not for this worker": not (hand_out.known and hand_out.supported),
    }
    decision = processor.decide(job, hand_out, now_ms=now_ms)
    first = next((why for why, applies in reasons_against.items() if applies), None)
    match first:
        case None:
            assert decision == Run()
        case "cancelled":
            assert decision == Cancel(hand_out.cancel_reason or "")
        case "not for this worker":
            assert isinstance(decision, Park | Die | Skip)
        case _:
            assert decision == Die(first)


@given(
    strategies.processors(),
    strategies.job_facts,
    st.booleans(),
    st.booleans(),
    strategies.instants_ms,
    st.integers(0, 200_000),
)
def test_a_job_that_this_worker_cannot_run_is_parked_until_the_grace_has_passed(
    processor: Processor,
    job: JobFacts,
    known: bool,
    supported: bool,
    since_ms: int,
    later_ms: int,
) -> None:
    hand_out = HandedOut(known=known, supported=supported and not known)
    job = msgspec.structs.replace(job, attempt=1, deadline_at_ms=None, unknown_since_ms=since_ms)
    decision = processor.decide(job, hand_out, now_ms=since_ms + later_ms)
    left_ms = processor.unknown_event_grace_ms - later_ms
    if left_ms > 0:
        assert decision == Park(min(5_000, left_ms), since_ms)
    elif not hand_out.supported:
        assert decision == Die("unsupported")
    elif processor.options.ignore_config_errors:
        assert decision == Skip("no_handler", unless_served=True)
    else:
        assert decision == Die("no_handler", unless_served=True)


@given(strategies.processors(), strategies.job_facts, strategies.instants_ms)
def test_the_first_worker_that_does_not_know_an_event_begins_its_grace(
    processor: Processor, job: JobFacts, now_ms: int
) -> None:
    job = msgspec.structs.replace(job, attempt=1, deadline_at_ms=None, unknown_since_ms=None)
    decision = processor.decide(job, UNKNOWN, now_ms=now_ms)
    if processor.unknown_event_grace_ms == 0:
        assert isinstance(decision, Die | Skip)
    else:
        assert isinstance(decision, Park)
        assert decision.since_ms == now_ms


@given(strategies.processors(), strategies.instants_ms, st.integers(-2, 2))
def test_no_attempt_starts_at_or_after_the_deadline(
    processor: Processor, deadline_at_ms: int, late_ms: int
) -> None:
    job = JobFacts(id="j", deadline_at_ms=deadline_at_ms)
    decision = processor.decide(job, KNOWN, now_ms=deadline_at_ms + late_ms)
    assert decision == (Run() if late_ms < 0 else Die("expired"))


@given(strategies.processors(), strategies.job_facts, st.none() | strategies.names)
def test_a_job_whose_debounce_key_another_holds_is_skipped(
    processor: Processor, job: JobFacts, holder: str | None
) -> None:
    decision = processor.decide(job, DebounceAnswered(holder), now_ms=0)
    if holder is None:  # the start was superseded
        assert decision == Release(counted=False, began=False)
    elif holder == job.id:
        assert decision == Run()
    else:
        assert decision == Skip("debounced", by=holder)
    assert processor.decide(job, DebounceAnswered(job.id), now_ms=0) == Run()


# --- an outcome -------------------------------------------------------------------------------


@given(strategies.processors(), strategies.job_facts, strategies.outcomes, strategies.luck)
def test_no_outcome_of_the_last_attempt_is_a_retry(
    processor: Processor, job: JobFacts, outcome: Input, luck: float
) -> None:
    attempts = processor.attempts if job.attempts is None else job.attempts
    job = msgspec.structs.replace(job, attempt=attempts)
    decision = processor.decide(job, outcome, now_ms=0, jitter=luck)
    assert not isinstance(decision, Retry)
    if isinstance(outcome, Failed | TimedOut | AskedRetry):
        assert decision == Die("exhausted")


@given(
    strategies.processors(),
    strategies.job_facts,
    strategies.grouped(strategies.failures()),
    strategies.luck,
)
def test_a_failure_before_the_last_attempt_is_retried_by_the_policy(
    processor: Processor, job: JobFacts, error: BaseException, luck: float
) -> None:
    attempts = max(2, processor.attempts if job.attempts is None else job.attempts)
    job = msgspec.structs.replace(job, attempt=min(job.attempt, attempts - 1), attempts=attempts)
    policy = processor.retry
    while len(members := members_of(error)) == 1:
        error = members[0]
    named = not any(isinstance(e, policy.give_up_on) for e in [error, *flat(error)]) and (
        isinstance(error, policy.retry_on)
        or all(isinstance(leaf, policy.retry_on) for leaf in flat(error))
    )
    answer = answer_of(policy, job.attempt)
    decision = processor.decide(job, Failed(error), now_ms=0, jitter=luck)
    if named and answer:
        assert decision == Retry(
            delay_after_ms(policy, job.attempt, retry_delay_ms=job.retry_delay_ms, jitter=luck)
        )
    elif named and answer is None:
        assert decision == Die("should_retry_raised")
        assert isinstance(processor.judge(error, job.attempt).objection, RuntimeError)
    else:
        assert decision == Die("not_retryable")


@given(strategies.processors(), strategies.job_facts, st.integers(1, 10**6), strategies.luck)
def test_a_time_out_is_a_failure_with_a_timeout_error(
    processor: Processor, job: JobFacts, timeout_ms: int, luck: float
) -> None:
    by_clock = processor.decide(job, TimedOut(timeout_ms), now_ms=0, jitter=luck)
    by_error = processor.decide(job, Failed(TimeoutError()), now_ms=0, jitter=luck)
    assert by_clock == by_error


@given(strategies.processors(), strategies.job_facts, strategies.durations_ms, strategies.luck)
def test_retry_later_is_obeyed_to_the_millisecond_while_attempts_are_left(
    processor: Processor, job: JobFacts, delay_ms: int, luck: float
) -> None:
    job = msgspec.structs.replace(job, attempts=job.attempt + 1)
    decision = processor.decide(job, AskedRetry(delay_ms), now_ms=0, jitter=luck)
    assert decision == Retry(delay_ms)
    by_policy = processor.decide(job, AskedRetry(), now_ms=0, jitter=luck)
    assert by_policy == Retry(
        delay_after_ms(processor.retry, job.attempt, retry_delay_ms=job.retry_delay_ms, jitter=luck)
    )


@given(strategies.processors(), strategies.job_facts, st.booleans())
def test_an_interrupted_attempt_is_released_and_counts_after_ten(
    processor: Processor, job: JobFacts, began: bool
) -> None:
    expected = Release(counted=began and job.interruptions >= 10, began=began)
    assert processor.decide(job, Interrupted(began), now_ms=0) == expected
    assert processor.decide(job, LeaseLost(began), now_ms=0) == expected


# --- over the life of one job -----------------------------------------------------------------


@given(strategies.processors(), st.none() | st.integers(1, 30), st.none() | st.integers(0, 10**5))
def test_a_job_that_always_asks_for_another_run_has_all_its_attempts_and_no_more(
    processor: Processor, attempts: int | None, retry_delay_ms: int | None
) -> None:
    runs, waits = 0, list[int]()
    while True:
        job = JobFacts(id="j", attempt=runs + 1, attempts=attempts, retry_delay_ms=retry_delay_ms)
        assert processor.decide(job, KNOWN, now_ms=0) == Run()
        runs += 1
        decision = processor.decide(job, AskedRetry(), now_ms=0)
        if not isinstance(decision, Retry):
            break
        waits.append(decision.delay_ms)
    assert decision == Die("exhausted")
    assert runs == (processor.attempts if attempts is None else attempts)
    assert waits == sorted(waits)


@given(strategies.processors(), st.none() | st.integers(1, 30))
def test_a_job_that_kills_every_worker_is_dead_after_its_attempts(
    processor: Processor, attempts: int | None
) -> None:
    begun = 0
    while True:
        job = JobFacts(id="j", attempt=begun + 1, attempts=attempts)
        decision = processor.decide(job, KNOWN, now_ms=0)
        if decision != Run():
            break
        begun += 1
    assert decision == Die("exhausted")
    assert begun == (processor.attempts if attempts is None else attempts)


@given(strategies.processors())
def test_a_job_that_is_always_interrupted_is_dead_after_its_attempts_and_ten_more(
    processor: Processor,
) -> None:
    attempt, interruptions, begun = 1, 0, 0
    while True:
        job = JobFacts(id="j", attempt=attempt, interruptions=interruptions)
        decision = processor.decide(job, KNOWN, now_ms=0)
        if decision != Run():
            break
        begun += 1
        decision = processor.decide(job, Interrupted(began=True), now_ms=0)
        assert isinstance(decision, Release)
        attempt += decision.counted
        interruptions += not decision.counted
    assert decision == Die("exhausted")
    assert begun == processor.attempts + 10


@given(strategies.processors(), strategies.job_facts, strategies.texts)
def test_what_leaves_no_choice_is_decided_alike_by_every_policy_in_every_attempt(
    processor: Processor, job: JobFacts, text: str
) -> None:
    decisions: list[tuple[Input, Decision]] = [
        (Succeeded(), Complete()),
        (BadData(), Die("invalid_data")),
        (BadResult(), Die("invalid_result")),
        (OutcomeRefused(), Die("internal")),
        (AskedDeadLetter(text), Die(text)),
        (AskedDiscard(text), Skip(text)),
        (CancelRequested(text), Cancel(text)),
    ]
    for happened, decision in decisions:
        assert processor.decide(job, happened, now_ms=0) == decision


# --- whose word counts ------------------------------------------------------------------------


@given(
    strategies.retry_policies(),
    st.none() | strategies.retry_policies(),
    st.none() | st.integers(1, 30),
    st.none() | st.integers(1, 30),
)
def test_emit_comes_before_handler_and_handler_before_processor(
    general: RetryPolicy, own: RetryPolicy | None, own_attempts: int | None, at_emit: int | None
) -> None:
    if own is not None:
        own_attempts = None
    processor = Processor({"retry": general}).for_handler(retry=own, attempts=own_attempts)
    assert processor.retry is (general if own is None else own)
    if at_emit is not None:
        expected = at_emit
    elif own_attempts is not None:
        expected = own_attempts
    else:
        expected = processor.retry.max_retries + 1
    assert processor.attempts_of(JobFacts(id="j", attempts=at_emit)) == expected


@given(st.integers(1, 30), st.integers(0, 30))
def test_a_handler_whose_attempts_and_retries_disagree_is_refused(
    attempts: int, max_retries: int
) -> None:
    own = {"max_retries": max_retries}
    if attempts == max_retries + 1:
        assert Processor().for_handler(retry=own, attempts=attempts).attempts == attempts
    else:
        with pytest.raises(ValueError, match="disagree"):
            Processor().for_handler(retry=own, attempts=attempts)


@given(
    strategies.processors(),
    strategies.job_facts,
    st.none() | st.text(),
    strategies.instants_ms,
    strategies.luck,
)
def test_what_runs_surely_is_what_every_processor_lets_run(
    processor: Processor, facts: JobFacts, cancel_reason: str | None, now_ms: int, luck: float
) -> None:
    facts = msgspec.structs.replace(facts, state=JobState.RUNNING)
    surely = Processor.runs_surely(
        attempt=facts.attempt, deadline_at_ms=facts.deadline_at_ms, cancel_reason=cancel_reason
    )
    plain = msgspec.structs.replace(facts, attempt=1, deadline_at_ms=None)
    assert Processor.runs_surely(attempt=1, deadline_at_ms=None, cancel_reason=None)
    assert processor.decide(plain, KNOWN, now_ms=now_ms, jitter=luck) == Run()
    if surely:
        handed_out = HandedOut(cancel_reason=cancel_reason)
        assert processor.decide(facts, handed_out, now_ms=now_ms, jitter=luck) == Run()


@given(strategies.processors(), strategies.job_facts, strategies.instants_ms, strategies.luck)
def test_every_success_is_the_same_completion(
    processor: Processor, facts: JobFacts, now_ms: int, luck: float
) -> None:
    facts = msgspec.structs.replace(facts, state=JobState.RUNNING)
    assert processor.decide(facts, Succeeded(), now_ms=now_ms, jitter=luck) is COMPLETE
