"""Stray cancels: asyncio's `task.cancel()`, called by somebody who does not own the task.

Theory of operation. A handler runs in a task that is the engine's and that runs many jobs. What
remembers `asyncio.current_task()` and cancels it too late (a hand-made watchdog:
`loop.call_later(5, task.cancel)`) strikes the task when it does something else. Such a cancel
belongs to no scope: it is raised once and forgotten, and a task group whose child ends by it is
cancelled without a word. So the engine's tasks do not end by it: only a scope can end them.

On Trio there is no such thing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import anyio
import sniffio

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "as_failure",
    "cancellable_task",
    "forget",
    "is_stray",
    "say_ignored",
    "say_owner",
    "steadfast",
]

P = ParamSpec("P")

log = logging.getLogger("trio_tasks.consumer")

_owner: ContextVar[asyncio.Task[Any] | None] = ContextVar("owner", default=None)


def say_owner(task: asyncio.Task[Any] | None) -> None:
    """Say in which task the manager was entered, for the running task and those that it starts."""
    _owner.set(task)


def is_stray(error: BaseException) -> bool:
    """Whether an exception is a cancellation that no scope around the caller has asked for."""
    return (
        sniffio.current_async_library() == "asyncio"
        and isinstance(error, anyio.get_cancelled_exc_class())
        and anyio.current_effective_deadline() > -math.inf
        and not _loop_ends()
    )


def _loop_ends() -> bool:
    """Whether all tasks were cancelled: so does `asyncio.run` once the program's own has ended.

    The first of them to look sees it; those that come later may find tasks whose cancel was used
    up meanwhile. But where the task has ended in which the manager was entered, nobody will ever
    leave it, and a cancel is welcome from anyone.
    """
    import asyncio

    owner = _owner.get()
    if owner is not None and owner.done():
        return True
    return all(task.cancelling() for task in asyncio.all_tasks())


def as_failure(error: BaseException) -> BaseException:
    """What a handler raised, with stray cancellation as an ordinary exception.

    It is no `Exception`, and of it a retry policy would say that it ends the process. In a group
    it is what the other failures have brought about.
    """
    rest: BaseException | None = error
    if isinstance(error, anyio.get_cancelled_exc_class()):
        rest = None
    elif isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        _, rest = group.split(anyio.get_cancelled_exc_class())
    if rest is not None:
        return rest
    failure = RuntimeError(
        "the asyncio task of the handler, or one that it awaited, was cancelled with task.cancel()"
    )
    failure.__cause__ = error
    return failure.with_traceback(error.__traceback__)


def cancellable_task() -> asyncio.Task[Any] | None:
    """The running task, if somebody could cancel it as such: its `cancelling()` is the number."""
    if sniffio.current_async_library() != "asyncio":
        return None
    import asyncio

    return asyncio.current_task()


def forget(task: asyncio.Task[Any] | None) -> None:
    """Count no cancel any more of this task, which has come to its end by none.

    What counts them (`asyncio.timeout`, `asyncio.TaskGroup`) would take the old ones for its own.
    """
    if task is not None:
        while task.cancelling():
            task.uncancel()


def steadfast(
    function: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, Coroutine[Any, Any, None]]:
    """The function, so that a stray cancel makes it begin anew instead of ending it."""
    if sniffio.current_async_library() != "asyncio":
        return function

    async def begin_anew(*args: P.args, **kwargs: P.kwargs) -> None:
        while True:
            try:
                return await function(*args, **kwargs)
            except anyio.get_cancelled_exc_class() as error:  # noqa: ASYNC103 - none of ours
                if not is_stray(error):
                    raise
                say_ignored()
                forget(cancellable_task())

    return begin_anew


def say_ignored() -> None:
    """Warn of a stray cancel that has ended nothing."""
    log.warning(
        "a task of the TaskManager was cancelled with asyncio's task.cancel(), which is ignored:"
        " who keeps asyncio.current_task() of a handler must not cancel it after the handler's end"
    )
