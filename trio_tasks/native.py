"""What round trips and slots need of the running event loop, without AnyIO's wrappers around it.

They look for the loop at each call, which is a fifth of what a lone request costs on Trio
(measured). On asyncio AnyIO's own are used: its events and checkpoints are more than asyncio's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from socket import socket
from typing import NamedTuple, Protocol

import anyio
import anyio.lowlevel
import trio
from sniffio import current_async_library

__all__ = ["Bell", "Event", "Native", "native"]


class Event(Protocol):
    """An `anyio.Event`, or a Trio one."""

    def set(self) -> object:
        """Wake all that wait."""
        ...

    def is_set(self) -> bool:
        """Whether `set` was called."""
        ...

    async def wait(self) -> None:
        """Wait for `set`."""
        ...


class Bell(Protocol):
    """Wakes the one task that waits at it, as often as that waits."""

    def wait(self) -> Awaitable[None]:
        """Wait for `ring`; to be awaited at once."""
        ...

    def ring(self) -> None:
        """Wake the task that waits, or was cancelled while it did; not twice in one wait."""
        ...


class _TrioBell:
    """Without the event, its set and its closure that a wait would leave to the collector."""

    __slots__ = ("_abort", "_sleeper")

    def __init__(self) -> None:
        self._sleeper: trio.lowlevel.Task | None = None
        self._abort = self._cancelled

    def wait(self) -> Awaitable[None]:
        self._sleeper = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - the caller does

    def ring(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper)

    def _cancelled(self, raise_cancel: object) -> trio.lowlevel.Abort:
        del raise_cancel
        self._sleeper = None  # Trio has scheduled it: whoever rings now must not do so again
        return trio.lowlevel.Abort.SUCCEEDED


class _EventBell:
    """One made of events."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def wait(self) -> Awaitable[None]:
        self._event = anyio.Event()
        return self._event.wait()

    def ring(self) -> None:
        self._event.set()


class Native(NamedTuple):
    """The functions of one kind of loop, each as AnyIO's of the same name; and bells."""

    new_event: Callable[[], Event]
    new_bell: Callable[[], Bell]
    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    wait_readable: Callable[[socket], Awaitable[None]]
    notify_closing: Callable[[socket], None]


_TRIO = Native(
    trio.Event,
    _TrioBell,
    trio.lowlevel.checkpoint_if_cancelled,
    trio.lowlevel.wait_readable,
    trio.lowlevel.notify_closing,
)
_OTHERS = Native(
    anyio.Event,
    _EventBell,
    anyio.lowlevel.checkpoint_if_cancelled,
    anyio.wait_readable,
    anyio.notify_closing,
)


def native() -> Native:
    """Those of the loop that runs now."""
    return _TRIO if current_async_library() == "trio" else _OTHERS
