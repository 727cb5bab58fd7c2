"""A server whose clock can be turned: it runs under `libfaketime`, where that is installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import ServerProcess, start_server

__all__ = ["FAKETIME", "Clock", "start_server_with_clock"]

FAKETIME = next(
    (
        path
        for directory in ("/usr/lib", "/usr/local/lib")
        for path in sorted(Path(directory).glob("**/libfaketimeMT.so.1"))
    ),
    None,
)
"""The library; `None`: it is not here (Debian's package is called `faketime`)."""


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
    *settings: str, directory: Path
) -> Generator[tuple[ServerProcess, Clock]]:
    """Run a server, as `start_server` does, and its clock."""
    assert FAKETIME is not None
    told_in = directory / "clock"
    clock = Clock(told_in)
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(told_in),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with start_server(*settings, environment=environment) as server:
        yield server, clock
