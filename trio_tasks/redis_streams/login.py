"""Being let in by a server: what is said to it first, and what its refusals mean.

A refusal that trying again cannot mend (a wrong password, a database that is not there, …) is a
`ConfigurationError` which says what to change: the words of the server name neither the address
nor the remedy. Everything else that goes wrong here is an outage like any other.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, cast

import hiredis

from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply

if TYPE_CHECKING:
    from trio_tasks.redis_streams.wire import Connection

__all__ = ["log_in", "perhaps_tls", "refusal"]


async def log_in(connection: Connection, address: Address, name: str | None) -> None:
    """Ask for RESP3 (an old server or a proxy may refuse), log in, name the connection.

    Raises:
        ConfigurationError: the server refuses us, see `refusal`.
        RedisReplyError: it refuses in other words.
        BrokerUnavailableError: it does not answer in time, is no Redis server, or is a replica
            and must not be.
    """
    try:
        await _greet(connection, address, name)
        if address.db:
            await connection.request(("SELECT", address.db), timeout=address.connect_timeout)
    except RedisReplyError as error:
        refused = refusal(error, address)
        if refused is None:
            raise
        raise refused from error


async def _greet(connection: Connection, address: Address, name: str | None) -> None:
    user, password = address.username, address.password
    login: Command | None = None
    if user is not None or password is not None:
        login = ("AUTH", user or "default", password or "")
    naming: Command | None = None if name is None else ("SETNAME", name)
    try:
        hello = await connection.request(
            ("HELLO", 3, *(login or ()), *(naming or ())), timeout=address.connect_timeout
        )
    except BrokerUnavailableError as error:
        hint = perhaps_tls(address, error.__cause__, connected=True)
        raise BrokerUnavailableError(f"{error}{hint}") from error.__cause__
    except RedisReplyError as error:
        # One that does not know HELLO says so, or that we must log in first: as we did, in HELLO.
        unknown = "unknown command" in str(error) or (error.code == "NOAUTH" and login is not None)
        if error.code != "NOPROTO" and not unknown:
            raise
        if login is not None:  # before version 6 there were no users
            words = login if user is not None else ("AUTH", password or "")
            await connection.request(words, timeout=address.connect_timeout)
        if naming is not None:
            await connection.request(("CLIENT", *naming), timeout=address.connect_timeout)
    else:
        if address.must_be_primary and cast("dict[bytes, Reply]", hello)[b"role"] != b"master":
            raise BrokerUnavailableError(f"{address.label}: this server is a replica")


def refusal(error: RedisReplyError, address: Address) -> ConfigurationError | None:
    """What a new connection was refused for, and what to do; `None`: trying again may help."""
    example = address.label.partition("://")[0] + "://user:password@"
    example += "host" if address.path is None else "/path"
    text = str(error)
    match error.code:
        case "WRONGPASS":
            said = (
                "the server knows no such user with this password, or has disabled it"
                f" (WRONGPASS): both stand in the address as in {example}, with special characters"
                " percent-encoded"
            )
        case "NOAUTH":
            said = (
                "the server asks for a password, and the address has none (NOAUTH): give it as in"
                f" {example}, the user may be left out"
            )
        case "NOPERM":
            said = (
                "the user may connect, but not do the first thing after that (NOPERM): the rights"
                " that are needed are listed in docs/deploying.md, under 'Access rights'"
            )
        case _ if "DB index is out of range" in text:
            said = (
                f"the server has no database {address.db}: its setting 'databases' (16, unless it"
                " was changed) says how many there are, and the first one is 0"
            )
        case _ if "not allowed in cluster mode" in text:
            said = (
                f"a cluster has no database {address.db}, only 0; and its address begins with"
                " redis+cluster://"
            )
        case _:
            return None
    return ConfigurationError(f"{address.label}: {said}")


def perhaps_tls(address: Address, cause: BaseException | None, *, connected: bool) -> str:
    """A hint for a first contact that failed, if TLS may be the reason; else nothing.

    A server that speaks TLS hangs up on one who does not; one that does not may answer anything,
    or wait for the end of what it takes for a line.

    Args:
        address: the server.
        cause: what happened; `None`: the server hung up, or spoke no Redis protocol.
        connected: whether TLS was agreed upon, if it is spoken.
    """
    other_reasons = (ssl.SSLCertVerificationError, ConnectionRefusedError, socket.gaierror)
    if address.path is not None or isinstance(cause, other_reasons):
        return ""
    if address.tls is not None:
        return "" if connected else "; if this port speaks no TLS, its address begins with redis://"
    if cause is None or isinstance(cause, (ConnectionError, hiredis.ProtocolError)):
        return "; if this port speaks TLS, its address begins with rediss://"
    return ""
