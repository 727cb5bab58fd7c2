"""The life of a job, as one table. Whatever can ever happen to a job is a row of it.

Two rules:

1. A job changes its state by a row of `TABLE` or not at all. `transition()` raises for any other
   move and changes nothing.
2. The same rows, rendered by `redis_streams/scripts.py`, stand at the head of every Lua script
   that writes a state, so Redis refuses an illegal move by the same data.

The diagram in the docs is `mermaid()`. A *retry* is not a state: it is `delayed`, and the record
says why it is delayed. *Running* needs no write: a job runs while its stream entry is pending for
a consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from trio_tasks.errors import InternalError
from trio_tasks.job import JobState

__all__ = [
    "LETTERS",
    "STATE_OF_LETTER",
    "TABLE",
    "IllegalTransitionError",
    "Row",
    "Step",
    "legal_moves",
    "mermaid",
    "transition",
]


class Step(StrEnum):
    """What happens to a job; each is one atomic step of the broker."""

    EMIT = "emit"
    EMIT_DELAYED = "emit_delayed"
    EMIT_WAITING = "emit_waiting"
    EMIT_LATE = "emit_late"
    READY = "ready"
    PROMOTE = "promote"
    REPLACE = "replace"
    START = "start"
    TAKE_OVER = "take_over"
    COMPLETE = "complete"
    RETRY = "retry"
    PARK = "park"
    RELEASE = "release"
    DIE = "die"
    SKIP = "skip"
    CANCEL = "cancel"
    REQUEUE = "requeue"
    REVIVE = "revive"
    REVIVE_DELAYED = "revive_delayed"


By = Literal["emitter", "server", "worker", "user"]


@dataclass(frozen=True, slots=True)
class Row:
    """One legal move: from `source` (`None`: the job is not there yet) to `target`.

    Attributes:
        by: who brings it about: the emitter, the server (inside a `take`), the worker that runs
            the job, or a user through `cancel()` and `requeue()`.
        why: in a few words, for the docs.
    """

    source: JobState | None
    step: Step
    target: JobState
    by: By
    why: str


_Q, _D, _W, _R = JobState.QUEUED, JobState.DELAYED, JobState.WAITING, JobState.RUNNING
_C, _S, _X, _DEAD = (
    JobState.COMPLETED,
    JobState.SKIPPED,
    JobState.CANCELLED,
    JobState.DEAD,
)

TABLE: tuple[Row, ...] = (
    # A job comes into being.
    Row(None, Step.EMIT, _Q, "emitter", "emitted"),
    Row(None, Step.EMIT_DELAYED, _D, "emitter", "emitted with a delay, or trailing debounce"),
    Row(None, Step.EMIT_WAITING, _W, "emitter", "emitted to run after other jobs"),
    Row(None, Step.EMIT_LATE, _DEAD, "emitter", "a child that was relayed too late"),
    # It waits.
    Row(_D, Step.PROMOTE, _Q, "server", "due"),
    Row(_D, Step.REPLACE, _S, "emitter", "replaced by a later job of its debounce key"),
    Row(_W, Step.READY, _Q, "server", "its turn came"),
    # It runs. A hand-out is a counted start.
    Row(_Q, Step.START, _R, "server", "handed out"),
    Row(_R, Step.TAKE_OVER, _R, "server", "handed out again: its worker died"),
    Row(_R, Step.COMPLETE, _C, "worker", "the handler returned"),
    Row(_R, Step.RETRY, _D, "worker", "failed, tried again later"),
    Row(_R, Step.PARK, _D, "worker", "event unknown here, or a newer record"),
    Row(_R, Step.RELEASE, _Q, "worker", "given back: interrupted, or never begun"),
    Row(_R, Step.DIE, _DEAD, "worker", "failed for good"),
    Row(_R, Step.SKIP, _S, "worker", "debounced, discarded, or no handler"),
    Row(_R, Step.CANCEL, _X, "worker", "cancelled while it ran"),
    # Somebody steps in.
    Row(_Q, Step.CANCEL, _X, "user", "cancelled before it ran"),
    Row(_D, Step.CANCEL, _X, "user", "cancelled before it ran"),
    Row(_W, Step.CANCEL, _X, "user", "cancelled before it ran"),
    Row(_DEAD, Step.REQUEUE, _Q, "user", "requeued: fresh attempts, a new generation"),
    # A chosen id is emitted anew after its job has ended: a new life.
    Row(_C, Step.REVIVE, _Q, "emitter", "its id emitted anew"),
    Row(_S, Step.REVIVE, _Q, "emitter", "its id emitted anew"),
    Row(_X, Step.REVIVE, _Q, "emitter", "its id emitted anew"),
    Row(_DEAD, Step.REVIVE, _Q, "emitter", "its id emitted anew"),
    Row(_C, Step.REVIVE_DELAYED, _D, "emitter", "its id emitted anew, with a delay"),
    Row(_S, Step.REVIVE_DELAYED, _D, "emitter", "its id emitted anew, with a delay"),
    Row(_X, Step.REVIVE_DELAYED, _D, "emitter", "its id emitted anew, with a delay"),
    Row(_DEAD, Step.REVIVE_DELAYED, _D, "emitter", "its id emitted anew, with a delay"),
)

_TARGETS: dict[tuple[JobState | None, Step], JobState] = {
    (row.source, row.step): row.target for row in TABLE
}
assert len(_TARGETS) == len(TABLE), "a step from a state has one target"

LETTERS: dict[JobState | None, str] = {
    None: "-",
    _Q: "q",
    _D: "d",
    _W: "w",
    _R: "r",
    _C: "c",
    _S: "s",
    _X: "x",
    _DEAD: "z",
}
"""How Redis spells a state. `r` is never stored: see the module's docstring."""

STATE_OF_LETTER: dict[str, JobState] = {
    letter: state for state, letter in LETTERS.items() if state is not None
}


class IllegalTransitionError(InternalError):
    """Our fault: a move that is not in the table was asked for. Nothing was changed."""


def transition(state: JobState | None, step: Step, *, job_id: str = "") -> JobState:
    """The state that `step` leads to from `state`.

    Raises:
        IllegalTransitionError: there is no such row.
    """
    try:
        return _TARGETS[state, step]
    except KeyError:
        raise IllegalTransitionError(
            f"job {job_id!r} is {'absent' if state is None else state.value}:"
            f" {step.value!r} is not legal there"
            f" (legal: {', '.join(s.value for at, s in _TARGETS if at is state) or 'nothing'})"
        ) from None


def legal_moves() -> list[str]:
    """All moves as two letters, source and target, sorted: what the Lua scripts check."""
    return sorted({LETTERS[row.source] + LETTERS[row.target] for row in TABLE})


def mermaid() -> str:
    """The table as a Mermaid state diagram; several rows between two states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in TABLE:
        source = "[*]" if row.source is None else row.source.value
        steps = arrows.setdefault((source, row.target.value), [])
        if row.step.value not in steps:
            steps.append(row.step.value)
    lines = ["stateDiagram-v2"]
    lines += [
        f"    {source} --> {target}: {' / '.join(steps)}"
        for (source, target), steps in arrows.items()
    ]
    return "\n".join(lines)
