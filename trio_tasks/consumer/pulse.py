"""A signal that wakes whoever waits at that moment."""

from __future__ import annotations

import anyio

__all__ = ["Pulse"]


class Pulse:
    """Wakes all that wait, then is ready to be waited for again.

    There is no await between looking at a condition and waiting for a pulse, so none is missed.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def fire(self) -> None:
        """Wake all that wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next `fire()`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
