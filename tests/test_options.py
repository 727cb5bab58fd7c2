"""Option groups and the checks of single options: ranges, units, and the words of each refusal."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import (
    DeadLetterPolicy,
    DebouncePolicy,
    EmitOptions,
    HandlerOptions,
    ProcessorOptions,
    RetryPolicy,
    attempts_from,
    check_id,
    check_instant,
    check_int,
    check_name,
    check_number,
    closest,
    duration_ms,
    group_from,
    refuse_unknown,
)


def refusal(make: Callable[..., object], *args: object, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        make(*args, **kwargs)
    return str(raised.value)


# --- Groups ---------------------------------------------------------------------------------------


def test_the_default_retry_policy_retries_three_times_after_1_2_and_4_seconds() -> None:
    policy = RetryPolicy()
    assert policy.max_retries == 3
    assert (policy.delay, policy.multiplier, policy.max_delay, policy.jitter) == (1, 2, 300, 0.1)
    assert policy.retry_on == (Exception,)
    assert policy.give_up_on == ()
    assert policy.should_retry(ValueError(), 1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"max_retries": -1}, "max_retries=-1: give a whole number ≥ 0"),
        ({"max_retries": True}, "max_retries=True: give a whole number"),
        ({"delay": -1}, "delay=-1: give seconds or a timedelta"),
        ({"multiplier": 0.5}, "multiplier=0.5: give a number ≥ 1"),
        ({"max_delay": 0.5}, "max_delay=0.5 is shorter than delay=1.0: give max_delay ≥ delay"),
        ({"jitter": 1.5}, "jitter=1.5: give a number from 0 to 1"),
        ({"jitter": math.nan}, "jitter=nan: give a number"),
        ({"retry_on": "ValueError"}, "retry_on='ValueError': give exception classes"),
        ({"give_up_on": (5,)}, "give_up_on=(5,): give exception classes"),
        ({"should_retry": True}, "should_retry=True: give a function of (error, attempt)"),
    ],
)
def test_a_wrong_retry_policy_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(RetryPolicy, **fields)
    assert text in refusal(ProcessorOptions, retry=fields)


def test_one_exception_class_stands_for_a_tuple_and_a_list_too() -> None:
    fields: dict[str, Any] = {"retry_on": OSError, "give_up_on": [ValueError]}
    policy = RetryPolicy(**fields)
    assert policy.retry_on == (OSError,)
    assert policy.give_up_on == (ValueError,)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"window": 0}, "window=0: give seconds or a timedelta from 0.001 s to ten years"),
        ({"window": -1}, "window=-1: give seconds or a timedelta from 0.001 s to ten years"),
        ({"window": "5"}, "window='5': give seconds or a timedelta"),
        ({"window": 1, "key": 5}, "key=5: give a string, a function of the job, or None"),
        ({"window": 1, "edge": "both"}, "edge='both': give 'leading' or 'trailing'"),
    ],
)
def test_a_wrong_debounce_policy_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(DebouncePolicy, **fields)
    assert text in refusal(ProcessorOptions, debounce=fields)


async def _later(*_: object) -> bool:
    return False


async def _asynchronously(*_: object) -> AsyncGenerator[bool]:
    yield False


def _one_by_one(*_: object) -> Generator[bool]:
    yield False


class _Later:
    async def __call__(self, *_: object) -> bool:
        return False

    async def method(self, *_: object) -> bool:
        return False


@pytest.mark.parametrize(
    "function",
    [_later, _asynchronously, _one_by_one, _Later(), _Later().method, partial(_later, 1)],
    ids=["async", "async generator", "generator", "object", "method", "partial"],
)
@pytest.mark.parametrize(
    ("group", "fields", "name"),
    [(RetryPolicy, {}, "should_retry"), (DebouncePolicy, {"window": 1}, "key")],
)
def test_a_function_whose_answer_would_always_count_as_yes_is_refused(
    group: Any, fields: dict[str, Any], name: str, function: object
) -> None:
    text = refusal(group, **fields, **{name: function})
    assert text.startswith(f"{name}=")
    assert "give an ordinary function" in text


def test_a_debounce_policy_is_a_window_a_mapping_or_itself() -> None:
    policy = DebouncePolicy(5, key="k", edge="trailing")
    assert DebouncePolicy.from_value("debounce", policy) is policy
    assert DebouncePolicy.from_value("debounce", 5) == DebouncePolicy(5)
    assert DebouncePolicy.from_value("debounce", timedelta(seconds=5)).edge == "leading"
    mapping = {"window": 5, "key": "k", "edge": "trailing"}
    assert DebouncePolicy.from_value("debounce", mapping) == policy
    assert "debounce=True" in refusal(DebouncePolicy.from_value, "debounce", True)
    assert "debounce='5'" in refusal(DebouncePolicy.from_value, "debounce", "5")


def test_processor_options_accept_mappings_nested() -> None:
    fields: dict[str, Any] = {"retry": {"max_retries": 1}, "dlq": {"stream": "dead"}, "debounce": 3}
    options = ProcessorOptions(**fields)
    assert options.retry == RetryPolicy(max_retries=1)
    assert options.dlq == DeadLetterPolicy(stream="dead")
    assert options.debounce_policy == DebouncePolicy(3)
    assert group_from(ProcessorOptions, "processor", fields) == options
    assert ProcessorOptions().debounce_policy is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ignore_config_errors": "yes"}, "ignore_config_errors='yes': give True or False"),
        ({"dlq": "dead"}, "dlq='dead': give a DeadLetterPolicy or a mapping with its fields"),
        ({"dlq": {"stream": "a b"}}, "stream='a b': give 1 to 128 characters"),
        ({"retry": None}, "retry=None: give a RetryPolicy or a mapping"),
    ],
)
def test_wrong_processor_options_are_refused(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(ProcessorOptions, **fields)


def test_an_unknown_field_names_the_closest_one_and_all() -> None:
    text = refusal(group_from, RetryPolicy, "retry", {"retry_delay": 5})
    assert "retry: RetryPolicy has no field 'retry_delay'; did you mean 'delay'?" in text
    assert "(allowed: max_retries, delay, multiplier" in text


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("retry_delay", "delay"),
        ("dely", "delay"),
        ("maxretries", "max_retries"),
        ("retries", "max_retries"),
        ("back_off", None),
    ],
)
def test_the_closest_word_is_a_typo_a_part_or_a_resemblance(word: str, nearest: str | None) -> None:
    text = closest(word, ["max_retries", "delay", "multiplier"])
    assert text.endswith("(allowed: max_retries, delay, multiplier)")
    assert (f"did you mean {nearest!r}?" in text) is (nearest is not None)


EMIT = list(EmitOptions.__annotations__)
HANDLER = list(HandlerOptions.__annotations__)


@pytest.mark.parametrize(
    ("allowed", "word", "meant"),
    [
        (HANDLER, "max_retries", "'attempts'"),
        (HANDLER, "max_tries", "'attempts'"),
        (HANDLER, "cron", "'repeat'"),
        (HANDLER, "queue_name", "'queue'"),
        (EMIT, "retries", "'attempts'"),
        (EMIT, "max_attempts", "'attempts'"),
        (EMIT, "countdown", "'delay'"),
        (EMIT, "eta", "'delay_until'"),
        (EMIT, "run_at", "'delay_until'"),
        (EMIT, "schedule_at", "'delay_until'"),
        (EMIT, "cron", "'repeat'"),
        (EMIT, "expires", "'deadline'"),
        (EMIT, "job_id", "'id'"),
        (EMIT, "task_id", "'id'"),
        (EMIT, "queue_name", "'queue'"),
        (["db", "processor", "retention"], "retries", 'processor={"retry": …}'),
        (["db", "processor", "retention"], "attempts", 'processor={"retry": …}'),
    ],
)
def test_what_other_libraries_call_an_option_is_understood(
    allowed: list[str], word: str, meant: str
) -> None:
    text = refusal(refuse_unknown, "x", {word: 3}, allowed)
    assert f"{word}=3: x has no such option; did you mean {meant}? (allowed: " in text


def test_a_word_of_another_library_that_is_not_allowed_here_is_like_any_other() -> None:
    text = refusal(refuse_unknown, "x", {"countdown": 3}, ["db", "count"])
    assert "did you mean 'count'? (allowed: db, count)" in text


def test_one_exception_class_is_as_good_as_a_tuple() -> None:
    policy = RetryPolicy(retry_on=OSError, give_up_on=ValueError)
    assert (policy.retry_on, policy.give_up_on) == ((OSError,), (ValueError,))


def test_groups_cannot_be_changed() -> None:
    policy: Any = RetryPolicy()
    with pytest.raises(AttributeError):
        policy.delay = 5


# --- Single values --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-z_0.9:x", "x" * 128])
def test_names(name: str) -> None:
    assert check_name("queue", name) == name


@pytest.mark.parametrize("name", ["", "a b", "{a}", "a@b", "x" * 129, "ä", "a\n", None, 5])
def test_wrong_names(name: object) -> None:
    assert "give 1 to 128 characters out of A-Z a-z 0-9 _ . : -" in refusal(
        check_name, "queue", name
    )


def test_an_id_may_contain_an_at_sign_only_if_it_was_minted() -> None:
    assert check_id("id", "a@1", minted=True) == "a@1"
    assert check_id("id", "order-5") == "order-5"
    assert refusal(check_id, "id", "a@1").endswith(", without @")


def test_whole_numbers() -> None:
    assert check_int("priority", 9, least=0, most=9) == 9
    for value in (10, -1, 1.0, True, "5", None):
        assert f"priority={value!r}: give a whole number from 0 to 9" in refusal(
            check_int, "priority", value, least=0, most=9
        )


def test_numbers() -> None:
    assert check_number("jitter", 1, least=0, most=1) == 1.0
    for value in (math.inf, "1", True, None):
        assert f"x={value!r}: give a number ≥ 0" in refusal(check_number, "x", value, least=0)


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (0, 0),
        (1, 1000),
        (0.0004, 1),
        (0.0015, 2),
        (2.5, 2500),
        (timedelta(minutes=1), 60_000),
        (1e-9, 1),
        (0.1 + 0.2, 300),
    ],
)
def test_durations_become_whole_milliseconds_and_never_vanish(
    value: float | timedelta, milliseconds: int
) -> None:
    assert duration_ms("delay", value) == milliseconds


@pytest.mark.parametrize(
    "value", [-1, math.inf, math.nan, 4e8, "1", None, True, timedelta(seconds=-1)]
)
def test_wrong_durations(value: object) -> None:
    text = refusal(duration_ms, "delay", value)
    assert text.startswith(f"delay={value!r}: give seconds or a timedelta")


def test_instants_are_aware() -> None:
    berlin = timezone(timedelta(hours=2))
    assert check_instant("x", datetime(1970, 1, 1, 2, 0, 1, 999, tzinfo=berlin)) == 1000
    naive = datetime(2030, 1, 1)
    assert "give an aware datetime" in refusal(check_instant, "delay_until", naive)
    assert "give an aware datetime" in refusal(check_instant, "delay_until", 5)
    early = datetime(1969, 1, 1, tzinfo=UTC)
    assert "after 1970" in refusal(check_instant, "delay_until", early)


def test_attempts_count_the_first_run_and_retry_count_does_not() -> None:
    assert attempts_from(None) is None
    assert attempts_from(4) == 4
    assert attempts_from(None, 3) == 4
    assert attempts_from(4, 3) == 4
    assert attempts_from(None, 0) == 1
    assert "attempts=4 and retry_count=4 disagree" in refusal(attempts_from, 4, 4)
    assert "attempts=0: give a whole number" in refusal(attempts_from, 0)
    assert "retry_count=-1: give a whole number" in refusal(attempts_from, None, -1)


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal(check_name, "queue", "ä" * 1000)) < 200
