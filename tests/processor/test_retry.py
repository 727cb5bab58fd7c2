"""`processor/retry.py` by example."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import RetryPolicy
from trio_tasks.processor import retry
from trio_tasks.processor.retry import agreed_attempts, delay_after_ms, judge, timeout_error


def test_the_delays_in_the_docstring_are_the_real_ones() -> None:
    found = doctest.testmod(retry)
    assert found.attempted >= 3
    assert found.failed == 0


def test_the_delays_double_until_the_longest_one() -> None:
    policy = RetryPolicy(delay=10, multiplier=2, max_delay=60)
    delays = [delay_after_ms(policy, attempt) for attempt in range(1, 6)]
    assert delays == [10_000, 20_000, 40_000, 60_000, 60_000]


def test_a_multiplier_of_one_keeps_the_delay() -> None:
    policy = RetryPolicy(delay=5, multiplier=1)
    assert {delay_after_ms(policy, attempt) for attempt in (1, 2, 50, 10**6)} == {5_000}


def test_no_delay_stays_no_delay_even_where_the_growth_overflows() -> None:
    policy = RetryPolicy(delay=0, multiplier=1e308)
    assert [delay_after_ms(policy, attempt) for attempt in (1, 2, 3, 10**6)] == [0, 0, 0, 0]


def test_the_delay_given_at_emit_replaces_the_first_one_and_grows_likewise() -> None:
    policy = RetryPolicy(delay=1, multiplier=3, max_delay=60)
    delays = [delay_after_ms(policy, attempt, retry_delay_ms=5_000) for attempt in (1, 2, 3, 4)]
    assert delays == [5_000, 15_000, 45_000, 60_000]


def test_a_delay_given_at_emit_that_is_longer_than_the_cap_is_kept() -> None:
    policy = RetryPolicy(max_delay=60)
    assert delay_after_ms(policy, 1, retry_delay_ms=600_000) == 600_000
    assert delay_after_ms(policy, 2, retry_delay_ms=600_000) == 600_000


def test_only_what_retry_on_names_is_retried() -> None:
    policy = RetryPolicy(retry_on=(ConnectionError,))
    assert judge_one(policy, ConnectionResetError())
    assert not judge_one(policy, ValueError())


def test_give_up_on_wins_over_retry_on() -> None:
    policy = RetryPolicy(retry_on=(OSError,), give_up_on=(ConnectionError,))
    assert judge_one(policy, FileNotFoundError())
    assert not judge_one(policy, ConnectionResetError())


def test_should_retry_is_not_asked_about_what_is_given_up_anyway() -> None:
    def never_asked(error: BaseException, attempt: int) -> bool:
        raise AssertionError(f"asked about {error!r} in attempt {attempt}")

    policy = RetryPolicy(
        retry_on=(OSError,), give_up_on=(ConnectionError,), should_retry=never_asked
    )
    assert judge(policy, ConnectionResetError(), [ConnectionResetError()], 1) == (False, None)
    assert judge(policy, ValueError(), [ValueError()], 1) == (False, None)


def test_an_exception_inside_should_retry_counts_as_no_and_is_handed_on() -> None:
    broken = ZeroDivisionError("broken")

    def should_retry(_error: BaseException, _attempt: int) -> bool:
        raise broken

    policy = RetryPolicy(should_retry=should_retry)
    assert judge(policy, ValueError(), [ValueError()], 1) == (False, broken)


def test_an_answer_that_would_have_to_be_awaited_is_none_and_counts_as_no() -> None:
    async def later() -> bool:
        return True

    answers: list[Any] = []

    def should_retry(_error: BaseException, _attempt: int) -> Any:
        answers.append(later())
        return answers[-1]

    retry, objection = judge(RetryPolicy(should_retry=should_retry), ValueError(), [], 1)
    answers[0].close()
    assert not retry
    assert "awaitable" in str(objection)


def test_control_c_inside_should_retry_is_no_answer() -> None:
    def should_retry(_error: BaseException, _attempt: int) -> bool:
        raise KeyboardInterrupt

    policy = RetryPolicy(should_retry=should_retry)
    with pytest.raises(KeyboardInterrupt):
        judge(policy, ValueError(), [ValueError()], 1)


def test_system_exit_is_retried_only_where_it_is_named() -> None:
    assert not judge_one(RetryPolicy(), SystemExit(1))
    assert judge_one(RetryPolicy(retry_on=(Exception, SystemExit)), SystemExit(1))


def test_a_group_is_retried_if_all_of_it_is() -> None:
    policy = RetryPolicy(retry_on=(ConnectionError,))
    reset, refused, bad = ConnectionResetError(), ConnectionRefusedError(), ValueError()
    assert judge(policy, ExceptionGroup("two", [reset, refused]), [reset, refused], 1).retry
    assert not judge(policy, ExceptionGroup("two", [reset, bad]), [reset, bad], 1).retry


def test_a_group_is_retried_by_the_default_policy() -> None:
    group = ExceptionGroup("two", [ValueError(), KeyError()])
    assert judge(RetryPolicy(), group, list(group.exceptions), 1).retry


def test_one_hopeless_failure_makes_a_group_hopeless() -> None:
    policy = RetryPolicy(give_up_on=(PermissionError,))
    group = ExceptionGroup("two", [ValueError(), PermissionError()])
    assert not judge(policy, group, list(group.exceptions), 1).retry


def test_the_error_of_a_time_out_names_the_timeout() -> None:
    assert "2.5 s" in str(timeout_error(2_500))


def test_attempts_and_a_policy_that_disagree_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="max_retries=7"):
        agreed_attempts(8, RetryPolicy(max_retries=3))
    assert agreed_attempts(8, RetryPolicy(max_retries=7)) == 8
    assert agreed_attempts(None, None) is None


def judge_one(policy: RetryPolicy, error: BaseException) -> bool:
    return judge(policy, error, [error], 1).retry
