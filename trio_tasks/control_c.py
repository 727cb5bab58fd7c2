"""Keeping Ctrl-C away from handlers and from the engine's own tasks.

Trio raises `KeyboardInterrupt` in whatever code runs when SIGINT comes, unless that code is
protected: then the main task gets it. Inside a handler it would fail that job and nothing else, and
the program would go on as if nobody had asked it to end; inside the engine it would cut a step in
two. The main task is where the program's own code is, and where leaving the manager's block stops
everything in good order.

The price: an endless loop in a handler cannot be broken by Ctrl-C; SIGTERM ends it. Tasks that a
handler starts in a nursery of its own are not protected.

On asyncio there is nothing to do: `asyncio.run` has Ctrl-C cancel the main task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import sniffio

__all__ = ["always_protected", "protected"]

P = ParamSpec("P")
R = TypeVar("R")


def protected(
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """The function, so that Ctrl-C raises in the main task instead while it runs."""
    if sniffio.current_async_library() != "trio":
        return function
    import trio

    return trio.lowlevel.enable_ki_protection(function)


def always_protected(
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same for what runs in tasks of the program; a decorator, which costs a call nothing."""
    import trio

    return trio.lowlevel.enable_ki_protection(function)
