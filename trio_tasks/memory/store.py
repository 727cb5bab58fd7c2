"""What a MemoryBroker holds, and what happens to it by time alone.

One `Store` is one server; in it one `QueueStore` for each queue. The other modules of the package
are plain functions over a `QueueStore` and an instant: each does one atomic step.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal
from weakref import WeakValueDictionary

from trio_tasks.broker import RELAYED_RETENTION_MS, TOMBSTONE_MS, ScheduleRecord, StartToken
from trio_tasks.memory.clock import ServerClock
from trio_tasks.memory.hints import Hint, Notices
from trio_tasks.memory.records import (
    DebounceKey,
    Entry,
    Member,
    OutRow,
    StoredJob,
    StoredSchedule,
)
from trio_tasks.processor.lifecycle import Step, transition

__all__ = ["LEVELS", "QueueStore", "Store", "named_store"]

LEVELS = range(9, -1, -1)
"""Priorities in the order in which they are served."""

RELAYED_TOMBSTONES = RELAYED_RETENTION_MS // TOMBSTONE_MS
"""A job that may be relayed once more is kept at least for the time of so many tombstones."""

Kind = Literal["job", "key", "schedule"]


class QueueStore:
    """One queue."""

    def __init__(self, name: str, tombstone_ms: int) -> None:
        self.name = name
        self.tombstone_ms = tombstone_ms
        self.jobs: dict[str, StoredJob] = {}
        self.ready = {level: OrderedDict[str, Entry]() for level in LEVELS}
        self.pending: dict[str, dict[str, Entry]] = {}
        self.dead: dict[str, int] = {}
        self.keys: dict[str, DebounceKey] = {}
        self.cancels: dict[str, str] = {}
        self.members: dict[str, Member] = {}
        self.last_beat_ms: int | None = None
        self.schedules: dict[str, StoredSchedule] = {}
        self.out: list[OutRow] = []
        self.paused = False
        self.emitted = 0
        self.completed = 0
        self.skipped = 0
        self.cancelled = 0
        self.removed = 0
        self.defects = 0
        self.hint = Hint()
        self.startable = False
        self.notices = Notices()
        self._sequence = 0
        self._delays: list[tuple[int, str]] = []
        self._newly_delayed: set[str] = set()
        self._expiries: list[tuple[int, Kind, str]] = []

    # -- states --------------------------------------------------------------------------------

    def move(self, job: StoredJob, step: Step) -> None:
        """Change a job's state by a row of the table; raises, and changes nothing, otherwise."""
        job.state = transition(job.state, step, job_id=job.id)
        self.notices.changed(job.id)

    def conclude(self) -> None:
        """The end of an atomic step: one hint if there is work, or a new earliest instant."""
        if not self.startable and self._newly_delayed:
            self.startable = self._first_delayed() in self._newly_delayed
        if self.startable:
            self.hint.push()
        self.forget_hints()

    def forget_hints(self) -> None:
        """Nobody has to be told of what this step has done so far."""
        self.startable = False
        self._newly_delayed.clear()

    # -- entries -------------------------------------------------------------------------------

    def add_entry(self, job: StoredJob) -> None:
        """Put a queued job at the end of its level, and say that there is work."""
        self._sequence += 1
        entry = Entry(self._sequence, job.id, job.level)
        self.ready[job.level][entry.id] = entry
        job.entry = entry
        self.startable = True

    def drop_entry(self, job: StoredJob) -> None:
        """Ack and delete a job's entry, if it has one; its starts stay counted in `used`."""
        entry = job.entry
        if entry is not None:
            job.now.used, job.now.uncounted, job.entry = job.attempt, 0, None
            self.remove_entry(entry)

    def remove_entry(self, entry: Entry) -> None:
        """Ack and delete an entry."""
        if entry.owner is None:
            del self.ready[entry.level][entry.id]
            return
        owned = self.pending[entry.owner]
        del owned[entry.id]
        if not owned:
            del self.pending[entry.owner]

    def hand_over(self, entry: Entry, owner: str) -> None:
        """Make an entry pending under `owner`, whoever had it."""
        self.remove_entry(entry)
        entry.owner = owner
        self.pending.setdefault(owner, {})[entry.id] = entry

    def started(self, token: StartToken) -> StoredJob | None:
        """The fence: the job of this start, if the start is the present one."""
        job = self.jobs.get(token.job_id)
        entry = None if job is None else job.entry
        if (
            entry is None
            or entry.id != token.entry
            or entry.owner != token.incarnation
            or entry.deliveries != token.deliveries
        ):
            return None
        return job

    # -- delays --------------------------------------------------------------------------------

    def add_delay(self, job: StoredJob, due_at_ms: int, why: str) -> None:
        """Note when a delayed job is due, and why it waits."""
        job.now.due_at_ms, job.now.why = due_at_ms, why
        heapq.heappush(self._delays, (due_at_ms, job.id))
        self._newly_delayed.add(job.id)

    def earliest_due_ms(self) -> int | None:
        """When the next delayed job is due."""
        return None if self._first_delayed() is None else self._delays[0][0]

    def next_due_in_ms(self, now_ms: int) -> int | None:
        """Milliseconds until the next delayed job is due."""
        due_at_ms = self.earliest_due_ms()
        return None if due_at_ms is None else max(0, due_at_ms - now_ms)

    def next_due(self, now_ms: int) -> StoredJob | None:
        """The delayed job that is due first, if one is due."""
        job_id = self._first_delayed()
        if job_id is None or self._delays[0][0] > now_ms:
            return None
        return self.jobs[job_id]

    def _first_delayed(self) -> str | None:
        while self._delays:
            due_at_ms, job_id = self._delays[0]
            job = self.jobs.get(job_id)
            if job is not None and job.now.due_at_ms == due_at_ms:
                return job_id
            heapq.heappop(self._delays)  # it is delayed no more
        return None

    # -- what only time removes ----------------------------------------------------------------

    def keep(self, job: StoredJob, now_ms: int, retention_ms: int) -> None:
        """Give an ended job its retention, and its record the tombstone's time on top."""
        kept_ms = retention_ms + self.tombstone_ms
        if job.relayed:
            kept_ms = max(kept_ms, RELAYED_TOMBSTONES * self.tombstone_ms)
        job.now.kept_until_ms = now_ms + retention_ms
        job.now.expires_at_ms = now_ms + kept_ms
        heapq.heappush(self._expiries, (now_ms + kept_ms, "job", job.id))

    def hold_key(self, digest: str, key: DebounceKey) -> None:
        """Store who holds a debounce key, in place of whoever did."""
        self.keys[digest] = key
        heapq.heappush(self._expiries, (key.expires_at_ms, "key", digest))

    def put_schedule(self, schedule: ScheduleRecord, now_ms: int) -> None:
        """Store a schedule and renew its lifetime."""
        expires_at_ms = None
        if schedule.expires_after_ms is not None:
            expires_at_ms = now_ms + schedule.expires_after_ms
            heapq.heappush(self._expiries, (expires_at_ms, "schedule", schedule.name))
        self.schedules[schedule.name] = StoredSchedule(schedule, expires_at_ms)

    def expire(self, now_ms: int) -> None:
        """Remove the tombstones, keys and schedules whose time is over."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            at_ms, kind, name = heapq.heappop(self._expiries)
            match kind:
                case "job":
                    job = self.jobs.get(name)
                    if job is not None and job.now.expires_at_ms == at_ms:
                        del self.jobs[name]
                case "key":
                    key = self.keys.get(name)
                    if key is not None and key.expires_at_ms == at_ms:
                        del self.keys[name]
                case "schedule":
                    schedule = self.schedules.get(name)
                    if schedule is not None and schedule.expires_at_ms == at_ms:
                        del self.schedules[name]

    def visible(self, job_id: str, now_ms: int) -> StoredJob | None:
        """A job, unless it is gone or only its tombstone is left."""
        job = self.jobs.get(job_id)
        if job is None:
            return None
        kept_until_ms = job.now.kept_until_ms
        return None if kept_until_ms is not None and kept_until_ms <= now_ms else job


class Store:
    """One server: its queues, its dead-letter streams, its clock."""

    def __init__(self, *, starts_at_ms: int | None, tombstone_ms: int) -> None:
        self.clock = ServerClock(starts_at_ms)
        self.queues: dict[str, QueueStore] = {}
        self.names: set[str] = set()
        self.streams: dict[str, list[dict[str, bytes]]] = {}
        self._tombstone_ms = tombstone_ms
        self._users = 0

    def open(self) -> None:
        """Somebody uses the store from now on; the first sets its clock going."""
        if self._users == 0:
            self.clock.start()
        self._users += 1

    def close(self) -> None:
        """Somebody uses it no more; after the last one its clock stands still."""
        self._users -= 1
        if self._users == 0:
            self.clock.stop()

    def queue(self, name: str) -> QueueStore:
        """A queue, made at first use."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = QueueStore(name, self._tombstone_ms)
        return queue

    @contextmanager
    def step(self, name: str) -> Generator[tuple[QueueStore, int]]:
        """One atomic step, which must not await: the queue as it stands now, and the time.

        Raises:
            RuntimeError: no broker of this store is entered.
        """
        if self._users == 0:
            raise RuntimeError("the broker is not entered: use it inside 'async with broker:'")
        queue, now_ms = self.queue(name), self.clock.now_ms()
        queue.expire(now_ms)
        yield queue, now_ms
        queue.conclude()


_named: WeakValueDictionary[str, Store] = WeakValueDictionary()


def named_store(name: str, *, starts_at_ms: int | None, tombstone_ms: int) -> Store:
    """The store of this process that bears the name; it lives as long as somebody holds it."""
    store = _named.get(name)
    if store is None:
        store = Store(starts_at_ms=starts_at_ms, tombstone_ms=tombstone_ms)
        _named[name] = store
    return store
