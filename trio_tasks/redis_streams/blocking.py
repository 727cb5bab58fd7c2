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

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final, TypeVar

from trio_tasks.environment import jitter, monotonic
from trio_tasks.errors import (
    BrokerUnavailableError,
    ConfigurationError,
)
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.blocking_connection import LEAST_TIME, BlockingConnection
from trio_tasks.redis_streams.evaluation import command_of
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.transport import tls_context

__all__ = ["BlockingLink", "BlockingLocate", "pause"]

T = TypeVar("T")

BlockingLocate = Callable[[float], Address]
"""Tells where the server is, within about so many seconds, before each connect."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
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
        answer_by = monotonic() + seconds + LEAST_TIME
        with self._connection(LEAST_TIME) as connection:
            return connection.ask(command, answer_by)

    def _while_connected(
        self, ask: Callable[[BlockingConnection, float], T], deadline: float, repeat: bool
    ) -> T:
        by_default = monotonic() + self.timeout
        # Who names a deadline wants an answer by then. Else a late connection is not in vain.
        least = 0.0 if deadline < by_default else min(self.timeout, LEAST_TIME)
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


def pause(seconds: float) -> None:
    """Let this thread rest."""
    threading.Event().wait(seconds)
