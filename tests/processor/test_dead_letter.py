"""`processor/dead_letter.py` by example: what is kept of an exception."""

from __future__ import annotations

import json
from typing import TypedDict, cast

import pytest

from trio_tasks.processor import dead_letter
from trio_tasks.processor.dead_letter import error_json
from trio_tasks.processor.signals import DeadLetter


class Kept(TypedDict):
    type: str
    message: str
    traceback: str


def kept(error: BaseException) -> Kept:
    return cast("Kept", json.loads(error_json(error)))


def raised(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_type_message_and_traceback_are_kept() -> None:
    record = kept(raised(ValueError("no such user")))
    assert record["type"] == "ValueError"
    assert record["message"] == "no such user"
    assert record["traceback"].startswith("Traceback")
    assert "in raised" in record["traceback"]
    assert record["traceback"].endswith("ValueError: no such user\n")


def test_the_type_is_qualified_with_its_module() -> None:
    assert kept(DeadLetter("z"))["type"] == "trio_tasks.processor.signals.DeadLetter"


def test_type_and_message_are_cut_to_their_limits_exactly() -> None:
    kind = type("E" * 1_000, (Exception,), {"__module__": "builtins"})
    record = kept(kind("m" * 5_000))
    assert len(record["type"].encode()) == 256
    assert len(record["message"].encode()) == 1_024


def test_causes_are_part_of_the_traceback() -> None:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    assert "KeyError: 'inner'" in kept(error)["traceback"]


def test_the_end_of_a_long_traceback_is_kept() -> None:
    def ping(depth: int) -> None:
        pong(depth)

    def pong(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        ping(depth - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        ping(200)
    record = kept(caught.value)
    assert len(record["traceback"].encode()) <= 8_192
    assert record["traceback"].startswith("…")
    assert record["traceback"].endswith("ValueError: at the bottom\n")


def test_the_beginning_of_a_long_message_is_kept() -> None:
    message = kept(ValueError("a" + "😀" * 1_000_000))["message"]
    assert len(message.encode()) <= 1_024
    assert message.startswith("a😀")
    assert message.endswith("😀…")


def test_lone_surrogates_are_replaced() -> None:
    assert kept(ValueError("a\ud800b"))["message"] == "a?b"


def test_a_group_of_one_is_kept_as_that_one_and_of_several_names_each() -> None:
    one = ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("k")])])
    assert kept(one)["type"] == "KeyError"
    record = kept(raised(ExceptionGroup("handler", [KeyError("k"), ValueError("v")])))
    assert record["type"] == "ExceptionGroup"
    assert record["message"] == "handler (2 sub-exceptions): KeyError: 'k'; ValueError: v"
    assert "KeyError: 'k'" in record["traceback"]


def test_of_a_large_group_ten_are_named() -> None:
    message = kept(ExceptionGroup("g", [ValueError(str(n)) for n in range(12)]))["message"]
    assert "ValueError: 9; and 2 more" in message


def test_an_exception_that_cannot_be_printed_is_kept_all_the_same() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    record = kept(raised(UnprintableError()))
    assert record["type"].endswith("UnprintableError")
    assert record["message"] == "<no message: its __str__ raised RuntimeError>"
    assert "in raised" in record["traceback"]


def test_an_exception_that_cannot_be_formatted_is_kept_all_the_same() -> None:
    class OddError(Exception):
        __module__ = None  # pyright: ignore[reportAssignmentType]

        @property
        def __notes__(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
            raise ZeroDivisionError

    record = kept(OddError("odd"))
    assert record["type"].startswith("None.")
    assert record["message"] == "odd"
    assert record["traceback"] == "<no traceback: formatting it raised ZeroDivisionError>"


def test_values_of_local_variables_are_not_kept() -> None:
    def handler(secret: str) -> None:
        raise ValueError(f"{len(secret)} characters")

    with pytest.raises(ValueError, match="characters") as caught:
        handler("tiger" + "-" + "stripes")
    assert b"tiger-stripes" not in error_json(caught.value)


def test_every_reason_is_one_word_and_its_own() -> None:
    names = [name for name in dead_letter.__all__ if not name.endswith("BYTES") and name.isupper()]
    reasons = [cast("str", getattr(dead_letter, name)) for name in names]
    assert len(names) == 13
    assert reasons == [name.lower() for name in names]
