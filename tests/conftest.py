"""Fixtures for all tests: the loops they run on, real servers, and brokers to choose from."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from property_tests.profile import freeze_heap, load_profile
from tests import servers
from tests.servers import ServerProcess, start_server

load_profile()  # some tests here use Hypothesis too


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "both_loops: runs on asyncio, too",
        "virtual_time: so much time passes that only a virtual clock will do",
        "real_time: threads take part, which no virtual clock sees",
        "server: runs on the server that TRIO_TASKS_TEST_SERVER chooses; given to each that does",
    ):
        config.addinivalue_line("markers", line)


_STARTERS = ("start_server", "start_cluster", "start_replica", "start_sentinel")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run on the chosen server: for the others there is but one run."""
    for item in items:
        assert isinstance(item, pytest.Function)
        kind = item.callspec.params.get("kind", "") if hasattr(item, "callspec") else ""
        if (
            "server" in item.fixturenames
            or str(kind).startswith("redis")
            or any(hasattr(item.module, starter) for starter in _STARTERS)
        ):
            item.add_marker("server")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let no other test start one, so that none that does is left out by `-m server`."""
    servers.allowed = item.get_closest_marker("server") is not None


def pytest_collection_finish(session: pytest.Session) -> None:
    freeze_heap()


@pytest.fixture(scope="session")
def server() -> Generator[ServerProcess]:
    """One real server for the whole session, without persistence; tests use own namespaces."""
    with start_server() as server:
        yield server
