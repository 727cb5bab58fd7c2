"""Debounce keys of one queue: jobs that ask at the same time share a round trip.

*Group commit*: whoever asks while a batch is under way goes out in the next one, without a timer.
A cancelled asker is left out, or its answer is dropped: a key that it got is its job's, and is
given back with the job's end or by its window.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from trio_tasks.broker import DebounceAsk, Membership
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.errors import BrokerError

__all__ = ["Debounces"]

MOST_ASKS = 128
"""The most keys that one step asks for."""

PAUSE_S = 0.05
"""Pause after a failure; a broker that is away makes the call itself wait."""


class _Asker:
    __slots__ = ("answered", "ask", "holder")

    def __init__(self, ask: DebounceAsk) -> None:
        self.ask = ask
        self.answered = anyio.Event()
        self.holder: str | None = None


class Debounces:
    """Asks for keys, until the broker answers."""

    def __init__(self, membership: Callable[[], Membership | None]) -> None:
        """`membership` returns the present one, `None` while there is none."""
        self._membership = membership
        self._askers: list[_Asker] = []
        self._asked = Pulse()

    async def ask(self, ask: DebounceAsk) -> str | None:
        """Who holds a key, see `Membership.debounce`."""
        asker = _Asker(ask)
        self._askers.append(asker)
        self._asked.fire()
        try:
            await asker.answered.wait()
        finally:
            if asker in self._askers:
                self._askers.remove(asker)
        return asker.holder

    async def run(self) -> None:
        """Send what was asked, until cancelled."""
        while True:
            batch = self._askers[:MOST_ASKS]
            membership = self._membership()
            if not batch:
                await self._asked.wait()
                continue
            try:
                if membership is None:
                    await anyio.sleep(PAUSE_S)
                    continue
                holders = await membership.debounce([asker.ask for asker in batch])
            except BrokerError:
                await anyio.sleep(PAUSE_S)
                continue
            for asker, holder in zip(batch, holders, strict=True):
                if asker in self._askers:
                    self._askers.remove(asker)
                asker.holder = holder
                asker.answered.set()
