"""Connecting, cancelled at every step of it: no socket is left behind."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from anyio.from_thread import start_blocking_portal

from tests.cancellation.canceller import Canceller, Moment
from tests.redis_streams.certificates import Authority
from tests.redis_streams.test_wire import tls_proxy
from tests.servers import ServerProcess, start_server
from trio_tasks.redis_streams.address import Address, parse_address
from trio_tasks.redis_streams.wire import open_connection


@pytest.fixture(scope="module")
def server() -> Generator[ServerProcess]:
    with start_server(tcp=True) as server:
        yield server


@contextmanager
def way_to(server: ServerProcess, how: str, directory: Path) -> Generator[Address]:
    """A unix socket, a name that has to be looked up, or TLS on a loop of its own."""
    with ExitStack() as stack:
        match how:
            case "unix":
                yield parse_address(f"{server.url}?db=1")
            case "tcp":
                yield parse_address(f"redis://localhost:{server.tcp_port}/1")
            case _:
                portal = stack.enter_context(start_blocking_portal())
                proxy = tls_proxy(server, Authority(directory))
                yield stack.enter_context(portal.wrap_async_context_manager(proxy))


def sockets_to(address: Address) -> set[int]:
    """The sockets of this process that lead there, connected or not: their inodes."""
    found: set[int] = set()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # it was that of the listing
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
            if address.path is not None:
                ours = each.family == socket.AF_UNIX
            else:  # of TLS the other end is in this process, too
                ours = each.family != socket.AF_UNIX and each.getsockname()[1] != address.port
            if ours:
                found.add(os.fstat(each.fileno()).st_ino)
    return found


async def cancelled_connect(address: Address, canceller: Canceller) -> None:
    before = sockets_to(address)
    with trio.fail_after(10):
        with canceller.cancelling():
            async with open_connection(address, name="cancelled"):
                pass
    assert sockets_to(address) == before


@pytest.mark.parametrize("how", ["unix", "tcp", "tls"])
@pytest.mark.parametrize("moment", Moment)
def test_a_cancel_at_any_step_of_connecting_leaves_no_socket(
    server: ServerProcess, how: str, moment: Moment, tmp_path: Path
) -> None:
    steps = 0
    with way_to(server, how, tmp_path) as address:
        while True:
            canceller = Canceller(steps, moment)
            trio.run(cancelled_connect, address, canceller, instruments=[canceller])
            if not canceller.fired:
                break
            steps += 1
    assert steps > 5
