"""The two kinds of world, and what each lets a test do behind the contract's back."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import redis
from msgspec.structs import replace

from tests.contract.world import World
from trio_tasks.broker import TOMBSTONE_MS
from trio_tasks.job import JobState
from trio_tasks.memory import MemoryBroker
from trio_tasks.memory.records import RELEASED
from trio_tasks.memory.store import QueueStore, Store

__all__ = ["MemoryBackdoor", "RedisBackdoor", "memory_world", "redis_world"]


@asynccontextmanager
async def memory_world(
    *, patience: float, tombstone_ms: int = TOMBSTONE_MS
) -> AsyncGenerator[World]:
    """A private memory broker, for at most `patience` seconds."""
    with anyio.fail_after(patience):
        async with MemoryBroker(tombstone_ms=tombstone_ms) as broker:
            backdoor = MemoryBackdoor(broker.store)
            world = World(broker, backdoor)
            yield world
            assert await backdoor.defects() == []
            assert await world.miscounts() == []


class MemoryBackdoor:
    """What a test may do to a memory store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def spoil(self, queue: str, job_id: str, raw: bytes) -> None:
        job = self._store.queues[queue].jobs[job_id]
        job.record, job.raw = None, raw

    async def end_lease(self, queue: str, incarnation: str) -> None:
        with self._store.step(queue) as (where, now_ms):
            member = where.members.get(incarnation)
            if member is not None:
                member.lease_until_ms, member.attached = now_ms, False

    async def make_due(self, queue: str, schedule: str, at_ms: int) -> None:
        with self._store.step(queue) as (where, now_ms):
            record = where.schedules[schedule].record
            where.put_schedule(replace(record, next_at_ms=at_ms), now_ms)

    async def take_hint(self, queue: str) -> bool:
        return self._store.queue(queue).hint.take()

    def stream(self, name: str) -> str:
        return name

    async def dead_letters(self, stream: str) -> list[dict[str, str]]:
        rows = self._store.streams.get(stream, [])
        return [{key: value.decode() for key, value in row.items()} for row in rows]

    async def leftovers(self) -> list[str]:
        left: list[str] = []
        for name in self._store.queues:
            with self._store.step(name) as (queue, _):
                pass
            left += [f"{name} job {job_id}" for job_id in queue.jobs]
            left += [f"{name} key {digest}" for digest in queue.keys]
            left += [f"{name} cancel {job_id}" for job_id in queue.cancels]
            left += [f"{name} out" for _ in queue.out]
        return left

    async def defects(self) -> list[str]:
        return [
            f"{name}: {defect}"
            for name, queue in self._store.queues.items()
            for defect in queue_defects(queue)
        ]


def queue_defects(queue: QueueStore) -> list[str]:
    """What contradicts invariant 2: one entry for each job that is ready or running, no other."""
    found = [f"{queue.defects} entries without a job"] if queue.defects else []
    entries = {id(e): None for level in queue.ready.values() for e in level.values()}
    entries |= {id(e): owner for owner, owned in queue.pending.items() for e in owned.values()}
    for job in queue.jobs.values():
        if job.state not in (JobState.QUEUED, JobState.RUNNING):
            if job.entry is not None:
                found.append(f"{job.id} is {job.state} and has an entry")
            continue
        if job.entry is None or id(job.entry) not in entries:
            found.append(f"{job.id} is {job.state} and has no entry")
            continue
        owner = entries.pop(id(job.entry))
        if (owner in (None, RELEASED)) is (job.state is JobState.RUNNING):
            found.append(f"{job.id} is {job.state} and pending for {owner}")
    found += ["an entry without a job" for _ in entries]
    running = {job.id for job in queue.jobs.values() if job.state is JobState.RUNNING}
    return found + [f"{job_id} has a cancel request" for job_id in queue.cancels.keys() - running]


FAMILY = re.compile(r"m|c|ci|z|w|x|cron|out|aside|ev|dlq|s:[0-9]|(j|l|d|cr):[A-Za-z0-9_.:@-]+")
"""What keys of a queue are called: see the table in the design of the protocol."""


@asynccontextmanager
async def redis_world(
    url: str, *, patience: float, tombstone_ms: int = TOMBSTONE_MS
) -> AsyncGenerator[World]:
    """A Redis broker in a namespace of its own, for at most `patience` seconds."""
    from trio_tasks.redis_streams.address import parse_address
    from trio_tasks.redis_streams.broker import RedisBroker

    namespace = f"t{secrets.token_hex(6)}"
    backdoor = RedisBackdoor(url, namespace)
    try:
        broker = RedisBroker(parse_address(url), namespace=namespace, tombstone_ms=tombstone_ms)
        with anyio.fail_after(patience):
            async with broker:
                world = World(broker, backdoor)
                yield world
                assert await backdoor.defects() == []
                assert await world.miscounts() == []
        assert backdoor.unknown_keys() == []
    finally:
        backdoor.clear()


class RedisBackdoor:
    """What a test may do to a Redis namespace, with redis-py."""

    def __init__(self, url: str, namespace: str) -> None:
        # redis-py has hardly any types; what is asked for here are lists, dicts and bytes.
        self._redis: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        self._namespace = namespace

    async def spoil(self, queue: str, job_id: str, raw: bytes) -> None:
        self._redis.hset(self._key(queue, f"j:{job_id}"), "b", raw)

    async def end_lease(self, queue: str, incarnation: str) -> None:
        seconds, microseconds = self._redis.time()
        now_ms = 1000 * seconds + microseconds // 1000
        self._redis.zadd(self._key(queue, "c"), {incarnation: now_ms}, xx=True)

    async def make_due(self, queue: str, schedule: str, at_ms: int) -> None:
        self._redis.zadd(self._key(queue, "cron"), {schedule: at_ms}, xx=True)

    async def take_hint(self, queue: str) -> bool:
        return bool(self._redis.delete(self._key(queue, "w")))

    def stream(self, name: str) -> str:
        return f"{self._namespace}.{name}"

    async def dead_letters(self, stream: str) -> list[dict[str, str]]:
        return [_text(fields) for _, fields in self._redis.xrange(stream)]

    async def leftovers(self) -> list[str]:
        return [
            f"{queue} {name}"
            for queue, name in self._names()
            if name.startswith(("j:", "l:", "d:")) or name in ("x", "z", "dlq")
        ]

    def _key(self, queue: str, name: str) -> str:
        return f"{self._namespace}:{{{queue}}}:{name}"

    def _keys(self, pattern: str) -> list[str]:
        found = self._redis.scan_iter(f"{self._namespace}{pattern}", count=10_000)
        return sorted({key.decode() for key in found})

    def _names(self) -> list[tuple[str, str]]:
        """All keys of queues: (queue, name in it)."""
        parts = (key.partition(":{")[2].partition("}:") for key in self._keys(":{*"))
        return [(queue, name) for queue, _, name in parts]

    def unknown_keys(self) -> list[str]:
        """Keys that the protocol has no name for."""
        known = {f"{self._namespace}:queues"}
        known |= {self._key(queue, name) for queue, name in self._names() if FAMILY.fullmatch(name)}
        return [key for key in self._keys(":*") if key not in known]

    def clear(self) -> None:
        self._redis.delete("-", *self._keys("*"))
        self._redis.close()

    async def defects(self) -> list[str]:
        names = self._names()
        return [
            f"{queue}: {defect}"
            for queue in sorted({queue for queue, _ in names})
            for defect in self._queue_defects(queue, [n for q, n in names if q == queue])
        ]

    def _queue_defects(self, queue: str, names: list[str]) -> list[str]:
        """What contradicts invariant 2; the same as for the memory broker."""
        counted = self._redis.hget(self._key(queue, "m"), "df")
        found = [f"{counted} entries without a job"] if counted else []
        jobs: dict[str, tuple[bytes, bytes, bytes]] = {
            name[2:]: tuple(self._redis.hmget(self._key(queue, name), "s", "e", "p"))
            for name in names
            if name.startswith("j:")
        }
        waiting = {job_id for job_id, (state, _, _) in jobs.items() if state == b"q"}
        running: set[str] = set()
        for name in names:
            if not name.startswith("s:"):
                continue
            stream = self._key(queue, name)
            entries: dict[bytes, str] = {
                entry: fields[b"i"].decode() for entry, fields in self._redis.xrange(stream)
            }
            for entry, job_id in entries.items():
                if jobs.get(job_id) != (b"q", entry, name[2:].encode()):
                    found.append(f"entry {entry} names {job_id}, which is {jobs.get(job_id)}")
                waiting.discard(job_id)
            if not self._redis.xinfo_groups(stream):
                continue
            for row in self._redis.xpending_range(stream, "g", "-", "+", 10_000):
                if row["message_id"] not in entries:
                    found.append(f"{row['message_id']} is pending and not in the stream")
                elif row["consumer"] != RELEASED.encode():
                    running.add(entries[row["message_id"]])
        found += [f"{job_id} is queued and has no entry" for job_id in waiting]
        for letter, name in ((b"d", "z"), (b"z", "dlq")):
            members = self._redis.zrange(self._key(queue, name), 0, -1)
            wrong = {member.decode() for member in members}
            wrong ^= {job_id for job_id, (state, _, _) in jobs.items() if state == letter}
            found += [f"{job_id} is in {name}, or in state {letter}, not both" for job_id in wrong]
        asked = {job_id.decode() for job_id in self._redis.hkeys(self._key(queue, "x"))}
        return found + [f"{job_id} has a cancel request" for job_id in asked - running]


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in fields.items()}
