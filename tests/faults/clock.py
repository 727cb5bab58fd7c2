"""A server whose clock can be turned: it runs under `libfaketime`, where that is installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.servers import ServerProcess, server_binary, start_server

__all__ = ["Clock", "can_turn_clocks", "start_server_with_clock"]


@cache
def can_turn_clocks() -> bool:
    """Whether the library is here (Debian: `faketime`), and the server that is tested bears it."""
    library = _library()
    if library is None:
        return False
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    words = [str(server_binary()), "--version"]
    try:
        told = subprocess.run(words, env=environment, capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return False  # its allocator asks for the time, and that allocates
    return not told.returncode and not told.stderr


def _library() -> Path | None:
    places = [Path("/usr/lib"), Path("/usr/local/lib")]
    found = [path for place in places for path in sorted(place.glob("**/libfaketimeMT.so.1"))]
    return found[0] if found else None


class Clock:
    """The wall clock of a server, as it was turned by somebody with too many rights."""

    def __init__(self, told_in: Path) -> None:
        self._told_in = told_in
        self.turn_to(0)

    def turn_to(self, offset_s: int) -> None:
        """From now on it shows so many seconds more than there are."""
        new = self._told_in.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        new.rename(self._told_in)  # never half a number


@contextmanager
def start_server_with_clock(
    *settings: str, directory: Path, tcp: bool = False
) -> Generator[tuple[ServerProcess, Clock]]:
    """Run a server, as `start_server` does, and its clock."""
    assert can_turn_clocks()
    told_in = directory / "clock"
    clock = Clock(told_in)
    environment = {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(told_in),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with start_server(*settings, tcp=tcp, environment=environment) as server:
        yield server, clock
