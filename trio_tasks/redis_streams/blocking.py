"""A link for threads: asks one server through redis-py, and waits for the answer where it stands.

Theory of operation
-------------------
Of redis-py only the connections are used, which find the server, encrypt and log in. Its client
and its pool are not: they would send again what may have been carried out already, know neither a
deadline nor group commit, and show arguments, which may be data, in the texts of their errors.

A call takes a connection for itself: the one that was used last, or a new one. So any number of
threads call at once, without a lock. A connection that was left in the middle of an answer, by
whatever exception, is closed; the others go back and wait for the next call. A forked child finds
its parent's connections there, too, and throws them away: it must not share them.

What is sent again, and when, is as in link.py: nothing that is not said to be idempotent; those
that are, after a pause that grows, until the deadline.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final, Protocol, TypeVar, cast

import redis
import redis.exceptions

from trio_tasks.environment import jitter, monotonic
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueFullError,
)
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import OUTAGES
from trio_tasks.redis_streams.evaluation import command_of
from trio_tasks.redis_streams.login import perhaps_tls, refusal
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply, pack
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.transport import tls_context

__all__ = ["BlockingConnection", "BlockingLink", "BlockingLocate", "pause"]

T = TypeVar("T")

BlockingLocate = Callable[[float], Address]
"""Tells where the server is, within about so many seconds, before each connect."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LEAST_TIME: Final = 1.0  # seconds for an answer, however late the request could be sent
_NAME: Final = "trio_tasks:producer"  # in the server's list of clients
_MOST_IDLE: Final = 16  # connections that are kept for later


class BlockingLink:
    """Any number of connections to one server, for any number of threads.

    Attributes:
        timeout: seconds that a call may take unless it says otherwise.
    """

    def __init__(
        self,
        address: Address | BlockingLocate,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Nothing is connected before the first call.

        Args:
            address: the server, or what tells where it is.
            label: what such a function tells of, without credentials.
            timeout: see the attribute; default: the address's.

        Raises:
            ConfigurationError: the TLS settings cannot be used.
        """
        if isinstance(address, Address):
            if address.tls is not None:
                tls_context(address.tls)  # redis-py makes its own, and says less of what is wrong
            label, timeout = label or address.label, timeout or address.request_timeout
        assert label is not None
        assert timeout is not None
        self.timeout = timeout
        self._label = label
        self._locate: BlockingLocate = (
            (lambda _: address) if isinstance(address, Address) else address
        )
        self._idle: deque[BlockingConnection] = deque()
        self._closed = False
        self._was_let_in = False

    def __repr__(self) -> str:
        return f"<BlockingLink to {self._label}>"

    def close(self) -> None:
        """Close the connections, those that are in use when their calls return."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    # -- asking ----------------------------------------------------------------------------------

    def call(self, call: Call[T], *, deadline: float = inf, repeat: bool = False) -> T:
        """Run a script and return its answer.

        Args:
            call: which script, with what, and how to read the answer.
            deadline: instant of `environment.monotonic()`; never later than `timeout` from now.
            repeat: the call is idempotent: send it again if its outcome is unknown.

        Raises:
            BrokerUnavailableError: the server could not be reached, or did not answer, in time.
            QueueFullError: the server's memory is full.
            BrokerError: the server refuses this call.
            ConfigurationError: the server refuses us (see `refusal`), and has never let us in.
        """

        def ask(connection: BlockingConnection, answer_by: float) -> T:
            try:
                reply = connection.ask(command_of(call, in_full=False), answer_by)
            except RedisReplyError as error:
                if error.code != "NOSCRIPT":
                    raise
                # Nothing has happened. From now on the server knows the script.
                reply = connection.ask(command_of(call, in_full=True), answer_by)
            return call.parse(reply)

        return self._while_connected(ask, deadline, repeat)

    def request(self, command: Command, *, deadline: float = inf, repeat: bool = False) -> Reply:
        """Send a plain command; its reply. Arguments and errors are those of `call`."""
        return self._while_connected(
            lambda connection, answer_by: connection.ask(command, answer_by), deadline, repeat
        )

    def wait(self, command: Command, seconds: float) -> Reply:
        """Send a command that blocks on the server, at most `seconds`; not sent again.

        Errors are those of `call`.
        """
        answer_by = monotonic() + seconds + _LEAST_TIME
        with self._connection(_LEAST_TIME) as connection:
            return connection.ask(command, answer_by)

    def _while_connected(
        self, ask: Callable[[BlockingConnection, float], T], deadline: float, repeat: bool
    ) -> T:
        by_default = monotonic() + self.timeout
        # Who names a deadline wants an answer by then. Else a late connection is not in vain.
        least = 0.0 if deadline < by_default else min(self.timeout, _LEAST_TIME)
        deadline = min(deadline, by_default)
        delay = _FIRST_PAUSE
        while True:
            sent = False
            try:
                with self._connection(max(deadline - monotonic(), least)) as connection:
                    sent = True
                    return ask(connection, max(deadline, monotonic() + least))
            except BrokerUnavailableError:
                left = deadline - monotonic()
                if (sent and not repeat) or self._closed or left <= 0:
                    raise
            pause(min(left, delay * (1 + jitter()) / 2))
            delay = min(2 * delay, _LONGEST_PAUSE)

    @contextmanager
    def _connection(self, within: float) -> Generator[BlockingConnection]:
        """A connection for the block alone, made within so many seconds if need be."""
        connection = self._rested() or self._connect(within)
        try:
            yield connection
        finally:
            if self._closed or not connection.in_step or len(self._idle) >= _MOST_IDLE:
                connection.close()
            else:
                self._idle.append(connection)

    def _connect(self, within: float) -> BlockingConnection:
        ends_at = monotonic() + within
        try:
            connection = BlockingConnection(self._locate(within), ends_at - monotonic())
        except ConfigurationError as error:
            if not self._was_let_in:
                raise
            raise BrokerUnavailableError(str(error)) from error  # the address was right once
        self._was_let_in = True
        return connection

    def _rested(self) -> BlockingConnection | None:
        """One that was used before and is still good."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_good:
                return connection
            connection.close()


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
        answer_by = monotonic() + max(within, _LEAST_TIME)
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


def pause(seconds: float) -> None:
    """Let this thread rest."""
    threading.Event().wait(seconds)
