"""What to do about a job. Each decision that changes a job's state is one step of the table.

A decision is what the broker applies, under the same name, fenced by the token of the start.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

from trio_tasks.processor.lifecycle import Step

__all__ = [
    "Cancel",
    "Complete",
    "Decision",
    "Die",
    "Park",
    "Release",
    "Retry",
    "Run",
    "Skip",
    "Verdict",
]


class Run(msgspec.Struct, frozen=True):
    """Let the handler run. The hand-out was the start: no state changes."""


class Complete(msgspec.Struct, frozen=True):
    """Store the result and the children, ack."""

    step: ClassVar[Step] = Step.COMPLETE


class Retry(msgspec.Struct, frozen=True):
    """Run again `delay_ms` after the broker has applied this; this attempt is used up."""

    delay_ms: int
    step: ClassVar[Step] = Step.RETRY


class Park(msgspec.Struct, frozen=True):
    """Put back for `delay_ms` without using an attempt: perhaps another worker knows the event.

    `since_ms` is when it was first met by a worker that did not (server time).
    """

    delay_ms: int
    since_ms: int
    step: ClassVar[Step] = Step.PARK


class Release(msgspec.Struct, frozen=True):
    """Give back at once.

    Attributes:
        counted: the attempt is used up all the same.
        began: the handler had begun; counts towards the limit of uncounted interruptions.
    """

    counted: bool
    began: bool
    step: ClassVar[Step] = Step.RELEASE


class Die(msgspec.Struct, frozen=True):
    """Into the DLQ.

    Attributes:
        reason: "exhausted", "expired", "not_retryable", "requested", "invalid_call",
            "invalid_data", "invalid_result", "undecodable", "unsupported", "no_handler",
            "internal", "relayed_late", or the text given to `DeadLetter` (see `dead_letter.py`).
        unless_served: park for five more seconds instead if a living worker of the queue lists
            the event; the broker looks in the same step.
    """

    reason: str
    unless_served: bool = False
    step: ClassVar[Step] = Step.DIE


class Skip(msgspec.Struct, frozen=True):
    """End without a run, without the DLQ.

    Attributes:
        reason: "debounced", "no_handler", or the text given to `Discard`.
        by: the job that stands in for it.
        unless_served: as in `Die`.
    """

    reason: str
    by: str | None = None
    unless_served: bool = False
    step: ClassVar[Step] = Step.SKIP


class Cancel(msgspec.Struct, frozen=True):
    """End as cancelled."""

    reason: str
    step: ClassVar[Step] = Step.CANCEL


Verdict: TypeAlias = Complete | Retry | Park | Release | Die | Skip | Cancel
"""A decision that ends a start and is committed to the broker."""

Decision: TypeAlias = Run | Verdict
