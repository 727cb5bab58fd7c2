"""RedisBroker: the Broker protocol on one Redis server.

Theory of operation
-------------------
Nearly every method is one script, wrapped in `calls/` and sent by the session's `cmd` link (see
session.py for the connections). It is sent again after a lost connection, until the deadline,
where that is harmless; where it is not, the docstring says so.

Cancellation: a cancelled write may have been carried out, may yet be, or never is. Where that could
lose something (a step that takes, a wake-up, an emit that others share) the module concerned says
why it does not: membership.py, wakes.py, emits.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Self, TypeVar, cast

from trio_tasks.broker import (
    TOMBSTONE_MS,
    CancelAnswer,
    Counts,
    DueSchedules,
    Emitted,
    Membership,
    NewJob,
    Registration,
    ScheduleRecord,
    StartToken,
    Stored,
    TickAnswer,
    Watch,
)
from trio_tasks.errors import BrokerError, BrokerUnavailableError, JobNotFoundError, QueueFullError
from trio_tasks.job import JobState
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import Locate
from trio_tasks.redis_streams.calls import Call, RequeueAnswer
from trio_tasks.redis_streams.keys import QueueKeys, queues_key
from trio_tasks.redis_streams.relay import relay
from trio_tasks.redis_streams.session import ServerSession, Session, Settings

__all__ = ["RedisBroker"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_REQUEST_TIMEOUT: Final = 5.0


class RedisBroker:
    """Keeps jobs on a Redis or Valkey server. See `trio_tasks.broker.Broker` for the methods.

    Args:
        address: the server, or an async function that tells where it is before each connect.
        label: what such a function tells of, without credentials, for logs and errors.
        called: the argument that gave the address, for errors.
        namespace: with which the names of all its keys begin.
        wake_address: another way to the same keyspace, for the connections that wait.
        tombstone_ms: for how long after its retention an ended job's id answers repeats.
        request_timeout: seconds until a call raises `BrokerUnavailableError`; default: the
            address's, or 5.

    Raises:
        ConfigurationError: the namespace is no name.
    """

    def __init__(
        self,
        address: Address | Locate,
        *,
        label: str | None = None,
        called: str = "db",
        namespace: str = "tt",
        wake_address: Address | None = None,
        tombstone_ms: int = TOMBSTONE_MS,
        request_timeout: float | None = None,
    ) -> None:
        self._queues_key = queues_key(namespace)
        known = isinstance(address, Address)
        if label is None:
            label = address.label if known else repr(address)
        if request_timeout is None:
            request_timeout = address.request_timeout if known else _REQUEST_TIMEOUT
        self._settings = Settings(
            locate=_locate(address),
            label=label,
            label_wake=label if wake_address is None else wake_address.label,
            called=called,
            locate_wake=None if wake_address is None else _locate(wake_address),
            namespace=namespace,
            tombstone_ms=tombstone_ms,
            timeout=request_timeout,
        )
        self._entered: Session | None = None
        self._relay_refused: dict[str, str] = {}  # queue → what was logged of it

    def __repr__(self) -> str:
        session = self._entered
        state = "not entered" if session is None else repr(session.cmd)
        return f"<RedisBroker {self._settings.namespace!r}, {state}>"

    # -- life ------------------------------------------------------------------------------------

    @property
    def remote(self) -> bool:
        """Hints may be lost, and members may vanish unseen."""
        return True

    @property
    def private(self) -> bool:
        """Others reach the server too."""
        return False

    @property
    def arms(self) -> bool:
        """A take is waiting on the server, behind the command that waits for work."""
        return True

    @property
    def connected(self) -> bool:
        """Whether a request could be sent now."""
        return self._entered is not None and self._entered.cmd.connected

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; `None` while all is well."""
        session = self._entered
        return None if session is None else session.last_error

    @property
    def _session(self) -> Session:
        if self._entered is None:
            raise RuntimeError("the broker is not entered: use it inside 'async with broker:'")
        return self._entered

    async def __aenter__(self) -> Self:
        """Connect, and check that the server can be used. May be entered again after it was left.

        Raises:
            BrokerUnavailableError: it could not be reached in time.
            ConfigurationError: it refuses us (user, password, rights, number of the database),
                is too old, evicts keys, or `wake_address` leads elsewhere. Said at once.
        """
        if self._entered is not None:
            raise RuntimeError("the broker is entered already")
        self._entered = session = self._new_session()
        try:
            await session.open()
        except BaseException:
            self._entered = None
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> bool | None:
        """Close at once. Requests under way have an unknown outcome."""
        try:
            return await self._session.close(exc_info)  # noqa: ASYNC102 - closes at once
        finally:
            self._entered = None

    def _new_session(self) -> Session:
        return ServerSession(self._settings)

    def _keys(self, queue: str) -> QueueKeys:
        return self._session.keys(queue)

    async def _call(self, call: Call[T], *, repeat: bool = True) -> T:
        return await self._session.cmd.call(call, repeat=repeat)

    # -- emitting --------------------------------------------------------------------------------

    async def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs, in atomic steps of up to `BATCH` per queue; see `Emits`.

        Raises:
            BrokerUnavailableError: `ids` names the jobs of which it is not known that they are
                stored, in the order of the call.
            QueueFullError: the server's memory is full; `ids` as above. Of more than `BATCH` jobs,
                or of several queues, some may have been stored.
        """
        session = self._session
        if len(jobs) == 1 or len({job.queue for job in jobs}) == 1:
            queue = jobs[0].queue
            emitted = await session.emits.emit(queue, jobs)
            if not session.is_named(queue):
                await session.name((queue,))
            return emitted
        by_queue: dict[str, list[NewJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        stored: dict[str, Iterator[Emitted]] = {}
        for queue, some in by_queue.items():
            try:
                stored[queue] = iter(await session.emits.emit(queue, some))
            except (BrokerUnavailableError, QueueFullError) as error:
                known = {*stored, queue}
                ids = (*error.ids, *(job.id for job in jobs if job.queue not in known))
                raise type(error)(str(error), ids=ids) from error
        await session.name(by_queue)
        return [next(stored[job.queue]) for job in jobs]

    # -- working ---------------------------------------------------------------------------------

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> Membership:
        """Join a queue as a fresh incarnation. Cancelled: its lease ends by itself."""
        session = self._session
        session.start_waking()
        keys = session.keys(registration.queue)
        membership = await session.memberships.join(keys, registration, have, lost)
        await session.name([registration.queue])
        return membership

    async def relay(self, queue: str) -> int:
        """Carry the outbox of `queue` to where its rows belong; how many were delivered."""
        session = self._session
        try:
            delivered, targets = await relay(
                session.cmd, session.keys, queue, tombstone_ms=self._settings.tombstone_ms
            )
        except BrokerUnavailableError:
            raise
        except BrokerError as error:
            # Whoever calls tries again, for ever: a dead-letter stream may need another right.
            if str(error) != self._relay_refused.get(queue):
                self._relay_refused[queue] = str(error)
                log.warning("the outbox of queue %r waits, as the server refuses: %s", queue, error)
            raise
        self._relay_refused.pop(queue, None)
        await session.name(targets)
        return delivered

    # -- schedules -------------------------------------------------------------------------------

    async def time_ms(self, queue: str) -> int:
        """Server time."""
        return await self._call(calls.time(self._keys(queue)))

    async def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule; the one that is in force afterwards (see the protocol)."""
        call = calls.declare(self._keys(schedule.queue), schedule, replace=replace)
        declared = await self._call(call)
        await self._session.name([schedule.queue])
        return declared

    async def schedules(self, queue: str) -> list[ScheduleRecord]:
        """All schedules of the queue, by name."""
        return await self._call(calls.schedules(self._keys(queue)))

    async def remove_schedule(self, queue: str, name: str) -> bool:
        """Remove a schedule; whether it was there. Not repeated: it may be declared anew."""
        return await self._call(calls.remove_schedule(self._keys(queue), name), repeat=False)

    async def due_schedules(self, queue: str) -> DueSchedules:
        """The schedules whose next occurrence has come."""
        return await self._call(calls.due_schedules(self._keys(queue)))

    async def tick(
        self, schedule: ScheduleRecord, *, next_at_ms: int | None, job: NewJob | None
    ) -> TickAnswer:
        """Turn an occurrence into `job`, or pass it over, and advance the schedule.

        TAKEN is also the answer if it was done by this call and the first answer was lost.
        """
        call = calls.tick(
            self._keys(schedule.queue),
            schedule,
            next_at_ms=next_at_ms,
            job=job,
            tombstone_ms=self._settings.tombstone_ms,
        )
        return await self._call(call)

    # -- looking and steering --------------------------------------------------------------------

    async def queues(self) -> list[str]:
        """Names of the queues that anybody has used, sorted."""
        (names,) = await self._session.cmd.request(("SMEMBERS", self._queues_key), repeat=True)
        # RESP3 has a set here and RESP2 an array.
        return sorted(name.decode() for name in cast("set[bytes] | list[bytes]", names))

    async def read(
        self, queue: str, ids: Sequence[str], *, logs: bool = False
    ) -> list[Stored | None]:
        """Jobs by id; `None` for those that are gone or past their retention."""
        return await self._call(calls.read(self._keys(queue), ids, logs=logs), repeat=True)

    async def jobs(
        self, queue: str, state: JobState, *, limit: int, after: str | None = None
    ) -> list[Stored]:
        """Jobs in one of the states queued, running, delayed, dead, in their order there."""
        call = calls.jobs(self._keys(queue), state, limit=limit, after=after)
        return await self._call(call)

    async def counts(self, queue: str) -> Counts:
        """The queue in numbers."""
        return await self._call(calls.counts(self._keys(queue)))

    async def cancel(
        self, queue: str, job_id: str, *, number: str | None, reason: str, retention_ms: int
    ) -> CancelAnswer:
        """Cancel a job that has not started, or note the request for the one who runs it.

        Not repeated for a chosen id without an emit number: a new life may have begun meanwhile.
        FINAL is also the answer if it was cancelled by this call and the first answer was lost.
        """
        call = calls.cancel(
            self._keys(queue),
            job_id,
            number=number,
            reason=reason,
            retention_ms=retention_ms,
            tombstone_ms=self._settings.tombstone_ms,
        )
        return await self._call(call, repeat=number is not None or "@" in job_id)

    async def requeue(self, queue: str, job_id: str) -> bool:
        """Give a dead job fresh attempts; `False`: it was not dead.

        Raises:
            JobNotFoundError: there is no such job.
        """
        keys = self._keys(queue)
        (stored,) = await self._call(calls.read(keys, [job_id]))
        answer = RequeueAnswer.MISSING
        if stored is not None:
            call = calls.requeue(keys, job_id, generation=stored.generation)
            answer = await self._call(call)
        if answer is RequeueAnswer.MISSING:
            raise JobNotFoundError(f"there is no job {job_id!r} in queue {queue!r}")
        return answer is not RequeueAnswer.NOT_DEAD

    async def pause(self, queue: str, paused: bool) -> None:
        """Stop handing out jobs of the queue, or go on.

        The request bears a number above that of the last one, so that a late repeat of it cannot
        undo what somebody has asked for since.
        """
        keys = self._keys(queue)
        call = calls.pause(keys, paused=paused, number=0)
        while not (reply := await self._call(call)).applied:
            call = calls.pause(keys, paused=paused, number=reply.number + 1)

    def watch(self, queue: str, job_id: str | None = None) -> AbstractAsyncContextManager[Watch]:
        """Watch a job, or (`None`) a queue; see `Watches`."""
        return self._session.watch(queue, job_id)


def _locate(address: Address | Locate) -> Locate:
    if not isinstance(address, Address):
        return address

    async def located() -> Address:
        return address

    return located
