"""Every exception that a user of trio_tasks can meet; each docstring says whose fault it is.

```
TrioTasksError
├── ConfigurationError (ValueError)     yours
├── SerializationError (ValueError)     yours
├── BrokerError                         outside
│   ├── BrokerUnavailableError          outside, safe to try again
│   └── QueueFullError                  outside
├── JobNotFoundError (LookupError)      yours, or the job's retention has passed
├── JobFailedError                      the job's
├── LeaseLostError                      outside
└── InternalError                       ours
```

Messages say what is wrong, show the value with `!r`, and say what is allowed. No message, and no
attribute that ends in a traceback, carries job data or credentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_tasks.job import JobError, JobState

__all__ = [
    "BrokerError",
    "BrokerUnavailableError",
    "ConfigurationError",
    "InternalError",
    "JobFailedError",
    "JobNotFoundError",
    "LeaseLostError",
    "QueueFullError",
    "SerializationError",
    "TrioTasksError",
]


class TrioTasksError(Exception):
    """The root of all errors that trio_tasks raises on purpose."""


class ConfigurationError(TrioTasksError, ValueError):
    """Your fault: an argument, option, handler or pattern is wrong.

    Raised at the call that got the wrong value, before anything was sent or started. What only the
    server can know of an address (user, password, rights, number of the database, a setting that
    would lose jobs) is said when a manager or a producer is entered, at once: trying again would
    not help. If it changes later, while they run, that is an outage: `BrokerUnavailableError`.
    """


class SerializationError(TrioTasksError, ValueError):
    """Your fault: data or a result is not strict JSON, does not fit its type, or is too large.

    Raised at the call. A batch is refused whole: nothing of it was sent.
    """


class BrokerError(TrioTasksError):
    """Outside fault: Redis answered with an error. The cause is chained; if entering fails, told.

    Neither data nor credentials are part of the message.
    """


class BrokerUnavailableError(BrokerError):
    """Outside fault: Redis could not be reached, or did not answer in time.

    Whether a write took effect is unknown; it is safe to try again.

    Attributes:
        ids: the ids of the jobs whose emit has an unknown outcome, in the order of the call.
            `emit(..., id=error.ids[0])` of an id that the engine made is a harmless repeat.
    """

    def __init__(self, message: str, *, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids: tuple[str, ...] = tuple(ids)


class QueueFullError(BrokerError):
    """Outside fault: a limit was reached, of the queue or of the server's memory.

    Nothing of the atomic step that met it was written (one of up to 250 jobs of a queue). Jobs
    that run can still finish.

    Attributes:
        ids: as those of `BrokerUnavailableError`: the ids of the jobs that were not stored, or of
            which that is not known, in the order of the call.
    """

    def __init__(self, message: str, *, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids: tuple[str, ...] = tuple(ids)


class JobNotFoundError(TrioTasksError, LookupError):
    """There is no such job: the id is wrong, or the job has ended and its retention has passed."""


class JobFailedError(TrioTasksError):
    """The job's fault: `ref.result()` has no value, because the job is dead, cancelled or skipped.

    Attributes:
        id: the job's id.
        state: its final state.
        reason: why it ended like this, a word or the text given to `cancel()`.
        error: the error of the last failed attempt, or `None`.
        attempts: how many attempts were used.
        stood_in_by: for a job that debounce skipped, the id of the job that ran in its place.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the public attribute's name
        state: JobState,
        reason: str | None = None,
        error: JobError | None = None,
        attempts: int = 0,
        stood_in_by: str | None = None,
    ) -> None:
        text = f"job {id!r} is {state.value} after {attempts} attempt(s)"
        if reason:
            text += f", reason {reason!r}"
        if error is not None:
            text += f", last error {error.type}"
        if stood_in_by is not None:
            text += f", job {stood_in_by!r} stood in for it"
        if error is not None:
            text += "; see error.message and error.traceback of this exception"
        super().__init__(text)
        self.id = id
        self.state = state
        self.reason = reason
        self.error = error
        self.attempts = attempts
        self.stood_in_by = stood_in_by


class LeaseLostError(TrioTasksError):
    """Outside fault: this worker was silent for too long and somebody else owns the job now."""


class InternalError(TrioTasksError):
    """Our fault: an invariant broke. Please report it, with the message; no data is in it."""
