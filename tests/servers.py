"""Real servers for the tests: started, killed, frozen and started again by plain functions.

The variable `TRIO_TASKS_TEST_SERVER` chooses which one the whole test-suite runs on: `valkey` (the
embedded binary, the default) or `redis` (`redis-server` from PATH).
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ParamSpec, Self

import anyio

from trio_tasks.embedded import find_server_binary

__all__ = ["ServerProcess", "server_binary", "start_server", "timed"]

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


def server_binary() -> Path:
    """The server that the tests run on."""
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

    def __init__(self, directory: Path, settings: Sequence[str], tcp_port: int) -> None:
        self._directory = directory
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

    def start(self) -> Self:
        """Start it, with the data that it left if it has an append-only file."""
        assert self._process is None, "the server runs"
        with self._log() as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "sh", str(server_binary()), *self._arguments()],
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

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


@contextmanager
def start_server(*settings: str, tcp: bool = False) -> Generator[ServerProcess]:
    """Run a server while the block runs.

    Args:
        settings: of the server's command line: `"--appendonly", "yes"`.
        tcp: listen on a free TCP port of this machine, too.
    """
    directory = Path(tempfile.mkdtemp(prefix="tt-"))
    server = ServerProcess(directory, settings, _free_port() if tcp else 0)
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def timed(
    seconds: float,
) -> Callable[[Callable[_P, Awaitable[None]]], Callable[_P, Awaitable[None]]]:
    """Give an asynchronous test a time-out: whatever hangs fails."""

    def decorate(test: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
        @functools.wraps(test)
        async def limited(*args: _P.args, **kwargs: _P.kwargs) -> None:
            with anyio.fail_after(seconds):
                await test(*args, **kwargs)

        return limited

    return decorate


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
