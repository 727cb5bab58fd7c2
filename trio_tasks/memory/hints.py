"""Waking: hints that there may be work, and notices that something has changed.

Both may be wasted, never trusted: who is woken looks for itself. They differ in whom they reach.
A hint about work wakes *one* waiter, so that a hundred idle workers do not run for one job; with
nobody waiting, one hint is kept and no second. A notice reaches everyone who watches.
"""

from __future__ import annotations

from collections import deque

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["Hint", "JobWatch", "Notices"]


class Hint:
    """At most one token. Whoever waits longest gets it."""

    __slots__ = ("_sleepers", "_token")

    def __init__(self) -> None:
        self._token = False
        self._sleepers: deque[anyio.Event] = deque()

    def push(self) -> None:
        """Leave the token, unless it lies there already, or hand it to a waiter."""
        if self._sleepers:
            self._sleepers.popleft().set()
        else:
            self._token = True

    def take(self) -> bool:
        """Take the token, if it lies there."""
        taken, self._token = self._token, False
        return taken

    async def wait(self, timeout: float) -> bool:
        """Wait for the token, at most `timeout` seconds; whether it came.

        A waiter that is cancelled in the moment in which it was woken passes the token on.
        """
        await checkpoint()
        if self.take():
            return True
        woken = anyio.Event()
        self._sleepers.append(woken)
        try:
            with anyio.move_on_after(timeout):
                await woken.wait()
        except BaseException:
            if woken.is_set():
                self.push()
            raise
        finally:
            if not woken.is_set():
                self._sleepers.remove(woken)
        return woken.is_set()


class Notices:
    """Watchers of one queue, each of one job (`None`: of any)."""

    __slots__ = ("_watches",)

    def __init__(self) -> None:
        self._watches: set[JobWatch] = set()

    def changed(self, job_id: str | None = None) -> None:
        """Tell those who watch this job, or (`None`) the queue as a whole."""
        for watch in self._watches:
            if watch.job_id is None or watch.job_id == job_id:
                watch.notice()

    def add(self, watch: JobWatch) -> None:
        """Let `watch` be told from now on."""
        self._watches.add(watch)

    def remove(self, watch: JobWatch) -> None:
        """Tell `watch` no more."""
        self._watches.discard(watch)


class JobWatch:
    """Keeps the `Watch` contract: what happened before `wait` was called counts too."""

    __slots__ = ("_event", "job_id")

    def __init__(self, job_id: str | None) -> None:
        self.job_id = job_id
        self._event = anyio.Event()

    def notice(self) -> None:
        """Something has changed."""
        self._event.set()

    async def wait(self, timeout: float) -> None:
        """Return when something has changed since the last return, at most `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._event.wait()
        self._event = anyio.Event()
