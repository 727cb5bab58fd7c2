"""Bytes to and from a Redis server: the seam under `wire.py`, with two implementations.

Plain sockets (TCP, unix) are used raw: a send that fits into the kernel's buffer happens at once,
in the caller's own task, and reading waits for readiness and then takes what is there. Measured
on Trio against an AnyIO stream object, that halves the CPU of a lone round trip. TLS needs its
own buffers between the socket and us, so it goes through AnyIO's stream.

Neither implementation has a policy: errors leave as `OSError` or as AnyIO's stream errors
(`TRANSPORT_ERRORS` names them all) and `wire.py` decides what they mean.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import ClassVar, Protocol

import anyio
import anyio.abc
import trio
from anyio.abc import SocketAttribute

from trio_tasks.environment import loop_time
from trio_tasks.errors import ConfigurationError
from trio_tasks.homes import let_go_in_children
from trio_tasks.native import native
from trio_tasks.redis_streams.address import Address, TlsOptions

__all__ = ["TRANSPORT_ERRORS", "Transport", "connect_transport", "tls_context"]

TRANSPORT_ERRORS = (
    OSError,  # and with it ssl.SSLError, socket.gaierror and TimeoutError
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    trio.ClosedResourceError,  # from Trio's own functions; see native.py
    anyio.BusyResourceError,
    anyio.EndOfStream,
)

_RECEIVE_BYTES = 65_536


class Transport(Protocol):
    """A connected byte stream with one writer, and one reader at a time.

    Attributes:
        has_any_reader: whether it may be read by one task after the other, and one that is
            cancelled does no harm.
    """

    has_any_reader: ClassVar[bool]

    def send_now(self, data: bytes | memoryview, /) -> int:
        """Send without waiting; returns how many bytes are gone, 0 if none could leave at once."""
        ...

    async def send(self, data: bytes) -> None:
        """Send all of `data`. When cancelled, an unknown part of it has been sent."""
        ...

    async def receive(self) -> bytes:
        """The next bytes, at least one; `b""` when the server has closed the connection."""
        ...

    def wake_reader(self) -> None:
        """Let whoever receives get an error."""
        ...

    async def aclose(self) -> None:
        """Close at once, without a farewell to the server."""
        ...


class SocketTransport:
    """A raw, non-blocking TCP or unix socket."""

    __slots__ = ("__weakref__", "_notify_closing", "_socket", "_wait_readable")

    has_any_reader: ClassVar[bool] = True

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._wait_readable = native().wait_readable
        self._notify_closing = native().notify_closing
        let_go_in_children(self)

    def let_go(self) -> None:
        """See `homes.Holder`."""
        _disconnect(self._socket.fileno())

    def send_now(self, data: bytes | memoryview, /) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest := rest[self.send_now(rest) :]:
            await anyio.wait_writable(self._socket)

    async def receive(self) -> bytes:
        while True:
            await self._wait_readable(self._socket)
            try:
                return self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue  # readiness is a hint that may be wrong

    def wake_reader(self) -> None:
        self._notify_closing(self._socket)

    async def aclose(self) -> None:
        self._socket.close()


class TlsTransport:
    """TLS over TCP."""

    __slots__ = ("__weakref__", "_stream")

    has_any_reader: ClassVar[bool] = False  # reading may write, and must not be cut short

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        let_go_in_children(self)

    def let_go(self) -> None:
        """See `homes.Holder`."""
        connected = self._stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - not Django's
        _disconnect(-1 if connected is None else connected.fileno())

    def send_now(self, _data: bytes | memoryview, /) -> int:
        return 0  # encryption and its buffers are the stream's own

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def receive(self) -> bytes:
        try:
            return await self._stream.receive(_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""

    def wake_reader(self) -> None:
        """The only one is cancelled by those who close."""

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)


def _disconnect(descriptor: int) -> None:
    """Put nothing in the place of a forked child's connection.

    Closed, its number could become that of another file, while the child's tasks still know it.
    """
    if descriptor >= 0:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)


async def connect_transport(address: Address) -> Transport:
    """Connect to `address`, within its `connect_timeout`.

    Raises:
        OSError: it cannot be reached (`TimeoutError`: not in time) or its certificate is refused.
        ConfigurationError: the files or texts of the TLS settings cannot be used.
    """
    with anyio.fail_after(address.connect_timeout):
        if address.path is not None:
            return SocketTransport(await _connect_socket(socket.AF_UNIX, address.path))
        if address.tls is not None:
            return TlsTransport(await _connect_tls(address, address.tls))
        return SocketTransport(await _connect_tcp(address))


async def _connect_tls(address: Address, options: TlsOptions) -> anyio.abc.ByteStream:
    try:
        return await anyio.connect_tcp(
            address.host,
            address.port,
            ssl_context=tls_context(options),
            tls_hostname=address.host,
            tls_standard_compatible=False,  # Redis closes without TLS's farewell
        )
    except OSError as error:
        # AnyIO says "all attempts failed"; the attempts themselves, one to an address, say why.
        reasons = getattr(error.__cause__, "exceptions", (error.__cause__,))
        raise next((each for each in reasons if isinstance(each, OSError)), error) from None


async def _connect_tcp(address: Address) -> socket.socket:
    """Try the host's addresses in the resolver's order, each with a fair share of the time.

    (AnyIO's own `connect_tcp` races them, but does not give the socket away on asyncio.)
    """
    candidates = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    ends_at = loop_time() + address.connect_timeout
    failure = OSError(f"{address.host!r} has no address")
    for index, (family, _, _, _, target) in enumerate(candidates):
        share = max(0.0, ends_at - loop_time()) / (len(candidates) - index)
        try:
            with anyio.fail_after(share):
                connected = await _connect_socket(family, target)
        except OSError as error:
            failure = error
            continue
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected
    raise failure


async def _connect_socket(family: int, target: str | tuple[str, int]) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        try:
            connecting.connect(target)
        except BlockingIOError:
            if family == socket.AF_UNIX:
                raise  # a unix socket connects at once or, with a full backlog, not at all
            await anyio.wait_writable(connecting)
            if code := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
    except BaseException:  # cancelled included: nobody else knows this socket
        connecting.close()
        raise
    return connecting


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """How TLS is spoken, by these options.

    Raises:
        ConfigurationError: their files or texts cannot be used.
    """
    try:
        context = ssl.create_default_context(
            cafile=options.ca_file, capath=options.ca_path, cadata=options.ca_data
        )
        if options.cert_file is not None:
            context.load_cert_chain(
                options.cert_file, options.key_file, lambda: options.key_password or ""
            )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{options} cannot be used: {error}") from error
    context.check_hostname = options.check_hostname and options.verify
    if not options.verify:
        context.verify_mode = ssl.CERT_NONE
    return context
