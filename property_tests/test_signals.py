"""`processor/signals.py`: what an exception that left a handler means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from property_tests import strategies
from property_tests.strategies import flat, members_of
from trio_tasks.processor.groups import leaves, unwrapped
from trio_tasks.processor.inputs import AskedDeadLetter, AskedDiscard, AskedRetry, Failed
from trio_tasks.processor.signals import (
    REASON_BYTES,
    DeadLetter,
    Discard,
    RetryLater,
    classify,
    failures,
)


@given(strategies.exceptions)
def test_the_signal_that_says_most_about_the_job_wins(error: BaseException) -> None:
    found = flat(error)
    dead = [e for e in found if isinstance(e, DeadLetter)]
    ordinary = [e for e in found if not isinstance(e, (DeadLetter, RetryLater, Discard))]
    again = [e for e in found if isinstance(e, RetryLater)]
    meaning = classify(error)
    if dead:
        assert meaning == AskedDeadLetter(dead[0].reason)
    elif ordinary:
        assert isinstance(meaning, Failed)
        assert flat(meaning.error) == found
    elif again:
        delays = [-1 if e.delay_ms is None else e.delay_ms for e in again]
        assert isinstance(meaning, AskedRetry)
        assert (-1 if meaning.delay_ms is None else meaning.delay_ms) == max(delays)
    else:
        assert isinstance(found[0], Discard)
        assert meaning == AskedDiscard(found[0].reason)


@given(st.lists(strategies.retry_laters, min_size=1, max_size=5))
def test_of_several_delays_the_longest_wins(asked: list[RetryLater]) -> None:
    delays = [signal.delay_ms for signal in asked if signal.delay_ms is not None]
    expected = max(delays) if delays else None
    assert classify(ExceptionGroup("several", asked)) == AskedRetry(expected)


@given(strategies.wrapped(strategies.failures()))
def test_a_failure_in_groups_of_one_is_that_failure(error: BaseException) -> None:
    (leaf,) = flat(error)
    meaning = classify(error)
    assert isinstance(meaning, Failed)
    assert meaning.error is leaf


@given(strategies.wrapped(strategies.signals))
def test_a_signal_in_groups_of_one_is_that_signal(error: BaseException) -> None:
    assert classify(error) == classify(flat(error)[0])


@given(strategies.wrapped(strategies.exceptions))
def test_groups_of_one_around_a_group_change_nothing(error: BaseException) -> None:
    inner = unwrapped(error)
    assert len(members_of(inner)) != 1
    once_more: BaseException = BaseExceptionGroup("one more", [error])
    assert unwrapped(once_more) is inner
    first, second = classify(error), classify(once_more)
    if isinstance(first, Failed):
        assert isinstance(second, Failed)
        assert first.error is second.error
    else:
        assert first == second


@given(strategies.exceptions)
def test_leaves_are_found_in_order(error: BaseException) -> None:
    assert leaves(error) == flat(error)
    signals = (DeadLetter, RetryLater, Discard)
    assert failures(error) == [e for e in flat(error) if not isinstance(e, signals)]


@given(strategies.wild_texts, st.sampled_from([DeadLetter, Discard]))
def test_reasons_are_short_and_can_be_encoded(text: str, kind: type[DeadLetter | Discard]) -> None:
    reason = kind(text).reason
    encoded = reason.encode()
    assert len(encoded) <= REASON_BYTES
    if text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass"):
        assert reason == text or len(text.encode()) > REASON_BYTES
        assert text.startswith(reason.removesuffix("…"))


@given(strategies.durations_ms)
def test_retry_later_keeps_its_delay_to_the_millisecond(delay_ms: int) -> None:
    assert RetryLater(delay_ms / 1000).delay_ms == delay_ms
