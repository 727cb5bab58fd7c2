"""Watching for changes of jobs, with one blocking command on a connection of its own.

Theory of operation
-------------------
Whatever changes jobs appends one entry with their ids to the stream `ns:{queue}:ev` of the queue,
which keeps about the last thousand. While somebody watches, a reader blocks in one `XREAD` over
the streams of all watched queues and wakes the watchers whose job is named, and those of the whole
queue. It goes on from the ids that it has seen, so nothing is missed while it reads again or
connects again; for a queue that was not watched before, the stream's end is read before the
`watch` block begins, and with that before the watcher's first look.

A blocked `XREAD` cannot be told of another queue. As it takes nothing away, it may be abandoned:
the connection is made anew. To keep that rare, queues stay in the set, and the connection stays
open, for some seconds after the last watcher has left.

Hints may be lost (a trimmed stream, a server that lost its data): watchers look again by time. So
do those of a queue whose stream is of another type, which is named (misplaced.py) and left out.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias, cast

import anyio
import anyio.abc

from trio_tasks.control_c import protected
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.misplaced import Naming, is_wrong_type
from trio_tasks.redis_streams.wire import Reply

__all__ = ["QueueWatch", "Watches"]

log = logging.getLogger("trio_tasks.broker")

_BLOCKS: Final = 2.0  # seconds
_LINGERS: Final = 5.0  # seconds
_AFTER_REFUSAL: Final = 1.0
_MOST_ENTRIES: Final = 100

_Entries: TypeAlias = "list[tuple[bytes, list[bytes]]]"  # id, then the field `i` and its value
_Streams: TypeAlias = "dict[bytes, _Entries] | list[tuple[bytes, _Entries]]"


class QueueWatch:
    """One watcher. `wait` may be called again and again, by one task."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed = anyio.Event()

    def change(self) -> None:
        """Let `wait` return, now or when it is called next."""
        self._changed.set()

    async def wait(self, timeout: float) -> None:
        """Return when something may have changed, at the latest after `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._changed.wait()
        self._changed = anyio.Event()


class _Watched:
    """A queue: how far its stream was read, and for whom."""

    __slots__ = ("by_job", "is_shunned", "keys", "left_at", "position", "whole")

    def __init__(self, keys: QueueKeys, position: bytes) -> None:
        self.keys = keys
        self.position = position
        self.by_job: defaultdict[bytes, set[QueueWatch]] = defaultdict(set)
        self.whole: set[QueueWatch] = set()
        self.left_at = 0.0
        self.is_shunned = False

    def join(self, job_id: str | None, watch: QueueWatch) -> None:
        (self.whole if job_id is None else self.by_job[job_id.encode()]).add(watch)

    def leave(self, job_id: str | None, watch: QueueWatch) -> None:
        if job_id is None:
            self.whole.discard(watch)
        else:
            name = job_id.encode()
            self.by_job[name].discard(watch)
            if not self.by_job[name]:
                del self.by_job[name]
        self.left_at = loop_time()

    def tell(self, job_ids: bytes) -> None:
        """Wake those who watch one of these jobs, or all of them."""
        for watch in self.whole:
            watch.change()
        for job_id in job_ids.split():
            for watch in self.by_job.get(job_id, ()):
                watch.change()

    @property
    def forgotten(self) -> bool:
        """Nobody has watched for a while."""
        return not (self.by_job or self.whole) and loop_time() - self.left_at > _LINGERS


class Watches:
    """All watchers of a process."""

    def __init__(
        self,
        *,
        tasks: anyio.abc.TaskGroup,
        cmd: Naming,
        new_link: Callable[[], Link],
        keys: Callable[[str], QueueKeys],
    ) -> None:
        """No connection is made before somebody watches.

        Args:
            tasks: runs the reader.
            cmd: a connection that is open anyway.
            new_link: makes the one that blocks.
            keys: the keys of a queue.
        """
        self._tasks = tasks
        self._cmd = cmd
        self._new_link = new_link
        self._keys = keys
        self._queues: dict[str, _Watched] = {}
        self._link: Link | None = None
        self._reading: frozenset[str] = frozenset()

    @asynccontextmanager
    async def watch(self, queue: str, job_id: str | None) -> AsyncGenerator[QueueWatch]:
        """Watch a job, or a queue, from the moment in which the block begins.

        Raises:
            BrokerUnavailableError: the stream's end could not be read in time.
        """
        watched = self._queues.get(queue)
        if watched is None:
            keys = self._keys(queue)
            (newest,) = await self._cmd.request(
                ("XREVRANGE", keys.events, "+", "-", "COUNT", 1), repeat=True
            )
            # Somebody else may have been faster; then its position is older still.
            watched = self._queues.setdefault(queue, _Watched(keys, _position(newest)))
            self._added(queue)
        watch = QueueWatch()
        watched.join(job_id, watch)
        try:
            yield watch
        finally:
            watched.leave(job_id, watch)

    def _added(self, queue: str) -> None:
        if self._link is None:
            self._link = self._new_link()
            self._tasks.start_soon(protected(self._read), self._link)
        elif self._reading and queue not in self._reading:
            self._link.renew()

    async def _read(self, link: Link) -> None:
        """Read while anything is watched, and a little longer."""
        reported = ""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(protected(link.run))
            while self._still_watched():
                try:
                    await self._read_once(link)
                except BrokerUnavailableError:
                    continue  # renewed, or lost: the link knows how to wait
                except BrokerError as error:
                    if str(error) != reported:
                        reported = str(error)
                        log.warning("changes of jobs are only seen by looking: %s", error)
                    await anyio.sleep(_AFTER_REFUSAL)
            self._link = None
            tasks.cancel_scope.cancel()

    def _still_watched(self) -> bool:
        for queue in [name for name, watched in self._queues.items() if watched.forgotten]:
            del self._queues[queue]
        return bool(self._queues)

    async def _read_once(self, link: Link) -> None:
        await link.connected_by(loop_time() + link.timeout)
        await self._shun(watched for watched in self._queues.values() if watched.is_shunned)
        streams = {
            watched.keys.events.encode(): watched
            for watched in self._queues.values()
            if not watched.is_shunned
        }
        if not streams:
            await anyio.sleep(_AFTER_REFUSAL)
            return
        positions = [watched.position for watched in streams.values()]
        command = ("XREAD", "COUNT", _MOST_ENTRIES, "BLOCK", round(_BLOCKS * 1000), "STREAMS")
        self._reading = frozenset(self._queues)
        try:
            (reply,) = await link.request((*command, *streams, *positions), blocks=_BLOCKS)
        except BrokerError as error:
            if not is_wrong_type(error):
                raise
            if not await self._shun(streams.values()):
                await anyio.sleep(_AFTER_REFUSAL)  # it has gone, or it is not known
            return
        finally:
            self._reading = frozenset()
        # RESP3 has a map here and RESP2 pairs.
        for stream, entries in dict(cast("_Streams", reply or {})).items():
            watched = streams[stream]
            for entry, fields in entries:
                watched.position = entry
                watched.tell(fields[1])

    async def _shun(self, some: Iterable[_Watched]) -> bool:
        """Find out which of these have a stream of another type; whether any has."""
        found = False
        for watched in list(some):
            events = watched.keys.events
            try:
                watched.is_shunned = events in await self._cmd.misplaced(events)
            except BrokerError:
                continue  # it is not known
            found |= watched.is_shunned
        return found


def _position(newest: Reply) -> bytes:
    entries = cast("_Entries", newest)
    return entries[0][0] if entries else b"0-0"
