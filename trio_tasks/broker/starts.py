"""Starts: how a job is handed out to a member of a queue, and what its start has come to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum

import msgspec

from trio_tasks.broker.jobs import RECORD_VERSION, NewJob, Record
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Verdict

__all__ = [
    "SAME_STEP_CHILDREN",
    "Applied",
    "Beat",
    "DebounceAsk",
    "Delivery",
    "Outcome",
    "Registration",
    "StartToken",
    "StepReply",
    "TakeStatus",
    "Taken",
]

SAME_STEP_CHILDREN = 250
"""The most children that one outcome may carry."""


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


class StartToken(msgspec.Struct, frozen=True, gc=False):
    """The name of one start: nobody else, and no other start of the job, has it.

    `entry` and `level` say where the stream entry lies; `deliveries` counts its hand-outs.
    """

    queue: str
    job_id: str
    incarnation: str
    entry: str
    level: int
    deliveries: int


class Delivery(msgspec.Struct, frozen=True, gc=False):
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


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
