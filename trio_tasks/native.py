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

__all__ = ["Event", "Native", "native"]


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


class Native(NamedTuple):
    """The functions of one kind of loop, each as AnyIO's of the same name."""

    new_event: Callable[[], Event]
    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    wait_readable: Callable[[socket], Awaitable[None]]
    notify_closing: Callable[[socket], None]


_TRIO = Native(
    trio.Event,
    trio.lowlevel.checkpoint_if_cancelled,
    trio.lowlevel.wait_readable,
    trio.lowlevel.notify_closing,
)
_OTHERS = Native(
    anyio.Event,
    anyio.lowlevel.checkpoint_if_cancelled,
    anyio.wait_readable,
    anyio.notify_closing,
)


def native() -> Native:
    """Those of the loop that runs now."""
    return _TRIO if current_async_library() == "trio" else _OTHERS
