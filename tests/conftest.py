"""Fixtures for all tests: the loops they run on, real servers, and brokers to choose from."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.servers import ServerProcess, start_server


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "both_loops: runs on asyncio, too",
        "virtual_time: so much time passes that only a virtual clock will do",
    ):
        config.addinivalue_line("markers", line)


@pytest.fixture(scope="session")
def server() -> Generator[ServerProcess]:
    """One real server for the whole session, without persistence; tests use own namespaces."""
    with start_server() as server:
        yield server
