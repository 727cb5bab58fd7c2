"""Jobs that no broker knows."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from datetime import datetime
from typing import Any, Final

from typing_extensions import TypeVar

from trio_tasks.consumer.logs import encode_line
from trio_tasks.environment import Ids, wall_clock_ms
from trio_tasks.job import Job
from trio_tasks.options import check_instant, check_int

__all__ = ["FakeJob", "fresh_id", "make_job"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True, default=Any)

fresh_id: Final = Ids().job_id
"""Makes an id that no job has."""


class FakeJob(Job[T_co]):
    """A job for a handler that a test calls itself; made by `make_job`.

    Attributes:
        logs: what was given to `logger`, in order.
    """

    __slots__ = ("logs",)

    logs: list[object]


def make_job(
    data: T,
    *,
    id: str | None = None,  # noqa: A002 - the public attribute's name
    name: str = "test",
    queue: str = "default",
    attempt: int = 1,
    attempts: int = 4,
    priority: int = 0,
    emitted_at: datetime | None = None,
    scheduled_for: datetime | None = None,
) -> FakeJob[T]:
    """A job with this data, which is taken as it is.

    Its `logger` appends to `logs`, and checks lines as the engine does; what it returns may be
    awaited or not.

    Args:
        data: the data, of the type that the handler is annotated with.
        id: default: one that nobody has used.
        name: the event.
        queue: the queue.
        attempt: which run this is, from 1 to `attempts`.
        attempts: how many runs the job may have in all.
        priority: 0 to 9.
        emitted_at: an aware instant; default: now.
        scheduled_for: the instant it was delayed until, or the occurrence of its schedule.

    Raises:
        ConfigurationError: an instant is not an aware `datetime`, or there is no such attempt.
    """
    check_int("attempts", attempts, least=1)
    check_int("attempt", attempt, least=1, most=attempts)
    lines = _Lines()
    job = FakeJob(
        fresh_id() if id is None else id,
        name,
        queue,
        data,
        attempt,
        attempts,
        priority,
        wall_clock_ms() if emitted_at is None else check_instant("emitted_at", emitted_at),
        None if scheduled_for is None else check_instant("scheduled_for", scheduled_for),
        lines,
    )
    job.logs = lines.kept
    return job


class _Lines:
    """Keeps what is given to `logger`, checked as the engine does."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def log(self, message: object) -> Awaitable[None]:
        encode_line(message)
        self.kept.append(message)
        return _Kept()


class _Kept:
    """What `logger` returns: there is nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()
