"""What contract tests talk to: a broker, and workers that obey it, in few words.

Nothing here knows which broker it is. Time passes by `World.pass_ms`: virtual milliseconds where
the loop has a virtual clock, real ones otherwise, so tests pass few of them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypedDict, Unpack

import anyio

from trio_tasks.broker import (
    RECORD_VERSION,
    Applied,
    Beat,
    Broker,
    CancelAnswer,
    Counts,
    Debounce,
    DebounceAsk,
    Delivery,
    Emitted,
    Membership,
    NewJob,
    Outcome,
    Record,
    Registration,
    ScheduleRecord,
    StartToken,
    Stored,
    Taken,
    TakeStatus,
)
from trio_tasks.environment import Ids
from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Complete, Die, Verdict

__all__ = ["Backdoor", "Worker", "World", "adds_up", "error_bytes"]

LONG_MS = 60_000
"""A lease or delay that never ends during a test on the real clock."""


def error_bytes(text: str) -> bytes:
    """An attempt's error as workers store it."""
    return json.dumps({"type": "ValueError", "message": text, "traceback": ""}).encode()


def adds_up(counts: Counts) -> bool:
    """Invariant 29."""
    there = counts.queued + counts.delayed + counts.waiting + counts.running + counts.dead
    gone = counts.completed + counts.skipped + counts.cancelled + counts.removed
    return counts.emitted == there + gone


class Backdoor(Protocol):
    """What a test does behind the contract's back, differently for each broker."""

    async def spoil(self, queue: str, job_id: str, raw: bytes) -> None:
        """Replace a job's record by bytes that nobody can decode."""
        ...

    async def end_lease(self, queue: str, incarnation: str) -> None:
        """Let a lease end now; the next who looks declares the worker dead."""
        ...

    async def make_due(self, queue: str, schedule: str, at_ms: int) -> None:
        """Move a schedule's next occurrence."""
        ...

    async def take_hint(self, queue: str) -> bool:
        """Take the hint that lies there, if one does and nobody waits for it."""
        ...

    async def defects(self) -> list[str]:
        """What contradicts invariant 2: jobs and entries that do not belong together."""
        ...

    def stream(self, name: str) -> str:
        """A name for a dead-letter stream that no other test uses."""
        ...

    async def dead_letters(self, stream: str) -> list[dict[str, str]]:
        """The entries of a dead-letter stream, each with at least `id` and `generation`."""
        ...

    async def leftovers(self) -> list[str]:
        """What is stored beyond the names of queues, their numbers and their schedules."""
        ...


class RecordFields(TypedDict, total=False):
    """Fields of a `Record` that a test may set."""

    version: int
    attempts: int | None
    timeout_ms: int | None
    retention_ms: int | None
    retry_delay_ms: int | None
    parent_id: str | None
    emitted_at_ms: int
    scheduled_for_ms: int | None
    debounce: Debounce | None
    debounce_key: str | None


class JobFields(RecordFields, total=False):
    """Fields of a `NewJob`, or of its record, that a test may set."""

    event: str
    data: bytes
    number: str | None
    priority: int
    delay_ms: int | None
    due_at_ms: int | None
    deadline_ms: int | None
    deadline_at_ms: int | None


class OutcomeFields(TypedDict, total=False):
    """Fields of an `Outcome` that a test may set."""

    ran: bool
    attempts: int | None
    retention_ms: int
    result: bytes | None
    error: bytes | None
    children: Sequence[NewJob]
    logged: bool
    dead_letter_stream: str | None


class Worker:
    """A consumer in one queue: it remembers its starts, as the contract asks."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self.held: list[StartToken] = []
        self.lost: list[StartToken] = []
        self._membership: Membership | None = None

    async def join(self, broker: Broker) -> None:
        self._membership = await broker.register(
            self.registration, have=lambda: list(self.held), lost=self.lost.extend
        )

    @property
    def membership(self) -> Membership:
        assert self._membership is not None, "joined first"
        return self._membership

    async def step(self, outcomes: Sequence[Outcome], want: int) -> tuple[list[Applied], Taken]:
        """Commit and take in one step."""
        reply = await self.membership.step(outcomes, want)
        assert reply.taken is not None
        self.held += [delivery.token for delivery in reply.taken.deliveries]
        return list(reply.applied), reply.taken

    async def wait_and_take(self, timeout: float, want: int = 1) -> Taken | None:
        """Wait armed for up to `want` jobs."""
        taken = await self.membership.wait_and_take(timeout, want)
        if taken is not None:
            self.held += [delivery.token for delivery in taken.deliveries]
        return taken

    async def take(self, want: int = 1) -> list[Delivery]:
        """Up to `want` jobs."""
        _, taken = await self.step([], want)
        assert taken.status is TakeStatus.TAKEN, taken
        return list(taken.deliveries)

    async def take_ids(self, want: int) -> list[str]:
        """The ids of up to `want` jobs, in the order in which they were handed out."""
        return [delivery.token.job_id for delivery in await self.take(want)]

    async def take_one(self) -> Delivery:
        """The job that must be there."""
        (delivery,) = await self.take(1)
        return delivery

    def outcome(
        self, delivery: Delivery, verdict: Verdict | None = None, **fields: Unpack[OutcomeFields]
    ) -> Outcome:
        """What a start has come to; by default a completion that is kept for a minute."""
        fields.setdefault("retention_ms", LONG_MS)
        return Outcome(
            token=delivery.token,
            event=delivery.record.event if delivery.record is not None else "",
            attempt=delivery.attempt,
            verdict=Complete() if verdict is None else verdict,
            generation=delivery.generation,
            **fields,
        )

    async def commit(self, *outcomes: Outcome) -> list[Applied]:
        """Commit, and take nothing."""
        reply = await self.membership.step(outcomes, 0)
        assert reply.taken is None
        ended = {outcome.token for outcome in outcomes}
        self.held = [token for token in self.held if token not in ended]
        return list(reply.applied)

    async def end(
        self, delivery: Delivery, verdict: Verdict | None = None, **fields: Unpack[OutcomeFields]
    ) -> Applied:
        """Commit one outcome."""
        (applied,) = await self.commit(self.outcome(delivery, verdict, **fields))
        return applied

    async def ask(
        self, delivery: Delivery, digest: str, *, edge: Edge, window_ms: int = LONG_MS
    ) -> str | None:
        """Who holds a debounce key."""
        ask = self.ask_for(delivery, digest, edge=edge, window_ms=window_ms)
        (holder,) = await self.membership.debounce([ask])
        return holder

    def ask_for(
        self, delivery: Delivery, digest: str, *, edge: Edge, window_ms: int = LONG_MS
    ) -> DebounceAsk:
        """The question of `ask`."""
        return DebounceAsk(delivery.token, edge, window_ms, digest)

    async def beat(self) -> Beat:
        return await self.membership.beat()

    async def leave(self) -> None:
        await self.membership.leave()


class World:
    """A broker, and short words for what one does with it."""

    def __init__(self, broker: Broker, backdoor: Backdoor) -> None:
        self.broker = broker
        self.backdoor = backdoor
        self.ids = Ids()

    # -- time ----------------------------------------------------------------------------------

    async def pass_ms(self, milliseconds: int) -> None:
        """Let time pass, on the clock that the broker goes by."""
        await anyio.sleep(milliseconds / 1000)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for what the passing of time brings about, at most a second."""
        with anyio.fail_after(1):
            while not await holds():
                await self.pass_ms(2)

    async def now_ms(self, queue: str = "default") -> int:
        return await self.broker.time_ms(queue)

    # -- jobs ----------------------------------------------------------------------------------

    def job(
        self, id: str | None = None, queue: str = "default", **fields: Unpack[JobFields]
    ) -> NewJob:
        """A new job: with a minted id, or with a chosen one and a fresh emit number."""
        number = fields.get("number")
        if id is not None and number is None:
            number = self.ids.emit_number()
        return NewJob(
            id=id or self.ids.job_id(),
            queue=queue,
            record=Record(
                version=fields.get("version", RECORD_VERSION),
                event=fields.get("event", "work"),
                data=fields.get("data", b"null"),
                attempts=fields.get("attempts"),
                timeout_ms=fields.get("timeout_ms"),
                retention_ms=fields.get("retention_ms"),
                retry_delay_ms=fields.get("retry_delay_ms"),
                parent_id=fields.get("parent_id"),
                emitted_at_ms=fields.get("emitted_at_ms", 0),
                scheduled_for_ms=fields.get("scheduled_for_ms"),
                debounce=fields.get("debounce"),
                debounce_key=fields.get("debounce_key"),
            ),
            number=number,
            priority=fields.get("priority", 0),
            delay_ms=fields.get("delay_ms"),
            due_at_ms=fields.get("due_at_ms"),
            deadline_ms=fields.get("deadline_ms"),
            deadline_at_ms=fields.get("deadline_at_ms"),
        )

    async def send(self, job: NewJob) -> Emitted:
        """Emit one job."""
        (emitted,) = await self.broker.emit([job])
        return emitted

    async def emit(
        self, id: str | None = None, queue: str = "default", **fields: Unpack[JobFields]
    ) -> str:
        """Emit a new job; its id."""
        return (await self.send(self.job(id, queue, **fields))).id

    async def read(self, job_id: str, queue: str = "default", *, logs: bool = False) -> Stored:
        """The job that must be there."""
        (stored,) = await self.broker.read(queue, [job_id], logs=logs)
        assert stored is not None, f"{job_id} is gone"
        return stored

    async def is_gone(self, job_id: str, queue: str = "default") -> bool:
        return await self.broker.read(queue, [job_id]) == [None]

    async def state(self, job_id: str, queue: str = "default") -> JobState:
        return (await self.read(job_id, queue)).state

    async def listed(
        self, state: JobState, *, limit: int = 100, after: str | None = None
    ) -> list[str]:
        """The ids of the jobs in a state."""
        jobs = await self.broker.jobs("default", state, limit=limit, after=after)
        assert all(job.state is state for job in jobs)
        return [job.id for job in jobs]

    async def miscounts(self) -> list[Counts]:
        """The numbers of the queues whose numbers do not add up."""
        counts = [await self.broker.counts(queue) for queue in await self.broker.queues()]
        return [each for each in counts if not adds_up(each)]

    async def counts(self, queue: str = "default") -> Counts:
        return await self.broker.counts(queue)

    async def cancel(
        self,
        job_id: str,
        *,
        number: str | None = None,
        reason: str = "because",
        retention_ms: int = LONG_MS,
    ) -> CancelAnswer:
        return await self.broker.cancel(
            "default", job_id, number=number, reason=reason, retention_ms=retention_ms
        )

    # -- workers -------------------------------------------------------------------------------

    async def worker(
        self,
        name: str = "w",
        *,
        queue: str = "default",
        events: Sequence[str] = ("work",),
        lease_ms: int = LONG_MS,
    ) -> Worker:
        """A fresh incarnation."""
        worker = Worker(
            Registration(
                queue=queue,
                incarnation=self.ids.incarnation(name),
                consumer_id=name,
                host="host",
                events=events,
                lease_ms=lease_ms,
            )
        )
        await worker.join(self.broker)
        return worker

    async def bury(self, id: str | None = None, **fields: Unpack[JobFields]) -> str:
        """Emit a job and let it die; its id."""
        job_id = await self.emit(id, **fields)
        worker = await self.worker()
        delivery = await worker.take_one()
        assert delivery.token.job_id == job_id, "the queue was empty"
        await worker.end(delivery, Die("exhausted"), error=error_bytes("no"))
        await worker.leave()
        return job_id

    async def kill(self, worker: Worker) -> None:
        """The worker is silent for longer than its lease."""
        registration = worker.registration
        await self.backdoor.end_lease(registration.queue, registration.incarnation)

    # -- schedules -----------------------------------------------------------------------------

    def schedule(
        self,
        name: str = "nightly",
        *,
        definition: bytes = b'{"every":1}',
        next_at_ms: int,
        expires_after_ms: int | None = None,
        priority: int = 0,
    ) -> ScheduleRecord:
        return ScheduleRecord(
            queue="default",
            name=name,
            definition=definition,
            template=Record(RECORD_VERSION, "work", b"null"),
            priority=priority,
            expires_after_ms=expires_after_ms,
            next_at_ms=next_at_ms,
        )

    def occurrence(self, schedule: ScheduleRecord) -> NewJob:
        """The job that a schedule's next occurrence makes."""
        return NewJob(
            id=f"{schedule.name}:{schedule.next_at_ms}",
            queue=schedule.queue,
            record=schedule.template,
            priority=schedule.priority,
        )
