"""What a `Producer` asks of a Redis server: the few methods of `Broker` that it needs, blocking.

Waiting for a job follows the contract of `Broker.watch` with less machinery than watches.py: each
thread that waits blocks in an `XREAD` of its own, for a second at most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Final, TypeAlias, TypeVar, cast

from trio_tasks.broker import (
    BATCH,
    TOMBSTONE_MS,
    CancelAnswer,
    Emitted,
    NewJob,
    ScheduleRecord,
    Stored,
)
from trio_tasks.environment import monotonic
from trio_tasks.errors import BrokerError, BrokerUnavailableError, QueueFullError
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.blocking import BlockingLink, pause
from trio_tasks.redis_streams.checks import check_about, not_told, said_of
from trio_tasks.redis_streams.keys import QueueKeys, queues_key
from trio_tasks.redis_streams.replies import RedisReplyError

__all__ = ["BlockingBroker", "Changes"]

T = TypeVar("T")

_MOST_ENTRIES: Final = 100
_NAMING_TIME: Final = 1.0  # seconds, by which an emit may end later than its jobs were stored

_Entries: TypeAlias = "list[tuple[bytes, list[bytes]]]"  # id, then the field `i` and its value


class BlockingBroker:
    """Emits, declares, looks and cancels from any thread.

    Every method may raise `BrokerUnavailableError` (the server could not be reached in time) and
    `BrokerError` (it refuses).
    """

    def __init__(self, link: BlockingLink, *, called: str = "db", namespace: str = "tt") -> None:
        """Nothing is connected before it is used.

        Args:
            link: asks the server.
            called: the argument that gave its address, for errors.
            namespace: first part of all keys.

        Raises:
            ConfigurationError: the namespace is no name.
        """
        self._namespace = namespace
        self._queues_key = queues_key(namespace)
        self._link = link
        self._called = called
        self._named: set[str] = set()

    def __repr__(self) -> str:
        return f"<BlockingBroker {self._namespace!r}, {self._link!r}>"

    def check(self) -> None:
        """Connect, and check that the server can be used.

        Raises:
            ConfigurationError: it refuses us (user, password, rights, number of the database), is
                too old, or evicts keys.
        """
        with said_of(self._called):
            try:
                info = [
                    self._link.request(("INFO", section), repeat=True)
                    for section in ("server", "memory")
                ]
            except RedisReplyError as error:
                not_told(error)
            else:
                check_about(b"\n".join(cast("list[bytes]", info)))

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    # -- emitting --------------------------------------------------------------------------------

    def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs, in atomic steps of up to `BATCH` per queue; see `Broker.emit`.

        Raises:
            BrokerUnavailableError: `ids` names the jobs of which it is not known that they are
                stored, in the order of the call.
            QueueFullError: the server's memory is full; `ids` as above. Of more than `BATCH` jobs,
                or of several queues, some may have been stored.
        """
        by_queue: dict[str, list[NewJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        stored: dict[str, list[Emitted]] = {queue: [] for queue in by_queue}
        try:
            for queue, some in by_queue.items():
                for start in range(0, len(some), BATCH):
                    step = some[start : start + BATCH]
                    call = calls.enqueue(self._keys(queue), step, tombstone_ms=TOMBSTONE_MS)
                    stored[queue] += self._link.call(call, repeat=True)
        except (BrokerUnavailableError, QueueFullError) as error:
            raise type(error)(str(error), ids=list(_not_in(stored, jobs))) from error
        self._name(stored)
        answers_of = {queue: iter(answers) for queue, answers in stored.items()}
        return [next(answers_of[job.queue]) for job in jobs]

    def _name(self, queues: Iterable[str]) -> None:
        """Add queues to the set of all, once. Helps people to find them, so it may fail."""
        new = set(queues) - self._named
        if new:
            with suppress(BrokerError):
                self._link.request(
                    ("SADD", self._queues_key, *new), deadline=monotonic() + _NAMING_TIME
                )
                self._named |= new

    # -- schedules -------------------------------------------------------------------------------

    def time_ms(self, queue: str) -> int:
        """Server time."""
        return self._link.call(calls.time(self._keys(queue)), repeat=True)

    def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule; the one that is in force afterwards. See `Broker.declare`."""
        call = calls.declare(self._keys(schedule.queue), schedule, replace=replace)
        declared = self._link.call(call, repeat=True)
        self._name([schedule.queue])
        return declared

    # -- looking and steering --------------------------------------------------------------------

    def read(
        self, queue: str, job_id: str, *, logs: bool = False, deadline: float = inf
    ) -> Stored | None:
        """A job; `None` if it is gone or past its retention.

        Args:
            queue: its queue.
            job_id: its id.
            logs: with its log lines.
            deadline: see `BlockingLink.call`.
        """
        call = calls.read(self._keys(queue), [job_id], logs=logs)
        (stored,) = self._link.call(call, deadline=deadline, repeat=True)
        return stored

    def cancel(
        self, queue: str, job_id: str, *, number: str | None, reason: str, retention_ms: int
    ) -> CancelAnswer:
        """Cancel a job that has not started, or note the request. As `RedisBroker.cancel`."""
        call = calls.cancel(
            self._keys(queue),
            job_id,
            number=number,
            reason=reason,
            retention_ms=retention_ms,
            tombstone_ms=TOMBSTONE_MS,
        )
        return self._link.call(call, repeat=number is not None or "@" in job_id)

    def changes(self, queue: str, job_id: str, *, deadline: float = inf) -> Changes:
        """Watch a job from now on; `deadline`: see `BlockingLink.call`."""
        keys = self._keys(queue)
        newest = self._link.request(
            ("XREVRANGE", keys.events, "+", "-", "COUNT", 1), deadline=deadline, repeat=True
        )
        entries = cast("_Entries", newest)
        return Changes(self._link, keys, job_id, entries[0][0] if entries else b"0-0")

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._namespace, queue)


class Changes:
    """Tells one thread when a job may have changed; see `Watch`."""

    __slots__ = ("_events", "_job_id", "_link", "_position")

    def __init__(self, link: BlockingLink, keys: QueueKeys, job_id: str, position: bytes) -> None:
        """Tell of what comes behind `position` in the queue's stream of changes."""
        self._link = link
        self._events = keys.events
        self._job_id = job_id.encode()
        self._position = position

    def wait(self, seconds: float) -> None:
        """Return when the job may have changed since the last look, after `seconds` at the latest.

        It does not fail: whether the server can be reached, the look that follows will tell.
        """
        ends_at = monotonic() + seconds
        try:
            while (left := ends_at - monotonic()) > 0 and not self._told_within(left):
                pass  # something else has changed
        except BrokerError:
            pause(max(0.0, ends_at - monotonic()))

    def _told_within(self, seconds: float) -> bool:
        block_ms = math.ceil(seconds * 1000)  # 0 would be for ever
        command = ("XREAD", "COUNT", _MOST_ENTRIES, "BLOCK", block_ms, "STREAMS")
        reply = self._link.wait((*command, self._events, self._position), seconds)
        told = False
        for _stream, entries in cast("list[tuple[bytes, _Entries]]", reply or []):
            for entry, fields in entries:
                self._position = entry
                told |= self._job_id in fields[1].split()
        return told


def _not_in(stored: Mapping[str, Sequence[Emitted]], jobs: Sequence[NewJob]) -> Iterator[str]:
    """The ids of the jobs for which there is no answer, in their order."""
    left = Counter({queue: len(answers) for queue, answers in stored.items()})
    for job in jobs:
        if left[job.queue]:
            left[job.queue] -= 1
        else:
            yield job.id
