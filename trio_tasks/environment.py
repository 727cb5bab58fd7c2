"""The only reads of wall clock, monotonic clock, randomness and fresh ids.

Everything else gets time, luck and ids as arguments, which is what lets the whole engine run
under a virtual clock and replay from a seed. Durations inside the engine come from the event
loop's own clock (`loop_time`), so that Trio's `MockClock` governs them; instants that decide a
job's fate come from the broker (server time), never from here.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

import trio
from sniffio import current_async_library

from trio_tasks.homes import process
from trio_tasks.job import Millis

__all__ = [
    "Ids",
    "Luck",
    "host_name",
    "jitter",
    "loop_clock",
    "loop_time",
    "monotonic",
    "simulated",
    "wall_clock_ms",
]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

Luck: TypeAlias = random.Random
"""A source of luck that repeats itself: the same seed, the same draws."""

_luck: Luck | None = None
_clock_ms: Callable[[], int] | None = None


@contextmanager
def simulated(luck: Luck, wall_clock_ms: Callable[[], int]) -> Generator[None]:
    """Let all luck and ids of this process come from `luck`, and its clocks not from reality.

    For simulations, which repeat themselves with their seed; one at a time. `monotonic` becomes
    the event loop's clock, which is a virtual one there.
    """
    global _luck, _clock_ms
    if _luck is not None:
        raise RuntimeError("this process simulates already: one simulation at a time")
    _luck, _clock_ms = luck, wall_clock_ms
    try:
        yield
    finally:
        _luck = _clock_ms = None


def wall_clock_ms() -> Millis:
    """This machine's wall clock. Shown to people (`emitted_at`); it decides nothing."""
    return Millis(time.time_ns() // 1_000_000 if _clock_ms is None else _clock_ms())


def loop_time() -> float:
    """Seconds on the running event loop's clock; a virtual clock moves it."""
    try:
        return trio.current_time()  # a fifth of the time that `anyio.current_time` takes
    except RuntimeError:  # Trio does not run here
        return asyncio.get_running_loop().time()


def loop_clock() -> Callable[[], float]:
    """`loop_time` of the loop that runs now, without looking for the loop at each call."""
    if current_async_library() == "trio":
        return trio.lowlevel.current_clock().current_time
    return asyncio.get_running_loop().time


def monotonic() -> float:
    """Seconds of real time. Only for "have I held the loop too long", never for policy."""
    return time.monotonic() if _luck is None else loop_time()


def jitter() -> float:
    """Luck in [0, 1)."""
    return random.random() if _luck is None else _luck.random()


def host_name() -> str:
    """Host and process id, to tell workers apart in listings."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _random_text(length: int) -> str:
    bits = secrets.randbits if _luck is None else _luck.getrandbits
    number = bits(5 * length)
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(length))


class Ids:
    """Fresh identifiers: one random prefix of 80 bits, then a counter.

    A minted job id is `<prefix>@<counter>`; a chosen id may not contain `@`, so the two never
    meet. A counter is half the cost of a bulk emit with uuid4 (measured). The prefix is renewed
    in a forked child, which would otherwise mint its parent's ids.
    """

    __slots__ = ("_count", "_prefix", "_process")

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = process()
        self._prefix = _random_text(16)
        self._count = itertools.count(1)

    def job_id(self) -> str:
        """A job id that nobody has used: `<random prefix>@<counter>`."""
        if self._process is not process():
            self._renew()
        return f"{self._prefix}@{next(self._count)}"

    def emit_number(self) -> str:
        """The number of one emit call for a chosen id (see 'identity' in docs/protocol.md)."""
        if self._process is not process():
            self._renew()
        return f"{self._prefix}{next(self._count)}"

    def incarnation(self, consumer_id: str) -> str:
        """The name of one life of a consumer in one queue: `<consumer_id>:<random>`."""
        return f"{consumer_id}:{_random_text(12)}"

    def consumer_id(self) -> str:
        """A consumer id for a process that was not given one."""
        return f"{socket.gethostname()}-{_random_text(6)}"
