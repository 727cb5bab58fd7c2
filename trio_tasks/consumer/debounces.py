"""Debounce keys of one queue: jobs that ask at the same time share a round trip.

*Group commit*: whoever asks while a batch is under way goes out in the next one, without a timer.
A cancelled asker is left out, or its answer is dropped: a key that it got is its job's, and is
given back with the job's end or by its window. An ask that the broker refuses fails its own job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from trio_tasks.broker import DebounceAsk, Membership
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.errors import BrokerError, BrokerUnavailableError

__all__ = ["Debounces"]

MOST_ASKS = 128
"""The most keys that one step asks for."""

PAUSE_S = 0.05
"""Pause after a failure; a broker that is away makes the call itself wait."""


class _Asker:
    __slots__ = ("answer", "answered", "ask")

    def __init__(self, ask: DebounceAsk) -> None:
        self.ask = ask
        self.answered = anyio.Event()
        self.answer: str | BrokerError | None = None


class Debounces:
    """Asks for keys, until the broker answers."""

    def __init__(self, membership: Callable[[], Membership | None]) -> None:
        """`membership` returns the present one, `None` while there is none."""
        self._membership = membership
        self._askers: list[_Asker] = []
        self._asked = Pulse()

    async def ask(self, ask: DebounceAsk) -> str | None:
        """Who holds a key, see `Membership.debounce`.

        Raises:
            BrokerError: the broker refuses to say.
        """
        asker = _Asker(ask)
        self._askers.append(asker)
        self._asked.fire()
        try:
            await asker.answered.wait()
        finally:
            if asker in self._askers:
                self._askers.remove(asker)
        if isinstance(asker.answer, BrokerError):
            raise asker.answer
        return asker.answer

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
                answers = await _ask_or_halves(membership, [asker.ask for asker in batch])
            except BrokerUnavailableError:
                await anyio.sleep(PAUSE_S)
                continue
            for asker, answer in zip(batch, answers, strict=True):
                if asker in self._askers:
                    self._askers.remove(asker)
                asker.answer = answer
                asker.answered.set()


async def _ask_or_halves(
    membership: Membership, asks: Sequence[DebounceAsk]
) -> list[str | BrokerError | None]:
    """Ask; where the broker fails a batch as a whole, in halves, until the element is found."""
    try:
        return [*await membership.debounce(asks)]
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        if len(asks) == 1:
            return [error]
        middle = len(asks) // 2
        first = await _ask_or_halves(membership, asks[:middle])
        return first + await _ask_or_halves(membership, asks[middle:])
