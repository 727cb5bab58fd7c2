"""Prefetch: how many jobs are taken beyond the free slots, and when one has waited too long.

Theory of operation
-------------------

A round trip costs as much as ten jobs or more, so at low concurrency jobs per round trip decide
everything: while handlers are fast, a take may ask for more jobs than there are free slots. How
many follows from the slowest handler lately: so many that the last of them waits for about 2 ms.

That counts on all slots. Handlers that never suspend run one after the other, however many slots
there are, so what they usually take adds up: the last of them is to wait for about 2.5 ms. (Not
the slowest, which would be a hiccup of the machine: those add up to little.)

No estimate knows that the next handler will be slow, and jobs that lie behind slow ones would be
kept from other workers. So the two belong together: a job that could not start within 3.5 ms is
given back, uncounted, and nothing is prefetched until handlers have been fast for a while. With
timers that have whole milliseconds, nothing lies ready for more than about 5 ms.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LATE_S", "MOST_AHEAD", "Prefetch"]

AHEAD_S: Final = 0.002
"""What is prefetched is expected to have begun within this time."""

IN_TURN_S: Final = 0.0025
"""The same for handlers that run one after the other, if each takes as long as usual."""

LATE_S: Final = 0.003_5
"""A job that has not begun so long after it came is given back."""

MOST_AHEAD: Final = 250
"""The most jobs beyond the slots."""

_FORGETS: Final = 0.98
"""How much of the slowest handler is remembered after one more job: after 340 a thousandth."""

_LEARNS: Final = 0.02
"""How much one more job counts in what is usual."""


class Prefetch:
    """How many jobs may lie ready beyond the slots.

    Attributes:
        most: so many jobs beyond the slots would begin soon enough.
    """

    __slots__ = ("_budget_s", "_slots", "_slowest_s", "_usual_s", "most")

    def __init__(self, concurrency: int) -> None:
        """Nothing is prefetched yet.

        Args:
            concurrency: how many slots work off what lies ready.
        """
        self.most = 0
        self._slots = concurrency
        self._budget_s = concurrency * AHEAD_S
        self._slowest_s = 2 * self._budget_s
        self._usual_s = 0.0

    def ran(self, seconds: float, *, suspended: bool) -> None:
        """A slot was busy with one job for so long.

        Args:
            seconds: of its time.
            suspended: whether the handler let other slots work meanwhile.
        """
        slowest_s = _FORGETS * self._slowest_s
        self._slowest_s = slowest_s = max(slowest_s, seconds)
        share_s = seconds / self._slots if suspended else seconds
        self._usual_s = usual_s = self._usual_s + _LEARNS * (share_s - self._usual_s)
        most = MOST_AHEAD
        if slowest_s * most > self._budget_s:
            most = int(self._budget_s / slowest_s)
        if usual_s * most > IN_TURN_S:
            most = int(IN_TURN_S / usual_s)
        self.most = most

    def was_late(self) -> None:
        """A job did not begin in time: take none ahead until handlers have been fast again."""
        self._slowest_s = max(self._slowest_s, 2 * self._budget_s)
        self.most = 0
