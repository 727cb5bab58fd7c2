"""`processor/retry.py`: how long until the next run, and whether there is one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from property_tests import strategies
from property_tests.strategies import answer_of, as_ms, flat
from trio_tasks.errors import ConfigurationError
from trio_tasks.options import RetryPolicy
from trio_tasks.processor.retry import agreed_attempts, delay_after_ms, judge

ROUNDING_MS = 1.5
"""Both delays are rounded, and jitter may double the error of the one before it."""

attempt_numbers = st.integers(1, 60) | st.integers(1, 10**6)


@given(strategies.retry_policies(), st.integers(1, 60), st.none() | strategies.durations_ms)
def test_the_delay_is_the_formula_in_exact_arithmetic(
    policy: RetryPolicy, attempt: int, retry_delay_ms: int | None
) -> None:
    first = Fraction(as_ms(policy.delay) if retry_delay_ms is None else retry_delay_ms)
    cap = max(Fraction(as_ms(policy.max_delay)), first)
    exact = min(cap, first * Fraction(policy.multiplier) ** (attempt - 1))
    found = delay_after_ms(policy, attempt, retry_delay_ms=retry_delay_ms)
    assert abs(found - exact) <= 1


@given(strategies.retry_policies(), attempt_numbers)
def test_the_delay_before_jitter_is_never_negative_nor_beyond_the_cap(
    policy: RetryPolicy, attempt: int
) -> None:
    delay = delay_after_ms(policy, attempt)
    assert 0 <= delay <= as_ms(policy.max_delay)


@given(strategies.retry_policies(), attempt_numbers, st.integers(0, 10**5))
def test_the_delay_before_jitter_never_falls(
    policy: RetryPolicy, attempt: int, further: int
) -> None:
    assert delay_after_ms(policy, attempt) <= delay_after_ms(policy, attempt + further)


@given(strategies.retry_policies(), strategies.luck, st.none() | strategies.durations_ms)
def test_the_millionth_delay_does_not_overflow(
    policy: RetryPolicy, luck: float, retry_delay_ms: int | None
) -> None:
    found = delay_after_ms(policy, 10**6, retry_delay_ms=retry_delay_ms, jitter=luck)
    assert isinstance(found, int)
    assert found >= 0


@given(strategies.retry_policies(), attempt_numbers, strategies.luck)
def test_jitter_stays_within_its_share_of_the_delay(
    policy: RetryPolicy, attempt: int, luck: float
) -> None:
    nominal = delay_after_ms(policy, attempt)
    found = delay_after_ms(policy, attempt, jitter=luck)
    share = policy.jitter * nominal
    assert nominal - share - ROUNDING_MS <= found <= nominal + share + ROUNDING_MS
    assert found >= 0


@given(strategies.retry_policies(), attempt_numbers)
def test_jitter_reaches_both_ends_of_its_share(policy: RetryPolicy, attempt: int) -> None:
    nominal = delay_after_ms(policy, attempt)
    share = policy.jitter * nominal
    shortest = delay_after_ms(policy, attempt, jitter=0.0)
    longest = delay_after_ms(policy, attempt, jitter=1 - 1e-12)
    tolerance = ROUNDING_MS + nominal * 1e-11
    assert abs(shortest - (nominal - share)) <= tolerance
    assert abs(longest - (nominal + share)) <= tolerance


@given(strategies.retry_policies(), strategies.durations_ms)
def test_a_delay_given_at_emit_is_the_first_delay(policy: RetryPolicy, delay_ms: int) -> None:
    assert delay_after_ms(policy, 1, retry_delay_ms=delay_ms) == delay_ms


@given(strategies.retry_policies(), strategies.grouped(strategies.failures()), st.integers(1, 30))
def test_who_is_retried_is_decided_by_the_four_rules(
    policy: RetryPolicy, error: BaseException, attempt: int
) -> None:
    causes = flat(error)
    given_up = any(isinstance(e, policy.give_up_on) for e in [error, *causes])
    named = isinstance(error, policy.retry_on) or all(
        isinstance(cause, policy.retry_on) for cause in causes
    )
    answer = answer_of(policy, attempt)
    found = judge(policy, error, causes, attempt)
    assert found.retry == (not given_up and named and answer is True)
    assert (found.objection is not None) == (not given_up and named and answer is None)


@given(
    st.lists(strategies.failures(), min_size=1, max_size=4),
    st.sampled_from(strategies.KINDS),
    st.booleans(),
)
def test_one_failure_that_is_given_up_on_makes_its_group_hopeless(
    causes: list[BaseException], kind: type[BaseException], lenient: bool
) -> None:
    retry_on: tuple[type[BaseException], ...] = (BaseException,) if lenient else (Exception,)
    policy = RetryPolicy(retry_on=retry_on, give_up_on=(kind,))
    group = BaseExceptionGroup("several", causes)
    hopeless = isinstance(group, kind) or any(isinstance(cause, kind) for cause in causes)
    named = lenient or all(isinstance(cause, Exception) for cause in causes)
    assert judge(policy, group, causes, 1).retry == (named and not hopeless)


@given(st.lists(strategies.failures(), min_size=2, max_size=3), st.sampled_from(strategies.KINDS))
def test_a_group_is_retried_if_it_or_every_failure_in_it_is_named(
    causes: list[BaseException], kind: type[BaseException]
) -> None:
    group = BaseExceptionGroup("several", causes)
    named = isinstance(group, kind) or all(isinstance(cause, kind) for cause in causes)
    assert judge(RetryPolicy(retry_on=(kind,)), group, causes, 1).retry == named


@given(strategies.retry_policies(), strategies.failures(), st.integers(1, 30))
def test_should_retry_is_given_the_error_and_the_attempt_once(
    policy: RetryPolicy, error: BaseException, attempt: int
) -> None:
    assume(isinstance(error, policy.retry_on) and not isinstance(error, policy.give_up_on))
    asked: list[tuple[BaseException, int]] = []

    def should_retry(seen: BaseException, number: int) -> bool:
        asked.append((seen, number))
        return False

    curious = RetryPolicy(
        retry_on=policy.retry_on, give_up_on=policy.give_up_on, should_retry=should_retry
    )
    assert not judge(curious, error, [error], attempt).retry
    assert asked == [(error, attempt)]


@given(st.none() | st.integers(1, 50), st.none() | st.integers(0, 49))
def test_attempts_and_retries_that_disagree_are_refused(
    attempts: int | None, max_retries: int | None
) -> None:
    policy = None if max_retries is None else RetryPolicy(max_retries=max_retries)
    if attempts is not None and max_retries is not None and attempts != max_retries + 1:
        with pytest.raises(ConfigurationError, match="disagree"):
            agreed_attempts(attempts, policy)
    else:
        expected = attempts if max_retries is None else max_retries + 1
        assert agreed_attempts(attempts, policy) == expected
