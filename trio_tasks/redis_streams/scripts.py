"""The Lua scripts, assembled; and `Call`, one request to run one of them.

A script is a file `lua/<name>.lua` in which each line `--@include <part>` stands for the file
`lua/_<part>.lua`, included once. The part `legal` is rendered from `lifecycle.legal_moves()`, so
Redis refuses an illegal move by the same data as Python; the part `park` from `lease.PARK_MS`.
Lines that are only a comment are not sent. The SHA-1 of what is sent is the script's version:
workers of different releases never run each other's scripts.

Nothing here does I/O. A `Call` says what to send (`EVALSHA sha numkeys keys… args…`, and `EVAL`
with the source where the server does not know the script) and how to read the reply; the async
wire and the blocking `Producer` both obey it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from trio_tasks.errors import InternalError
from trio_tasks.processor.lease import PARK_MS
from trio_tasks.processor.lifecycle import legal_moves
from trio_tasks.redis_streams.replies import Reply

__all__ = ["Call", "Script", "all_scripts", "parser", "script"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LUA = Path(__file__).parent / "lua"
# A string and not a table: building a table would cost each run two microseconds.
_LEGAL = """local LEGAL = '{moves}'
local function legal(from, to) return string.find(LEGAL, from .. to, 1, true) end"""
_INCLUDE = re.compile(r"( *)--@include (\w+)")


class Script(msgspec.Struct, frozen=True):
    """A script as it is sent.

    Attributes:
        sha: SHA-1 of the source in hex, as EVALSHA wants it.
    """

    name: str
    source: str
    sha: str

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"


class Call(msgspec.Struct, Generic[T_co], frozen=True):
    """One request: run `script` with `keys` and `args`, and `parse` what it answers.

    `parse` raises `InternalError` for a reply of an unknown shape, and nothing else. Its argument
    comes from RESP2 or RESP3, strings undecoded. The `repr` shows no data.

    `line`: whoever asks goes on before those who ask the same connection in this line later.
    """

    script: Script
    keys: Sequence[str | bytes]
    args: Sequence[str | bytes | int]
    parse: Callable[[Reply], T_co]
    line: str | None = None

    def __repr__(self) -> str:
        return f"<Call {self.script.name} with {len(self.args)} arguments>"


@cache
def script(name: str) -> Script:
    """The script in `lua/<name>.lua`."""
    source = _assembled((_LUA / f"{name}.lua").read_text("utf-8"), seen=set())
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def all_scripts() -> list[Script]:
    """Every script, for `SCRIPT LOAD` on connect."""
    return [script(path.stem) for path in sorted(_LUA.glob("[!_]*.lua"))]


def parser(name: str, read: Callable[[Reply], T]) -> Callable[[Reply], T]:
    """`read`, made to raise `InternalError` where the reply is not of the shape it expects."""

    def parse(reply: Reply) -> T:
        try:
            return read(reply)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InternalError(
                f"the script {name!r} answered in an unknown shape ({type(error).__name__})"
            ) from None

    return parse


def _assembled(text: str, seen: set[str]) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        include = _INCLUDE.fullmatch(line)
        if include is not None:
            indent, part = include.groups()
            if part not in seen:
                known = set(seen) if indent else seen
                known.add(part)
                lines.append(_part(part, known))
        elif line.strip() and not line.lstrip().startswith("--"):
            lines.append(line)
    return "\n".join(lines)


def _part(name: str, seen: set[str]) -> str:
    if name == "legal":
        return _LEGAL.format(moves=" ".join(legal_moves()))
    if name == "park":
        return f"local PARK = {PARK_MS}"
    return _assembled((_LUA / f"_{name}.lua").read_text("utf-8"), seen)
