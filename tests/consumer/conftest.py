"""Tests run on Trio under a virtual clock; those marked `both_loops` on asyncio too.

Those marked `real_time` have threads or sockets, which a virtual clock does not see.
"""

from __future__ import annotations

import uuid
from inspect import iscoroutinefunction
from typing import Any

import pytest
from trio.testing import MockClock

from tests.faulty_broker import FaultyBroker
from tests.servers import timed
from trio_tasks.consumer import feeder, lease_keeper
from trio_tasks.environment import loop_time


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time: not under a virtual clock")
    config.addinivalue_line("markers", "asyncio_only: about what only asyncio does")


def pytest_itemcollected(item: pytest.Item) -> None:
    """No test hangs: for ten seconds at most, of whatever clock it has, or for a virtual hour.

    (Virtual time costs nothing only as long as nobody polls: a day of a hanging worker is minutes.)
    (Not by a fixture: a scope that is cancelled between its two halves takes the runner with it.)
    """
    if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
        item.obj = timed(_limit(item))(item.obj)


def _limit(item: pytest.Function) -> float:
    if not _is_virtual(item):
        return 10
    return 100 * 86_400 if item.get_closest_marker("virtual_time") else 3600


def _is_virtual(item: pytest.Function) -> bool:
    loop = item.callspec.params.get("loop", "trio") if hasattr(item, "callspec") else "trio"
    return loop == "trio" and item.get_closest_marker("real_time") is None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop" in metafunc.fixturenames:
        loops = ["trio"]
        if metafunc.definition.get_closest_marker("both_loops"):
            loops = ["trio", "asyncio"]
        if metafunc.definition.get_closest_marker("asyncio_only"):
            loops = ["asyncio"]
        metafunc.parametrize("loop", loops)


@pytest.fixture
def anyio_backend(loop: str, request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return loop, {"clock": MockClock(autojump_threshold=0)} if _is_virtual(request.node) else {}


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine reads the real clock to notice that it was frozen: here it reads the loop's."""
    for module in (feeder, lease_keeper):
        monkeypatch.setattr(module, "monotonic", loop_time)


@pytest.fixture
def broker() -> FaultyBroker:
    """A broker whose members cannot vanish unseen."""
    return FaultyBroker(uuid.uuid4().hex)


@pytest.fixture
def remote() -> FaultyBroker:
    """A broker as if it were far away: hints may be lost, members may vanish."""
    return FaultyBroker(uuid.uuid4().hex, remote=True)


@pytest.fixture
def calls() -> list[Any]:
    """What handlers leave behind."""
    return []
