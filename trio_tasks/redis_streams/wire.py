"""One connection to a Redis server, shared by many tasks. No policy: nothing is ever sent again.

Theory of operation
-------------------
Redis answers in the order in which it was asked. So the state of a connection is one queue,
`_unanswered`: each call of `request` or `pipeline` is an *exchange* that waits there until its
replies have come. Whoever *reads* feeds what arrives to hiredis and hands each reply to the oldest
exchange. A caller who finds nobody reading does so itself until it has its answer: that saves a
lone request the switch to another task and back, a fifth of its time on Trio (measured). Where
several wait at once it saves nothing, and costs them some overlap with the server. Tasks that wake
together have no order on Trio, and one that reads for itself overtakes one that was told just
before: those who asked in a *line* go on in the order in which they asked. (Not everybody: where
handlers keep the loop busy for 10 ms, the last of a thousand would wait for ten seconds.)

Three tasks, children of the block that opened the connection, serve it:

* the **reader** reads while no caller does: for those who are left when one has its answer, or is
  cancelled, and then until a lone request is answered; and where nobody has asked for `_IDLE`
  seconds, to learn of a loss before the next one asks;
* the **writer** sends what the callers left in `_outbox`, as one write. A caller who finds nobody
  waiting sends for itself instead, which makes a lone request cheap; the callers that follow
  while it waits are gathered, which makes fifty of them cheap. A caller never *awaits* a send,
  so cancelling one cannot leave half a command on the way;
* the **keeper** of deadlines sleeps until the earliest one. Arming it costs nothing while
  requests are answered: it looks at the queue when it wakes, not at every request.

A cancelled exchange keeps its place in the queue, its replies are thrown away, and the connection
stays healthy. Everything else that goes wrong (end of the stream, an error of the socket, bytes
that are no protocol, a reply nobody asked for, a deadline) makes it impossible to say which reply
belongs to whom: then the connection is *closed*, once and for ever. Every waiting and later call
raises `BrokerUnavailableError`, `closed` is set, and the block goes on: it is told, not torn down.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from math import inf
from typing import Final

import anyio
import anyio.lowlevel
import hiredis

from trio_tasks.control_c import always_protected, protected
from trio_tasks.environment import loop_clock, loop_time
from trio_tasks.errors import BrokerUnavailableError
from trio_tasks.native import Event, native
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.login import log_in, perhaps_tls
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply, pack
from trio_tasks.redis_streams.transport import TRANSPORT_ERRORS, Transport, connect_transport

__all__ = ["Command", "Connection", "RedisReplyError", "Reply", "open_connection"]

_INCOMPLETE: Final = object()  # not None or False: those are replies

_IDLE: Final = 0.05  # seconds: a reader that steps back sooner costs more than it saves

_PASSES: Final = 8
"""Passes of the loop in which whoever reads next wakes, waits for the socket and reads what lies
there (on asyncio three are too few where callers read for each other)."""

_LATE: Final = 0.05  # seconds between a call and its sending that are worth being allowed for


class _Exchange:
    """One call: the replies that have come of those that it waits for."""

    __slots__ = ("deadline", "done", "expected", "replies")

    def __init__(self, expected: int, deadline: float) -> None:
        self.expected = expected
        self.deadline = deadline
        self.replies: list[Reply] = []
        self.done: Event | None = None  # for the one who waits, if it does not read itself


class Connection:
    """An open connection, made by `open_connection`. Any number of tasks may use it at once.

    Commands are sent in the order of the calls. Cancelling a call gives up its reply, not the
    command: that may still be carried out, unless the scope was cancelled before the call.

    Attributes:
        closed: set when the connection is of no more use.
        label: the server's address without credentials.
    """

    def __init__(self, transport: Transport, address: Address, max_in_flight: int) -> None:
        self.closed = anyio.Event()
        self.label = address.label
        self._transport = transport
        self._timeout = address.request_timeout
        self._native = native()
        self._clock = loop_clock()
        self._reader = hiredis.Reader(
            replyError=RedisReplyError, notEnoughData=_INCOMPLETE, errors="replace"
        )
        self._is_read = not transport.has_any_reader  # by somebody, so that others need not
        self._is_shared = False  # several have waited at once since nobody did
        self._reader_needed = anyio.Event()
        self._is_timed = True  # the reader looks by itself whether it is needed
        self._room = anyio.Semaphore(max_in_flight, fast_acquire=True)
        self._unanswered: deque[_Exchange] = deque()
        self._lines: defaultdict[str, deque[_Exchange]] = defaultdict(deque)
        self._outbox: list[bytes | memoryview] = []
        self._outbox_since = 0.0  # on the loop's clock
        self._unsent = 0  # the last of those that are unanswered
        self._outbox_filled = anyio.Event()
        self._alarm = anyio.CancelScope()
        self._alarm_at = inf
        self._reason: str | None = None
        self._cause: Exception | None = None

    def __repr__(self) -> str:
        state = f"closed: {self._reason}" if self._reason else f"{len(self._unanswered)} in flight"
        return f"<Connection to {self.label}, {state}>"

    async def request(self, command: Command, *, timeout: float | None = None) -> Reply:
        """Send one command and return its reply.

        Args:
            command: its words.
            timeout: seconds until the reply must have come, counted from the sending; default:
                the address's. Past it the whole connection is closed.

        Raises:
            RedisReplyError: the reply is an error.
            BrokerUnavailableError: the connection is or was closed before the reply had come,
                or had no room for another request within the time.
        """
        reply = await self.answer(command, timeout=timeout)
        if isinstance(reply, RedisReplyError):
            raise reply
        return reply

    async def answer(
        self, command: Command, *, timeout: float | None = None, line: str | None = None
    ) -> Reply:
        """As `request`, but an error that the server answers is returned.

        In a line: this task goes on before those do who asked in the same line later.
        """
        return (await self._exchange(pack(command), 1, timeout, line))[0]

    async def pipeline(
        self, commands: Iterable[Command], *, timeout: float | None = None, line: str | None = None
    ) -> list[Reply]:
        """Send several commands in one write and return their replies, in order.

        Nobody else's command comes between them, but they are not a transaction: an error does
        not stop the following ones and is returned in its place, as a `RedisReplyError`. All
        together count as one in flight. Arguments and other errors are those of `request`; for the
        line see `answer`.
        """
        packed = [pack(command) for command in commands]
        return await self._exchange(b"".join(packed), len(packed), timeout, line) if packed else []

    def unavailable(self) -> BrokerUnavailableError:
        """The error that says why this connection is closed; its cause is chained."""
        error = BrokerUnavailableError(f"{self.label}: {self._reason or 'the connection is open'}")
        error.__cause__ = self._cause
        return error

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[None]:
        """Serve the connection while the block runs."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            for task in (self._read, self._write, self._keep_deadlines):
                tasks.start_soon(protected(task))
            try:
                yield
            except Exception as error:  # kept from the task group, which would wrap it
                failure = error
            finally:
                self._close("the connection was closed by this side")
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @always_protected
    async def _exchange(
        self, data: bytes, expected: int, timeout: float | None, line: str | None
    ) -> list[Reply]:
        await self._native.checkpoint_if_cancelled()
        timeout = self._timeout if timeout is None else timeout
        if self._reason is not None:
            raise self.unavailable()
        try:
            self._room.acquire_nowait()  # the reader gives it back
        except anyio.WouldBlock:
            await self._wait_for_room(timeout)
        exchange = _Exchange(expected, self._clock() + timeout)
        if self._unanswered:
            self._is_shared = True
        self._unanswered.append(exchange)
        self._send(data)
        if exchange.deadline < self._alarm_at:
            self._alarm_at = self._alarm.deadline = exchange.deadline
        queued = None if line is None else self._lines[line]
        if queued is not None:
            queued.append(exchange)
        try:
            if self._reason is None:
                if self._is_read:
                    exchange.done = self._native.new_event()
                    await exchange.done.wait()
                else:
                    await self._read_until(exchange)
            # Whoever is told before may not be awake yet, but will be in this pass of the loop.
            while queued is not None and queued[0] is not exchange:  # noqa: ASYNC110
                await anyio.lowlevel.checkpoint()
        finally:
            if queued is not None:
                queued.remove(exchange)
        if len(exchange.replies) < expected:
            raise self.unavailable()
        return exchange.replies

    async def _wait_for_room(self, timeout: float) -> None:
        with anyio.move_on_after(timeout) as scope:
            await self._room.acquire()
        if self._reason is not None:
            raise self.unavailable()
        if scope.cancelled_caught:
            raise BrokerUnavailableError(
                f"{self.label}: too many requests in flight for {timeout:g} s"
            )

    def _send(self, data: bytes | memoryview) -> None:
        # With nothing else unanswered, nothing else is unsent either: see _write.
        if len(self._unanswered) == 1:
            try:
                sent = self._transport.send_now(data)
            except OSError as error:
                self._close("the connection broke", error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        if not self._outbox:
            self._outbox_since = self._clock()
        self._outbox.append(data)
        self._unsent += 1
        self._outbox_filled.set()

    async def _write(self) -> None:
        """Send what callers left. Their exchanges stay unanswered until all of it is sent."""
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled = anyio.Event()
            data = b"".join(self._outbox)
            self._outbox.clear()
            self._allow_for_delay()
            try:
                await self._transport.send(data)
            except TRANSPORT_ERRORS as error:
                return self._close("the connection broke", error)

    def _allow_for_delay(self) -> None:
        """Count the time of what is sent now from now on, if this loop has been held up."""
        late = self._clock() - self._outbox_since
        if late > _LATE:
            for exchange in islice(reversed(self._unanswered), self._unsent):
                exchange.deadline += late
        self._unsent = 0

    async def _read_until(self, mine: _Exchange) -> None:
        """Read in the place of the reader, which does so for those that are left."""
        self._is_read = True
        try:
            while len(mine.replies) < mine.expected and self._reason is None:
                await self._read_on()
        finally:
            self._is_read = False
            if self._unanswered or not self._is_timed:
                self._reader_needed.set()

    async def _read(self) -> None:
        while self._reason is None:
            if self._transport.has_any_reader:
                await self._step_back()
            self._is_read = True
            while self._reason is None:
                await self._read_on()
                if not self._unanswered:
                    if not self._is_shared:
                        break
                    self._is_shared = False
            self._is_read = False

    async def _step_back(self) -> None:
        """Let callers read, until some are left alone, or there are none."""
        is_timed = True
        while self._is_read or not self._unanswered:
            self._reader_needed, self._is_timed = anyio.Event(), is_timed
            with anyio.move_on_after(_IDLE if is_timed else None) as scope:
                await self._reader_needed.wait()
            if scope.cancelled_caught and not self._is_read:
                return
            # Whoever reads when the time is over may do so for long, and says when he is done.
            is_timed = not scope.cancelled_caught

    async def _read_on(self) -> None:
        """Hand out what has come, else wait for more. Cancelled: nothing that came is lost."""
        try:
            if (reply := self._reader.gets()) is _INCOMPLETE:
                data = await self._transport.receive()
                if not data:
                    return self._close("the server closed the connection")
                self._reader.feed(data)
                reply = self._reader.gets()
            while reply is not _INCOMPLETE:
                if not isinstance(reply, hiredis.PushNotification):  # nobody asked, nobody waits
                    if not self._unanswered:
                        return self._close("the server sent a reply that nobody asked for")
                    exchange = self._unanswered[0]
                    exchange.replies.append(reply)
                    if len(exchange.replies) == exchange.expected:
                        self._unanswered.popleft()
                        self._room.release()
                        if exchange.done is not None:
                            exchange.done.set()
                reply = self._reader.gets()
        except TRANSPORT_ERRORS as error:
            return self._close("the connection broke", error)
        except hiredis.ProtocolError as error:
            return self._close("the server does not speak the Redis protocol", error)

    async def _keep_deadlines(self) -> None:
        while True:
            self._alarm_at = min((each.deadline for each in self._unanswered), default=inf)
            if self._alarm_at <= loop_time():
                return self._close("no reply within the time", TimeoutError())
            with anyio.CancelScope(deadline=self._alarm_at) as self._alarm:
                await anyio.sleep_forever()
            # This loop itself may have been held up: replies that lie in the socket come first.
            for _ in range(_PASSES):
                await anyio.lowlevel.checkpoint()

    def _close(self, reason: str, cause: Exception | None = None) -> None:
        """Close, unless that has happened: the first reason is the true one."""
        if self._reason is not None:
            return
        self._reason, self._cause = reason, cause
        self.closed.set()
        for exchange in self._unanswered:
            if exchange.done is not None:
                exchange.done.set()
        self._transport.wake_reader()
        for _ in range(self._room.statistics().tasks_waiting):
            self._room.release()


@asynccontextmanager
async def open_connection(
    address: Address, *, name: str | None = None, max_in_flight: int = 1024
) -> AsyncGenerator[Connection]:
    """Connect, log in, and serve the connection while the block runs.

    If the connection breaks, calls raise and `closed` is set; the block is not cancelled. What it
    raises leaves it as it is, not in a group. Leaving it closes the connection at once; the
    outcome of requests under way is unknown then.

    Args:
        address: the server.
        name: shown by `CLIENT LIST`; no spaces.
        max_in_flight: how many calls may wait for replies at once; further callers wait.

    Raises:
        BrokerUnavailableError: the server cannot be reached in time; the cause is chained.
            Or the server is a replica and must not be.
        RedisReplyError: it was reached, and has no time for us now.
        ConfigurationError: it was reached and refuses us (password, rights, database; see
            `refusal`), or the TLS settings cannot be used.
    """
    try:
        transport = await connect_transport(address)
    except TRANSPORT_ERRORS as error:
        hint = perhaps_tls(address, error, connected=False)
        raise BrokerUnavailableError(f"{address.label}: cannot connect{hint}") from error
    connection = Connection(transport, address, max_in_flight)
    try:
        async with connection.serve():
            await log_in(connection, address, name)
            yield connection
    finally:
        with anyio.move_on_after(1, shield=True):
            await transport.aclose()
