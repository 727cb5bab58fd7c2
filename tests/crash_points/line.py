"""A line that fails one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.errors import BrokerUnavailableError

__all__ = ["Break", "BreakingLine"]

T = TypeVar("T")


class Break(StrEnum):
    """What happens at one request."""

    REQUEST_LOST = "the request is lost"
    ANSWER_LOST = "its answer is lost"
    DIES_BEFORE = "the process dies before it is sent"
    DIES_AFTER = "the process dies before its answer arrives"

    @property
    def dies(self) -> bool:
        return self in (Break.DIES_BEFORE, Break.DIES_AFTER)

    @property
    def before(self) -> bool:
        return self in (Break.REQUEST_LOST, Break.DIES_BEFORE)


class BreakingLine:
    """Carries all requests but number `at`.

    Attributes:
        requests: the names of all requests so far; waits, which hand over nothing, do not count.
        dead: set when the process has died; nothing is carried any more.
    """

    def __init__(self, *, remote: bool, at: int | None = None, how: Break | None = None) -> None:
        self.remote = remote
        self.requests: list[str] = []
        self.dead = anyio.Event()
        self._at = at
        self._how = how

    @property
    def connected(self) -> bool:
        return not self.dead.is_set()

    async def carry(self, request: str, send: Callable[[], Awaitable[T]], asked: object) -> T:
        if self.dead.is_set():
            await checkpoint()  # a broker that is away does not answer at once
            raise BrokerUnavailableError("the process is dead")
        if request == "wait":
            return await send()
        how = self._how if len(self.requests) == self._at else None
        self.requests.append(request)
        if how is not None and how.before:
            self._fail(how)
        answer = await send()
        if how is not None or self.dead.is_set():
            self._fail(how or Break.DIES_AFTER)
        return answer

    def _fail(self, how: Break) -> None:
        if how.dies:
            self.dead.set()
        raise BrokerUnavailableError(how.value)
