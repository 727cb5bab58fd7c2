"""What the engine may ask of storage: the Broker protocol and the records that pass through it.

Two classes keep this contract: `redis_streams.RedisBroker` (production) and `memory.MemoryBroker`
(the executable specification). One contract suite runs against both, and a Hypothesis machine
drives both with the same operations and compares the states.

The contract, in words
----------------------

*Atomic.* Every method that changes a job does so in one step per queue, all or nothing per job.

*Time.* The broker's own clock (server time) decides what is due, leased, debounced or past its
deadline. Relative instants (`delay_ms`) count from the moment the broker applies the request.

*Starts.* `Membership.step` hands jobs out; each hand-out is a counted start, named by a
`StartToken`. A start is ended by an `Outcome` with that token, which is applied at most once: a
start that was superseded changes nothing (`Applied.STALE`). Who repeats an outcome whose answer
was lost does no harm.

*Leases.* A membership is one life of a consumer in one queue (an *incarnation*). It lives while
its `beat` comes at least once a lease. When it dies, others get its jobs, as new starts.

*Tokens in memory.* After each reconnect the broker tells the server which starts the worker still
holds (`have()`): all others of this incarnation are given back uncounted, so a `take` whose answer
was lost loses nothing. Tokens that are no longer ours are handed to `lost()`. If the server has
forgotten such a start, as it lost its last write, its token may come again: then the membership
hands out nothing more, and its next step or beat says that it is dead.

*Errors.* `BrokerUnavailableError` when the broker cannot be reached, or does not answer, within
the deadline: the outcome of a write is then unknown. `QueueFullError` when an emit is refused for
want of memory or by a limit. `BrokerError` for anything else that the server refuses.

*Cancellation.* Every method may be cancelled at any await. A write may then have been applied or
not; a hand-out whose `step` was cancelled is given back by the membership itself (its token is in
nobody's memory, see above) at the latest when the lease ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum, StrEnum
from typing import Protocol, Self

import msgspec

from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Verdict

__all__ = [
    "RECORD_VERSION",
    "SAME_STEP_CHILDREN",
    "TOMBSTONE_MS",
    "Applied",
    "Beat",
    "Broker",
    "CancelAnswer",
    "Counts",
    "Debounce",
    "DebounceAsk",
    "Delivery",
    "DueSchedules",
    "Emitted",
    "Membership",
    "NewJob",
    "Outcome",
    "Record",
    "Registration",
    "ScheduleRecord",
    "StartToken",
    "StepReply",
    "Stored",
    "TakeStatus",
    "Taken",
    "TickAnswer",
    "Watch",
]

RECORD_VERSION = 1
"""Schema version of `Record`. A record of a newer one is parked, then dead-lettered."""

TOMBSTONE_MS = 600_000
"""How long after its retention an ended job's id still answers repeated emits and outcomes."""

RELAY_TOO_LATE_MS = 50 * 60_000
"""A child that was under way to another queue for longer than this arrives dead."""

RELAYED_RETENTION_MS = 3_600_000
"""A relayed child is kept at least this long after its end, so that a late relay meets its id."""

BATCH = 250
"""The most jobs that one atomic step enqueues."""

SAME_STEP_CHILDREN = 250
"""The most children that one outcome may carry."""


class Debounce(msgspec.Struct, frozen=True, array_like=True):
    """The debounce that a job carries: as given at emit, or decided there (trailing).

    `digest` names edge, queue, event and key; `None` where the key is up to the one who runs it.
    """

    edge: Edge
    window_ms: int
    digest: str | None


class Record(msgspec.Struct, frozen=True, array_like=True):
    """All of a job that is fixed at emit. Redis keeps it as one opaque blob.

    Attributes:
        version: schema version, `RECORD_VERSION`.
        data: the data as JSON bytes.
        attempts, timeout_ms, retention_ms, retry_delay_ms: as given at emit, else `None`.
        emitted_at_ms, scheduled_for_ms: by the emitter's clock; shown only.
        debounce: as given at emit, or of a trailing debounce that the emitter decided.
        debounce_key: a key given at emit without a window of its own.
        schedule: the schedule whose occurrence it is.
    """

    version: int
    event: str
    data: bytes
    attempts: int | None = None
    timeout_ms: int | None = None
    retention_ms: int | None = None
    retry_delay_ms: int | None = None
    parent_id: str | None = None
    emitted_at_ms: int = 0
    scheduled_for_ms: int | None = None
    debounce: Debounce | None = None
    debounce_key: str | None = None
    schedule: str | None = None


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be emitted.

    Attributes:
        number: the emit number of this call for a chosen id; `None` for a minted id.
        delay_ms: due so long after the broker applies the emit. At most one of this and
            `due_at_ms` (an instant); neither: ready at once. A trailing debounce in the record
            overrides both: due `window_ms` after the emit.
        deadline_ms, deadline_at_ms: no attempt starts later than this after the emit / then.
    """

    id: str
    queue: str
    record: Record
    number: str | None = None
    priority: int = 0
    delay_ms: int | None = None
    due_at_ms: int | None = None
    deadline_ms: int | None = None
    deadline_at_ms: int | None = None


class Emitted(msgspec.Struct, frozen=True):
    """The answer to one emit: the job's id, and whether this emit made it.

    A repeated emit (the same minted id, or the same emit number) gets the same answer again.
    """

    id: str
    created: bool


class StartToken(msgspec.Struct, frozen=True):
    """The name of one start: nobody else, and no other start of the job, has it.

    `entry` and `level` say where the stream entry lies; `deliveries` counts its hand-outs.
    """

    queue: str
    job_id: str
    incarnation: str
    entry: str
    level: int
    deliveries: int


class Delivery(msgspec.Struct, frozen=True):
    """A job that was handed out.

    Attributes:
        attempt: the number of this run.
        record: `None` where the bytes in `raw` cannot be decoded or are of a newer version.
        raw: the record's bytes, for messages and the DLQ; empty where `record` is there.
        version: the record's schema version, also of a newer one; `None`: undecodable.
        deadline_at_ms, unknown_since_ms, interruptions, generation: see `JobFacts`.
        requeued: somebody put it back from the DLQ in this life.
        cancel_reason: somebody has asked to cancel the job since its former worker died.
    """

    token: StartToken
    attempt: int
    record: Record | None
    raw: bytes = b""
    version: int | None = RECORD_VERSION
    deadline_at_ms: int | None = None
    unknown_since_ms: int | None = None
    interruptions: int = 0
    generation: int = 0
    requeued: bool = False
    cancel_reason: str | None = None


class TakeStatus(StrEnum):
    """How the taking half of a step went."""

    TAKEN = "taken"
    """Jobs were handed out, perhaps none."""
    PAUSED = "paused"
    """The queue is paused."""
    DEAD = "dead"
    """The incarnation is no longer known: cancel its handlers and register anew."""
    OLD = "old"
    """The request belonged to an older connection. Nothing started."""


class Taken(msgspec.Struct, frozen=True):
    """The taking half of a step.

    Attributes:
        now_ms: server time.
        next_due_in_ms: milliseconds until the next delayed job is due; `None`: none waits.
        next_tick_in_ms: milliseconds until the next occurrence of a schedule; `None`: none.
    """

    status: TakeStatus
    now_ms: int
    next_due_in_ms: int | None = None
    next_tick_in_ms: int | None = None
    deliveries: Sequence[Delivery] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a start has come to. Applied at most once, fenced by its token.

    Attributes:
        attempt: the number of the run that ended.
        ran: its handler had begun; an end without that uses no attempt. (A retry does, always.)
        attempts: total runs as this worker saw them (shown by `info()`).
        retention_ms: how long the ended job and its result are kept.
        result: JSON bytes of the handler's value (complete).
        error: JSON bytes of `{"type", "message", "traceback"}` (retry, die, release).
        children: jobs that come into being with a completion, and only then.
        logged: the handler kept log lines (their lifetime must be set).
        generation: that of the delivery (names the dead-letter stream's entry).
        dead_letter_stream: also append a dead job to this stream.
    """

    token: StartToken
    event: str
    attempt: int
    verdict: Verdict
    ran: bool = True
    attempts: int | None = None
    retention_ms: int = 0
    result: bytes | None = None
    error: bytes | None = None
    children: Sequence[NewJob] = ()
    logged: bool = False
    generation: int = 0
    dead_letter_stream: str | None = None


class Applied(Enum):
    """What became of an outcome."""

    APPLIED = "applied"
    """Applied now."""
    REPEATED = "repeated"
    """It had been applied already: its answer was lost."""
    CANCELLED = "cancelled"
    """A cancel request was pending: the job is cancelled instead."""
    PARKED = "parked"
    """`unless_served`: somebody serves the event; the job is parked instead."""
    STALE = "stale"
    """The start was superseded. Nothing was changed."""
    GONE = "gone"
    """There is no such job any more. Nothing was changed."""
    REFUSED = "refused"
    """The server refuses this outcome. Nothing was changed; commit another for the same start."""


class StepReply(msgspec.Struct, frozen=True):
    """The answer to a step: one `Applied` per outcome in order, and what was taken."""

    applied: Sequence[Applied]
    taken: Taken | None
    relay: bool = False
    """Children for other queues now lie in the outbox: call `Broker.relay`."""


class DebounceAsk(msgspec.Struct, frozen=True):
    """Ask for a debounce key on behalf of a start.

    Leading: take the key for `window_ms` unless another job holds it; it is given back when the
    job that got it ends dead or cancelled. Trailing: is this still the
    last job that was emitted under the key? A requeued job ignores keys (the caller does not ask).
    """

    token: StartToken
    edge: Edge
    window_ms: int
    digest: str


class Beat(msgspec.Struct, frozen=True):
    """The answer to a beat.

    Attributes:
        alive: `False`: the incarnation is dead; cancel its handlers and register anew.
        cancels: running jobs of this incarnation with a cancel request: (job id, reason). It is
            answered again until the job's outcome was applied.
    """

    alive: bool
    now_ms: int
    cancels: Sequence[tuple[str, str]] = ()


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """Who joins a queue: a fresh incarnation of a consumer.

    Attributes:
        events: the events that it has handlers for (see `Die.unless_served`).
        lease_ms: it is dead when it was silent for longer.
    """

    queue: str
    incarnation: str
    consumer_id: str
    host: str
    events: Sequence[str]
    lease_ms: int


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
        ready. Due jobs are promoted first.
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

    async def leave(self) -> None:
        """Leave the queue. The consumer is deleted only if it owns nothing; else its lease ends."""
        ...


class CancelAnswer(StrEnum):
    """What a cancel request met."""

    CANCELLED = "cancelled"
    NOTED = "noted"
    FINAL = "final"
    MISSING = "missing"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it lies in the broker, read in one step.

    Attributes:
        attempt: attempts used, or the number of the one that runs.
        attempts: as the last runner saw them.
        why: of a delay (delay, retry, parked, debounce) or of an end (its reason).
        result, error: JSON bytes.
        numbers: the emit numbers that belong to the present life (chosen ids only).
        logs: (instant, JSON bytes), oldest first.
    """

    id: str
    queue: str
    state: JobState
    record: Record | None
    raw: bytes = b""
    priority: int = 0
    attempt: int = 0
    attempts: int | None = None
    due_at_ms: int | None = None
    deadline_at_ms: int | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    why: str | None = None
    by: str | None = None
    result: bytes | None = None
    error: bytes | None = None
    numbers: Sequence[str] = ()
    generation: int = 0
    interruptions: int = 0
    unknown_since_ms: int | None = None
    logs: Sequence[tuple[int, bytes]] = ()


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A queue in numbers: those that are there now, and totals since the queue exists.

    They add up: `emitted` is the sum of the jobs that are there (queued, delayed, waiting, running,
    dead) and of those that are no more (completed, skipped, cancelled, removed).

    Attributes:
        due: delayed jobs whose instant has passed (part of `delayed`).
        outgoing: children that are still under way from this queue to others.
        emitted: jobs that came into being; a new life of an id is one.
        removed: dead jobs that are dead no more, since a new life of their id has begun.
    """

    queued: int
    delayed: int
    waiting: int
    running: int
    dead: int
    paused: bool
    due: int
    outgoing: int
    emitted: int
    completed: int
    skipped: int
    cancelled: int
    removed: int


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule: which job it makes, and when next.

    Attributes:
        definition: `Repeat.to_json()`; compared byte by byte.
        template: the record of its jobs (`emitted_at_ms` and `scheduled_for_ms` are set anew).
        priority, deadline_ms: of its jobs.
        expires_after_ms: the schedule vanishes when nobody declared or ticked it for so long;
            `None`: never (made by `emit(repeat=)`).
        next_at_ms: the next occurrence (server time).
        last_at_ms: the last occurrence that became a job or was passed over; `None`: none yet.
    """

    queue: str
    name: str
    definition: bytes
    template: Record
    priority: int = 0
    deadline_ms: int | None = None
    expires_after_ms: int | None = None
    next_at_ms: int = 0
    last_at_ms: int | None = None


class DueSchedules(msgspec.Struct, frozen=True):
    """The schedules whose next occurrence has come, and when the one after them comes."""

    now_ms: int
    due: Sequence[ScheduleRecord]
    next_in_ms: int | None


class TickAnswer(StrEnum):
    """What became of a tick."""

    CREATED = "created"
    PASSED = "passed"
    """Advanced without a job, as asked."""
    TAKEN = "taken"
    """Somebody else has ticked it, or it was changed or removed."""
    EARLY = "early"
    """Not due by the server's clock."""


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
