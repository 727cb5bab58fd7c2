"""Tests run on Trio under a virtual clock; those marked `both_loops` on asyncio too."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from tests.faulty_broker import FaultyBroker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_loops")
        metafunc.parametrize("loop", ["trio", "asyncio"] if both else ["trio"])


@pytest.fixture
def anyio_backend(
    loop: str, request: pytest.FixtureRequest
) -> tuple[str, dict[str, object]]:
    if loop == "asyncio":
        return "asyncio", {}
    if request.node.get_closest_marker("real_time"):
        return "trio", {}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture(autouse=True)
async def _in_time(loop: str, request: pytest.FixtureRequest) -> AsyncGenerator[None]:
    """No test hangs for longer than ten seconds of real time."""
    if loop == "trio" and not request.node.get_closest_marker("real_time"):
        yield  # a virtual clock has no real time: what hangs for ever jumps to the end of the test
        return
    with anyio.fail_after(10):
        yield


@pytest.fixture
def broker() -> FaultyBroker:
    """A broker whose members cannot vanish unseen."""
    return FaultyBroker()


@pytest.fixture
def remote() -> FaultyBroker:
    """A broker as if it were far away: hints may be lost, members may vanish."""
    return FaultyBroker(remote=True)


@pytest.fixture
def calls() -> list[Any]:
    """What handlers leave behind."""
    return []
