"""A wrong option is refused when the manager is made, before anything is opened."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from trio_tasks import ConfigurationError, TaskManager


async def _a_coroutine() -> None: ...


async def _a_generator() -> AsyncGenerator[int]:
    yield 1


async def _of_an_app(app: object) -> AsyncGenerator[object]:
    yield app


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"lease": 0.1}, "lease"),
        ({"grace": -1}, "grace"),
        ({"retention": -1}, "retention"),
        ({"namespace": "a{b}"}, "namespace"),
        ({"consumer_id": ""}, "consumer_id"),
        ({"max_data_bytes": 0}, "max_data_bytes"),
        ({"unknown_event_grace": "60"}, "unknown_event_grace"),
        ({"processor": {"retries": 3}}, "retry"),
        ({"processor": {"retry": {"retry_delay": 3}}}, "'delay'"),
        ({"ctx": 1, "lifespan": lambda: None}, "lifespan"),
        ({"lifespan": 3}, "lifespan=.* is of type int: give a function without parameters"),
        ({"lifespan": _a_coroutine}, "_a_coroutine returns a coroutine: give a function"),
        ({"lifespan": _a_generator}, "_a_generator is an async generator: .*asynccontextmanager"),
        ({"lifespan": asynccontextmanager(_of_an_app)}, "_of_an_app is called without arguments"),
        ({"concurency": 4}, "concurency=4: TaskManager has no such option.* mean 'concurrency'?"),
        ({"retry": 3}, r"retry=3: TaskManager has no such option.*\(allowed: db, ctx, lifespan, "),
        ({"db": "http://localhost"}, "db"),
        ({"streamdb": 5, "db": "redis://localhost"}, "streamdb"),
    ],
)
def test_a_wrong_option_is_refused_when_the_manager_is_made(
    options: dict[str, Any], word: str
) -> None:
    db = options.pop("db", "memory://")
    with pytest.raises(ConfigurationError, match=word):
        TaskManager(db, **options)


def test_the_process_wide_manager_is_made_with_the_same_checks() -> None:
    misspelt: Any = {"concurency": 4}
    with pytest.raises(ConfigurationError, match="mean 'concurrency'"):
        TaskManager.init("memory://", **misspelt)
    with pytest.raises(RuntimeError, match="no process-wide TaskManager"):
        TaskManager.instance()


def test_a_lifespan_may_be_anything_that_returns_an_async_context_manager() -> None:
    for lifespan in (nullcontext, lambda: nullcontext(1), asynccontextmanager(_a_generator)):
        TaskManager[Any]("memory://", lifespan=lifespan)


@pytest.mark.trio
async def test_a_lifespan_that_returns_something_else_makes_the_start_fail_and_says_so() -> None:
    for lifespan, found in ((lambda: 3, "int"), (lambda: _a_coroutine(), "coroutine")):  # noqa: PLW0108
        manager = TaskManager[Any]("memory://", lifespan=lifespan)  # pyright: ignore[reportArgumentType]
        manager.register_handler(_a_coroutine, event="job")
        async with manager:
            with pytest.raises(ConfigurationError, match=f"returned a value of type {found}"):
                await manager.start()
            assert manager.state == "connected"
