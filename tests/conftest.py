"""Fixtures for all tests: the loops they run on, real servers, and brokers to choose from."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from property_tests.profile import freeze_heap, load_profile
from tests.servers import ServerProcess, start_server

load_profile()  # some tests here use Hypothesis too


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "both_loops: runs on asyncio, too",
        "virtual_time: so much time passes that only a virtual clock will do",
        "real_time: threads take part, which no virtual clock sees",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_finish(session: pytest.Session) -> None:
    freeze_heap()


@pytest.fixture(scope="session")
def server() -> Generator[ServerProcess]:
    """One real server for the whole session, without persistence; tests use own namespaces."""
    with start_server() as server:
        yield server
