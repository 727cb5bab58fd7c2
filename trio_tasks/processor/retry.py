"""Whether a failed attempt is tried again, and after how long.

The delay after attempt n has failed is `delay * multiplier ** (n - 1)`, but never more than
`max_delay`; then jitter makes it shorter or longer by up to that share of it. With the defaults,
in milliseconds and before jitter:

>>> from trio_tasks.options import RetryPolicy
>>> [delay_after_ms(RetryPolicy(), attempt) for attempt in range(1, 12)]
[1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000, 300000]

Only the first three of these are ever used unless `max_retries` is raised from 3. The default
jitter of 10 % spreads the first of them from 900 to 1100:

>>> [delay_after_ms(RetryPolicy(), 1, jitter=luck) for luck in (0.0, 0.25, 0.5, 0.75, 0.9999)]
[900, 950, 1000, 1050, 1100]

Before jitter the delays never fall from one attempt to the next, are never negative, and there is
no attempt number at which the computation overflows.

Who is retried, asked in this order:

1. One that failed because its handler used trio_tasks wrongly is not (`is_misuse`), whatever the
   policy says: every further attempt would do the same.
2. An attempt that was the last one is not (`Processor` sees to that; `should_retry` is not asked).
3. `give_up_on` says no, where it names the exception.
4. `retry_on` says no, where it does not name the exception. Its default is `Exception`, so
   `SystemExit` and `KeyboardInterrupt` raised by a handler are not retried; `BaseException` would
   include them.
5. `should_retry(error, attempt)` says no by a false value. An exception inside it counts as no,
   and so does a value that would have to be awaited.

A group of several failures is retried only if the rules above hold for all of it: `give_up_on`
says no where it names the group or any failure in it, `retry_on` says yes where it names the group
itself or every failure in it (`ExceptionGroup` is an `Exception`), and `should_retry` is given the
group. Control signals inside a group that also holds failures are not looked at.

An attempt that ran into its timeout has failed with a `TimeoutError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, cast

from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.options import RetryPolicy, duration_ms

__all__ = ["Judgement", "agreed_attempts", "delay_after_ms", "is_misuse", "judge", "timeout_error"]


class Judgement(NamedTuple):
    """What the retry rules say about a failure.

    Attributes:
        retry: whether it may be tried again.
        objection: the exception that `should_retry` raised instead of an answer, else `None`.
    """

    retry: bool
    objection: Exception | None = None


def delay_after_ms(
    policy: RetryPolicy,
    attempt: int,
    *,
    retry_delay_ms: int | None = None,
    jitter: float = 0.5,
) -> int:
    """Milliseconds from the failure of run `attempt` (from 1) to the next run.

    Args:
        policy: the policy that holds for the job.
        attempt: the run that failed.
        retry_delay_ms: as given at emit, in the place of the policy's `delay`. One that is longer
            than `max_delay` raises that limit to itself, so that it is what it says.
        jitter: luck in [0, 1); 0.5 is none.
    """
    first_ms: int = duration_ms("delay", policy.delay) if retry_delay_ms is None else retry_delay_ms
    most_ms = max(first_ms, duration_ms("max_delay", policy.max_delay))
    if first_ms == 0:
        return 0  # and not 0 * infinity
    try:
        delay = min(float(most_ms), first_ms * policy.multiplier ** (attempt - 1))
    except OverflowError:
        delay = float(most_ms)
    return round(delay * (1 + policy.jitter * (2 * jitter - 1)))


def is_misuse(causes: Sequence[BaseException]) -> bool:
    """Whether one of these is an error by which trio_tasks refused what the handler's code did.

    An emit or a log line that cannot be encoded (`SerializationError`); a wrong argument, `await
    ctx.emit(...)`, a sync function that returns a coroutine, a debounce key function that raises
    (`ConfigurationError`). What depends on the outside world has other classes.
    """
    return any(isinstance(cause, ConfigurationError | SerializationError) for cause in causes)


def judge(
    policy: RetryPolicy, error: BaseException, causes: Sequence[BaseException], attempt: int
) -> Judgement:
    """Whether the failure of run `attempt` may be tried again.

    Args:
        policy: the policy that holds for the job.
        error: what the handler raised, an exception or a group of several.
        causes: the failures in it; of a single exception, itself.
        attempt: the run that failed, from 1.
    """
    if isinstance(error, policy.give_up_on):
        return _NO
    if any(isinstance(cause, policy.give_up_on) for cause in causes):
        return _NO
    if not isinstance(error, policy.retry_on) and not all(
        isinstance(cause, policy.retry_on) for cause in causes
    ):
        return _NO
    try:
        answer = cast("object", policy.should_retry(error, attempt))
        if isinstance(answer, Awaitable):
            raise ConfigurationError("should_retry returned an awaitable: return true or false")
        return _YES if answer else _NO
    except Exception as objection:  # a user's function; the caller reports it
        return Judgement(retry=False, objection=objection)


_YES = Judgement(retry=True)
_NO = Judgement(retry=False)


def timeout_error(timeout_ms: int) -> TimeoutError:
    """The failure of an attempt that ran longer than its timeout."""
    return TimeoutError(f"the attempt ran longer than its timeout of {timeout_ms / 1000:.15g} s")


def agreed_attempts(attempts: int | None, retry: RetryPolicy | None) -> int | None:
    """Total runs according to `attempts` and a retry policy, where they are given.

    Raises:
        ConfigurationError: both are given and disagree.
    """
    if retry is None:
        return attempts
    by_policy = retry.max_retries + 1
    if attempts is not None and attempts != by_policy:
        raise ConfigurationError(
            f"attempts={attempts!r} and retry with max_retries={retry.max_retries!r} disagree:"
            f" attempts counts the first run too; give max_retries={attempts - 1},"
            " or leave attempts out"
        )
    return by_policy
