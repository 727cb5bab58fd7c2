"""Says which key is of the wrong type, where the server only says that one is.

Theory of operation
-------------------
A script that meets a key of another type ends with `WRONGTYPE`, which names no key. Without the
keys that all jobs of a queue share (see keys.py) nothing goes on in it, and what lies there instead
may be somebody's, so it is not deleted. The queue waits until people have looked: its requests
fail with `BrokerUnavailableError`, which their callers know how to sit out, so that no outcome is
given up and no job dies of it. The log says once which key it is and what to do, and says so when
the queue goes on. Other queues are not concerned.

Where the server cannot be asked which key it is, nothing is known: neither is a key named, nor is
one said to be out of the way. A server that refuses to tell (a user without the right to `TYPE`) is
mentioned once.

Plain commands are treated likewise, and those who block on a connection of their own ask
`Naming.misplaced` when they meet such a key, so that one voice says it.

What is of a single job, a debounce key or a schedule is that job's affair: the scripts count it as
absent, or refuse what needs it by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar, cast

from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams.asking import Asks
from trio_tasks.redis_streams.keys import types_beside
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply
from trio_tasks.redis_streams.scripts import Call

__all__ = ["MisplacedKeyError", "Naming", "is_wrong_type", "misplaced_among"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_WRONG_TYPE: Final = "WRONGTYPE"
_SECOND_LOOK: Final = 1.0  # seconds that an answer may be held up to see whether all is well again


class MisplacedKeyError(BrokerUnavailableError):
    """Outside fault: a key that a whole queue needs is of another type than the engine's.

    Part of what the request does may have been done. Once the key is gone it is safe to try again.
    """

    @classmethod
    def of(cls, texts: Sequence[str]) -> MisplacedKeyError:
        """The error that says which keys it is; see `misplaced_among`."""
        text = ", ".join(texts)
        return cls(f"{_WRONG_TYPE}: {text}; rename or delete it")

    @classmethod
    def unnamed(cls, unknown: BrokerError) -> MisplacedKeyError:
        """The error where it could not be found out which key it is."""
        return cls(
            f"{_WRONG_TYPE}: a key is of the wrong type, and which one it is cannot be asked now"
            f" ({unknown})"
        )


def is_wrong_type(error: BaseException) -> bool:
    """Whether the server says that some key is of another type."""
    return isinstance(error, RedisReplyError) and error.code == _WRONG_TYPE


def misplaced_among(types: Mapping[str, str], replies: Sequence[Reply]) -> dict[str, str]:
    """Those of the keys that are of another type than this, each with that in words.

    Args:
        types: the keys with the types that they should be of.
        replies: what the server said to `TYPE` of each.
    """
    found = {name: cast("bytes", r).decode() for name, r in zip(types, replies, strict=True)}
    return {
        name: f"key {name!r} is of the type {found[name]!r}, and should be a {expected}"
        for name, expected in types.items()
        if found[name] not in ("none", expected)
    }


class Naming:
    """Asks as another does, and names the key where the server says that one is misplaced."""

    def __init__(self, cmd: Asks) -> None:
        """`cmd` asks the server."""
        self._cmd = cmd
        self._misplaced: dict[
            str, set[str]
        ] = {}  # a name of those beside it → those that were said
        self._untold: set[str] = set()  # the same, where the server refuses to tell

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
        """See `Link.request`; raises `MisplacedKeyError` too. Commands name a key second."""
        key = str(commands[0][1])
        try:
            replies = await self._cmd.request(
                *commands, deadline=deadline, blocks=blocks, repeat=repeat
            )
        except RedisReplyError as error:
            named = await self._named(key, error, deadline)
            if named is None:
                raise
            raise named from error
        if self._misplaced:
            await self._look_again(key)
        return replies

    async def call(
        self, call: Call[T], *, deadline: float | None = None, repeat: bool = False
    ) -> T:
        """See `Link.call`; raises `MisplacedKeyError` too."""
        try:
            answer = await self._cmd.call(call, deadline=deadline, repeat=repeat)
        except RedisReplyError as error:
            named = await self._named(call.keys[0], error, deadline)
            if named is not None:
                raise named from error
            if error.code != _WRONG_TYPE or not repeat:
                raise
            # None of the shared ones, or it went away just now.
            return await self._cmd.call(call, deadline=deadline, repeat=repeat)
        if self._misplaced:
            await self._look_again(call.keys[0])
        return answer

    async def calls(
        self, calls: Sequence[Call[T]], *, deadline: float | None = None, repeat: bool = False
    ) -> list[T | BrokerError]:
        """See `Link.calls`; among the answers may be `MisplacedKeyError`s."""
        answers = await self._cmd.calls(calls, deadline=deadline, repeat=repeat)
        for place, answer in enumerate(answers):
            if isinstance(answer, RedisReplyError):
                answers[place] = await self._named(calls[place].keys[0], answer, deadline) or answer
        return answers

    async def misplaced(self, key: str | bytes, deadline: float | None = None) -> set[str]:
        """The shared keys beside `key` that are misplaced now. The log is told what has changed.

        Raises:
            BrokerError: the server could not be asked.
        """
        return set(await self._look(str(key), deadline))

    async def _named(
        self, key: str | bytes, error: RedisReplyError, deadline: float | None
    ) -> BrokerError | None:
        """The error that names the shared keys, if it is of those."""
        if error.code != _WRONG_TYPE:
            return None
        family = next(iter(types_beside(str(key))))
        before = ", ".join(map(repr, sorted(self._misplaced.get(family, ()))))
        try:
            found = await self._look(str(key), deadline)
        except BrokerError as unknown:
            named = MisplacedKeyError.unnamed(unknown)
        else:
            if found:
                named = MisplacedKeyError.of(list(found.values()))
            elif before:
                named = MisplacedKeyError(
                    f"{_WRONG_TYPE}: a key was of the wrong type until now: {before}"
                )
            else:
                return None
        named.__cause__ = error
        return named

    async def _look_again(self, key: str | bytes) -> None:
        """After a request that went well: whether it was the first one since."""
        if next(iter(types_beside(str(key)))) in self._misplaced:
            with suppress(BrokerError):  # it is not known
                await self._look(str(key), loop_time() + _SECOND_LOOK)

    async def _look(self, key: str, deadline: float | None) -> dict[str, str]:
        """The shared keys beside this one that are of the wrong type, each with that in words."""
        types = types_beside(key)
        family = next(iter(types))
        try:
            replies = await self._cmd.request(
                *(("TYPE", name) for name in types), deadline=deadline, repeat=True
            )
        except RedisReplyError as error:
            if family not in self._untold:
                self._untold.add(family)
                log.error(
                    "a key beside %r may be of the wrong type, and the server refuses to say"
                    " whether it is: %s",
                    family,
                    error,
                )
            raise
        self._untold.discard(family)
        found = misplaced_among(types, replies)
        self._say(family, found)
        return found

    def _say(self, family: str, found: Mapping[str, str]) -> None:
        """Say which keys are misplaced, once, and when all are out of the way."""
        if found:
            said = self._misplaced.setdefault(family, set())
            for name in found.keys() - said:
                log.error("%s; %s until that key is renamed or deleted", found[name], _stops(name))
            said.update(found)
        elif names := self._misplaced.pop(family, None):
            log.info(
                "out of the way: %s; %s", ", ".join(map(repr, sorted(names))), _goes_on(family)
            )


def _stops(name: str) -> str:
    if "}:" in name:
        return "its queue waits"
    return "queues are not listed" if name.endswith(":queues") else "dead letters wait"


def _goes_on(name: str) -> str:
    if "}:" in name:
        return "its queue goes on"
    return "queues are listed again" if name.endswith(":queues") else "dead letters go on"
