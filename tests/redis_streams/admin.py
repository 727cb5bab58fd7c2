"""A second, blocking hand on the server: what tests do to it behind the connections' back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import redis

__all__ = ["Admin"]


class Admin:
    """A blocking client; all methods return when the server has done it."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=timeout)  # pyright: ignore[reportUnknownMemberType]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next command opens another one."""
        self._client.close()

    def do(self, *words: str | int) -> object:
        """Run a command; its reply as redis-py gives it."""
        execute = cast(
            "Callable[..., object]",
            self._client.execute_command,  # pyright: ignore[reportUnknownMemberType]
        )
        return execute(*words)

    def set(self, name: str, value: str | int) -> None:
        """Change a setting of the server."""
        self.do("CONFIG", "SET", name, value)

    def kill(self, *names: str) -> int:
        """Close the connections that are named so; how many there were."""
        clients = cast("list[dict[str, str]]", self.do("CLIENT LIST"))
        mine = [client["id"] for client in clients if client["name"] in names]
        for client_id in mine:
            self.do("CLIENT", "KILL", "ID", client_id)
        return len(mine)

    def calls(self, command: str) -> int:
        """How often a command was run since the server began, or since `CONFIG RESETSTAT`."""
        stats = cast("dict[str, dict[str, int]]", self.do("INFO", "commandstats"))
        return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]

    def length(self, stream: str) -> int:
        """How many entries a stream has."""
        return cast("int", self.do("XLEN", stream))

    def items(self, key: str) -> list[bytes]:
        """A list."""
        return cast("list[bytes]", self.do("LRANGE", key, 0, -1))
