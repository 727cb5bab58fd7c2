"""`processor/debounce.py` by example."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import DebouncePolicy, JobLike
from trio_tasks.processor.debounce import (
    Carried,
    NotDebounced,
    Window,
    asked_from,
    digest_of,
)
from trio_tasks.processor.processor import Processor


@dataclass(frozen=True)
class Seen:
    name: str = "resize"
    queue: str = "images"
    data: object = None


JOB = Seen()
DATA = b'{"id":7}'
BY_DATA = digest_of("leading", "images", "resize", None, DATA)


def test_equal_objects_have_one_digest_whatever_the_order_of_their_members() -> None:
    one = digest_of("leading", "q", "e", None, b'{"a": 1, "b": {"c": 2, "d": 3}}')
    other = digest_of("leading", "q", "e", None, b'{"b":{"d":3,"c":2},"a":1}')
    assert one == other


def test_one_and_one_point_zero_are_different_data() -> None:
    assert digest_of("leading", "q", "e", None, b"1") != digest_of(
        "leading", "q", "e", None, b"1.0"
    )


def test_a_key_is_never_taken_for_data() -> None:
    assert digest_of("leading", "q", "e", "1", b"1") != digest_of("leading", "q", "e", None, b"1")


def test_a_number_that_no_decoder_reads_is_compared_by_its_bytes() -> None:
    huge, other = b"9" * 400 + b".0", b"8" * 400 + b".0"
    assert digest_of("leading", "q", "e", None, huge) == digest_of("leading", "q", "e", None, huge)
    assert digest_of("leading", "q", "e", None, huge) != digest_of("leading", "q", "e", None, other)


def test_data_nested_beyond_reading_are_compared_by_their_bytes() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert len(digest_of("leading", "q", "e", None, deep)) == 32


def test_without_a_policy_nothing_is_debounced() -> None:
    processor = Processor()
    assert processor.debounce_at_emit(None, job=JOB, data=DATA) == (None, None)
    found = processor.debounce_at_start(None, None, job=JOB, data=DATA)
    assert found is NotDebounced.UNASKED


def test_a_leading_window_is_decided_when_the_job_starts() -> None:
    processor = Processor({"debounce": 300})
    assert processor.debounce_at_emit(None, job=JOB, data=DATA) == (None, None)
    found = processor.debounce_at_start(None, None, job=JOB, data=DATA)
    assert found == Window("leading", 300_000, BY_DATA)


def test_a_trailing_window_is_decided_at_emit() -> None:
    processor = Processor(debounce=DebouncePolicy(2, edge="trailing"))
    carried, key = processor.debounce_at_emit(None, job=JOB, data=DATA)
    expected = ("trailing", 2_000, digest_of("trailing", "images", "resize", None, DATA))
    assert carried == expected
    assert key is None
    # Whoever runs it needs no policy for that.
    assert Processor().debounce_at_start(carried, key, job=JOB, data=DATA) == expected


def test_a_window_given_at_emit_is_used_with_the_key_of_the_handler_that_runs_it() -> None:
    policy = asked_from(5)
    carried, key = Processor().debounce_at_emit(policy, job=JOB, data=DATA)
    assert (carried, key) == (Carried("leading", 5_000, None), None)

    def by_queue(job: JobLike) -> str:
        return job.queue

    runner = Processor(debounce=DebouncePolicy(60, key=by_queue))
    found = runner.debounce_at_start(carried, key, job=JOB, data=DATA)
    assert found == Window(
        "leading", 5_000, digest_of("leading", "images", "resize", "images", DATA)
    )


def test_a_key_given_at_emit_is_used_with_the_window_of_the_handler_that_runs_it() -> None:
    carried, key = Processor().debounce_at_emit(asked_from("user-7"), job=JOB, data=DATA)
    assert (carried, key) == (None, "user-7")
    found = Processor(debounce=60).debounce_at_start(carried, key, job=JOB, data=DATA)
    assert found == Window(
        "leading", 60_000, digest_of("leading", "images", "resize", "user-7", DATA)
    )


def test_a_key_given_at_emit_is_used_with_the_trailing_window_of_its_handler() -> None:
    emitter = Processor(debounce=DebouncePolicy(2, edge="trailing", key="all"))
    for asked, key in ((None, "all"), ("user-7", "user-7")):
        digest = digest_of("trailing", "images", "resize", key, DATA)
        carried, carried_key = emitter.debounce_at_emit(asked_from(asked), job=JOB, data=DATA)
        assert (carried, carried_key) == (Carried("trailing", 2_000, digest), None)


def test_a_key_without_any_window_is_reported() -> None:
    found = Processor().debounce_at_start(None, "user-7", job=JOB, data=DATA)
    assert found is NotDebounced.NO_WINDOW


def test_a_job_that_comes_without_its_trailing_window_is_reported() -> None:
    runner = Processor(debounce=DebouncePolicy(60, edge="trailing"))
    found = runner.debounce_at_start(None, None, job=JOB, data=DATA)
    assert found is NotDebounced.TOO_LATE


def test_a_schedule_is_debounced_by_its_handler_but_not_by_the_processor() -> None:
    general = Processor({"debounce": 300})
    found = general.debounce_at_start(None, None, job=JOB, data=b"null", scheduled=True)
    assert found is NotDebounced.UNASKED
    own = general.for_handler(debounce=10)
    found = own.debounce_at_start(None, None, job=JOB, data=b"null", scheduled=True)
    assert isinstance(found, Window)
    assert found.window_ms == 10_000


def test_a_trailing_policy_of_the_processor_waits_for_every_job_but_those_of_schedules() -> None:
    general = Processor({"debounce": DebouncePolicy(2, edge="trailing")})
    carried, _ = general.debounce_at_emit(None, job=JOB, data=DATA)
    assert carried is not None
    assert general.debounce_at_emit(None, job=JOB, data=DATA, scheduled=True) == (None, None)


def test_a_key_function_is_given_the_job() -> None:
    seen: list[object] = []

    def key(job: JobLike) -> str:
        seen.append((job.name, job.queue, job.data))
        return "k"

    job = Seen(data={"id": 7})
    processor = Processor(debounce=DebouncePolicy(1, key=key))
    processor.debounce_at_start(None, None, job=job, data=DATA)
    assert seen == [("resize", "images", {"id": 7})]


def test_a_key_function_that_returns_no_string_is_named() -> None:
    def key(_job: object) -> str:
        return 7  # pyright: ignore[reportReturnType]

    processor = Processor(debounce=DebouncePolicy(1, key=key))
    with pytest.raises(ConfigurationError, match=r"'resize' returned a value of type int"):
        processor.debounce_at_start(None, None, job=JOB, data=DATA)


def test_a_key_function_that_raises_is_named() -> None:
    def key(job: JobLike) -> str:
        raise TypeError("not subscriptable")

    processor = Processor(debounce=DebouncePolicy(1, key=key))
    with pytest.raises(ConfigurationError, match=r"of 'resize' raised TypeError: ") as caught:
        processor.debounce_at_start(None, None, job=JOB, data=DATA)
    assert isinstance(caught.value.__cause__, TypeError)


def test_emit_takes_a_window_a_policy_a_mapping_or_a_key() -> None:
    assert asked_from(None) is None
    assert asked_from("user-7") == "user-7"
    assert asked_from(5) == DebouncePolicy(5)
    assert asked_from({"window": 5, "edge": "trailing"}) == DebouncePolicy(5, edge="trailing")


@pytest.mark.parametrize("value", [0, -1, True, [], {"windows": 5}, DebouncePolicy(1, key=repr)])
def test_emit_refuses_anything_else_as_debounce(value: object) -> None:
    with pytest.raises(ConfigurationError, match="debounce"):
        asked_from(value)
