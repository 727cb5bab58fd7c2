"""One suite, two brokers. Every test that asks for a world runs on each *kind* of it.

- `memory`: MemoryBroker on Trio under a virtual clock; milliseconds pass at once.
- `redis`: RedisBroker on Trio, on a real server.
- Tests marked `both_loops` run on asyncio, too (in real time).
- Tests marked `virtual_time` let so much time pass that they run on `memory` alone.

After each test the store is examined: every job that is ready or running has one entry, and there
is nothing that the protocol has no name for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
from trio.testing import MockClock

from tests.contract.backdoors import memory_world, redis_world
from tests.contract.world import World
from tests.servers import ServerProcess

Worlds = Callable[..., AbstractAsyncContextManager[World]]

PATIENCE = 20
"""Seconds that one test may take."""

VIRTUAL_PATIENCE = 100 * 365 * 86_400
"""The same where seconds cost nothing; a test that hangs gets there at once."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = ["memory", "redis"]
        if metafunc.definition.get_closest_marker("virtual_time"):
            kinds = ["memory"]
        if metafunc.definition.get_closest_marker("both_loops"):
            kinds += [f"{kind}-asyncio" for kind in kinds]
        metafunc.parametrize("kind", kinds)


@pytest.fixture
def anyio_backend(kind: str) -> tuple[str, dict[str, object]]:
    if kind.endswith("asyncio"):
        return "asyncio", {}
    if kind == "memory":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "trio", {}


@pytest.fixture
def worlds(kind: str, request: pytest.FixtureRequest) -> Worlds:
    """Makes worlds of this kind: `async with worlds(tombstone_ms=40) as world:`."""
    if kind.startswith("memory"):
        patience = VIRTUAL_PATIENCE if kind == "memory" else PATIENCE
        return partial(memory_world, patience=patience)
    server: ServerProcess = request.getfixturevalue("server")
    return partial(redis_world, server.url, patience=PATIENCE)


@pytest.fixture
async def world(worlds: Worlds) -> AsyncGenerator[World]:
    """A fresh world."""
    async with worlds() as world:
        yield world
