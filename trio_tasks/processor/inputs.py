"""What can happen to a job that a worker holds. The Processor answers each with a decision."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "AskedDeadLetter",
    "AskedDiscard",
    "AskedRetry",
    "BadData",
    "BadResult",
    "CancelRequested",
    "DebounceAnswered",
    "Failed",
    "HandedOut",
    "Input",
    "Interrupted",
    "LeaseLost",
    "OutcomeRefused",
    "Succeeded",
    "TimedOut",
]


class HandedOut(msgspec.Struct, frozen=True):
    """A take brought the job. Asked before its data is touched.

    Attributes:
        known: this process has a handler for its event.
        readable: its record can be decoded.
        supported: its record is not of a newer schema version than ours.
        cancel_reason: the reason, if somebody has asked to cancel it meanwhile.
    """

    known: bool = True
    readable: bool = True
    supported: bool = True
    cancel_reason: str | None = None


class DebounceAnswered(msgspec.Struct, frozen=True):
    """The broker said who holds the debounce key.

    Attributes:
        holder: a job's id, perhaps this one's; `None`: this start has been superseded.
    """

    holder: str | None


class Succeeded(msgspec.Struct, frozen=True):
    """The handler returned."""


class Failed(msgspec.Struct, frozen=True):
    """The handler raised an exception that is no signal (see `signals.classify`)."""

    error: BaseException


class TimedOut(msgspec.Struct, frozen=True):
    """The attempt ran longer than its timeout."""

    timeout_ms: int


class AskedRetry(msgspec.Struct, frozen=True):
    """The handler raised `RetryLater`; `delay_ms` is `None` where it named no delay."""

    delay_ms: int | None = None


class AskedDeadLetter(msgspec.Struct, frozen=True):
    """The handler raised `DeadLetter`."""

    reason: str


class AskedDiscard(msgspec.Struct, frozen=True):
    """The handler raised `Discard`."""

    reason: str


class BadData(msgspec.Struct, frozen=True):
    """The data cannot be decoded or do not fit the handler's type."""


class BadResult(msgspec.Struct, frozen=True):
    """The handler returned something that cannot be encoded."""


class Interrupted(msgspec.Struct, frozen=True):
    """The worker stops: the attempt was cancelled (`began`) or never begun."""

    began: bool


class LeaseLost(msgspec.Struct, frozen=True):
    """The worker was silent for too long to go on with the attempt."""

    began: bool


class CancelRequested(msgspec.Struct, frozen=True):
    """Somebody cancelled the job and its handler has unwound."""

    reason: str


class OutcomeRefused(msgspec.Struct, frozen=True):
    """The broker refuses the outcome of this attempt, alone too."""


Input: TypeAlias = (
    HandedOut
    | Succeeded
    | Failed
    | TimedOut
    | AskedRetry
    | AskedDeadLetter
    | AskedDiscard
    | BadData
    | BadResult
    | Interrupted
    | LeaseLost
    | CancelRequested
    | DebounceAnswered
    | OutcomeRefused
)
