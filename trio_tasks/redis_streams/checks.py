"""What a server must be before jobs are entrusted to it; looked at when a broker is entered."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, cast

from trio_tasks.environment import Ids
from trio_tasks.errors import ConfigurationError
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.wire import RedisReplyError

__all__ = ["check_about", "check_same_keyspace", "check_server", "not_told", "said_of"]

log = logging.getLogger("trio_tasks.broker")

_LEAST_VERSIONS: Final = {"redis": (7, 0), "valkey": (7, 2)}


@contextmanager
def said_of(name: str) -> Generator[None]:
    """What is wrong with a server is said of the argument that names it: `db`, for example."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None  # whose words these are


async def check_server(link: Link) -> None:
    """Check the version, and that keys are not evicted when memory is full.

    A server that forbids its users to ask (`INFO`) is accepted, with one line in the log.

    Raises:
        ConfigurationError: the server cannot be used, and how to change that.
        BrokerUnavailableError: it did not answer in time.
    """
    try:
        sections = await link.request(("INFO", "server"), ("INFO", "memory"), repeat=True)
    except RedisReplyError as error:
        not_told(error)
        return
    check_about(b"\n".join(cast("list[bytes]", sections)))


def not_told(error: RedisReplyError) -> None:
    """Log that the server refuses to speak of itself."""
    log.warning(
        "the server does not tell its version and its maxmemory-policy (%s):"
        " see to it yourself that it is Redis 7.0 or Valkey 7.2 or later, and that the"
        " policy is noeviction",
        error,
    )


def check_about(info: bytes) -> None:
    """Check what a server says of itself: the sections `server` and `memory` of its `INFO`.

    Raises:
        ConfigurationError: as `check_server`.
    """
    text = info.decode()
    about = dict(re.findall(r"^(\w+):([^\r\n]*)", text, re.MULTILINE))
    kind = "valkey" if "valkey_version" in about else "redis"
    version = about.get(f"{kind}_version", "")
    least = _LEAST_VERSIONS[kind]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < least:
        raise ConfigurationError(
            f"the server is {kind} {version or 'of an unknown version'}:"
            f" give at least {kind} {least[0]}.{least[1]}"
        )
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"the server's maxmemory-policy is {policy!r}, which deletes jobs when memory is"
            " full: set it to 'noeviction'"
        )


async def check_same_keyspace(link: Link, other: Link, key: str) -> None:
    """Check that two connections reach the same database, by a key that nobody else uses.

    Raises:
        ConfigurationError: they do not.
        BrokerUnavailableError: there was no answer in time.
    """
    secret = Ids().job_id().encode()
    await link.request(("SET", key, secret, "PX", 60_000), repeat=True)
    (found,) = await other.request(("GET", key), repeat=True)
    await link.request(("DEL", key), repeat=True)
    if found != secret:
        raise ConfigurationError(
            "streamdb does not reach the same keyspace as db: completing a job is one atomic step"
            " over its stream entry and its record, so both must lie in one database. Give"
            " another address (endpoint, user or time-outs) of the same server, or leave"
            " streamdb out"
        )
