"""How a job's record is kept in Redis: one msgpack array that Lua never looks into.

The hash `j:<id>` has the fields (see also docs on the protocol):

    b   the blob: `Record`, its schema version first
    s   state letter of `lifecycle.LETTERS`; `q` also while it runs
    e   the stream entry, the last one where there is none now     p   level
    a   attempts used         gb  deliveries of `e` that do not count
    gi  interruptions         mx  attempts as the last runner saw them
    dl  deadline              us  unknown since
    due, why                  of a delay; `why` also of an end
    by  the job that stood in r   result          er  error
    f   of an end: finished, for how long it ran and how long it is kept (ms), mx, `n` if the
        result is null; then the token
    lt  the last token that was committed without an end: deliveries, incarnation, entry
    n   emit numbers: those of this life, newest first, `|`, those of earlier ones
    gen generation            rq  it was requeued in this life
    rl  it came from another queue                dg  leading debounce key that it got
"""

from __future__ import annotations

import msgspec

from trio_tasks.broker import RECORD_VERSION, Record

__all__ = ["decode_record", "encode_record"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode
_decode_any = msgspec.msgpack.Decoder().decode


def encode_record(record: Record) -> bytes:
    """The blob of a record."""
    return _encode(record)


def decode_record(blob: bytes) -> tuple[Record | None, int | None]:
    """The record in a blob, and its schema version.

    The record is `None` for a newer version (which is told) and for bytes that are no record at
    all (then the version is `None` too). Never raises.
    """
    try:
        record = _decode(blob)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, _newer_version(blob)
    if record.version == RECORD_VERSION:
        return record, RECORD_VERSION
    return None, record.version if record.version > RECORD_VERSION else None


def _newer_version(blob: bytes) -> int | None:
    """The version of a record whose shape we do not know; `None` if that is no excuse."""
    try:
        fields = _decode_any(blob)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    match fields:
        case [int(version), *_] if version > RECORD_VERSION:
            return version
        case _:
            return None
