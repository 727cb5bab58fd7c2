"""The blob of a record: what is written can be read, and what cannot be read harms nobody."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tasks.broker import RECORD_VERSION, Debounce, Record
from trio_tasks.redis_streams.codec import decode_record, encode_record

milliseconds = st.none() | st.integers(min_value=0, max_value=2**53)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
records = st.builds(
    Record,
    version=st.just(RECORD_VERSION),
    event=texts,
    data=st.binary(),
    attempts=milliseconds,
    timeout_ms=milliseconds,
    retention_ms=milliseconds,
    retry_delay_ms=milliseconds,
    parent_id=st.none() | texts,
    emitted_at_ms=st.integers(min_value=0, max_value=2**53),
    scheduled_for_ms=milliseconds,
    debounce=st.none()
    | st.builds(
        Debounce,
        edge=st.sampled_from(["leading", "trailing"]),
        window_ms=st.integers(min_value=1, max_value=2**53),
        digest=st.none() | texts,
    ),
    debounce_key=st.none() | texts,
    schedule=st.none() | texts,
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode_record(encode_record(record)) == (record, RECORD_VERSION)


@given(st.binary(max_size=200))
def test_no_bytes_raise(blob: bytes) -> None:
    record, version = decode_record(blob)

    assert (record is None) or (version == RECORD_VERSION)


@given(records, st.data())
def test_a_spoiled_blob_is_read_or_refused_and_raises_nothing(
    record: Record, data: st.DataObject
) -> None:
    blob = bytearray(encode_record(record))
    place = data.draw(st.integers(min_value=0, max_value=len(blob) - 1))
    blob[place] = data.draw(st.integers(min_value=0, max_value=255))

    decoded, version = decode_record(bytes(blob))

    assert decoded is None or version == RECORD_VERSION


def test_a_record_of_a_newer_version_is_not_read_but_its_version_is() -> None:
    record = Record(RECORD_VERSION + 1, "work", b"{}")

    assert decode_record(encode_record(record)) == (None, RECORD_VERSION + 1)


def test_a_newer_record_may_have_any_shape_behind_its_version() -> None:
    for fields in ([7, {"event": "work"}], [7], [7, 1, 2, 3]):
        assert decode_record(msgspec.msgpack.encode(fields)) == (None, 7)


def test_a_record_with_further_fields_at_its_end_can_be_read() -> None:
    fields = msgspec.msgpack.decode(encode_record(Record(RECORD_VERSION, "work", b"{}")))

    record, _ = decode_record(msgspec.msgpack.encode([*fields, "new"]))

    assert record == Record(RECORD_VERSION, "work", b"{}")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        b"{}",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([0, "work", b"{}"]),
        msgspec.msgpack.encode([-1, "work", b"{}"]),
        msgspec.msgpack.encode([True, "work", b"{}"]),
        msgspec.msgpack.encode([RECORD_VERSION, "work"]),
        msgspec.msgpack.encode([RECORD_VERSION, 3, b"{}"]),
        msgspec.msgpack.encode({"version": 9}),
        msgspec.msgpack.encode(["9", "work", b"{}"]),
        b"\x91" * 5000,
    ],
)
def test_what_is_no_record_has_no_version(blob: bytes) -> None:
    assert decode_record(blob) == (None, None)
