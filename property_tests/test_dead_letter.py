"""`processor/dead_letter.py`: what is kept of an exception."""

from __future__ import annotations

import json
from typing import TypedDict, cast

from hypothesis import given
from hypothesis import strategies as st

from property_tests import strategies
from property_tests.strategies import flat
from trio_tasks.processor.dead_letter import error_json
from trio_tasks.processor.texts import clipped


class Kept(TypedDict):
    type: str
    message: str
    traceback: str


def kept(error: BaseException) -> Kept:
    return cast("Kept", json.loads(error_json(error).decode("utf-8", "strict")))


@given(strategies.wild_texts, st.integers(0, 20), strategies.wild_texts)
def test_what_is_kept_has_its_limits_in_bytes(text: str, repeats: int, note: str) -> None:
    error = ValueError(text * repeats)
    error.add_note(note)
    record = kept(error)
    assert set(record) == {"type", "message", "traceback"}
    assert len(record["type"].encode()) <= 256
    assert len(record["message"].encode()) <= 1024
    assert len(record["traceback"].encode()) <= 8192


@given(strategies.wrapped(strategies.failures()))
def test_a_group_of_one_is_kept_as_that_one(error: BaseException) -> None:
    (leaf,) = flat(error)
    assert kept(error) == kept(leaf)
    assert kept(error)["type"] == type(leaf).__qualname__


@given(strategies.grouped(strategies.failures()), strategies.failures())
def test_a_group_of_several_names_them(one: BaseException, other: BaseException) -> None:
    error = BaseExceptionGroup("both", [one, other])
    message = kept(error)["message"]
    for leaf in flat(error):
        assert type(leaf).__qualname__ in message or message.endswith("…")


@given(st.text(strategies.one_byte, min_size=3, max_size=200), st.booleans())
def test_a_text_that_just_fits_is_kept_whole_and_one_byte_more_is_not(
    text: str, keep_end: bool
) -> None:
    assert clipped(text, len(text), keep_end=keep_end) == text
    found = clipped(text + "x", len(text), keep_end=keep_end)
    assert "…" in found
    assert len(found.encode()) == len(text)


@given(strategies.wild_texts, st.integers(3, 200), st.booleans())
def test_a_clipped_text_is_the_whole_or_one_end_of_it(text: str, most: int, keep_end: bool) -> None:
    clean = text.encode("utf-8", "replace").decode()
    found = clipped(text, most, keep_end=keep_end)
    size = len(found.encode())
    assert size <= most
    if len(clean.encode()) <= most:
        assert found == clean
    elif keep_end:
        assert found[0] == "…"
        assert clean.endswith(found[1:])
        assert size > most - 4  # no character more would fit: the longest has four bytes
    else:
        assert found[-1] == "…"
        assert clean.startswith(found[:-1])
        assert size > most - 4
