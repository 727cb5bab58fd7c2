"""Prefetch: how many jobs are taken beyond the free slots, and when one has waited too long.

Theory of operation
-------------------

A round trip costs as much as ten jobs or more, so at low concurrency jobs per round trip decide
everything: while handlers are fast, a take may ask for more jobs than there are free slots. How
many follows from the slowest handler lately: so many that the last of them waits for about 2 ms.

No estimate knows that the next handler will be slow, and jobs that lie behind slow ones would be
kept from other workers. So the two belong together: a job that could not start within 4 ms is
given back, uncounted, and nothing is prefetched until handlers have been fast for a while.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LATE_S", "MOST_AHEAD", "Prefetch"]

AHEAD_S: Final = 0.002
"""What is prefetched is expected to have begun within this time."""

LATE_S: Final = 0.004
"""A job that has not begun so long after it came is given back."""

MOST_AHEAD: Final = 250
"""The most jobs beyond the slots."""

_FORGETS: Final = 0.98
"""How much of the slowest handler is remembered after one more job: after 340 a thousandth."""


class Prefetch:
    """How many jobs may lie ready beyond the slots."""

    __slots__ = ("_budget_s", "_slowest_s")

    def __init__(self, concurrency: int) -> None:
        """Nothing is prefetched yet.

        Args:
            concurrency: how many slots work off what lies ready.
        """
        self._budget_s = concurrency * AHEAD_S
        self._slowest_s = 2 * self._budget_s

    @property
    def most(self) -> int:
        """So many jobs beyond the slots would begin soon enough."""
        if self._budget_s > MOST_AHEAD * self._slowest_s:
            return MOST_AHEAD
        return int(self._budget_s / self._slowest_s)

    def ran(self, seconds: float) -> None:
        """A slot was busy with one job for so long."""
        slowest_s = _FORGETS * self._slowest_s
        self._slowest_s = max(seconds, slowest_s)

    def was_late(self) -> None:
        """A job did not begin in time: take none ahead until handlers have been fast again."""
        self._slowest_s = max(self._slowest_s, 2 * self._budget_s)
