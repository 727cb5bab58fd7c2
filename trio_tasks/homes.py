"""Where something may be used: in the process and the event loop in which it was opened.

Theory of operation. A *home* is taken when a manager is entered, and every use of it asks whether
it is still there. That is part of each emit, so it has to be cheap (about 0.1 µs). On Trio the
loop's token is compared, which also tells threads apart. On asyncio, where asking for the running
loop costs more, the thread stands for it, and a loop that is closed is not running any more.

A process that is *forked* while a loop runs inherits everything, and shares with its parent what
lies behind file descriptors: the connections, on which each would read the other's answers, and
the pipe that keeps the embedded server alive, which would then outlive the parent. So whoever
holds such a descriptor registers with `let_go_in_children`, and what Python does in a child right
after the fork makes it let go. What then still runs of the child's copy of the loop finds itself
in another process (`process()`), and ends.

What is left is the event loop's own epoll, which the two share as well. A child that goes on in
the loop, or only unwinds it (`sys.exit` inside of `trio.run`), takes back there what its parent
waits for; a plain Trio program hangs after that, too. A child has to leave by `os._exit`, as those
of `multiprocessing` do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_ident
from typing import Protocol
from weakref import WeakSet

import sniffio

__all__ = ["Home", "let_go_in_children", "process"]


class Holder(Protocol):
    """Who holds what a forked child must not use."""

    def let_go(self) -> None:
        """Give it up, without a trace in the parent. Called in the child, right after the fork."""
        ...


_process = object()
_holders: WeakSet[Holder] = WeakSet()


def process() -> object:
    """What stands for this process: another object in a forked child."""
    return _process


def let_go_in_children(holder: Holder) -> None:
    """See to it that a forked child lets go of something, as long as `holder` lives."""
    _holders.add(holder)


def _after_fork_in_child() -> None:
    global _process
    _process = object()
    for holder in list(_holders):
        holder.let_go()
    _holders.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Home:
    """The process, the thread and the running event loop in which it was made.

    Attributes:
        is_here: whether this is the place. To be called from anywhere.
    """

    __slots__ = ("_process", "_thread", "is_here")

    def __init__(self) -> None:
        self._process = _process
        self._thread = get_ident()
        on_trio = sniffio.current_async_library() == "trio"
        self.is_here: Callable[[], bool] = self._on_trio() if on_trio else self._on_asyncio()

    @property
    def is_lost(self) -> bool:
        """Whether nobody will ever be there again: in a forked child, or after the loop's end."""
        return self._process is not _process or (self._thread == get_ident() and not self.is_here())

    def why_not(self, what: str) -> RuntimeError:
        """The error of who uses a manager, by the call `what`, somewhere else."""
        if self._process is not _process:
            reason = (
                "in a child process that was forked after the TaskManager had been entered: the"
                " connections are its parent's. Make a new TaskManager in the child, start the"
                " child before, or start it with the method 'spawn'"
            )
        elif self._thread != get_ident():
            reason = (
                "in another thread than that of the event loop in which the TaskManager was"
                " entered. In a sync handler use ctx.emit(...), or `anyio.from_thread.run(...)`"
                " with ctx.emit_now or whatever has to be awaited; in other threads, a Producer"
            )
        else:
            reason = (
                "in another event loop than that in which the TaskManager was entered, which has"
                " ended without leaving it. Make a new TaskManager, and enter it with `async with`,"
                " which also leaves it"
            )
        return RuntimeError(f"{what} {reason}")

    def _on_trio(self) -> Callable[[], bool]:
        from trio.lowlevel import current_trio_token

        home, token = self._process, current_trio_token()

        def is_here() -> bool:
            try:
                return current_trio_token() is token and _process is home
            except RuntimeError:  # no loop runs in this thread
                return False

        return is_here

    def _on_asyncio(self) -> Callable[[], bool]:
        import asyncio

        home, thread, loop = self._process, self._thread, asyncio.get_running_loop()

        def is_here() -> bool:
            return get_ident() == thread and not loop.is_closed() and _process is home

        return is_here
