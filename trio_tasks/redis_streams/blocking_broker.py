"""What a `Producer` asks of a Redis server: the few methods of `Broker` that it needs, blocking.

Waiting for a job follows the contract of `Broker.watch` with less machinery than watches.py: each
thread that waits blocks in an `XREAD` of its own, for a second at most. Misplaced keys are named
as misplaced.py does it, but to the caller alone.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from trio_tasks.redis_streams.keys import QueueKeys, queues_key, types_beside
from trio_tasks.redis_streams.misplaced import (
    MisplacedKeyError,
    is_wrong_type,
    misplaced_among,
)
from trio_tasks.redis_streams.replies import Command, RedisReplyError, Reply
from trio_tasks.redis_streams.scripts import Call

__all__ = ["BlockingBroker", "Changes"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_MOST_ENTRIES: Final = 100
_NAMING_TIME: Final = 1.0  # seconds, by which an emit may end later than its jobs were stored

_Entries: TypeAlias = "list[tuple[bytes, list[bytes]]]"  # id, then the field `i` and its value


class BlockingBroker:
    """Emits, declares, looks and cancels from any thread.

    Every method may raise `BrokerUnavailableError` (the server could not be reached in time),
    `MisplacedKeyError` (a key of the queue is of the wrong type) and `BrokerError` (it refuses).
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
        self._is_list_misplaced = False

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
                    stored[queue] += self._ask(call, repeat=True)
        except (BrokerUnavailableError, QueueFullError) as error:
            raise type(error)(str(error), ids=list(_not_in(stored, jobs))) from error
        self._name(stored)
        answers_of = {queue: iter(answers) for queue, answers in stored.items()}
        return [next(answers_of[job.queue]) for job in jobs]

    def _name(self, queues: Iterable[str]) -> None:
        """Add queues to the set of all, once. Helps people to find them, so it may fail."""
        new = set(queues) - self._named
        if not new:
            return
        try:
            self._link.request(
                ("SADD", self._queues_key, *new), deadline=monotonic() + _NAMING_TIME
            )
        except BrokerError as error:
            if not is_wrong_type(error) or self._is_list_misplaced:
                return
            self._is_list_misplaced = True
            log.error("queues are not listed: %s", self._naming(self._queues_key, error) or error)
        else:
            self._is_list_misplaced = False
            self._named |= new

    # -- schedules -------------------------------------------------------------------------------

    def time_ms(self, queue: str) -> int:
        """Server time."""
        return self._ask(calls.time(self._keys(queue)), repeat=True)

    def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule; the one that is in force afterwards. See `Broker.declare`."""
        call = calls.declare(self._keys(schedule.queue), schedule, replace=replace)
        declared = self._ask(call, repeat=True)
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
        (stored,) = self._ask(call, deadline=deadline, repeat=True)
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
        return self._ask(call, repeat=number is not None or "@" in job_id)

    def changes(self, queue: str, job_id: str, *, deadline: float = inf) -> Changes:
        """Watch a job from now on; `deadline`: see `BlockingLink.call`."""
        keys = self._keys(queue)
        command: Command = ("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
        try:
            newest = self._link.request(command, deadline=deadline, repeat=True)
        except RedisReplyError as error:
            raise self._naming(keys.events, error) or error from error
        entries = cast("_Entries", newest)
        return Changes(self._link, keys, job_id, entries[0][0] if entries else b"0-0")

    # -- asking ----------------------------------------------------------------------------------

    def _ask(self, call: Call[T], *, deadline: float = inf, repeat: bool) -> T:
        """See `BlockingLink.call`; raises `MisplacedKeyError` too."""
        try:
            return self._link.call(call, deadline=deadline, repeat=repeat)
        except RedisReplyError as error:
            if named := self._naming(str(call.keys[0]), error):
                raise named from error
            if not (repeat and is_wrong_type(error)):
                raise
        # It went away just now.
        return self._link.call(call, deadline=deadline, repeat=repeat)

    def _naming(self, key: str, error: BrokerError) -> MisplacedKeyError | None:
        """The error that names the misplaced keys beside `key`, if it is of those."""
        if not is_wrong_type(error):
            return None
        types, replies = types_beside(key), list[Reply]()
        try:
            for name in types:
                ask_by = monotonic() + _NAMING_TIME
                replies.append(self._link.request(("TYPE", name), deadline=ask_by, repeat=True))
        except BrokerError as unknown:
            return MisplacedKeyError.unnamed(unknown)
        found = misplaced_among(types, replies)
        return MisplacedKeyError.of(list(found.values())) if found else None

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
