"""What the tests of the scripts talk to: one queue on a real server, without the engine.

`Desk` sends the calls of `redis_streams.calls` with a blocking client and looks at the keys they
leave. `Clerk` is one incarnation of a consumer. Nobody waits for time here: what shall be overdue
is moved into the past in the server, where the scripts find it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar, cast

import redis
from redis.exceptions import NoScriptError

from trio_tasks.broker import (
    RECORD_VERSION,
    Applied,
    Beat,
    CancelAnswer,
    Counts,
    Debounce,
    DebounceAsk,
    Delivery,
    NewJob,
    Outcome,
    Record,
    Registration,
    StartToken,
    StepReply,
    Stored,
    Taken,
    TakeStatus,
)
from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Complete, Verdict
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.calls import Call, OwnReply
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply

__all__ = ["LEASE_MS", "RETENTION_MS", "TOMBSTONE_MS", "Clerk", "Desk"]

T = TypeVar("T")

LEASE_MS = 30_000
RETENTION_MS = 5_000
TOMBSTONE_MS = 20_000


class _Connection(Protocol):
    """What of a connection of the client is used: plain commands, plain answers."""

    def send_command(self, *words: str | bytes | int) -> None: ...

    def read_response(self) -> Reply: ...


class Desk:
    """One queue.

    Attributes:
        sound: at the end of the test `defects()` must be empty.
    """

    def __init__(self, client: redis.Redis, namespace: str, queue: str = "q") -> None:
        self.client = client
        self.keys = QueueKeys(namespace, queue)
        self.sound = True
        self._numbers = itertools.count(1)

    # -- asking ----------------------------------------------------------------------------------

    def ask(self, call: Call[T]) -> T:
        """Run a script and return its answer."""
        words = (len(call.keys), *call.keys, *call.args)
        try:
            reply = self.do("EVALSHA", call.script.sha, *words)
        except NoScriptError:
            reply = self.do("EVAL", call.script.source, *words)
        return call.parse(reply)

    def do(self, *words: str | bytes | int) -> Reply:
        """Run a plain command; the answer as it came."""
        connection = cast("_Connection | None", self.client.connection)
        assert connection is not None, "the client has a single connection"
        connection.send_command(*words)
        return connection.read_response()

    def number(self, *words: str | bytes | int) -> int:
        """Run a command that answers a number."""
        return int(cast("int | bytes", self.do(*words)))

    def words(self, *words: str | bytes | int) -> list[str]:
        """Run a command that answers a flat list of text."""
        return [cast(bytes, word).decode() for word in cast("list[Reply]", self.do(*words))]

    def word(self, *words: str | bytes | int) -> str | None:
        """Run a command that answers a text or nothing."""
        reply = cast("bytes | None", self.do(*words))
        return None if reply is None else reply.decode()

    # -- jobs ------------------------------------------------------------------------------------

    def job(
        self,
        id: str | None = None,
        *,
        event: str = "work",
        debounce: Debounce | None = None,
        retention_ms: int | None = None,
        number: str | None = None,
        priority: int = 0,
        delay_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> NewJob:
        """A new job: with a minted id, or with a chosen one and a fresh emit number."""
        mine = f"n{next(self._numbers)}"
        record = Record(RECORD_VERSION, event, b"{}", retention_ms=retention_ms, debounce=debounce)
        return NewJob(
            id=f"minted@{mine}" if id is None else id,
            queue=self.keys.queue,
            record=record,
            number=number if id is None or number else mine,
            priority=priority,
            delay_ms=delay_ms,
            deadline_ms=deadline_ms,
        )

    def send(self, *jobs: NewJob) -> list[bool]:
        """Emit jobs; which of them were made by this."""
        made = self.ask(calls.enqueue(self.keys, jobs, tombstone_ms=TOMBSTONE_MS))
        assert [emitted.id for emitted in made] == [job.id for job in jobs]
        return [emitted.created for emitted in made]

    def emit(
        self,
        id: str | None = None,
        *,
        event: str = "work",
        debounce: Debounce | None = None,
        retention_ms: int | None = None,
        priority: int = 0,
        delay_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> str:
        """Emit a new job; its id."""
        job = self.job(
            id,
            event=event,
            debounce=debounce,
            retention_ms=retention_ms,
            priority=priority,
            delay_ms=delay_ms,
            deadline_ms=deadline_ms,
        )
        assert self.send(job) == [True]
        return job.id

    def read(self, job_id: str, *, logs: bool = False) -> Stored:
        """The job that must be there."""
        (stored,) = self.ask(calls.read(self.keys, [job_id], logs=logs))
        assert stored is not None, f"{job_id} is gone"
        return stored

    def is_gone(self, job_id: str) -> bool:
        return self.ask(calls.read(self.keys, [job_id])) == [None]

    def state(self, job_id: str) -> JobState:
        return self.read(job_id).state

    def counts(self) -> Counts:
        return self.ask(calls.counts(self.keys))

    def listed(self, state: JobState, limit: int = 100, after: str | None = None) -> list[str]:
        jobs = self.ask(calls.jobs(self.keys, state, limit=limit, after=after))
        assert all(job.state is state for job in jobs)
        return [job.id for job in jobs]

    def cancel(
        self, job_id: str, *, number: str | None = None, retention_ms: int = RETENTION_MS
    ) -> CancelAnswer:
        call = calls.cancel(
            self.keys,
            job_id,
            number=number,
            reason="no more",
            retention_ms=retention_ms,
            tombstone_ms=TOMBSTONE_MS,
        )
        return self.ask(call)

    # -- keys ------------------------------------------------------------------------------------

    def record(self, job_id: str) -> dict[str, str]:
        """The fields of a job's record but the blob."""
        flat = cast("list[bytes]", self.do("HGETALL", self.keys.job(job_id)))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {name.decode(): value.decode() for name, value in pairs if name != b"b"}

    def meta(self, name: str) -> str | None:
        """A field of the hash `m`."""
        return self.word("HGET", self.keys.meta, name)

    def tokens(self) -> int:
        """How many wake-up tokens lie there."""
        return self.number("LLEN", self.keys.wake)

    def pop_token(self) -> bool:
        """Take the token away; whether there was one."""
        return self.do("LPOP", self.keys.wake) is not None

    def ttl_ms(self, key: str) -> int:
        """-1: none, -2: no such key."""
        return self.number("PTTL", key)

    def pending(self, level: int = 0) -> dict[str, int]:
        """How many entries of a level are pending for whom."""
        summary = cast("list[Reply]", self.do("XPENDING", self.keys.stream(level), "g"))
        consumers = cast("list[list[bytes]] | None", summary[3]) or []
        return {name.decode(): int(number) for name, number in consumers}

    def consumers(self, level: int = 0) -> set[str]:
        """The consumers of a level's group, with or without entries."""
        rows = cast(
            "list[list[bytes]]", self.do("XINFO", "CONSUMERS", self.keys.stream(level), "g")
        )
        return {row[1].decode() for row in rows}

    def length(self, level: int = 0) -> int:
        return self.number("XLEN", self.keys.stream(level))

    def commands(self) -> Counter[str]:
        """How often each command ran since the server's counters were reset."""
        counter: Counter[str] = Counter()
        stats = cast(bytes, self.do("INFO", "commandstats")).decode()
        for name, calls_ in re.findall(r"cmdstat_(\S+):calls=(\d+)", stats):
            counter[name] = int(calls_)
        return counter

    def rows(self, stream: str) -> list[dict[str, bytes]]:
        """The entries of a stream, without their ids."""
        reply = cast("list[list[list[bytes]]]", self.do("XRANGE", stream, "-", "+"))
        return [
            {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
            for _, flat in reply
        ]

    def events(self) -> list[str]:
        """The ids that the event stream names, one word per batch."""
        return [row["i"].decode() for row in self.rows(self.keys.events)]

    def now_ms(self) -> int:
        return self.ask(calls.time(self.keys))

    # -- time ------------------------------------------------------------------------------------

    def make_due(self, job_id: str, ago_ms: int = 1) -> None:
        """Move a delayed job's instant into the past."""
        assert self.do("ZSCORE", self.keys.due, job_id) is not None
        self.do("ZADD", self.keys.due, self.now_ms() - ago_ms, job_id)

    def forget(self, token: StartToken) -> None:
        """Make the newest hand-out of a level not to have happened, as a lost write does."""
        stream, (at_ms, number) = self.keys.stream(token.level), token.entry.split("-")
        assert self.do("XACK", stream, "g", token.entry) == 1
        before = (at_ms, int(number) - 1) if int(number) else (int(at_ms) - 1, (1 << 64) - 1)
        self.do("XGROUP", "SETID", stream, "g", "{}-{}".format(*before))

    def end_lease(self, clerk: Clerk) -> None:
        """Let a member have been silent for too long."""
        assert self.do("ZSCORE", self.keys.leases, clerk.name) is not None
        self.do("ZADD", self.keys.leases, self.now_ms() - 1, clerk.name)

    def last_beat(self, ago_ms: int) -> None:
        """Let the last beat of anyone have been then."""
        self.do("HSET", self.keys.meta, "bt", self.now_ms() - ago_ms)

    def began(self, token: StartToken, ago_ms: int) -> None:
        """Let a start have been handed out so long ago."""
        stream = self.keys.stream(token.level)
        words = ("IDLE", ago_ms, "RETRYCOUNT", token.deliveries, "JUSTID")
        assert self.words("XCLAIM", stream, "g", token.incarnation, 0, token.entry, *words)

    # -- workers ---------------------------------------------------------------------------------

    def clerk(
        self, name: str = "w:1", *, events: Sequence[str] = ("work",), lease_ms: int = LEASE_MS
    ) -> Clerk:
        """A fresh incarnation, on its first connection."""
        clerk = Clerk(self, name, lease_ms)
        registration = Registration(
            queue=self.keys.queue,
            incarnation=name,
            consumer_id=name.partition(":")[0],
            host="host",
            events=events,
            lease_ms=lease_ms,
        )
        clerk.namesakes = self.ask(calls.register(self.keys, registration)).namesakes
        assert clerk.own([]).lost == []
        return clerk

    # -- what must always hold -------------------------------------------------------------------

    def defects(self) -> list[str]:
        """What contradicts the invariants, or has no name in the protocol."""
        return [*self._keys_defects(), *self._jobs_defects(), *self._queue_defects()]

    def _job_ids(self) -> Iterable[str]:
        prefix = self.keys.job("")
        for key in self.words("KEYS", f"{self.keys.prefix}j:*"):
            yield key.removeprefix(prefix)

    def _keys_defects(self) -> Iterable[str]:
        fixed = {
            *self.keys.fixed,
            self.keys.aside,
            *(self.keys.stream(level) for level in range(10)),
        }
        for key in self.words("KEYS", f"{self.keys.prefix}*"):
            kind = key.removeprefix(self.keys.prefix).partition(":")[0]
            if key not in fixed and kind not in {"j", "l", "d", "cr"}:
                yield f"{key} is no key of the protocol"
            if kind == "d" and self.ttl_ms(key) == -1:
                yield f"{key} has no TTL"
            if kind == "l" and self.do("EXISTS", self.keys.job(key.rpartition(":l:")[2])) == 0:
                yield f"{key} outlived its record"

    def _jobs_defects(self) -> Iterable[str]:
        entries: dict[tuple[str, str], str] = {}
        for level in range(10):
            rows = self.do("XRANGE", self.keys.stream(level), "-", "+")
            for entry, fields in cast("list[list[list[bytes]]]", rows):
                entries[cast(bytes, entry).decode(), str(level)] = fields[1].decode()
        delayed = set(self.words("ZRANGE", self.keys.due, 0, -1))
        dead = set(self.words("ZRANGE", self.keys.dlq, 0, -1))
        for job_id in self._job_ids():
            record = self.record(job_id)
            state = record["s"]
            entry = entries.pop((record.get("e", ""), record["p"]), None)
            if (entry == job_id) is not (state == "q"):
                yield f"{job_id} is {state} and its entry {entry}"
            if (job_id in delayed) is not (state == "d"):
                yield f"{job_id} is {state}; delayed: {job_id in delayed}"
            if (job_id in dead) is not (state == "z"):
                yield f"{job_id} is {state}; in the DLQ: {job_id in dead}"
            kept = self.ttl_ms(self.keys.job(job_id))
            if (kept > 0) is not (state in "csx"):
                yield f"{job_id} is {state} and has the TTL {kept}"
            log = self.ttl_ms(self.keys.log(job_id))
            if log != -2 and (log > 0) is not (state in "csx"):
                yield f"{job_id} is {state} and its log has the TTL {log}"
            delayed.discard(job_id)
            dead.discard(job_id)
        yield from (f"entry {entry} of no job" for entry in entries)
        yield from (f"{job_id} is delayed and not there" for job_id in delayed)
        yield from (f"{job_id} is dead and not there" for job_id in dead)

    def _queue_defects(self) -> Iterable[str]:
        if self.tokens() > 1:
            yield f"{self.tokens()} tokens"
        levels = self.meta("lv") or ""
        if levels != "".join(sorted(set(levels), reverse=True)):
            yield f"levels in use: {levels!r}"
        members = set(self.words("ZRANGE", self.keys.leases, 0, -1))
        for level in range(10):
            if self.length(level) and str(level) not in levels:
                yield f"level {level} is in use but not in {levels!r}"
            orphans = self.meta("o")  # then the next take tidies up
            if self.do("EXISTS", self.keys.stream(level)) and members and not orphans:
                for name in self.consumers(level) - members - {"~released"}:
                    if name not in self.pending(level):
                        yield f"consumer {name} is gone and owns nothing in level {level}"
        counts = self.counts()
        there = counts.queued + counts.delayed + counts.running + counts.dead
        ended = counts.completed + counts.skipped + counts.cancelled
        if counts.emitted != there + ended + int(self.meta("rm") or 0):
            yield f"the counters do not add up: {counts}"
        for job_id in self.words("HKEYS", self.keys.cancels):
            if self.state(job_id) not in (JobState.RUNNING, JobState.QUEUED):
                yield f"{job_id} has ended with a cancel request"


class Clerk:
    """One incarnation of a consumer."""

    def __init__(self, desk: Desk, name: str, lease_ms: int) -> None:
        self.name = name
        self.ordinal = 0
        self.namesakes = 0
        self._desk = desk
        self._lease_ms = lease_ms

    def own(self, have: Sequence[StartToken], *, ordinal: int | None = None) -> OwnReply:
        """Come back on a new connection."""
        self.ordinal = self.ordinal + 1 if ordinal is None else ordinal
        call = calls.own(self._desk.keys, incarnation=self.name, ordinal=self.ordinal, have=have)
        return self._desk.ask(call)

    def step(self, outcomes: Sequence[Outcome] = (), want: int = 0) -> StepReply:
        call = calls.step(
            self._desk.keys,
            incarnation=self.name,
            ordinal=self.ordinal,
            outcomes=outcomes,
            want=want,
            lease_ms=self._lease_ms,
            tombstone_ms=TOMBSTONE_MS,
        )
        return self._desk.ask(call)

    def taken(self, want: int = 1) -> Taken:
        """Ask for jobs; the answer."""
        taken = self.step(want=want).taken
        assert taken is not None
        return taken

    def take(self, want: int = 1) -> list[Delivery]:
        """Up to `want` jobs."""
        taken = self.taken(want)
        assert taken.status is TakeStatus.TAKEN, taken.status
        return list(taken.deliveries)

    def take_one(self) -> Delivery:
        """The job that must be there."""
        (delivery,) = self.take(1)
        return delivery

    def take_ids(self, want: int) -> list[str]:
        return [delivery.token.job_id for delivery in self.take(want)]

    def start(self, *, priority: int = 0, deadline_ms: int | None = None) -> Delivery:
        """Emit a job and take it."""
        job_id = self._desk.emit(priority=priority, deadline_ms=deadline_ms)
        delivery = self.take_one()
        assert delivery.token.job_id == job_id, "the queue was empty"
        return delivery

    def outcome(
        self,
        delivery: Delivery,
        verdict: Verdict | None = None,
        *,
        retention_ms: int = RETENTION_MS,
        attempts: int | None = None,
        result: bytes | None = None,
        error: bytes | None = None,
        children: Sequence[NewJob] = (),
        logged: bool = False,
        dead_letter_stream: str | None = None,
    ) -> Outcome:
        """What a start has come to; by default a completion."""
        return Outcome(
            token=delivery.token,
            event="work",
            attempt=delivery.attempt,
            verdict=Complete() if verdict is None else verdict,
            attempts=attempts,
            retention_ms=retention_ms,
            result=result,
            error=error,
            children=children,
            logged=logged,
            generation=delivery.generation,
            dead_letter_stream=dead_letter_stream,
        )

    def commit(self, *outcomes: Outcome) -> list[Applied]:
        return list(self.step(outcomes).applied)

    def end(
        self,
        delivery: Delivery,
        verdict: Verdict | None = None,
        *,
        retention_ms: int = RETENTION_MS,
        error: bytes | None = None,
        logged: bool = False,
    ) -> Applied:
        """Commit one outcome."""
        (applied,) = self.commit(
            self.outcome(
                delivery,
                verdict,
                retention_ms=retention_ms,
                error=error,
                logged=logged,
            )
        )
        return applied

    def beat(self) -> Beat:
        return self._desk.ask(
            calls.beat(self._desk.keys, incarnation=self.name, lease_ms=self._lease_ms)
        ).beat

    def debounce(
        self, delivery: Delivery, *, edge: Edge = "leading", window_ms: int = 10_000
    ) -> str | None:
        """Who holds the key `key`."""
        ask = DebounceAsk(delivery.token, edge, window_ms, "key")
        (holder,) = self._desk.ask(
            calls.debounce(self._desk.keys, [ask], tombstone_ms=TOMBSTONE_MS)
        )
        return holder

    def log(self, delivery: Delivery, *lines: bytes, max_lines: int = 100) -> bool:
        return self._desk.ask(
            calls.log(self._desk.keys, delivery.token, lines, max_lines=max_lines)
        )

    def leave(self) -> bool:
        return self._desk.ask(calls.leave(self._desk.keys, incarnation=self.name))

    def die(self) -> None:
        """Fall silent until the lease ends (others have been heard in the meantime)."""
        self._desk.end_lease(self)
