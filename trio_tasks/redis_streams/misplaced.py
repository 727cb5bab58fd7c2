"""Says which key is of the wrong type, where the server only says that one is.

Theory of operation
-------------------
A script that meets a key of another type ends with `WRONGTYPE`, which names no key. Without the
keys that all jobs of a queue share (see keys.py) nothing goes on in it, and what lies there instead
may be somebody's, so it is not deleted. The queue waits until people have looked: its requests
fail with `BrokerUnavailableError`, which their callers know how to sit out, so that no outcome is
given up and no job dies of it. The log says once which key it is and what to do, and says so when
the queue goes on. Other queues are not concerned.

What is of a single job, a debounce key or a schedule is that job's affair: the scripts count it as
absent, or refuse what needs it by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, TypeVar, cast

from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams.asking import Asks
from trio_tasks.redis_streams.keys import types_of_shared
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply
from trio_tasks.redis_streams.scripts import Call

__all__ = ["MisplacedKeyError", "Naming"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_WRONG_TYPE: Final = "WRONGTYPE"


class MisplacedKeyError(BrokerUnavailableError):
    """Outside fault: a key that a whole queue needs is of another type than the engine's.

    Part of what the request does may have been done. Once the key is gone it is safe to try again.
    """


class Naming:
    """Asks as another does, and names the key where the server says that one is misplaced."""

    def __init__(self, cmd: Asks) -> None:
        """`cmd` asks the server."""
        self._cmd = cmd
        self._misplaced: dict[str, set[str]] = {}  # first key of a call → the names that were said

    def __repr__(self) -> str:
        return repr(self._cmd)

    @property
    def timeout(self) -> float:
        """See `Link.timeout`."""
        return self._cmd.timeout

    @property
    def connected(self) -> bool:
        """See `Link.connected`."""
        return self._cmd.connected

    @property
    def over(self) -> bool:
        """See `Link.over`."""
        return self._cmd.over

    @property
    def last_error(self) -> str | None:
        """See `Link.last_error`."""
        return self._cmd.last_error

    async def connected_by(self, deadline: float) -> None:
        """See `Link.connected_by`."""
        await self._cmd.connected_by(deadline)

    async def request(
        self,
        *commands: Command,
        deadline: float | None = None,
        blocks: float = 0.0,
        repeat: bool = False,
    ) -> list[Reply]:
        """See `Link.request`."""
        return await self._cmd.request(*commands, deadline=deadline, blocks=blocks, repeat=repeat)

    async def call(
        self, call: Call[T], *, deadline: float | None = None, repeat: bool = False
    ) -> T:
        """See `Link.call`; raises `MisplacedKeyError` too."""
        try:
            answer = await self._cmd.call(call, deadline=deadline, repeat=repeat)
        except RedisReplyError as error:
            named = await self._named(call, error)
            if named is not None:
                raise named from error
            if error.code != _WRONG_TYPE or not repeat:
                raise
            # None of the shared ones, or it went away just now.
            return await self._cmd.call(call, deadline=deadline, repeat=repeat)
        if self._misplaced:
            await self._look_again(call)
        return answer

    async def calls(
        self, calls: Sequence[Call[T]], *, deadline: float | None = None, repeat: bool = False
    ) -> list[T | BrokerError]:
        """See `Link.calls`; among the answers may be `MisplacedKeyError`s."""
        answers = await self._cmd.calls(calls, deadline=deadline, repeat=repeat)
        for place, answer in enumerate(answers):
            if isinstance(answer, RedisReplyError):
                answers[place] = await self._named(calls[place], answer) or answer
        return answers

    async def _named(self, call: Call[object], error: RedisReplyError) -> BrokerError | None:
        """The error that names the shared keys, if it is of those."""
        if error.code != _WRONG_TYPE:
            return None
        found, key = await self._look(call), str(call.keys[0])
        if found:
            said = self._misplaced.setdefault(key, set())
            for name in found.keys() - said:
                log.error("%s; its queue waits until that key is renamed or deleted", found[name])
            said.update(found)
            text = ", ".join(found.values())
        elif key in self._misplaced:
            text = f"a key was of the wrong type until now: {self._goes_on(key)}"
        else:
            return None
        named = MisplacedKeyError(f"{_WRONG_TYPE}: {text}")
        named.__cause__ = error
        return named

    async def _look_again(self, call: Call[object]) -> None:
        """After a call that went well: whether it was the first one since."""
        key = str(call.keys[0])
        if key in self._misplaced and not await self._look(call):
            self._goes_on(key)

    def _goes_on(self, key: str) -> str:
        """Say that the keys are out of the way; their names."""
        names = ", ".join(map(repr, sorted(self._misplaced.pop(key, ()))))
        if names:
            log.info("out of the way: %s; its queue goes on", names)
        return names

    async def _look(self, call: Call[object]) -> dict[str, str]:
        """The shared keys that are of the wrong type, each with that in words."""
        types = types_of_shared(call.keys)
        try:
            replies = await self._cmd.request(*(("TYPE", name) for name in types), repeat=True)
        except BrokerError:
            return {}  # nobody can say
        found = {name: cast("bytes", r).decode() for name, r in zip(types, replies, strict=True)}
        return {
            name: f"key {name!r} is of the type {found[name]!r}, and should be a {expected}"
            for name, expected in types.items()
            if found[name] not in ("none", expected)
        }
