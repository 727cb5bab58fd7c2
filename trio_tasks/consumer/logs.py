"""`job.logger(...)`: lines take effect at the call, from the loop or from a handler's thread.

Lines of one attempt go out together, in order. One task sends whatever has accumulated; an
outcome waits for its job's lines (`settle`), because a line that comes after the outcome is of a
superseded start and would be dropped. Lines wait for a broker that is away; those that it refuses
are dropped, so that a job can end though the server's memory is full.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Collection, Generator, Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.from_thread
import anyio.lowlevel

from trio_tasks import payloads
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.control_c import protected
from trio_tasks.errors import BrokerError, BrokerUnavailableError, SerializationError

if TYPE_CHECKING:
    from trio_tasks.consumer.held import Held

__all__ = ["MAX_LINE_BYTES", "JobLogs", "encode_line"]

log = logging.getLogger("trio_tasks.consumer")

MAX_LINE_BYTES = 65_536
"""The longest log line, as JSON."""

RETRY_AFTER_S = 0.1


class JobLogs:
    """Sends the log lines of a consumer's jobs."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._token = anyio.lowlevel.current_token()
        self._waiting: dict[Held, None] = {}  # unlike a set, in the order of the calls
        self._under_way: dict[Held, None] = {}
        self._work = anyio.Event()
        self._progress = Pulse()

    def keep(self, held: Held, message: object) -> Awaitable[None]:
        """Keep a line; see `Job.logger`."""
        line = encode_line(message)
        if held.ended:
            raise RuntimeError(
                f"job.logger of {held.delivery.token.job_id!r} was called after its handler"
                " had returned; log inside the handler"
            )
        if threading.get_ident() == self._thread:
            self._append(held, line)
        else:
            anyio.from_thread.run_sync(self._append, held, line, token=self._token)
        return _Sent(self, held)

    def _append(self, held: Held, line: bytes) -> None:
        if not held.max_lines:
            return
        held.logged = True
        if held.lines is None:
            held.lines = []
        held.lines.append(line)
        del held.lines[: -held.max_lines]
        self._waiting[held] = None
        self._work.set()

    def sent(self, held: Held) -> Awaitable[None]:
        """Wait as `settle` does, in the name of a handler.

        Raises:
            RuntimeError: in another event loop than the consumer's.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "await job.logger(...) in another thread than that of the event loop that runs the"
                " job: leave out the await, the line is kept all the same"
            )
        return self.settle((held,))

    async def settle(self, jobs: Collection[Held]) -> None:
        """Wait until the broker has all lines of these jobs (it may have dropped stale ones)."""
        while any(held in self._waiting or held in self._under_way for held in jobs):
            await self._progress.wait()

    async def run(self) -> None:
        """Send lines, until cancelled. What is under way then may or may not have arrived."""
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            self._under_way, self._waiting = self._waiting, {}
            async with anyio.create_task_group() as nursery:
                for held in self._under_way:
                    nursery.start_soon(protected(self._send), held)
            self._under_way = {}
            self._progress.fire()

    async def _send(self, held: Held) -> None:
        lines, held.lines = held.lines or [], None
        while True:
            try:
                membership = held.feed.membership
                if membership is not None:
                    await membership.log(held.delivery.token, lines, held.max_lines)
                    return
            except BrokerUnavailableError:
                pass  # the lines wait for its return, and the outcome for the lines
            except BrokerError as error:
                job_id = held.delivery.token.job_id
                log.warning("job %r: %d log line(s) were refused: %s", job_id, len(lines), error)
                return
            await anyio.sleep(RETRY_AFTER_S)


class _Sent:
    """What `job.logger` returns: awaiting it is optional."""

    __slots__ = ("_held", "_logs")

    def __init__(self, logs: JobLogs, held: Held) -> None:
        self._logs = logs
        self._held = held

    def __await__(self) -> Generator[Any, Any, None]:
        return self._logs.sent(self._held).__await__()


def encode_line(message: object) -> bytes:
    """A log line as JSON.

    Raises:
        SerializationError: it is neither text nor a JSON object, or too long.
    """
    plain: object = message
    if isinstance(message, Mapping):
        plain = dict(cast("Mapping[object, object]", message))
    elif not isinstance(message, str):
        raise SerializationError(
            f"a log line of type {type(message).__name__}: give text or a JSON object"
        )
    return payloads.encode(plain, max_bytes=MAX_LINE_BYTES, what="the log line")
