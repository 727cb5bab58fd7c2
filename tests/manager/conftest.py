"""Each test runs on the MemoryBroker under a virtual clock, and on a real server.

Tests marked `both_loops` run on asyncio too; those marked `virtual_time` on memory alone,
those marked `real_time` never on a virtual clock.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from trio_tasks import TaskManager

Managers = Callable[..., TaskManager[Any]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = ["memory", "redis"]
        if metafunc.definition.get_closest_marker("virtual_time"):
            kinds = ["memory"]
        if metafunc.definition.get_closest_marker("both_loops"):
            kinds += [f"{kind}-asyncio" for kind in kinds]
        if metafunc.definition.get_closest_marker("real_time"):
            kinds.remove("memory")
        metafunc.parametrize("kind", kinds)


@pytest.fixture
def anyio_backend(kind: str) -> tuple[str, dict[str, object]]:
    if kind.endswith("asyncio"):
        return "asyncio", {}
    if kind == "memory":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "trio", {}


@pytest.fixture
def database(kind: str, request: pytest.FixtureRequest) -> str:
    """The address that the managers of this test share."""
    if kind.startswith("memory"):
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue("server").url)


@pytest.fixture
def managers(database: str) -> Managers:
    """Makes managers that share one database and one namespace of their own."""
    namespace = f"t{uuid.uuid4().hex[:12]}"

    def make(**options: Any) -> TaskManager[Any]:
        options.setdefault("processor", {"retry": {"delay": 0.01, "jitter": 0}})
        return TaskManager(database, namespace=namespace, **options)

    return make


@pytest.fixture
def manager(managers: Managers) -> TaskManager[Any]:
    """A manager with four slots and quick retries."""
    return managers(concurrency=4)


@pytest.fixture(autouse=True)
async def _in_time(kind: str) -> AsyncGenerator[None]:
    """No test hangs for longer than twenty seconds (of real time)."""
    if kind == "memory":
        yield
        return
    with anyio.fail_after(20):
        yield


@pytest.fixture
def calls() -> list[Any]:
    """What handlers leave behind."""
    return []
