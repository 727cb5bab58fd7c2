"""One queue in a namespace of its own for each test, examined and cleared afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Generator

import pytest
import redis

from tests.lua.desk import Desk
from tests.servers import ServerProcess
from trio_tasks.redis_streams.keys import dead_letter_key

PATIENCE = 20
"""Seconds that one request may take."""


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Generator[redis.Redis]:
    """One connection to the server."""
    with redis.Redis(
        unix_socket_path=server.socket_path,
        socket_timeout=PATIENCE,
        single_connection_client=True,
        protocol=2,
    ) as client:
        yield client


@pytest.fixture
def desk(client: redis.Redis) -> Generator[Desk]:
    """A fresh queue."""
    desk = Desk(client, f"t{secrets.token_hex(6)}")
    try:
        yield desk
        assert not desk.sound or desk.defects() == []
    finally:
        clear(desk)


@pytest.fixture
def other(desk: Desk) -> Generator[Desk]:
    """Another queue of the same namespace."""
    other = Desk(desk.client, desk.keys.namespace, "other")
    yield other
    assert not other.sound or other.defects() == []


@pytest.fixture
def graveyard(desk: Desk) -> str:
    """The name of a dead-letter stream that is cleared with the desk."""
    return dead_letter_key(f"{desk.keys.namespace}:graveyard")


def clear(desk: Desk) -> None:
    for key in desk.words("KEYS", f"{desk.keys.namespace}:*"):
        desk.do("DEL", key)
