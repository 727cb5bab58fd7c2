"""A broker behind a bad line: requests get lost on their way, answers on theirs.

Theory of operation. `UnreliableBroker` keeps the `Broker` contract on top of another broker, the
*server*, which somebody else has entered. Each request goes through a `Line`, which carries it,
loses it, or carries it and loses the answer; so a test decides about every single request, and
needs to know of nothing else.

An answer that is lost costs nothing but for a step that has handed out jobs: those starts are in
nobody's memory. A broker with real connections announces on each new one which starts its worker
holds (`own`), and the server gives back the others. The same is done here: what a step has handed
out counts as *unseen* until the caller has got the answer; before the next request of a membership
whose step has failed, all that is unseen is given back, uncounted. The answer of a step that was
under way meanwhile comes too late: it counts as OLD.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.broker import (
    Beat,
    Broker,
    CancelAnswer,
    Counts,
    DebounceAsk,
    Delivery,
    DueSchedules,
    Emitted,
    Membership,
    NewJob,
    Outcome,
    Registration,
    ScheduleRecord,
    StartToken,
    StepReply,
    Stored,
    Taken,
    TakeStatus,
    TickAnswer,
    Watch,
)
from trio_tasks.errors import BrokerUnavailableError
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Release

__all__ = ["Line", "UnreliableBroker"]

T = TypeVar("T")


class Line(Protocol):
    """The way from one client to the server and back."""

    @property
    def remote(self) -> bool:
        """See `Broker.remote`."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a request would be carried now."""
        ...

    async def carry(self, request: str, send: Callable[[], Awaitable[T]], asked: object) -> T:
        """Carry a request, unless it is lost, and its answer, unless that is lost.

        Args:
            request: the name of the broker's or membership's method; also "connect" (entering)
                and "own" (see this module).
            send: has the server carry it out; to be called once at most.
            asked: what it is about: the jobs of an emit, the outcomes of a step, a queue's name,
                (queue, job) of a cancel or requeue, (queue, paused), (schedule, job) of a tick.

        Raises:
            BrokerUnavailableError: the request or its answer was lost.
        """
        ...


class UnreliableBroker:
    """A client of `server`; `async with` connects it and opens nothing."""

    def __init__(self, server: Broker, line: Line) -> None:
        """Make a client.

        Args:
            server: an entered broker. The memberships are the server's, so those of a client that
                ends without a goodbye live on until their leases end.
            line: the way to it.
        """
        self._server = server
        self._line = line

    @property
    def remote(self) -> bool:
        """As the line has it."""
        return self._line.remote

    @property
    def private(self) -> bool:
        """The server may have other clients."""
        return False

    @property
    def arms(self) -> bool:
        """As a server behind a line does."""
        return self._line.remote

    @property
    def connected(self) -> bool:
        """As the line has it."""
        return self._line.connected

    @property
    def last_error(self) -> str | None:
        """Why there is no connection."""
        return None if self._line.connected else "the line is down"

    async def __aenter__(self) -> Self:
        await self._line.carry("connect", checkpoint, None)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Nothing was opened."""

    async def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs."""
        try:
            return await self._line.carry("emit", lambda: self._server.emit(jobs), jobs)
        except BrokerUnavailableError as error:
            raise BrokerUnavailableError(str(error), ids=[job.id for job in jobs]) from error

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> Membership:
        """Join a queue."""

        async def send() -> Membership:
            return await self._server.register(registration, have=have, lost=lost)

        membership = await self._line.carry("register", send, registration)
        return UnreliableMembership(membership, self._line)

    async def relay(self, queue: str) -> int:
        """Carry the outbox of a queue to where its rows belong."""
        return await self._line.carry("relay", lambda: self._server.relay(queue), queue)

    async def time_ms(self, queue: str) -> int:
        """Server time."""
        return await self._line.carry("time_ms", lambda: self._server.time_ms(queue), queue)

    async def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule."""
        return await self._line.carry(
            "declare", lambda: self._server.declare(schedule, replace=replace), schedule
        )

    async def schedules(self, queue: str) -> list[ScheduleRecord]:
        """All schedules of the queue."""
        return await self._line.carry("schedules", lambda: self._server.schedules(queue), queue)

    async def remove_schedule(self, queue: str, name: str) -> bool:
        """Remove a schedule."""
        return await self._line.carry(
            "remove_schedule", lambda: self._server.remove_schedule(queue, name), queue
        )

    async def due_schedules(self, queue: str) -> DueSchedules:
        """The schedules that are due."""
        return await self._line.carry(
            "due_schedules", lambda: self._server.due_schedules(queue), queue
        )

    async def tick(
        self, schedule: ScheduleRecord, *, next_at_ms: int | None, job: NewJob | None
    ) -> TickAnswer:
        """Turn an occurrence into a job, or pass it over, and advance."""
        return await self._line.carry(
            "tick",
            lambda: self._server.tick(schedule, next_at_ms=next_at_ms, job=job),
            (schedule, job),
        )

    async def queues(self) -> list[str]:
        """The names of all queues."""
        return await self._line.carry("queues", self._server.queues, None)

    async def read(
        self, queue: str, ids: Sequence[str], *, logs: bool = False
    ) -> list[Stored | None]:
        """Jobs by id."""
        return await self._line.carry(
            "read", lambda: self._server.read(queue, ids, logs=logs), queue
        )

    async def jobs(
        self, queue: str, state: JobState, *, limit: int, after: str | None = None
    ) -> list[Stored]:
        """Jobs in a state."""
        return await self._line.carry(
            "jobs", lambda: self._server.jobs(queue, state, limit=limit, after=after), queue
        )

    async def counts(self, queue: str) -> Counts:
        """The queue in numbers."""
        return await self._line.carry("counts", lambda: self._server.counts(queue), queue)

    async def cancel(
        self, queue: str, job_id: str, *, number: str | None, reason: str, retention_ms: int
    ) -> CancelAnswer:
        """Cancel a job that has not started, or note the request."""

        async def send() -> CancelAnswer:
            return await self._server.cancel(
                queue, job_id, number=number, reason=reason, retention_ms=retention_ms
            )

        return await self._line.carry("cancel", send, (queue, job_id))

    async def requeue(self, queue: str, job_id: str) -> bool:
        """Give a dead job fresh attempts."""
        return await self._line.carry(
            "requeue", lambda: self._server.requeue(queue, job_id), (queue, job_id)
        )

    async def pause(self, queue: str, paused: bool) -> None:
        """Stop handing out jobs of the queue, or go on."""
        await self._line.carry("pause", lambda: self._server.pause(queue, paused), (queue, paused))

    def watch(self, queue: str, job_id: str | None = None) -> AbstractAsyncContextManager[Watch]:
        """Watch a job or a queue. A watch is lossy by contract, so nothing is done to it here."""
        return self._server.watch(queue, job_id)


class UnreliableMembership:
    """A membership behind a line; see the module."""

    def __init__(self, membership: Membership, line: Line) -> None:
        self._membership = membership
        self._line = line
        self._unseen: dict[StartToken, Delivery] = {}
        self._in_doubt = False
        self._ordinal = 0
        self._owning = anyio.Lock()

    @property
    def queue(self) -> str:
        """The queue."""
        return self._membership.queue

    @property
    def incarnation(self) -> str:
        """The name of this life of the consumer."""
        return self._membership.incarnation

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        """Apply outcomes, then hand out up to `want` jobs."""
        await self._own()
        ordinal = self._ordinal

        async def send() -> StepReply:
            reply = await self._membership.step(outcomes, want)
            self._sent(reply.taken)
            return reply

        try:
            reply = await self._line.carry("step", send, outcomes)
        except BaseException:
            self._in_doubt |= want > 0
            raise
        return StepReply(reply.applied, self._heard_under(ordinal, reply.taken), reply.relay)

    async def wait_and_take(self, timeout: float, want: int) -> Taken | None:
        """Wait until there may be work, and take it."""
        await self._own()
        ordinal = self._ordinal

        async def send() -> Taken | None:
            taken = await self._membership.wait_and_take(timeout, want)
            self._sent(taken)
            return taken

        try:
            taken = await self._line.carry("wait_and_take", send, self.queue)
        except BaseException:
            self._in_doubt = True
            raise
        return self._heard_under(ordinal, taken)

    def _sent(self, taken: Taken | None) -> None:
        deliveries = () if taken is None else taken.deliveries
        self._unseen |= {delivery.token: delivery for delivery in deliveries}

    def _heard_under(self, ordinal: int, taken: Taken | None) -> Taken | None:
        if taken is None:
            return None
        if ordinal != self._ordinal:
            self._in_doubt |= bool(taken.deliveries)
            return Taken(TakeStatus.OLD, taken.now_ms)
        for delivery in taken.deliveries:
            del self._unseen[delivery.token]
        return taken

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        """Who holds each key now."""
        await self._own()
        return await self._line.carry("debounce", lambda: self._membership.debounce(asks), asks)

    async def beat(self) -> Beat:
        """Renew the lease."""
        await self._own()
        return await self._line.carry("beat", self._membership.beat, self.queue)

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        """Append log lines."""
        await self._own()
        await self._line.carry(
            "log", lambda: self._membership.log(token, lines, max_lines), token.job_id
        )

    async def wait(self, timeout: float) -> bool:
        """Wait until there may be work."""
        return await self._line.carry("wait", lambda: self._membership.wait(timeout), self.queue)

    async def leave(self) -> None:
        """Leave the queue."""
        await self._own()
        await self._line.carry("leave", self._membership.leave, self.queue)

    async def _own(self) -> None:
        """After a step has failed: give back what it may have handed out."""
        if not self._in_doubt and not self._owning.locked():
            return
        async with self._owning:
            if not self._in_doubt:
                return
            self._in_doubt = False
            self._ordinal += 1
            unseen, self._unseen = self._unseen, {}
            releases = [_release(delivery) for delivery in unseen.values()]
            try:
                await self._line.carry("own", lambda: self._membership.step(releases, 0), releases)
            except BaseException:
                self._unseen |= unseen
                self._in_doubt = True
                raise


_RETENTION_MS: Final = 300_000
"""How long a job is kept that ends by being given back, because somebody has cancelled it."""


def _release(delivery: Delivery) -> Outcome:
    return Outcome(
        token=delivery.token,
        event="" if delivery.record is None else delivery.record.event,
        attempt=delivery.attempt,
        verdict=Release(counted=False, began=False),
        ran=False,
        retention_ms=_RETENTION_MS,
        generation=delivery.generation,
    )
