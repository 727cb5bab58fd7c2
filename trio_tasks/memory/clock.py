"""Server time of a memory store: the event loop's clock, set to a date once; it jumps if told to.

Trio's `MockClock` moves the loop's clock, so it moves this one. A loop's clock starts anywhere
(Trio's at a random number) and a store may outlive a loop, so the date is fixed when the store is
first used in a loop: it continues where the store's clock stood, but never before the start.
"""

from __future__ import annotations

from trio_tasks.environment import loop_time, wall_clock_ms

__all__ = ["ServerClock"]

_ROUNDING_MS = 1e-3
"""Whoever slept until an instant must find it reached: floats lose the last nanoseconds."""


class ServerClock:
    """Milliseconds since the epoch, by the event loop's clock.

    Args:
        starts_at_ms: what it shows when it is first started; `None`: what the wall clock shows
            then, so that instants that come from the wall clock mean what they say.
    """

    __slots__ = ("_base_ms", "_loop_base", "_starts_at_ms")

    def __init__(self, starts_at_ms: int | None) -> None:
        self._starts_at_ms = starts_at_ms
        self._base_ms = 0
        self._loop_base = 0.0

    def start(self) -> None:
        """Go on from here in the running event loop."""
        starts_at_ms = self._starts_at_ms
        self._base_ms = max(
            self._base_ms, wall_clock_ms() if starts_at_ms is None else starts_at_ms
        )
        self._loop_base = loop_time()

    def stop(self) -> None:
        """Stand still until the next `start`."""
        self._base_ms = self.now_ms()

    def jump(self, by_ms: int) -> None:
        """Be set by somebody, forward or (negative) back: servers' clocks are, now and then."""
        self._base_ms += by_ms

    def now_ms(self) -> int:
        """Server time. Only in the event loop in which it was started."""
        return self._base_ms + int((loop_time() - self._loop_base) * 1000 + _ROUNDING_MS)
