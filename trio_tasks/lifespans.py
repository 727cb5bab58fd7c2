"""What surrounds the handlers: `ctx=` and `lifespan=`, checked as early as can be."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, cast

from trio_tasks.errors import ConfigurationError
from trio_tasks.signatures import name_of

__all__ = ["Lifespan", "checked_lifespan", "constant"]

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]
"""Opens what the handlers work with; its value is `ctx.app`."""


def constant(app: object) -> Lifespan:
    """The lifespan of a value that was given as `ctx=`."""

    @asynccontextmanager
    async def nothing_to_open() -> AsyncGenerator[object]:
        yield app

    return nothing_to_open


def checked_lifespan(lifespan: object) -> Lifespan:
    """A `lifespan=` that is a function without parameters that returns an async context manager.

    What it returns can only be seen when it is called, which is when the manager starts; coroutine
    functions and generators are known before.

    Raises:
        ConfigurationError: it is not such a function; also at the call of what is returned.
    """
    if not callable(lifespan):
        raise _refusal(lifespan, f"is of type {type(lifespan).__qualname__}")
    if inspect.isasyncgenfunction(lifespan):
        raise _refusal(lifespan, "is an async generator")
    if inspect.iscoroutinefunction(lifespan):
        raise _refusal(lifespan, "returns a coroutine")
    try:
        inspect.signature(lifespan).bind()
    except TypeError as error:
        raise _refusal(lifespan, "is called without arguments, and it needs some") from error
    except ValueError:
        pass  # written in C: nothing to see

    def entered() -> AbstractAsyncContextManager[object]:
        found = cast("Callable[[], Any]", lifespan)()
        if not isinstance(found, AbstractAsyncContextManager):
            if inspect.iscoroutine(found):
                found.close()  # or Python would warn that nobody has awaited it
            raise _refusal(lifespan, f"returned a value of type {type(found).__qualname__}")
        return cast("AbstractAsyncContextManager[object]", found)

    return entered


def _refusal(lifespan: object, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"lifespan={name_of(lifespan)} {found}: give a function without parameters that returns an"
        " async context manager, as one has that is decorated with @contextlib.asynccontextmanager"
    )
