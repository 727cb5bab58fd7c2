"""What people ask for: `cancel`, `requeue`, `pause`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from trio_tasks.broker import TOMBSTONE_MS, CancelAnswer
from trio_tasks.redis_streams.calls.emitting import Argument
from trio_tasks.redis_streams.calls.values import encoded, found, items, text, whole
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = ["PauseReply", "RequeueAnswer", "cancel", "pause", "requeue"]


def cancel(
    keys: QueueKeys,
    job_id: str,
    *,
    number: str | None,
    reason: str,
    retention_ms: int,
    tombstone_ms: int = TOMBSTONE_MS,
) -> Call[CancelAnswer]:
    """Cancel a job, or note the request for the one who runs it. See `Broker.cancel`.

    Repeating it is harmless (the second call finds the job cancelled, and answers FINAL).
    """
    args: list[Argument] = [keys.prefix, tombstone_ms, job_id, number or "-"]
    args += (encoded(reason), retention_ms)
    return Call(
        script("cancel"), keys.fixed, args, parser("cancel", lambda r: CancelAnswer(text(r)))
    )


class RequeueAnswer(StrEnum):
    """What a requeue met."""

    REQUEUED = "requeued"
    NOT_DEAD = "not_dead"
    """It was not, or is not any more: somebody else has requeued it from this generation."""
    MISSING = "missing"


def requeue(keys: QueueKeys, job_id: str, *, generation: int) -> Call[RequeueAnswer]:
    """Put a dead job back, if its generation is still the one that the caller has read.

    Repeating it is harmless; the second call finds the job not dead.
    """
    args: list[Argument] = [keys.prefix, job_id, generation]
    return Call(
        script("requeue"), keys.fixed, args, parser("requeue", lambda r: RequeueAnswer(text(r)))
    )


class PauseReply(msgspec.Struct, frozen=True):
    """The answer to `pause`.

    Attributes:
        applied: `False`: a later request was applied before; send `number + 1`.
        number: that of the last request that was applied.
    """

    applied: bool
    number: int


def pause(keys: QueueKeys, *, paused: bool, number: int) -> Call[PauseReply]:
    """Pause or resume, if `number` is above that of the last such request.

    `number=0` changes nothing and tells the last one.
    """

    def parse(reply: Reply) -> PauseReply:
        applied, stored = items(reply)
        return PauseReply(found(applied), whole(stored))

    args: list[Argument] = [keys.prefix, int(paused), number]
    return Call(script("pause"), keys.fixed, args, parser("pause", parse))
