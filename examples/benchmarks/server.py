"""A fresh server for each measurement, on the loopback interface, and its counters."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import redis

from trio_tasks.embedded import find_server_binary

__all__ = ["Counters", "Server", "fresh_server"]

_START_LIMIT = 10.0  # seconds

# The server ends with this process, however that ends: the shell waits for its pipe to close.
_SHELL = """
exec 3<&0 </dev/null
(read -r _ <&3 || kill -KILL $$) >/dev/null 2>&1 &
exec "$@" 3<&-
"""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server has done since it started.

    Attributes:
        cpu: seconds of CPU time, of all its threads.
        commands: that were processed, those called by scripts included.
        reads: from clients' sockets: at least one a round trip, however many commands it carries.
    """

    cpu: float
    commands: int
    reads: int

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            self.cpu - earlier.cpu, self.commands - earlier.commands, self.reads - earlier.reads
        )


class Server:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self._client = redis.Redis(host="127.0.0.1", port=port)

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + _START_LIMIT
        while True:
            try:
                self._client.ping()  # pyright: ignore[reportUnknownMemberType]
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    def counters(self) -> Counters:
        """As they are now."""
        found = self._info()
        return Counters(
            cpu=float(found["used_cpu_user"]) + float(found["used_cpu_sys"]),
            commands=int(found["total_commands_processed"]),
            reads=int(found["total_reads_processed"]),
        )

    def memory(self) -> int:
        """Bytes that it has taken for what it keeps, and for itself."""
        return int(self._info()["used_memory"])

    def version(self) -> str:
        """Such as "Valkey 9.1.0"."""
        found = self._info()
        if "valkey_version" in found:
            return f"Valkey {found['valkey_version']}"
        return f"Redis {found['redis_version']}"

    def close(self) -> None:
        """Close the connection; the server runs on."""
        self._client.close()

    def _info(self) -> dict[str, str]:
        return cast("dict[str, str]", self._client.info())  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def fresh_server() -> Generator[Server]:
    """Run an empty server that keeps nothing, with one I/O thread, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="tt-bench-") as directory:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SHELL, "sh", str(find_server_binary()), *settings],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        server = Server(port)
        try:
            server.wait()
            yield server
        finally:
            server.close()
            process.kill()
            process.communicate()
