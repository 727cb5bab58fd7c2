"""The few shapes of which arguments and replies are made.

A wrong reply is a `TypeError`; see `parser`.
"""

from __future__ import annotations

from typing import cast

from trio_tasks.redis_streams.replies import Reply

__all__ = ["encoded", "found", "items", "optional_ms", "raw", "text", "whole"]


def encoded(words: str) -> bytes:
    """Text that people gave, for an argument. Lone surrogates, which UTF-8 has not, become `?`."""
    return words.encode("utf-8", "replace")


def items(reply: Reply) -> list[Reply]:
    """An array."""
    if not isinstance(reply, list):
        raise TypeError(type(reply))
    return reply


def raw(reply: Reply) -> bytes:
    """A bulk string, as it is."""
    if not isinstance(reply, bytes):
        raise TypeError(type(reply))
    return reply


def text(reply: Reply) -> str:
    """A bulk string that is a name, a number or a word. What is no UTF-8 in it becomes `\ufffd`."""
    return raw(reply).decode("utf-8", "replace")


def whole(reply: Reply) -> int:
    """An integer, also one that comes as a bulk string (Lua's integers have 53 bits)."""
    return int(reply) if isinstance(reply, bytes) else cast(int, _number(reply))


def optional_ms(reply: Reply) -> int | None:
    """An integer; -1 stands for `None`."""
    number = whole(reply)
    return None if number == -1 else number


def found(reply: Reply) -> bool:
    """1 or 0."""
    return bool(whole(reply))


def _number(reply: Reply) -> Reply:
    if not isinstance(reply, int):
        raise TypeError(type(reply))
    return reply
