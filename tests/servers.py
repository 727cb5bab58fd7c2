"""Real servers for the tests: started, killed, frozen and started again by plain functions.

The variable `TRIO_TASKS_TEST_SERVER` chooses which one the whole test-suite runs on: `valkey` (the
embedded binary, the default) or `redis` (`redis-server` from PATH).
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ParamSpec, Self

import anyio
import hiredis
import sniffio
import trio
from anyio._backends import _asyncio

from trio_tasks.embedded import find_server_binary
from trio_tasks.redis_streams.replies import pack

__all__ = [
    "SentinelProcess",
    "ServerProcess",
    "follow",
    "free_port",
    "in_step",
    "server_binary",
    "start_cluster",
    "start_replica",
    "start_sentinel",
    "start_server",
    "succeed",
    "timed",
]

_P = ParamSpec("_P")

_START_LIMIT = 20.0  # seconds
_STOP_LIMIT = 10.0

# A server must not outlive a test run that was killed: the shell stops it when the pipe from us
# ends. `exec` gives the server the process id that we know.
_SHELL = """
exec 3<&0 </dev/null
(read -r _ <&3 || kill -KILL $$) >/dev/null 2>&1 &
exec "$@" 3<&-
"""


allowed = True
"""Whether the present test has the mark `server`."""


def server_binary() -> Path:
    """The server that the tests run on."""
    assert allowed, "this test runs on a server and has not the mark for that: see conftest.py"
    match chosen := os.environ.get("TRIO_TASKS_TEST_SERVER", "valkey"):
        case "valkey":
            return find_server_binary()
        case "redis":
            found = shutil.which("redis-server")
            assert found, "TRIO_TASKS_TEST_SERVER=redis, but redis-server is not on PATH"
            return Path(found)
        case _:
            raise AssertionError(f"TRIO_TASKS_TEST_SERVER={chosen!r}; allowed: valkey, redis")


class ServerProcess:
    """A server in a directory of its own; see `start_server`."""

    def __init__(
        self,
        directory: Path,
        settings: Sequence[str],
        tcp_port: int,
        *,
        binary: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._binary = binary
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.tcp_port = tcp_port
        self.socket_path = str(directory / "s")

    @property
    def url(self) -> str:
        """The address on the unix socket, database 0, without credentials."""
        return f"unix://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """The address on TCP, if the server was started with a port."""
        assert self.tcp_port
        return f"redis://127.0.0.1:{self.tcp_port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started, and not ended since."""
        return self._process is not None

    def start(self, *settings: str) -> Self:
        """Start it, with the data that it left if it has an append-only file.

        Args:
            settings: for this time, besides its own.
        """
        assert self._process is None, "the server runs"
        Path(self.socket_path).unlink(missing_ok=True)  # whoever it leads to is not us
        with self._log() as log:
            self._process = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _SHELL,
                    "sh",
                    str(self._binary or server_binary()),
                    *self._arguments(),
                    *settings,
                ],
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(self._environment or {})},
            )
        gives_up_at = time.monotonic() + _START_LIMIT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > gives_up_at:
                self.kill()
                raise AssertionError(f"no server: {(self._directory / 'log').read_text()[-2000:]}")
            time.sleep(0.002)
        return self

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no goodbye, no sync. Does nothing if it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same address."""
        self.kill()
        self.start()

    def hand_over(self, to: ServerProcess) -> None:
        """Lead our address on the unix socket to another server, until we start again."""
        new = Path(self.socket_path + ".new")
        new.symlink_to(to.socket_path)
        new.replace(self.socket_path)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, *words: str | int) -> str:
        """Run one command on a connection of its own; its reply as text, errors included."""
        reader = hiredis.Reader(encoding="utf-8", notEnoughData=Ellipsis)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_START_LIMIT)
            asking.connect(self.socket_path)
            asking.sendall(pack(words))
            while (reply := reader.gets()) is Ellipsis:
                data = asking.recv(65_536)
                assert data, "the server hung up"
                reader.feed(data)
        return str(reply)

    def _arguments(self) -> list[str]:
        arguments = ["--port", str(self.tcp_port), "--unixsocket", "s", "--unixsocketperm", "600"]
        arguments += ["--save", "", "--maxmemory-policy", "noeviction", "--bind", "127.0.0.1"]
        return [*arguments, "--enable-debug-command", "yes", *self._settings]

    def _log(self) -> IO[bytes]:
        return (self._directory / "log").open("ab")

    def _is_ready(self) -> bool:
        """Whether it answers, and has loaded its data."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.settimeout(_START_LIMIT)
            probe.connect(self.socket_path)
            probe.sendall(b"PING\r\n")
            return probe.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)
            os.kill(self._process.pid, how)
        self._process.wait(_STOP_LIMIT)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")  # it has ended: nothing to kill any more
            self._process.stdin.close()
        self._process = None


class SentinelProcess(ServerProcess):
    """A Sentinel; see `start_sentinel`."""

    def _arguments(self) -> list[str]:
        # It keeps what it learns in this file, so it is not one of settings only.
        (self._directory / "conf").write_text("\n".join(self._settings) + "\n")
        return ["conf", "--sentinel", "--port", str(self.tcp_port), "--unixsocket", "s"]


@contextmanager
def start_replica(primary: ServerProcess, *settings: str) -> Generator[ServerProcess]:
    """Run a replica of a server that listens on TCP, in step with it when the block begins."""
    primary.ask("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    follow = ("--replicaof", f"127.0.0.1 {primary.tcp_port}")
    with start_server(*follow, *settings, tcp=True) as replica:
        _wait(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
        yield replica


def follow(replica: ServerProcess, primary: ServerProcess) -> None:
    """Start a server that was a primary as a replica; return when it has all data, on disk too."""
    primary.ask("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    replica.start("--replicaof", f"127.0.0.1 {primary.tcp_port}")
    _wait(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
    # Until its append-only file was written anew, that has what it knew before.
    written = ("aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0")
    _wait(lambda: all(done in replica.ask("INFO", "persistence") for done in written))


def succeed(primary: ServerProcess, replica: ServerProcess) -> None:
    """Kill a primary and let its replica be one, that has all writes which were answered."""
    primary.ask("CLIENT", "PAUSE", 20_000, "WRITE")
    in_step(primary, replica)
    primary.kill()
    replica.ask("REPLICAOF", "NO", "ONE")


def in_step(primary: ServerProcess, replica: ServerProcess) -> None:
    """Return when the replica has all that was written: the rest would be lost in a failover."""
    _wait(lambda: _offset(primary) == _offset(replica))


def _offset(server: ServerProcess) -> str:
    told = server.ask("INFO", "replication")
    return told.partition("master_repl_offset:")[2].partition("\r")[0]


@contextmanager
def start_sentinel(
    primary_port: int,
    name: str,
    *settings: str,
    replicas: int = 1,
    down_after_ms: int = 400,
    binary: Path | None = None,
) -> Generator[SentinelProcess]:
    """Run a Sentinel that watches a server, and alone decides when a replica takes over.

    Args:
        primary_port: where the server listens.
        name: under which the Sentinel knows it.
        settings: more lines of its configuration.
        replicas: how many of them it must have found when the block begins.
        down_after_ms: the server is taken for dead after such a silence.
        binary: see `start_server`.
    """
    lines = [*settings, f"sentinel monitor {name} 127.0.0.1 {primary_port} 1"]
    lines += [f"sentinel down-after-milliseconds {name} {down_after_ms}"]
    directory = Path(tempfile.mkdtemp(prefix="tt-"))
    sentinel = SentinelProcess(directory, lines, free_port(), binary=binary)
    found = f"name={name},status=ok,address=127.0.0.1:{primary_port},slaves={replicas},"
    try:
        sentinel.start()
        _wait(lambda: found in sentinel.ask("INFO", "sentinel"))
        yield sentinel
    finally:
        sentinel.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def start_server(
    *settings: str,
    tcp: bool = False,
    binary: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[ServerProcess]:
    """Run a server while the block runs.

    Args:
        settings: of the server's command line: `"--appendonly", "yes"`.
        tcp: listen on a free TCP port of this machine, too.
        binary: another one than that on which the tests run.
        environment: variables for the server, besides those of this process.
    """
    directory = Path(tempfile.mkdtemp(prefix="tt-"))
    port = free_port() if tcp else 0
    server = ServerProcess(directory, settings, port, binary=binary, environment=environment)
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def start_cluster(
    primaries: int = 3, *, replica_of_first: bool = False
) -> Generator[list[ServerProcess]]:
    """Run a cluster whose primaries share the slots evenly, all reachable when the block begins.

    Args:
        primaries: how many; they come first.
        replica_of_first: the first has a replica, which comes last and may take over.
    """
    with ExitStack() as stack:
        nodes: list[ServerProcess] = []
        buses: list[int] = []
        for _ in range(primaries + replica_of_first):
            bus = free_port()
            settings = ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
            settings += ["--cluster-node-timeout", "800", "--repl-diskless-sync-delay", "0"]
            settings += ["--cluster-replica-validity-factor", "0"]
            nodes.append(stack.enter_context(start_server(*settings, tcp=True)))
            buses.append(bus)
        for index, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            if index:
                nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.tcp_port, buses[index])
        for index, node in enumerate(nodes[:primaries]):
            first, end = 16_384 * index // primaries, 16_384 * (index + 1) // primaries
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        _wait(lambda: all(_sees(node, len(nodes)) for node in nodes))
        if replica_of_first:
            nodes[-1].ask("CLUSTER", "REPLICATE", nodes[0].ask("CLUSTER", "MYID"))
            _wait(lambda: "master_link_status:up" in nodes[-1].ask("INFO", "replication"))
            _wait(lambda: all("slave" in node.ask("CLUSTER", "NODES") for node in nodes))
        yield nodes


def _sees(node: ServerProcess, count: int) -> bool:
    known = node.ask("CLUSTER", "NODES")
    is_ok = "cluster_state:ok" in node.ask("CLUSTER", "INFO")
    return is_ok and known.count(" connected") == count and "handshake" not in known


def _wait(holds: Callable[[], bool]) -> None:
    gives_up_at = time.monotonic() + _START_LIMIT
    while not holds():
        assert time.monotonic() < gives_up_at, "the servers do not come together"
        time.sleep(0.01)


def timed(
    seconds: float,
) -> Callable[[Callable[_P, Awaitable[None]]], Callable[_P, Awaitable[None]]]:
    """Give an asynchronous test a time-out: whatever hangs fails, even under a shield."""

    def decorate(test: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
        @functools.wraps(test)
        async def limited(*args: _P.args, **kwargs: _P.kwargs) -> None:
            with _shields_for(seconds + 5), anyio.fail_after(seconds):
                await test(*args, **kwargs)

        return limited

    return decorate


@contextmanager
def _shields_for(seconds: float) -> Generator[None]:
    """Take all shields from cancellation away if the block takes longer than that."""
    if sniffio.current_async_library() == "asyncio":
        timer = asyncio.get_running_loop().call_later(seconds, _take_shields_on_asyncio)
        try:
            yield
        finally:
            timer.cancel()
        return

    async def watch() -> None:
        with over:
            await trio.sleep(seconds)
            root = trio.lowlevel.current_root_task()
            assert root is not None
            _take_shields(root)

    over = trio.CancelScope()
    trio.lowlevel.spawn_system_task(watch)
    try:
        yield
    finally:
        over.cancel()


def _take_shields(task: trio.lowlevel.Task) -> None:
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            status = child._cancel_status
            while status is not None:
                status._scope.shield = False
                status = status._parent
            _take_shields(child)


def _take_shields_on_asyncio() -> None:
    states: Any = vars(_asyncio)["_task_states"]
    for task in asyncio.all_tasks():
        state = states.get(task)
        scope = state and state.cancel_scope
        while scope is not None:
            scope.shield = False
            scope = scope._parent_scope


def free_port() -> int:
    """A TCP port of this machine on which nobody listens, and which is nobody else's from now on.

    While a socket is bound to it, the system gives it to nobody who asks for any port, as parallel
    tests and all outgoing connections do. Whoever names it can listen on it all the same: Linux
    lets sockets share an address if all want to and none of the others listens.
    """
    with socket.socket() as claim:
        claim.bind(("127.0.0.1", 0))
        port: int = claim.getsockname()[1]
        if sys.platform == "linux":
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            claim.detach()  # bound until this process ends
        return port
