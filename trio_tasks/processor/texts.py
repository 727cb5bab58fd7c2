"""Texts that are kept with a job, cut to size."""

from __future__ import annotations

__all__ = ["clipped"]

_MARK = "…"
_MARK_BYTES = len(_MARK.encode())


def clipped(text: str, most_bytes: int, *, keep_end: bool = False) -> str:
    """`text` in at most `most_bytes` (at least 3) bytes of valid UTF-8.

    Lone surrogates become `?`. What is cut off, the end or with `keep_end` the beginning, is
    marked by an ellipsis.
    """
    # A character has at least one byte: never encode more of a huge text than can be kept.
    part = text[-most_bytes:] if keep_end else text[:most_bytes]
    encoded = part.encode("utf-8", "replace")
    if len(part) == len(text) and len(encoded) <= most_bytes:
        return encoded.decode()
    room = most_bytes - _MARK_BYTES
    if keep_end:
        return _MARK + encoded[len(encoded) - room :].decode("utf-8", "ignore")
    return encoded[:room].decode("utf-8", "ignore") + _MARK
