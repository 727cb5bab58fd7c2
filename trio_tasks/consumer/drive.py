"""Running a coroutine inside a `contextvars.Context` of its own, without a task of its own.

Theory of operation: a coroutine is a generator of traps. The event loop resumes the slot's task,
the task resumes this driver, and the driver resumes the handler's coroutine inside the handler's
context; whatever trap the handler yields goes out to the loop unchanged, and the loop's answer
goes back in. To Trio and to asyncio it looks as if the slot awaited the handler itself, so cancel
scopes, nurseries and threads work as always, but a variable that one handler sets is not seen by
the next job of the slot.

Measured per job: 0.3 µs, against 5 µs (Trio) to 16 µs (AnyIO) for a task of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["drive"]


@types.coroutine
def drive(
    run: Callable[..., Any], coroutine: Coroutine[Any, Any, Any], trap: Any
) -> Generator[Any, Any, Any]:
    """Run the rest of `coroutine` by `run` of its `Context` and return its value.

    Who starts it, with `run(coroutine.send, None)`, gets its first `trap`, or the
    `StopIteration` of one that never suspends: those need no driver. Exceptions and cancellation
    pass through both ways.
    """
    while True:
        try:
            argument = yield trap
        except BaseException as thrown:  # noqa: ASYNC103 - it goes on into the handler
            resume, argument = coroutine.throw, thrown
        else:
            resume = coroutine.send
        # Traps and their answers may hold an exception whose traceback comes through here: kept,
        # they would keep this frame alive.
        del trap
        try:
            trap = run(resume, argument)
        except StopIteration as done:
            return done.value
        finally:
            del resume, argument  # nor is a bound method to lie about while the handler waits
