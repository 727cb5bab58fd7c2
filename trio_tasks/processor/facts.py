"""What the policies may know of a job."""

from __future__ import annotations

import msgspec

from trio_tasks.job import JobState

__all__ = ["JobFacts"]


class JobFacts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job, as far as its fate depends on it. All fields but the first have defaults.

    Attributes:
        id, queue, event: for messages and debounce keys.
        state: where it is; a job that a worker holds is `running`.
        attempt: the number of this run, from 1 (0: it never ran).
        attempts: total runs as given at emit; `None`: the policy's.
        retry_delay_ms: as given at emit, in the place of the policy's delay.
        deadline_at_ms: no attempt starts at or after this instant of the server's clock.
        interruptions: how often a begun attempt was given back uncounted in this generation.
        unknown_since_ms: when a worker first met it without having a handler for its event.
    """

    id: str
    queue: str = "default"
    event: str = ""
    state: JobState = JobState.RUNNING
    attempt: int = 1
    attempts: int | None = None
    retry_delay_ms: int | None = None
    deadline_at_ms: int | None = None
    interruptions: int = 0
    unknown_since_ms: int | None = None
