"""The shapes of handlers, as type checkers see them.

Facts that shaped this module (tried with pyright strict and mypy --strict):

- Protocols instead of `Callable`: with `Callable` mypy solves T from the data alone and refuses
  subclasses, `Optional` and int-for-float. `*args: Any, **kwargs: Any` lets one protocol cover
  `(job)` and `(job, ctx)`; the shape itself is checked when a handler is registered.
- `Awaitable[R] | R` as one return type makes mypy infer `Never`, so async and sync handlers need
  overloads of their own. Async ones come first: the other way round both checkers infer
  `JobRef[Coroutine[...]]`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from trio_tasks.job import Job

__all__ = [
    "AnyHandler",
    "AsyncHandler",
    "AsyncPlainHandler",
    "Event",
    "HandlerDecorator",
    "SyncHandler",
    "SyncPlainHandler",
    "shown_as",
]

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class AsyncHandler(Protocol[T_contra, R_co]):
    """An async handler of jobs with data `T`: `(job)` or `(job, ctx)`."""

    def __call__(self, job: Job[T_contra], /, *args: Any, **kwargs: Any) -> Awaitable[R_co]:
        """Run it."""
        ...


class SyncHandler(Protocol[T_contra, R_co]):
    """A sync handler of jobs with data `T`: `(job)` or `(job, ctx)`. It runs in a worker thread."""

    def __call__(self, job: Job[T_contra], /, *args: Any, **kwargs: Any) -> R_co:
        """Run it."""
        ...


class AsyncPlainHandler(Protocol[R_co]):
    """An async handler without parameters."""

    def __call__(self) -> Awaitable[R_co]:
        """Run it."""
        ...


class SyncPlainHandler(Protocol[R_co]):
    """A sync handler without parameters. It runs in a worker thread."""

    def __call__(self) -> R_co:
        """Run it."""
        ...


AnyHandler: TypeAlias = SyncHandler[Any, object] | SyncPlainHandler[object]
"""Any handler; the result `object` covers what an async one returns."""

Event: TypeAlias = str | Callable[..., object]
"""What an emit names: an event, or the function that handles it."""

F = TypeVar("F", bound=AnyHandler)


class HandlerDecorator(Protocol):
    """What `handler(...)` returns: it registers a function and gives it back unchanged."""

    def __call__(self, handler: F, /) -> F:
        """Register `handler`."""
        ...


C = TypeVar("C", bound=Callable[..., object])


def shown_as(name: str) -> Callable[[C], C]:
    """Name a function in Python's own messages as people know it.

    What stands behind a property such as `tasks.emit` has another name, and a `TypeError`, or the
    warning of a coroutine that nobody awaits, would show that.
    """

    def name_it(function: C) -> C:
        function.__qualname__ = name
        return function

    return name_it
