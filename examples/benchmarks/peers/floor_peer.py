"""The floor: what Trio, hiredis and a stream cost when there is no job engine.

The payload lies in the stream entry; one loop acknowledges what has run and reads what is next in
one round trip. No state, no result, no fence, no retry, no lease: a job in a worker that dies is
lost until somebody claims it. Two ways to run a handler, by the second argument: `tasks` starts a
Trio task for each job; `slots` keeps as many tasks as handlers run at once, and each awaits one
handler after another.
"""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast
from urllib.parse import urlsplit

import harness
import hiredis
import msgspec
import trio

STREAM, GROUP = b"jobs", b"g"
Command = tuple[bytes | str | int, ...]
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

asked = harness.assignment()
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, int]).decode


class Connection:
    """One request at a time; a request is any number of commands."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader(notEnoughData=...)

    async def ask(self, commands: Sequence[Command]) -> list[object]:
        await self._stream.send_all(b"".join(map(pack, commands)))
        replies: list[object] = []
        while len(replies) < len(commands):
            self._reader.feed(await self._stream.receive_some(65536))
            while (reply := self._reader.gets()) is not ...:
                replies.append(reply)
        return replies


async def connect() -> Connection:
    address = urlsplit(asked.url)
    stream = await trio.open_tcp_stream(str(address.hostname), address.port or 6379)
    return Connection(stream)


class Worker:
    """Reads, runs and acknowledges."""

    def __init__(self) -> None:
        self._tally = harness.Tally(asked)
        self._ready: deque[tuple[bytes, bytes]] = deque()
        self._done: list[bytes] = []
        self._running = 0
        self._ended = trio.Event()
        self._idle = trio.lowlevel.ParkingLot()
        self._waking = False

    async def handle(self, payload: bytes) -> None:
        data = decode(payload)
        if asked.nap:
            await trio.sleep(asked.nap)
        self._tally.ran(data["number"], data["at"])

    async def run(self, *, slots: bool) -> None:
        connection = await connect()
        await connection.ask([("XGROUP", "CREATE", STREAM, GROUP, 0, "MKSTREAM")])
        async with trio.open_nursery() as nursery:
            for _ in range(asked.concurrency if slots else 0):
                nursery.start_soon(self._slot)
            while True:
                jobs = await self._next(connection)
                self._running += len(jobs)
                if slots:
                    self._ready.extend(jobs)
                    self._wake()
                else:
                    for job in jobs:
                        nursery.start_soon(self._task, *job)

    async def _next(self, connection: Connection) -> list[tuple[bytes, bytes]]:
        """Acknowledge and read; wait at the server only if nothing runs here."""
        while True:
            if self._running == asked.concurrency:
                await self._ended.wait()
            self._ended = trio.Event()
            request: list[Command] = []
            if self._done:
                request.append(("XACK", STREAM, GROUP, *self._done))
                self._done.clear()
            wait = () if self._running else ("BLOCK", 0)
            free = asked.concurrency - self._running
            read = ("XREADGROUP", "GROUP", GROUP, "w", "COUNT", free, *wait, "STREAMS", STREAM, ">")
            reply = (await connection.ask([*request, read]))[-1]
            if reply:
                ((_, entries),) = cast("list[tuple[bytes, list[tuple[bytes, list[bytes]]]]]", reply)
                return [(entry, fields[1]) for entry, fields in entries]
            if self._running:
                await self._ended.wait()

    async def _task(self, entry: bytes, payload: bytes) -> None:
        await self.handle(payload)
        self._end(entry)

    async def _slot(self) -> None:
        while True:
            await self._idle.park()
            self._waking = False
            while self._ready:
                entry, payload = self._ready.popleft()
                self._wake()  # in case this handler suspends
                await self.handle(payload)
                self._end(entry)

    def _wake(self) -> None:
        """One more slot, while jobs wait; a woken one that has not run yet will do."""
        if self._ready and not self._waking and self._idle:
            self._waking = True
            self._idle.unpark()

    def _end(self, entry: bytes) -> None:
        self._done.append(entry)
        self._running -= 1
        self._ended.set()


async def emit() -> None:
    connection = await connect()

    def command(number: int, at: int) -> Command:
        return ("XADD", STREAM, "*", "d", encode({"number": number, "at": at}))

    async def one(number: int, at: int) -> None:
        await connection.ask([command(number, at)])

    async def many(numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), harness.CHUNK):
            part = numbers[start : start + harness.CHUNK]
            await connection.ask([command(number, 0) for number in part])

    await harness.emit(asked, harness.trio_loop(), one, many)


async def work() -> None:
    await Worker().run(slots=sys.argv[2] == "slots")


trio.run(work if asked.role == "work" else emit)
