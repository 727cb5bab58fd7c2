"""What `db=` means: from a URL, a client or nothing to a broker.

Everything that can be wrong with a value is said here, at once, before anything is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar, Union, cast
from urllib.parse import unquote

import anyio

from trio_tasks.broker import TOMBSTONE_MS, Broker
from trio_tasks.embedded import EmbeddedServer, attached
from trio_tasks.errors import BrokerError, ConfigurationError
from trio_tasks.memory import MemoryBroker
from trio_tasks.options import check_name
from trio_tasks.redis_streams.address import Address, address_of_client, parse_address
from trio_tasks.redis_streams.blocking import BlockingLink
from trio_tasks.redis_streams.blocking_broker import BlockingBroker
from trio_tasks.redis_streams.blocking_sentinel import BlockingSentinels
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.checks import said_of
from trio_tasks.redis_streams.cluster_address import CLUSTER_SCHEMES, parse_cluster_address
from trio_tasks.redis_streams.cluster_broker import ClusterBroker
from trio_tasks.redis_streams.sentinel import Sentinels
from trio_tasks.redis_streams.sentinel_address import SENTINEL_SCHEMES, parse_sentinel_address

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = ["Database", "blocking_broker_for", "broker_for"]

log = logging.getLogger("trio_tasks.broker")

Database: TypeAlias = Union[str, "redis.Redis", "redis.asyncio.Redis", None]
"""What `db=` and `streamdb=` may be."""

_LAST_LOOK_S: Final = 1.0

_T = TypeVar("_T")
_V = TypeVar("_V")

VARIABLE: Final = "TRIO_TASKS_DB"

_OF_ONE_SERVER: Final = ("", "redis", "rediss", "unix")  # "": a client's

_OTHERS: Final = (
    "; besides those, redis+sentinel://, redis+cluster://, embedded://, embedded:///path, memory://,"
    " memory://name or None"
)

_OTHERS_OF_PRODUCER: Final = "; besides those, redis+sentinel:// and embedded:///path"

_PRIVATE_SERVER: Final = (
    "neither db= nor $" + VARIABLE + " is given: jobs are kept by a private embedded server, which"
    " ends with this process. To share one between processes, give db='redis://host:6379' or"
    " db='embedded:///some/directory', or set $" + VARIABLE
)


def broker_for(
    db: Database = None,
    *,
    streamdb: Database = None,
    namespace: str = "tt",
    tombstone_ms: int = TOMBSTONE_MS,
) -> Callable[[], Broker]:
    """Read `db=`; what it returns makes a broker, once for each time that a manager is entered.

    Args:
        db: `redis://`, `rediss://` and `unix://` as in redis-py; `redis+sentinel://` and
            `rediss+sentinel://` (see `parse_sentinel_address`); `redis+cluster://` and
            `rediss+cluster://` (see `parse_cluster_address`); `embedded://` (a private server),
            `embedded:///path` (a server that keeps its data there and is shared by all processes
            that name the path), `memory://` (for one manager), `memory://name` (shared by those of
            this process that name it); a redis-py client, whose settings are borrowed; `None`:
            `$TRIO_TASKS_DB`, else a private embedded server.
        streamdb: a second way to the same keyspace, for the connections that wait.
        namespace: with which all keys begin.
        tombstone_ms: for how long after its retention an ended job's id answers repeats.

    Raises:
        ConfigurationError: a value is wrong. It is not repeated, as it may hold a password.
    """
    check_name("namespace", namespace)
    wake_address = None if streamdb is None else _address("streamdb", streamdb)
    name, value = _named(db)
    notice = None
    if value is None:
        value, notice = "embedded://", _PRIVATE_SERVER
    kind, rest = _kind(value)
    if kind not in _OF_ONE_SERVER and wake_address is not None:
        raise ConfigurationError(
            f"streamdb is a second way to the server that db names, but {kind}:// has only one:"
            " leave streamdb out"
        )
    match kind:
        case "memory":
            shared = f"{namespace}:{check_name(f'{name}: memory://name', rest)}" if rest else None
            memory = MemoryBroker(shared, tombstone_ms=tombstone_ms)
            return lambda: memory
        case "embedded":
            directory = _directory(name, rest)
            return lambda: EmbeddedBroker(
                directory, namespace=namespace, tombstone_ms=tombstone_ms, notice=notice
            )
        case _:
            if kind in CLUSTER_SCHEMES:
                nodes = _said_of(name, parse_cluster_address, cast("str", value))
                return lambda: ClusterBroker(
                    nodes, called=name, namespace=namespace, tombstone_ms=tombstone_ms
                )
            if kind in SENTINEL_SCHEMES:
                watched = _said_of(name, parse_sentinel_address, cast("str", value))
                return lambda: RedisBroker(
                    Sentinels(watched),
                    label=watched.label,
                    called=name,
                    namespace=namespace,
                    tombstone_ms=tombstone_ms,
                    request_timeout=watched.server.request_timeout,
                )
            address = _address(name, value, _others(kind, _OTHERS))
            return lambda: RedisBroker(
                address,
                called=name,
                namespace=namespace,
                wake_address=wake_address,
                tombstone_ms=tombstone_ms,
            )


def blocking_broker_for(
    db: Database = None, *, namespace: str = "tt"
) -> Callable[[], AbstractContextManager[BlockingBroker]]:
    """Read the `db=` of a program that only emits, and so needs a server that others run.

    What it returns makes a broker, which is good while its block runs. Entering the block connects
    to nothing, except that with `embedded:///path` it raises `BrokerUnavailableError` if no server
    runs there.

    Args:
        db: as `broker_for` takes it, without `redis+cluster://`, `memory://` and private servers.
        namespace: with which all keys begin.

    Raises:
        ConfigurationError: a value is wrong, or jobs would end with this program. It is not
            repeated, as it may hold a password.
    """
    check_name("namespace", namespace)
    name, value = _named(db)
    kind, rest = _kind(value)
    if value is None or kind == "memory" or (kind == "embedded" and not rest):
        what = (
            f"neither db= nor ${VARIABLE} is given"
            if value is None
            else f"{name}: {kind}:// is for one process, whose end would be that of its jobs"
        )
        raise ConfigurationError(
            f"{what}: a Producer needs the address of the server that its jobs' workers use, as"
            " db='redis://host:6379' or db='embedded:///some/directory'"
        )
    if kind in CLUSTER_SCHEMES:
        raise ConfigurationError(
            f"{name}: a Producer cannot use {kind}://, as it does not follow queues from node to"
            " node: emit with a TaskManager that is not started"
        )

    @contextmanager
    def opened(link: Callable[[], BlockingLink]) -> Generator[BlockingBroker]:
        with said_of(name):
            broker = BlockingBroker(link(), called=name, namespace=namespace)
        try:
            yield broker
        finally:
            broker.close()

    @contextmanager
    def attached_to(directory: Path) -> Generator[BlockingBroker]:
        with (
            attached(directory) as path,
            opened(lambda: BlockingLink(Address(path=path))) as broker,
        ):
            yield broker

    if kind == "embedded":
        directory = _directory(name, rest)
        assert directory is not None
        return lambda: attached_to(directory)
    if kind in SENTINEL_SCHEMES:
        watched = _said_of(name, parse_sentinel_address, cast("str", value))
        return lambda: opened(
            lambda: BlockingLink(
                BlockingSentinels(watched),
                label=watched.label,
                timeout=watched.server.request_timeout,
            )
        )
    address = _address(name, value, _others(kind, _OTHERS_OF_PRODUCER))
    return lambda: opened(lambda: BlockingLink(address))


class EmbeddedBroker(RedisBroker):
    """A RedisBroker that brings its server with it.

    The server is started, or attached to, before each connect: if another process has taken it
    away, this one starts it again. Leaving the broker stops the server if it was started here.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        namespace: str = "tt",
        tombstone_ms: int = TOMBSTONE_MS,
        notice: str | None = None,
    ) -> None:
        """See `EmbeddedServer` and `RedisBroker`.

        Args:
            directory: see `EmbeddedServer`.
            namespace: see `RedisBroker`.
            tombstone_ms: see `RedisBroker`.
            notice: what to say in the log once it is there.
        """
        super().__init__(
            self._find,
            label=f"embedded://{directory or ''}",
            namespace=namespace,
            tombstone_ms=tombstone_ms,
        )
        self._server = EmbeddedServer(directory)
        self._private = directory is None
        self._notice = notice

    @property
    def private(self) -> bool:
        """Without a directory nobody else knows of the server, which ends with this broker."""
        return self._private

    async def _find(self) -> Address:
        return Address(path=await self._server.ensure())

    async def __aenter__(self) -> Self:
        """Start the server or attach to it, and connect."""
        try:
            await self._find()  # if it cannot be started, no time helps
            await super().__aenter__()
        except BaseException:
            await self._server.aclose()
            raise
        if self._notice is not None:
            log.info("%s", self._notice)
        return self

    async def __aexit__(self, *exc_info: object) -> bool | None:
        """Close, and stop the server if it is ours, within some seconds."""
        try:
            try:
                if self._private and self.connected:
                    await self._report_what_ends()  # noqa: ASYNC102 - a second at most
            finally:
                suppressed = await super().__aexit__(*exc_info)  # noqa: ASYNC102 - closes at once
            return suppressed
        finally:
            await self._server.aclose()

    async def _report_what_ends(self) -> None:
        """Say which jobs a private server takes with it. Not if it does not tell within a second.

        Shielded: a program that is stopped by Ctrl-C loses its jobs, too.
        """
        left = dict.fromkeys(("queued", "delayed", "running", "dead"), 0)
        with anyio.move_on_after(_LAST_LOOK_S, shield=True), suppress(BrokerError):
            for queue in await self.queues():
                counts = await self.counts(queue)
                for state in left:
                    left[state] += getattr(counts, state)
            if any(left.values()):
                log.warning(
                    "the embedded server ends with this manager, and with it these jobs: %s; to"
                    " keep jobs, give db='embedded:///some/directory'",
                    ", ".join(f"{number} {state}" for state, number in left.items() if number),
                )


def _named(db: Database) -> tuple[str, Database]:
    """The value that holds, and what to call it; `None` if there is none."""
    if db is None and (found := os.environ.get(VARIABLE)):
        return f"${VARIABLE}", found
    return "db", db


def _kind(value: Database) -> tuple[str, str]:
    """The scheme of a URL in small letters, and what comes behind it."""
    scheme, _, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    return scheme.lower(), rest


def _others(kind: str, others: str) -> str:
    """What else may be given; nothing where it is clear what was meant."""
    known = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
    return "" if kind in known else others


def _address(name: str, value: object, others: str = "") -> Address:
    if isinstance(value, str):
        return _said_of(name, parse_address, value, others)
    return _said_of(name, address_of_client, cast("redis.Redis", value), others)


def _said_of(name: str, read: Callable[[_V], _T], value: _V, others: str = "") -> _T:
    """Read a value; what is wrong with it is said of `name`, with what else may be given."""
    try:
        return read(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}{others}") from None


def _directory(name: str, rest: str) -> Path | None:
    if not rest:
        return None
    if not rest.startswith("/") or not rest.strip("/") or "?" in rest or "#" in rest:
        raise ConfigurationError(
            f"{name}: embedded://{rest} names no directory: give embedded:///path with three"
            " slashes, an absolute path and no arguments, or embedded:// for a private server"
        )
    return Path(unquote(rest))
