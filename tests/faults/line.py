"""A TCP line between a worker and its server that does what bad lines do.

Whatever is done to it concerns all connections that go through it, at once.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import trio

__all__ = ["Line"]

_CHUNK = 65_536
_HARD = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, not FIN


class Line:
    """The line; see `laid_to`.

    Attributes:
        url: what to give to a worker.
        connects: how many connections were made so far.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self._open: set[trio.SocketStream] = set()
        self._passed_on = 0
        self._cut_after: float = math.inf
        self._byte_pause_s = 0.0
        self._flows = trio.Event()
        self._flows.set()
        self.url = ""
        self.connects = 0

    @classmethod
    @asynccontextmanager
    async def laid_to(cls, socket_path: str) -> AsyncGenerator[Line]:
        """A line to the server at this unix socket, on a port of its own, while the block runs."""
        line = cls(socket_path)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        line.url = f"redis://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, line._carry, [listener])
            yield line
            nursery.cancel_scope.cancel()

    # -- what may be done to it ------------------------------------------------------------------

    def reset(self) -> None:
        """All connections end with RST, whatever is under way; new ones can be made."""
        for client in tuple(self._open):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD)
            client.socket.close()

    def cut_reply_after(self, size: int) -> None:
        """Pass on so many bytes of replies more, then reset: in the middle of one, most likely."""
        self._cut_after = self._passed_on + size

    def drip(self, byte_pause_s: float) -> None:
        """From now on replies come byte by byte, with this pause between two; 0: as ever."""
        self._byte_pause_s = byte_pause_s

    def hold(self) -> None:
        """From now on nothing passes, in either direction, and nobody is told."""
        self._flows = trio.Event()

    def release(self) -> None:
        """Let pass what was held back, and all that comes."""
        self._flows.set()

    # -- carrying --------------------------------------------------------------------------------

    async def _carry(self, client: trio.SocketStream) -> None:
        self.connects += 1
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            server = await trio.open_unix_socket(self._to)
            self._open.add(client)
            try:
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_there, client, server, nursery.cancel_scope)
                    await self._pass_back(server, client)
                    nursery.cancel_scope.cancel()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._open.discard(client)

    async def _pass_there(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        while data := await client.receive_some(_CHUNK):
            await self._flows.wait()
            await server.send_all(data)
        scope.cancel()

    async def _pass_back(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        while data := await server.receive_some(_CHUNK):
            await self._flows.wait()
            if self._passed_on + len(data) > self._cut_after:
                await client.send_all(data[: max(0, int(self._cut_after) - self._passed_on)])
                self._cut_after = math.inf
                self.reset()
                return
            self._passed_on += len(data)
            step = 1 if self._byte_pause_s else len(data)
            for start in range(0, len(data), step):
                await client.send_all(data[start : start + step])
                if self._byte_pause_s:
                    await trio.sleep(self._byte_pause_s)
