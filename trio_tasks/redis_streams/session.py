"""What a RedisBroker is while it is entered: its nursery, its connections, and who uses which.

```
cmd    every request: emits (emits.py), memberships (membership.py), looking and steering
wake   waits for work (wakes.py); opened by the first `register`, at once with a `wake_address`
ev     while somebody watches a job (watches.py)
```

All three are links (link.py), supervised by tasks of the session's nursery. Whatever happens to a
connection, only the callers that need it see it, as `BrokerUnavailableError`; an engine bug ends
the nursery and leaves through the broker's block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Final, TypeAlias, cast

import anyio

from trio_tasks.broker import Emitted, NewJob
from trio_tasks.control_c import protected
from trio_tasks.environment import Ids, loop_time
from trio_tasks.errors import BrokerError
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.asking import OUTAGES, Asks, Locate
from trio_tasks.redis_streams.calls import Call
from trio_tasks.redis_streams.checks import check_same_keyspace, check_server, said_of
from trio_tasks.redis_streams.emits import Emits
from trio_tasks.redis_streams.keys import QueueKeys, queues_key
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.membership import Memberships
from trio_tasks.redis_streams.misplaced import Naming
from trio_tasks.redis_streams.outage_log import OutageLog
from trio_tasks.redis_streams.scripts import all_scripts
from trio_tasks.redis_streams.wakes import Wakes
from trio_tasks.redis_streams.watches import QueueWatch, Watches
from trio_tasks.redis_streams.wire import Connection, RedisReplyError

__all__ = ["ServerSession", "Session", "Settings"]

_NAMED_AGAIN: Final = 1.0  # seconds, after a refusal

_ExcInfo: TypeAlias = (
    "tuple[type[BaseException] | None, BaseException | None, TracebackType | None]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a session is made from.

    Attributes:
        locate: tells where the server is.
        label: what it tells of, without credentials, for logs and errors.
        called: the argument that names the server, for errors.
        locate_wake: the same as `locate` for the connections that wait; `None`: there, too.
        label_wake: what that tells of.
        namespace, tombstone_ms: see `RedisBroker`.
        timeout: seconds that a call may take.
    """

    locate: Locate
    label: str
    called: str
    locate_wake: Locate | None
    label_wake: str
    namespace: str
    tombstone_ms: int
    timeout: float


class Session(ABC):
    """What a RedisBroker is while it is entered, wherever its requests go. Used once.

    Attributes:
        cmd: for every request that does not block.
        memberships, emits: of this session; made with `cmd` by the classes below.
    """

    cmd: Asks
    memberships: Memberships
    emits: Emits

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before `open`."""
        self._settings: Final = settings
        self._tasks: Final = anyio.create_task_group()
        self._keys_of: dict[str, QueueKeys] = {}
        self._named: set[str] = set()
        self._may_name_from = -inf  # on the loop's clock

    @property
    @abstractmethod
    def last_error(self) -> str | None:
        """Why there is no connection; `None` while all is well."""

    @abstractmethod
    def start_waking(self) -> None:
        """Open the connection that waits for work, unless that has been done."""

    @abstractmethod
    def watch(self, queue: str, job_id: str | None) -> AbstractAsyncContextManager[QueueWatch]:
        """See `Watches.watch`."""

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and check; see `open`."""

    async def open(self) -> None:
        """Connect, and check that the server can be used; see `RedisBroker.__aenter__`."""
        await self._tasks.__aenter__()
        try:
            await self._connect()
        except BaseException:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)  # noqa: ASYNC102 - they end at once
            raise

    async def close(self, exc_info: tuple[object, ...]) -> bool | None:
        """Close at once; with what `__aexit__` is given."""
        kind, error, traceback = cast("_ExcInfo", exc_info)
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if error is not None and group.exceptions == (error,):
                return False  # the block's own error: nothing of ours, so it is not wrapped
            raise

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue."""
        keys = self._keys_of.get(queue)
        if keys is None:
            keys = self._keys_of[queue] = self._new_keys(queue)
        return keys

    def is_named(self, queue: str) -> bool:
        """Whether `name` has nothing to do for it."""
        return queue in self._named

    async def name(self, queues: Iterable[str]) -> None:
        """Add queues to the set of all, once per connection.

        Their names only help people to find them, so this may fail: the next use repeats it, after
        a while, as no emit should be slow for that.
        """
        new = set(queues) - self._named
        if new and loop_time() >= self._may_name_from:
            try:
                await self.cmd.request(("SADD", queues_key(self._settings.namespace), *new))
            except BrokerError:
                self._may_name_from = loop_time() + _NAMED_AGAIN
            else:
                self._named |= new

    def _new_keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._settings.namespace, queue)

    async def _load_scripts(self, connection: Connection) -> None:
        """On every new connection that runs them."""
        loads = [("SCRIPT", "LOAD", script.source) for script in all_scripts()]
        for reply in await connection.pipeline(loads, timeout=self._settings.timeout):
            # Forbidden? Then a script is sent in full when it is missed.
            if isinstance(reply, RedisReplyError) and reply.code in OUTAGES:
                raise reply
        self._named.clear()  # the server may have lost what it knew
        self._may_name_from = -inf

    def _enqueue(self, queue: str, jobs: Sequence[NewJob]) -> Call[list[Emitted]]:
        return calls.enqueue(self.keys(queue), jobs, tombstone_ms=self._settings.tombstone_ms)


class ServerSession(Session):
    """A session with one server."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._waking = False
        outage_log = OutageLog()
        cmd = self._cmd = Link(
            settings.locate,
            name="cmd",
            label=settings.label,
            timeout=settings.timeout,
            on_connect=self._prepare,
            outage_log=outage_log,
        )
        # To the same server it comes and goes with the other one, which says all that is to say.
        own_way = settings.locate_wake is not None
        self._wake: Final = self._new_link("wake", outage_log if own_way else None)
        self.cmd = naming = Naming(cmd)
        self._wakes: Final = Wakes(
            wake=self._wake,
            cmd=cmd,
            naming=naming,
            keys=self.keys,
            bell=self._private_keys().wake,
        )
        self.memberships = Memberships(
            cmd=self.cmd,
            waits=self._wakes,
            tasks=self._tasks,
            tombstone_ms=settings.tombstone_ms,
        )
        self.emits = Emits(self.cmd, self._tasks, self._enqueue)
        self._watches: Final = Watches(
            tasks=self._tasks,
            cmd=naming,
            new_link=lambda: self._new_link("ev", None),
            keys=self.keys,
        )

    @property
    def last_error(self) -> str | None:
        """Why one of the connections is not there."""
        return self.cmd.last_error or self._wake.last_error

    async def _connect(self) -> None:
        deadline = loop_time() + self._settings.timeout
        self._tasks.start_soon(protected(self._cmd.run))
        with said_of(self._settings.called):
            await self._cmd.opened_by(deadline)
            await check_server(self._cmd)
        if self._settings.locate_wake is not None:
            self.start_waking()
            with said_of("streamdb"):
                await self._wake.opened_by(deadline)
            await check_same_keyspace(self._cmd, self._wake, self._private_keys().meta)

    def start_waking(self) -> None:
        """Open the connection that waits for work, unless that has been done."""
        if not self._waking:
            self._waking = True
            self._tasks.start_soon(protected(self._wake.run))
            self._tasks.start_soon(protected(self._wakes.run))

    def watch(self, queue: str, job_id: str | None) -> AbstractAsyncContextManager[QueueWatch]:
        """See `Watches.watch`."""
        return self._watches.watch(queue, job_id)

    async def _prepare(self, connection: Connection) -> None:
        """On every new `cmd` connection, before anybody else may use it."""
        await self._load_scripts(connection)
        await self.memberships.own_all(connection)

    def _new_link(self, name: str, outage_log: OutageLog | None) -> Link:
        """A link for a connection that waits."""
        settings = self._settings
        return Link(
            settings.locate_wake or settings.locate,
            name=name,
            label=settings.label_wake,
            timeout=settings.timeout,
            outage_log=outage_log,
        )

    def _private_keys(self) -> QueueKeys:
        """Keys that nobody else uses: those of a queue that does not exist."""
        return QueueKeys(self._settings.namespace, Ids().incarnation("broker"))
