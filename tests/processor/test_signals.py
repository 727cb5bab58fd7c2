"""`processor/signals.py` by example: what a handler says by raising."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest
import trio

from trio_tasks.errors import ConfigurationError
from trio_tasks.processor.inputs import AskedDeadLetter, AskedDiscard, AskedRetry, Failed
from trio_tasks.processor.signals import DeadLetter, Discard, RetryLater, classify


def test_each_signal_is_what_it_asks_for() -> None:
    assert classify(RetryLater()) == AskedRetry(None)
    assert classify(RetryLater(1.5)) == AskedRetry(1_500)
    assert classify(RetryLater(timedelta(minutes=2))) == AskedRetry(120_000)
    assert classify(DeadLetter("no such user")) == AskedDeadLetter("no such user")
    assert classify(Discard("already sent")) == AskedDiscard("already sent")


def test_subclasses_of_a_signal_are_that_signal() -> None:
    class Hopeless(DeadLetter):
        pass

    assert classify(Hopeless("never")) == AskedDeadLetter("never")


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "5", True, 10**12])
def test_a_delay_that_is_none_is_refused_where_it_is_raised(delay: object) -> None:
    with pytest.raises(ConfigurationError, match="delay="):
        RetryLater(delay)  # pyright: ignore[reportArgumentType]


def test_a_reason_must_be_a_text() -> None:
    with pytest.raises(ConfigurationError, match="ValueError"):
        DeadLetter(ValueError("x"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="NoneType"):
        Discard(None)  # pyright: ignore[reportArgumentType]


def test_a_long_reason_is_cut_to_a_kibibyte() -> None:
    reason = DeadLetter("ä" * 5_000).reason
    assert len(reason.encode()) <= 1_024
    assert reason.endswith("ä…")
    for signal in (DeadLetter("ä" * 5_000), Discard("ä" * 5_000)):
        assert str(signal) == reason


def test_dead_letter_wins_over_all_others_in_a_group() -> None:
    group = ExceptionGroup("all", [ValueError(), RetryLater(5), Discard("d"), DeadLetter("z")])
    assert classify(group) == AskedDeadLetter("z")


def test_an_ordinary_failure_wins_over_retry_later_and_hands_the_group_on() -> None:
    group = ExceptionGroup("two", [RetryLater(5), ValueError()])
    meaning = classify(group)
    assert isinstance(meaning, Failed)
    assert meaning.error is group


def test_of_several_delays_the_longest_wins() -> None:
    inner = ExceptionGroup("inner", [RetryLater(), RetryLater(7), Discard("d")])
    members: list[Exception] = [RetryLater(3), inner]
    assert classify(ExceptionGroup("outer", members)) == AskedRetry(7_000)
    assert classify(ExceptionGroup("silent", [RetryLater(), RetryLater()])) == AskedRetry(None)


def test_discard_counts_only_alone() -> None:
    assert classify(ExceptionGroup("d", [Discard("one"), Discard("two")])) == AskedDiscard("one")
    assert classify(ExceptionGroup("r", [Discard("one"), RetryLater(1)])) == AskedRetry(1_000)


def test_a_signal_raised_in_a_nested_trio_nursery_arrives_as_itself() -> None:
    async def child() -> None:
        raise RetryLater(4)

    async def handler() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(child)

    with pytest.RaisesGroup(RetryLater, flatten_subgroups=True) as caught:
        trio.run(handler)
    assert classify(caught.value) == AskedRetry(4_000)


def test_system_exit_is_a_failure_of_the_job() -> None:
    leaving = SystemExit(3)
    meaning = classify(BaseExceptionGroup("nursery", [leaving]))
    assert isinstance(meaning, Failed)
    assert meaning.error is leaving


def test_a_group_of_a_hundred_thousand_levels_is_taken_apart() -> None:
    error: BaseException = RetryLater(1)
    for _ in range(100_000):
        members = [error]
        error = BaseExceptionGroup("deeper", members)
    assert classify(error) == AskedRetry(1_000)


def test_a_signal_shows_what_it_was_given() -> None:
    assert repr(RetryLater(delay=2)) == "RetryLater(2)"
    assert repr(DeadLetter(reason="no such user")) == "DeadLetter('no such user')"


def test_signals_say_what_they_ask_for_and_survive_pickling() -> None:
    for signal, text in (
        (RetryLater(), "again after the retry policy's delay"),
        (RetryLater(1.5), "again after 1.5 s"),
        (RetryLater(delay=2), "again after 2 s"),
        (DeadLetter("z"), "z"),
        (Discard("d"), "d"),
    ):
        assert str(signal) == text
        assert classify(pickle.loads(pickle.dumps(signal))) == classify(signal)
