"""Each test runs on the MemoryBroker under a virtual clock, and on a real server.

Tests marked `both_loops` run on asyncio too; those marked `virtual_time` on memory alone. Those
marked `real_time` never have a virtual clock, which does not see threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

import pytest
from trio.testing import MockClock

from tests.servers import timed
from trio_tasks import TaskManager

Managers = Callable[..., TaskManager[Any]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = ["memory", "redis"]
        if metafunc.definition.get_closest_marker("virtual_time"):
            kinds = ["memory"]
        if metafunc.definition.get_closest_marker("both_loops"):
            kinds += [f"{kind}-asyncio" for kind in kinds]
        metafunc.parametrize("kind", kinds)


def pytest_itemcollected(item: pytest.Item) -> None:
    """No test hangs: for twenty seconds at most, or for a virtual hour."""
    if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
        item.obj = timed(_limit(item))(item.obj)


def _limit(item: pytest.Function) -> float:
    if item.get_closest_marker("virtual_time"):
        return 400 * 86_400
    return 3600 if _is_virtual(item) else 20


def _is_virtual(item: pytest.Function) -> bool:
    kind = item.callspec.params.get("kind") if hasattr(item, "callspec") else None
    return kind == "memory" and item.get_closest_marker("real_time") is None


@pytest.fixture
def anyio_backend(kind: str, request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if kind.endswith("asyncio"):
        return "asyncio", {}
    return "trio", {"clock": MockClock(autojump_threshold=0)} if _is_virtual(request.node) else {}


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


@pytest.fixture
def calls() -> list[Any]:
    """What handlers leave behind."""
    return []
