"""How a handler speaks back by raising: again later, never again, or not worth doing.

These three are no errors but requests, so `RetryPolicy.should_retry` is not asked about them.
Whatever else a handler raises is a failure, and `retry.py` says what becomes of it.

A group that holds one exception, at any depth, counts as that one. Of several, the one that says
most about the job wins:

1. `DeadLetter`: somebody knows that it is hopeless. The first one's reason counts.
2. An ordinary failure: it was not foreseen, so the retry policy judges, seeing the whole group.
3. `RetryLater`: the longest delay wins; one that names no delay yields to one that does.
4. `Discard`: the first one's reason counts.
"""

from __future__ import annotations

from typing import TypeAlias

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import Duration, duration_ms
from trio_tasks.processor.groups import leaves, unwrapped
from trio_tasks.processor.inputs import AskedDeadLetter, AskedDiscard, AskedRetry, Failed
from trio_tasks.processor.texts import clipped

__all__ = ["REASON_BYTES", "DeadLetter", "Discard", "Raised", "RetryLater", "classify", "failures"]

REASON_BYTES = 1024
"""The longest reason that is kept, in bytes of UTF-8; what is beyond is cut off."""

Raised: TypeAlias = Failed | AskedRetry | AskedDeadLetter | AskedDiscard
"""What an exception that left a handler can mean."""


class RetryLater(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a handler to run the job again later.

    It uses an attempt; raised in the last one, the job is dead with the reason `exhausted`.
    `should_retry`, `retry_on` and `give_up_on` are not asked.

    Args:
        delay: seconds or a `timedelta`, 0 to ten years, kept to exactly (no jitter, no
            `max_delay`). `None`: the delay that the retry policy gives this attempt.

    Attributes:
        delay_ms: the delay in milliseconds, or `None`.

    Raises:
        ConfigurationError: the delay is negative, not finite, too long, or no duration.
    """

    def __init__(self, delay: Duration | None = None) -> None:
        super().__init__(delay)
        self.delay_ms: int | None = None if delay is None else duration_ms("delay", delay)

    def __str__(self) -> str:
        if self.delay_ms is None:
            return "again after the retry policy's delay"
        return f"again after {self.delay_ms / 1000:.15g} s"


class DeadLetter(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a handler to dead-letter the job now, whatever attempts are left.

    Args:
        reason: shown as `JobInfo.reason`, at most 1 KiB.

    Raises:
        ConfigurationError: the reason is not a text.
    """

    def __init__(self, reason: str = "requested") -> None:
        self.reason = _checked_reason(reason)
        super().__init__(self.reason)


class Discard(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a handler to end the job as *skipped*: no retry, no DLQ.

    Args:
        reason: shown as `JobInfo.reason`, at most 1 KiB.

    Raises:
        ConfigurationError: the reason is not a text.
    """

    def __init__(self, reason: str = "discarded") -> None:
        self.reason = _checked_reason(reason)
        super().__init__(self.reason)


def classify(error: BaseException) -> Raised:
    """What the exception that left a handler means; see the rules above.

    `Failed` carries the exception, or the group of several, without groups of one around it. An
    exception that is no `Exception` (`SystemExit`, `KeyboardInterrupt`) is a failure like others.
    """
    error = unwrapped(error)
    found = leaves(error)
    for leaf in found:
        if isinstance(leaf, DeadLetter):
            return AskedDeadLetter(leaf.reason)
    if failures(error):
        return Failed(error)
    retries = [leaf for leaf in found if isinstance(leaf, RetryLater)]
    if retries:
        delays = [leaf.delay_ms for leaf in retries if leaf.delay_ms is not None]
        return AskedRetry(max(delays, default=None))
    discards = [leaf for leaf in found if isinstance(leaf, Discard)]
    return AskedDiscard(discards[0].reason)


def failures(error: BaseException) -> list[BaseException]:
    """The ordinary failures in an exception: its leaves that are no signals."""
    return [leaf for leaf in leaves(error) if not isinstance(leaf, _SIGNALS)]


_SIGNALS = (RetryLater, DeadLetter, Discard)


def _checked_reason(reason: object) -> str:
    if not isinstance(reason, str):
        raise ConfigurationError(
            f"reason: give a text, not a value of type {type(reason).__name__}"
        )
    return clipped(reason, REASON_BYTES)
