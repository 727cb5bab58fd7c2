"""How a server is asked, whoever finds it: by a `Link`, or by one to each node of a cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from trio_tasks.errors import BrokerError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.replies import Command, Reply
from trio_tasks.redis_streams.scripts import Call

__all__ = ["OUTAGES", "Asks", "Locate", "Requests", "in_words"]

T = TypeVar("T")

Locate = Callable[[], Awaitable[Address]]
"""Tells where the server is, before each connect; may start one (the embedded server)."""

OUTAGES: Final = frozenset(
    {"LOADING", "BUSY", "UNKILLABLE", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF"}
    | {"CLUSTERDOWN", "TRYAGAIN", "NOAUTH"}
)
"""Error codes that speak of the server's state and not of the request: it is worth coming back."""


def in_words(error: BaseException) -> str:
    """An error's text with its cause's, so that a log line, or an error without it, says all."""
    text = str(error) or type(error).__name__
    cause = error.__cause__
    if cause is None or isinstance(cause, BrokerError):  # whose words are in the error's
        return text
    return f"{text} ({str(cause) or type(cause).__name__})"


class Requests(Protocol):
    """What waits for work need of a `Link`, or of whatever else finds the server for them."""

    @property
    def timeout(self) -> float:
        """Seconds that a call may take unless it says otherwise."""
        ...

    @property
    def connected(self) -> bool:
        """See `Link.connected`."""
        ...

    @property
    def over(self) -> bool:
        """See `Link.over`."""
        ...

    async def connected_by(self, deadline: float) -> None:
        """See `Link.connected_by`."""
        ...

    async def request(
        self,
        *commands: Command,
        deadline: float | None = None,
        blocks: float = 0.0,
        repeat: bool = False,
    ) -> list[Reply]:
        """See `Link.request`."""
        ...


class Asks(Requests, Protocol):
    """What a broker needs: scripts, too."""

    @property
    def last_error(self) -> str | None:
        """See `Link.last_error`."""
        ...

    async def call(
        self, call: Call[T], *, deadline: float | None = None, repeat: bool = False
    ) -> T:
        """See `Link.call`."""
        ...

    async def calls(
        self, calls: Sequence[Call[T]], *, deadline: float | None = None, repeat: bool = False
    ) -> list[T | BrokerError]:
        """See `Link.calls`."""
        ...
