"""The Broker protocol: what the engine may ask of storage. Its contract is told in `broker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

from trio_tasks.broker.jobs import CancelAnswer, Counts, Emitted, NewJob, Stored
from trio_tasks.broker.schedules import DueSchedules, ScheduleRecord, TickAnswer
from trio_tasks.broker.starts import (
    Beat,
    DebounceAsk,
    Outcome,
    Registration,
    StartToken,
    StepReply,
    Taken,
)
from trio_tasks.job import JobState

__all__ = [
    "Broker",
    "Membership",
    "Watch",
]


class Membership(Protocol):
    """One incarnation in one queue. Made by `Broker.register`.

    Steps may overlap (two under way). After `leave` nothing but `step(outcomes, 0)` is allowed.
    """

    @property
    def queue(self) -> str:
        """The queue."""
        ...

    @property
    def incarnation(self) -> str:
        """The name of this life of the consumer."""
        ...

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        """Apply outcomes, then hand out up to `want` jobs, in one round trip.

        With `want == 0` nothing is taken and `StepReply.taken` is `None`. Outcomes may be of
        starts of former incarnations. Higher priorities come first; inside one, jobs of dead
        workers and released ones before new ones, new ones in the order in which they became
        ready. Due jobs are promoted first. A step of nothing at all leaves a hint: so is one passed
        on that its owner cannot follow.
        """
        ...

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        """The id of the job that holds each key now, the asker's own if nobody else does.

        `None`: the start was superseded.
        """
        ...

    async def beat(self) -> Beat:
        """Renew the lease, declare dead those whose lease ended, collect cancel requests."""
        ...

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        """Append log lines (JSON bytes) to the job of this start; the oldest are dropped.

        A superseded start logs nothing, silently.
        """
        ...

    async def wait(self, timeout: float) -> bool:
        """Wait until there may be work in the queue, at most `timeout` seconds.

        A hint: `True` does not promise work, and one waiter is woken per hint. May be cancelled
        at no cost. While the broker is unreachable it waits until it is reachable again.
        """
        ...

    async def wait_and_take(self, timeout: float, want: int) -> Taken | None:
        """Wait as `wait` does, and hand out up to `want` jobs then, as `step` does.

        `None`: nothing was asked for; a `step` has to look. Cancelled or failed: as a `step` that
        takes, so what it handed out is given back.
        """
        ...

    async def leave(self) -> None:
        """Leave the queue. The consumer is deleted only if it owns nothing; else its lease ends."""
        ...


class Watch(Protocol):
    """Waits for changes of one job, or of any job in a queue."""

    async def wait(self, timeout: float) -> None:
        """Return when something may have changed since the watch began or last returned.

        At the latest after `timeout` seconds. Lossy: always look again afterwards.
        """
        ...


class Broker(Protocol):
    """Storage, as far as the engine is concerned. Entered once, used by many tasks.

    `async with broker:` connects (raising `BrokerUnavailableError` if that fails within the
    deadline), keeps its own background tasks in its own nursery, and closes on leaving.
    """

    @property
    def remote(self) -> bool:
        """Whether hints may be lost and members may vanish unseen.

        Then the engine looks for work once a second though nobody woke it, and idle members
        renew their leases too.
        """
        ...

    @property
    def private(self) -> bool:
        """Whether what it keeps is out of everybody else's reach, and ends with it."""
        ...

    @property
    def arms(self) -> bool:
        """Whether `wait_and_take` saves a round trip.

        Then the engine keeps slots reserved for what an idle worker will be handed out.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether requests go through at the moment."""
        ...

    @property
    def last_error(self) -> str | None:
        """The last reason why they did not; no data, no credentials."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> bool | None: ...

    # -- emitting ------------------------------------------------------------------------------

    async def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs, durably when it returns, in atomic steps of up to `BATCH` per queue.

        A minted id (or an emit number) that is known already is that job: repeating is harmless.
        A chosen id whose job has not ended is that job (`created` false); one whose job has ended
        begins a new life.
        """
        ...

    # -- working -------------------------------------------------------------------------------

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> Membership:
        """Join a queue. `have` and `lost` are called without an await in between (see above)."""
        ...

    async def relay(self, queue: str) -> int:
        """Carry the outbox of `queue` to the queues that its rows name; the number delivered.

        Idempotent, by anyone, at any time; a row leaves the outbox after its target has answered.
        """
        ...

    # -- schedules -----------------------------------------------------------------------------

    async def time_ms(self, queue: str) -> int:
        """Server time, of the node that has this queue."""
        ...

    async def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        """Store a schedule; the one that is in force afterwards.

        An unchanged definition keeps its `next_at_ms`, overdue or not, and `last_at_ms`; a
        changed one takes the given `next_at_ms`, which must be later than now and than the
        stored `last_at_ms` (else the stored `last_at_ms` comes back in a record whose
        `next_at_ms` is 0, and the caller computes anew). `replace` says that template and
        options are stored too though the definition is unchanged.
        """
        ...

    async def schedules(self, queue: str) -> list[ScheduleRecord]:
        """All schedules of the queue, by name."""
        ...

    async def remove_schedule(self, queue: str, name: str) -> bool:
        """Remove a schedule; whether it was there. Jobs that it made stay."""
        ...

    async def due_schedules(self, queue: str) -> DueSchedules:
        """The schedules that are due by the server's clock."""
        ...

    async def tick(
        self, schedule: ScheduleRecord, *, next_at_ms: int | None, job: NewJob | None
    ) -> TickAnswer:
        """Turn the occurrence `schedule.next_at_ms` into `job`, or pass it over, and advance.

        One step, refused unless definition and `next_at_ms` are still the stored ones, it is due,
        and it is later than `last_at_ms`. `next_at_ms=None`: there is none further, the schedule
        is removed.
        """
        ...

    # -- looking and steering ------------------------------------------------------------------

    async def queues(self) -> list[str]:
        """The names of all queues that were ever emitted to or served, sorted."""
        ...

    async def read(
        self, queue: str, ids: Sequence[str], *, logs: bool = False
    ) -> list[Stored | None]:
        """Jobs by id, `None` for those that are gone or past their retention."""
        ...

    async def jobs(
        self, queue: str, state: JobState, *, limit: int, after: str | None = None
    ) -> list[Stored]:
        """Jobs in one of the states queued, running, delayed, dead, in their order there.

        `after`: the id of the last job seen; an id that is no longer in that state starts from
        the beginning.
        """
        ...

    async def counts(self, queue: str) -> Counts:
        """The queue in numbers."""
        ...

    async def cancel(
        self, queue: str, job_id: str, *, number: str | None, reason: str, retention_ms: int
    ) -> CancelAnswer:
        """Cancel a job that has not started, or note the request for the one who runs it.

        With an emit number it acts only on the life that the number belongs to (else FINAL).
        """
        ...

    async def requeue(self, queue: str, job_id: str) -> bool:
        """A dead job becomes queued with fresh attempts, no deadline, a new generation.

        `False`: it was not dead. Raises `JobNotFoundError`: no such job.
        """
        ...

    async def pause(self, queue: str, paused: bool) -> None:
        """After `pause(queue, True)` has returned no `step` hands out a job of the queue."""
        ...

    def watch(self, queue: str, job_id: str | None = None) -> AbstractAsyncContextManager[Watch]:
        """Watch a job, or (`None`) a queue. Changes count from the moment the block is entered."""
        ...
