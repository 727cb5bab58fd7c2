"""A link: one connection to one server that is made again whenever it is lost.

Theory of operation
-------------------
`Link.run`, a task of the broker's nursery, opens a connection, lets `on_connect` prepare it while
nobody else may use it (scripts, `own`), publishes it, and waits until it is lost; then it begins
again after a pause that grows from 50 ms to 2 s, shortened at random so that a thousand clients of
a restarted server do not come back in one moment. The pause starts small again only after a
connection has *answered* a request: a replica that greets politely and refuses every write must
not be asked forty times a second.

A caller waits for a connection until its deadline, sends, and gets the answer or an error:

* the connection broke, or the server says that it is of no use now (`LOADING`, `BUSY`, `READONLY`,
  …): the connection is dropped, the outcome is unknown. Nothing is sent again unless the caller
  says `repeat=True`, which is for requests that are idempotent: those are sent again on the next
  connection, until the deadline;
* `OOM` is `QueueFullError`; any other error is the server's answer to this request alone.

Cancelling a caller gives up the answer; what was sent may be carried out, now or never.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import anyio

from trio_tasks.environment import jitter, loop_time
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueFullError,
)
from trio_tasks.homes import process
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import OUTAGES, Locate, in_words
from trio_tasks.redis_streams.evaluation import command_of, evaluate
from trio_tasks.redis_streams.outage_log import OutageLog
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.wire import (
    Command,
    Connection,
    RedisReplyError,
    Reply,
    open_connection,
)

__all__ = ["Link"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LEAST_TIME: Final = 1.0  # seconds for an answer, however late the request could be sent


class Link:
    """One supervised connection.

    Attributes:
        timeout: seconds that a call may take unless it says otherwise.
        label: what it leads to, without credentials, for logs and errors.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        name: str,
        label: str,
        timeout: float,
        on_connect: Callable[[Connection], Awaitable[None]] | None = None,
        outage_log: OutageLog | None = None,
        outages: frozenset[str] = OUTAGES,
    ) -> None:
        """Nothing is connected before `run`.

        Args:
            locate: see `Locate`.
            name: of the connection, in the server's client list and in the log.
            label: see the attribute.
            timeout: see the attribute.
            on_connect: prepares a new connection; if it raises a `BrokerError` the connection is
                dropped and tried again.
            outage_log: is told when the connection is lost and made; without one that is said at
                DEBUG, as of a connection which comes and goes with a more important one.
            outages: error codes that end the connection.
        """
        self.timeout = timeout
        self.label = label
        self._locate = locate
        self._name = name
        self._on_connect = on_connect
        self._outage_log = outage_log
        self._outages = outages
        self._connection: Connection | None = None
        self._changed = anyio.Event()  # a try has succeeded or failed; a new one each time
        self._opening_by: float | None = None
        self._serving = anyio.CancelScope()
        self._why_dropped: BrokerError | None = None
        self._failure: Exception | None = None
        self._answered = False
        self._over = False
        self._process = process()

    def __repr__(self) -> str:
        state = "connected" if self.connected else self.last_error or "never connected"
        return f"<Link {self._name}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether a request could be sent now."""
        return self._connection is not None and not self._connection.closed.is_set()

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; `None` while there is one, and before the first try."""
        return None if self._failure is None else in_words(self._failure)

    # -- supervising -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        pause = _FIRST_PAUSE
        try:
            while True:
                self._answered = False
                error = await self._serve_one()
                if error is None:
                    continue  # renewed on purpose
                self._note_loss(error)
                if self._answered:
                    pause = _FIRST_PAUSE
                await anyio.sleep(pause * (1 + jitter()) / 2)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._over = True
            self._changed.set()  # those who wait shall see that it is over
            if self._outage_log is not None:
                self._outage_log.forget(self, self.label)

    async def _serve_one(self) -> BrokerError | ConfigurationError | None:
        """Connect, and serve until the connection is lost; returns why (`None`: renewed)."""
        if self._process is not process():
            # What a forked child inherits, the incarnations' names among it, is its parent's.
            raise RuntimeError("a TaskManager does not go on in a forked child process")
        try:
            address = self._in_time(await self._locate())
            async with open_connection(address, name=f"trio_tasks:{self._name}") as connection:
                await self._prepare(connection)
                self._note_connected(connection)
                try:
                    with anyio.CancelScope() as self._serving:
                        await connection.closed.wait()
                        return connection.unavailable()
                    return self._why_dropped
                finally:
                    self._forget(connection)
        except (BrokerError, ConfigurationError) as error:
            return error

    def _in_time(self, address: Address) -> Address:
        """Let the first try last no longer than those wait who open the link: so they learn why.

        A later one would only replace its reason with a want of time.
        """
        if self._opening_by is None or self._failure is not None:
            return address
        most = max(self._opening_by - loop_time(), 0.001)
        return replace(address, connect_timeout=min(address.connect_timeout, most))

    async def _prepare(self, connection: Connection) -> None:
        if self._on_connect is not None:
            try:
                await self._on_connect(connection)
            except RedisReplyError as error:
                raise BrokerUnavailableError(f"{connection.label}: {error}") from error

    def _note_connected(self, connection: Connection) -> None:
        self._failure = None
        self._connection = connection
        self._tell()
        if self._outage_log is not None:
            self._outage_log.found(self, self.label)
        log.debug("%r connection: open to %s", self._name, connection.label)

    def _note_loss(self, error: Exception) -> None:
        self._failure = error
        text = self.last_error or ""
        if self._outage_log is None or self._opening_by is not None:
            # Of a link that is being opened the error of `opened_by` says it all.
            log.debug("%r connection: lost, trying again: %s", self._name, text)
        else:
            self._outage_log.lost(self, self.label, error, text)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _forget(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None

    @property
    def over(self) -> bool:
        """Whether `run` has ended: there will be no connection any more."""
        return self._over

    def renew(self) -> None:
        """Drop the connection and make a new one at once. Requests under way are lost."""
        if self._connection is not None:
            self._drop(self._connection, None)

    def _drop(self, connection: Connection, why: BrokerError | None) -> None:
        if connection is self._connection:  # else that was another one's story
            self._why_dropped = why
            self._forget(connection)
            self._serving.cancel()

    # -- asking ----------------------------------------------------------------------------------

    async def call(
        self, call: Call[T], *, deadline: float | None = None, repeat: bool = False
    ) -> T:
        """Run a script and return its answer.

        Args:
            call: which script, with what, and how to read the answer.
            deadline: instant of the event loop's clock; default: `timeout` from now.
            repeat: the call is idempotent: send it again if its outcome is unknown.

        Raises:
            BrokerUnavailableError: there was no connection, or no answer, in time.
            QueueFullError: the server's memory is full.
            BrokerError: the server refuses this call.
        """
        # Nearly all requests come this way, so it is `_while_connected` without its layers.
        now = loop_time()
        if deadline is None:
            deadline = now + self.timeout
        while True:
            connection = self._connection
            if connection is None or connection.closed.is_set():
                connection = await self._connected(deadline)
                now = loop_time()
            timeout = self._time_left(deadline, now)
            try:
                reply = await connection.answer(
                    command_of(call, in_full=False), timeout=timeout, line=call.line
                )
                if isinstance(reply, RedisReplyError) and reply.code == "NOSCRIPT":
                    reply = await connection.answer(
                        command_of(call, in_full=True), timeout=timeout, line=call.line
                    )
                answer = self._sorted_out(connection, reply)
            except BrokerUnavailableError:
                now = loop_time()
                if not repeat or now >= deadline:
                    raise
            else:
                if isinstance(answer, BrokerError):
                    raise answer
                return call.parse(answer)

    def _time_left(self, deadline: float, now: float) -> float:
        return max(deadline - now, min(self.timeout, _LEAST_TIME))

    async def calls(
        self, calls: Sequence[Call[T]], *, deadline: float | None = None, repeat: bool = False
    ) -> list[T | BrokerError]:
        """Run scripts in this order, in one round trip; each one's answer or its error.

        Arguments are those of `call`.

        Raises:
            BrokerUnavailableError: there was no connection, or not all answers came in time.
        """

        async def ask(connection: Connection, timeout: float) -> list[T | BrokerError]:
            answers = await evaluate(connection, calls, timeout=timeout)
            return [self._sorted_out(connection, answer) for answer in answers]

        return await self._while_connected(ask, deadline, repeat)

    async def request(
        self,
        *commands: Command,
        deadline: float | None = None,
        blocks: float = 0.0,
        repeat: bool = False,
    ) -> list[Reply]:
        """Send plain commands in one round trip; their replies.

        Arguments and errors are those of `call`, and `blocks`: how many seconds beyond the
        deadline the commands themselves may wait on the server.
        """

        async def ask(connection: Connection, timeout: float) -> list[Reply]:
            replies = await connection.pipeline(commands, timeout=timeout + blocks)
            for reply in replies:
                error = self._sorted_out(connection, reply)
                if isinstance(error, BrokerError):
                    raise error
            return replies

        return await self._while_connected(ask, deadline, repeat)

    async def request_and_call(
        self, command: Command, call: Call[T], *, blocks: float
    ) -> tuple[Reply | BrokerError, T | BrokerError]:
        """Send, in one write, a command and a script to be run in the moment of its answer.

        Args:
            command: one that waits on the server.
            call: the script.
            blocks: how many seconds the command waits at most.

        Returns:
            What each of them came to.

        Raises:
            BrokerUnavailableError: as `call`; the script may have run, or may run yet.
        """

        async def ask(
            connection: Connection, timeout: float
        ) -> tuple[Reply | BrokerError, T | BrokerError]:
            commands = (command, command_of(call, in_full=False))
            first, second = await connection.pipeline(commands, timeout=timeout + blocks)
            reply = self._sorted_out(connection, first)
            answer = self._sorted_out(connection, second)
            return reply, answer if isinstance(answer, BrokerError) else call.parse(answer)

        return await self._while_connected(ask, None, repeat=False)

    async def opened_by(self, deadline: float) -> None:
        """Wait for the first connection; what trying again cannot mend is said at once.

        Raises:
            ConfigurationError: the server refuses us, or the address cannot be used.
            BrokerUnavailableError: there was no connection in time.
        """
        self._opening_by = deadline
        try:
            try:
                await self._connected(deadline)
            except BrokerUnavailableError:
                if self._failure is not None or self._over:
                    raise
                # The first try ends just now; it knows why.
                await self._connected(deadline + _LEAST_TIME)
        finally:
            self._opening_by = None

    async def connected_by(self, deadline: float) -> None:
        """Wait until there is a connection.

        Raises:
            BrokerUnavailableError: there was none in time.
        """
        await self._connected(deadline)

    async def _while_connected(
        self,
        ask: Callable[[Connection, float], Awaitable[T]],
        deadline: float | None,
        repeat: bool,
    ) -> T:
        if deadline is None:
            deadline = loop_time() + self.timeout
        while True:
            connection = await self._connected(deadline)
            try:
                answer = await ask(connection, self._time_left(deadline, loop_time()))
            except BrokerUnavailableError:
                if not repeat or loop_time() >= deadline:
                    raise
            else:
                self._answered = True
                return answer

    async def _connected(self, deadline: float) -> Connection:
        while not self._over:
            connection = self._connection
            if connection is not None:
                if not connection.closed.is_set():
                    return connection
                self._forget(connection)  # as `_serve_one` is about to do
            if self._opening_by is not None and isinstance(self._failure, ConfigurationError):
                raise self._failure
            with anyio.CancelScope(deadline=deadline) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                why = self.last_error or f"{self.label}: no answer to the first try"
                # Whoever opens it may be shown the error by Python: the causes, which the text
                # tells, would be some fifty lines of our own code above it.
                cause = self._failure if self._opening_by is None else None
                raise BrokerUnavailableError(f"no connection in time: {why}") from cause
        raise BrokerUnavailableError(f"{self.label}: the broker was closed")

    def _sorted_out(self, connection: Connection, answer: T | RedisReplyError) -> T | BrokerError:
        """Tell answers, refusals and outages apart; an outage is raised and ends the connection."""
        self._answered = True
        if not isinstance(answer, RedisReplyError):
            return answer
        if answer.code in self._outages:
            self._answered = False
            outage = BrokerUnavailableError(f"{connection.label}: {answer}")
            outage.__cause__ = answer
            self._drop(connection, outage)
            raise outage
        if answer.code == "OOM":
            full = QueueFullError(f"{connection.label}: the server's memory is full")
            full.__cause__ = answer
            return full
        return answer
