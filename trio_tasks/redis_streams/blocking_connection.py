"""A connection for threads: redis-py's, which finds the server, encrypts and logs in.

What it says is made safe here: redis-py's errors may quote commands, and so data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast

import redis
import redis.exceptions

from trio_tasks.environment import monotonic
from trio_tasks.errors import BrokerError, BrokerUnavailableError, QueueFullError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import OUTAGES
from trio_tasks.redis_streams.login import perhaps_tls, refusal
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply, pack

__all__ = ["LEAST_TIME", "BlockingConnection"]

LEAST_TIME: Final = 1.0  # seconds for an answer, however late the request could be sent
_NAME: Final = "trio_tasks:producer"  # in the server's list of clients


class _Wire(Protocol):
    """What is used of redis-py's connections, which have no types of their own."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def read_response(self) -> Reply: ...


class BlockingConnection:
    """A connection that one thread at a time uses.

    Attributes:
        in_step: the next reply will be that of the next command.
    """

    __slots__ = ("_label", "_pid", "_wire", "in_step")

    def __init__(self, address: Address, within: float) -> None:
        """Connect and log in, within about so many seconds."""
        self.in_step = True
        self._label = address.label
        self._pid = os.getpid()
        self._wire = _wire(address, min(address.connect_timeout, max(within, 0.001)))
        failure: Exception | None = None
        try:
            self._wire.connect()
        except (redis.RedisError, OSError) as error:
            failure = _refusal(error) or error
        if isinstance(failure, RedisReplyError) and (refused := refusal(failure, address)):
            raise refused from failure
        if failure is not None:
            hint = ""
            if not isinstance(failure, RedisReplyError):
                hint = perhaps_tls(address, _of_socket(failure), connected=False)
            raise BrokerUnavailableError(
                f"{self._label}: cannot connect ({failure}){hint}"
            ) from failure
        answer_by = monotonic() + max(within, LEAST_TIME)
        try:
            self._greet(address, answer_by)
            if address.must_be_primary:
                self._check_role(answer_by)
        except BaseException:
            self.close()
            raise

    def _greet(self, address: Address, answer_by: float) -> None:
        try:
            # Not redis-py's `client_name`: whoever may not name connections can do without.
            with suppress(RedisReplyError):
                self.ask(("CLIENT", "SETNAME", _NAME), answer_by)
        except BrokerUnavailableError as error:
            cause = error.__cause__
            if isinstance(cause, RedisReplyError):  # redis-py logs in with a password only
                raise refusal(cause, address) or error from cause
            hint = perhaps_tls(address, cause and _of_socket(cause), connected=True)
            raise BrokerUnavailableError(f"{error}{hint}") from cause

    def _check_role(self, answer_by: float) -> None:
        hello = cast("list[Reply]", self.ask(("HELLO", 2), answer_by))
        if dict(zip(hello[::2], hello[1::2], strict=True))[b"role"] != b"master":
            raise BrokerUnavailableError(f"{self._label}: this server is a replica")

    @property
    def is_good(self) -> bool:
        """Whether it is of this process, and nobody has hung up since."""
        try:
            return self._pid == os.getpid() and not self._wire.can_read(0)
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Hang up; a forked child only lets go of the socket."""
        self._wire.disconnect()

    def ask(self, command: Command, answer_by: float) -> Reply:
        """Send a command and return its reply, which must begin to come by then.

        Raises:
            BrokerUnavailableError: the connection broke, or the server is of no use now; the
                outcome is unknown.
            QueueFullError, RedisReplyError: the server refuses the command.
        """
        self.in_step = False
        try:
            self._wire.send_packed_command([pack(command)], check_health=False)
            if not self._wire.can_read(max(0.0, answer_by - monotonic())):
                raise BrokerUnavailableError(
                    f"{self._label}: no reply within the time"
                ) from TimeoutError()
            reply = self._wire.read_response()
        except (redis.RedisError, OSError) as error:
            refusal = _refusal(error)
            if refusal is None:
                raise BrokerUnavailableError(f"{self._label}: the connection broke") from error
        else:
            self.in_step = True
            return reply
        # Raised here, where redis-py's error, which may quote the command, is no part of it.
        raise self._sorted_out(refusal)

    def _sorted_out(self, refusal: RedisReplyError) -> BrokerError:
        if refusal.code in OUTAGES:
            error: BrokerError = BrokerUnavailableError(f"{self._label}: {refusal}")
        else:
            self.in_step = True
            if refusal.code != "OOM":
                return refusal
            error = QueueFullError(f"{self._label}: the server's memory is full")
        error.__cause__ = refusal
        return error


def _wire(address: Address, connect_timeout: float) -> _Wire:
    user = address.username
    if address.password is not None and user is None:
        user = "default"  # by name: a server without a password then lets it in, as in login.py
    settings: dict[str, object] = {
        "db": address.db,
        "username": user,
        "password": address.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": address.request_timeout,
        "protocol": 2,
    }
    tls = address.tls
    if address.path is not None:
        kind: object = redis.UnixDomainSocketConnection
        settings["path"] = address.path
    else:
        kind = redis.Connection if tls is None else redis.SSLConnection
        settings |= {"host": address.host, "port": address.port}
    if tls is not None:
        settings |= {
            "ssl_ca_certs": tls.ca_file,
            "ssl_ca_path": tls.ca_path,
            "ssl_ca_data": tls.ca_data,
            "ssl_certfile": tls.cert_file,
            "ssl_keyfile": tls.key_file,
            "ssl_password": tls.key_password,
            "ssl_check_hostname": tls.check_hostname and tls.verify,
            "ssl_cert_reqs": "required" if tls.verify else "none",
        }
    return cast("Callable[..., _Wire]", kind)(**settings)


def _of_socket(error: BaseException) -> OSError | None:
    """What an error of redis-py comes from, if that is the socket."""
    while (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return error if isinstance(error, OSError) else None


_CODES: Final[dict[type[Exception], str]] = {
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.AuthenticationError: "NOAUTH",
}
"""The codes that redis-py takes off an error's text (before release 8: for good)."""


def _refusal(error: Exception) -> RedisReplyError | None:
    """The server's own words, as far as they can be shown; `None`: they are none of its."""
    code = getattr(error, "status_code", None) or _CODES.get(type(error))
    if code is not None:
        return RedisReplyError(f"{code} {error}")
    return RedisReplyError(str(error)) if isinstance(error, redis.ResponseError) else None
