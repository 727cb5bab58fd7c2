"""SIGINT and SIGTERM for any number of managers, with the former handlers restored afterwards.

Theory of operation: the engine does not use the event loop's own signal receivers. Trio's allows
one per signal, so of two managers only one would see SIGTERM (measured); asyncio's forgets the
host's handler for good (measured). One plain Python handler serves all listeners of the process:
it runs in the main thread, between two bytecodes, and asks each listener's loop to call back, which
both loops allow from a signal handler. The first listener installs it, the last one to leave puts
the former handlers back.

A signal that comes after the last bytecode before the loop waits, or to another thread, does not
interrupt that wait. Trio has a wakeup descriptor, to which Python writes whatever comes. asyncio
has one only where the host has given it a handler of its own: else we lend it one.

A forked child (`multiprocessing`) runs none of these loops: it gets the former handlers at once, or
nothing but SIGKILL would end it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

import sniffio

__all__ = ["in_main_thread", "listening", "not_listening"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler: TypeAlias = "Callable[[int, FrameType | None], Any] | int | signal.Handlers | None"

_listeners: list[Callable[[str], None]] = []
_former: dict[signal.Signals, _Handler] = {}
_lent: list[int] = []  # wakeup descriptors, of which the first is in use


def in_main_thread() -> bool:
    """Whether signals can be listened to from here."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def listening(on_signal: Callable[[str], None]) -> Generator[None]:
    """Call `on_signal` in this event loop for each SIGINT and SIGTERM, with the signal's name.

    Only in the main thread. The default reaction (KeyboardInterrupt, death) is off meanwhile.
    """
    call_soon = _call_soon()

    def notify(name: str) -> None:
        call_soon(partial(on_signal, name))

    _listeners.append(notify)
    try:
        with _awake():
            if not _former:
                for number in _SIGNALS:
                    _former[number] = signal.signal(number, _on_signal)
            yield
    finally:
        if notify in _listeners:  # it is not in a forked child
            _listeners.remove(notify)
        if not _listeners:
            _put_back()


@contextmanager
def not_listening() -> Generator[None]:
    """Leave signals to the host."""
    yield


@contextmanager
def _awake() -> Generator[None]:
    """Let signals wake the running event loop, if nobody else does."""
    if sniffio.current_async_library() == "trio":
        yield
        return
    import asyncio

    loop = asyncio.get_running_loop()
    ours, its = socket.socketpair()
    with ours, its:
        ours.setblocking(False)
        its.setblocking(False)
        loop.add_reader(ours, ours.recv, 4096)
        _lend(its.fileno(), ours)
        try:
            yield
        finally:
            if its.fileno() in _lent:  # not in a forked child, which shares what the loop waits for
                _take_back(its.fileno(), ours)
                loop.remove_reader(ours)


def _lend(descriptor: int, read_at: socket.socket) -> None:
    """Have Python write there what signals come, unless it does so somewhere else."""
    _lent.append(descriptor)
    # One can only ask which it is by setting another one.
    former = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    if former != -1:
        _put_back_wakeup(former, read_at)


def _take_back(descriptor: int, read_at: socket.socket) -> None:
    """Leave it to the next listener, if there is one."""
    _lent.remove(descriptor)
    current = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    if current in {descriptor, -1}:
        signal.set_wakeup_fd(_lent[0] if _lent else -1, warn_on_full_buffer=False)
    else:
        _put_back_wakeup(current, read_at)


def _put_back_wakeup(descriptor: int, read_at: socket.socket) -> None:
    """Have it written there again, and give it what came meanwhile.

    It is all that the handlers learn which a host on asyncio has given to its loop.
    """
    signal.set_wakeup_fd(descriptor, warn_on_full_buffer=descriptor not in _lent)
    with suppress(OSError):  # nothing came, or it is full
        os.write(descriptor, read_at.recv(4096))


def _put_back() -> None:
    """Install the former handlers again."""
    for number, handler in _former.items():
        # None: not installed from Python, cannot be put back. And one that somebody has installed
        # over ours stays.
        if handler is not None and signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
    _former.clear()


def _in_child() -> None:
    _listeners.clear()
    _put_back()
    if _lent:
        current = signal.set_wakeup_fd(-1)
        if current not in _lent:
            signal.set_wakeup_fd(current)
        _lent.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    for notify in tuple(_listeners):
        notify(name)


def _call_soon() -> Callable[[Callable[[], None]], object]:
    """How to make the running event loop call a function, from a signal handler."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe
