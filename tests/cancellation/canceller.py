"""A Trio instrument that counts the steps of tasks, and delivers a cancel at one of them.

A task runs in *steps*, from one checkpoint to the next. After a step it is blocked, so a cancel
that comes then is delivered at that very checkpoint. Before a step it has been woken already: what
it waited for has come, and the cancel finds it at the checkpoint after that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum

import trio
from trio.lowlevel import Task

__all__ = ["Canceller", "Moment"]


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class Canceller(trio.abc.Instrument):
    """Cancels `scope` at step `at`.

    Attributes:
        scope: what is cancelled; an operation runs in it.
        fired: whether it was; the operation had fewer steps otherwise.
        deliver: what to do at the step; by default `scope.cancel`.
    """

    def __init__(self, at: int, moment: Moment) -> None:
        self.scope = trio.CancelScope()
        self.fired = False
        self.deliver: Callable[[], object] = self.scope.cancel
        self._left = at
        self._moment = moment
        self._counts: Callable[[Task], bool] | None = None

    @contextmanager
    def cancelling(self) -> Generator[None]:
        """Run the block in the scope, and count all steps meanwhile.

        Those of other tasks, too: this one may be blocked all the while, and what it waits for is
        in another state at each of them.
        """
        with self.scope, self.counting():
            yield

    @contextmanager
    def counting(self, counts: Callable[[Task], bool] = lambda _task: True) -> Generator[None]:
        """Count the steps of some tasks, or of all, while the block runs."""
        self._counts = counts
        try:
            yield
        finally:
            self._counts = None

    def before_task_step(self, task: Task) -> None:
        if self._moment is Moment.BEFORE:
            self._step(task)

    def after_task_step(self, task: Task) -> None:
        if self._moment is Moment.AFTER:
            self._step(task)

    def _step(self, task: Task) -> None:
        if self.fired or self._counts is None or not self._counts(task):
            return
        self._left -= 1
        if self._left < 0:
            self.fired = True
            self.deliver()
