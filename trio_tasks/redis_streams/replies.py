"""What goes to Redis and what comes back, as types; and its errors, made safe to show."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import hiredis

from trio_tasks.errors import BrokerError

__all__ = ["Command", "RedisReplyError", "Reply", "pack"]

Command: TypeAlias = tuple[str | int | float | bytes | memoryview, ...]
"""The words of a command. `str` is sent as UTF-8."""

Reply: TypeAlias = (
    "bool | int | float | bytes | RedisReplyError | list[Reply] | dict[Reply, Reply] | None"
)
"""What Redis answers; text stays bytes. An error inside an array or a pipeline is a value."""

pack: Final = cast(
    "Callable[[Command], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType] - it says: of one word
)
"""A command's bytes in the Redis protocol. `TypeError` for a word of another type."""

_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,31}\Z")
_QUOTATION: Final = re.compile(r"(?<!\w)['\"`].*|, with args .*", re.DOTALL)


class RedisReplyError(BrokerError, hiredis.ReplyError):
    """Outside fault: Redis answered with an error.

    Redis quotes arguments in some of its errors, and arguments may be data. So the message ends
    before the first quotation and after 200 characters.

    Attributes:
        code: the first word of the error, such as `"OOM"`, `"NOSCRIPT"`, `"WRONGPASS"`; `"ERR"`
            where it has no such word.
    """

    def __init__(self, text: str) -> None:
        first, _, rest = text.partition(" ")
        if _CODE.match(first):
            self.code = first
        else:
            self.code, rest = "ERR", text
        rest = _QUOTATION.sub("…", " ".join(rest.split()))
        super().__init__(f"{self.code} {rest[:200]}".rstrip())
