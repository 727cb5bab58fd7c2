"""What a worker of the model does with a job: it asks the real Processor."""

from __future__ import annotations

from functools import cache
from typing import Final, assert_never

from tests.model.store import Delivery, New, Outcome
from trio_tasks.errors import ConfigurationError
from trio_tasks.options import ProcessorOptions, RetryPolicy
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Decision,
    Die,
    Park,
    Release,
    Retry,
    Run,
    Skip,
)
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import CancelRequested, Failed, Input, Succeeded
from trio_tasks.processor.processor import Processor

__all__ = ["CANCELLED", "FAILED", "GRACE_MS", "MISUSED", "SUCCEEDED", "decide", "outcome"]

GRACE_MS: Final = 10_000

_PROCESSOR: Final = Processor(
    ProcessorOptions(retry=RetryPolicy(delay=0, jitter=0)), unknown_event_grace_ms=GRACE_MS
)

SUCCEEDED: Final = Succeeded()
FAILED: Final = Failed(ValueError())
MISUSED: Final = Failed(ConfigurationError())
CANCELLED: Final = CancelRequested("asked")


def decide(delivery: Delivery, attempts: int, happened: Input, now: int) -> Decision:
    """What the Processor says."""
    facts = JobFacts(
        id=delivery.token.job,
        attempt=delivery.attempt,
        attempts=attempts,
        interruptions=delivery.gi,
        unknown_since_ms=delivery.us,
    )
    return _decide(facts, happened, now)


@cache
def _decide(facts: JobFacts, happened: Input, now: int) -> Decision:
    return _PROCESSOR.decide(facts, happened, now_ms=now)


def outcome(
    delivery: Delivery,
    decision: Decision,
    *,
    ran: bool = False,
    children: tuple[New, ...] = (),
) -> Outcome | None:
    """The decision as it is committed; `None`: the handler may run. `ran`: it had begun."""
    plain = Outcome(delivery.token, "c", delivery.attempt, ran=ran)
    match decision:
        case Run():
            return None
        case Complete():
            return plain._replace(children=children)
        case Retry(delay_ms=delay):
            return plain._replace(kind="t", why="retry", delay=delay)
        case Park(delay_ms=delay, since_ms=since):
            return plain._replace(kind="k", why="parked", delay=delay, since=since)
        case Release(counted=counted, began=began):
            return plain._replace(kind="v" if counted else "i" if began else "u")
        case Die(reason=why, unless_served=unless):
            return plain._replace(kind="z", why=why, unless_served=unless)
        case Skip(reason=why, by=by, unless_served=unless):
            return plain._replace(kind="s", why=why, by=by or "", unless_served=unless)
        case Cancel(reason=why):
            return plain._replace(kind="x", why=why)
        case _:
            assert_never(decision)
