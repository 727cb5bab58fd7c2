"""What an emit comes to, ready to be sent: a job, or a schedule with the jobs that it makes."""

from __future__ import annotations

from typing import Any

import msgspec

from trio_tasks.broker import Broker, NewJob, ScheduleRecord
from trio_tasks.context import Attempt
from trio_tasks.environment import wall_clock_ms
from trio_tasks.errors import ConfigurationError
from trio_tasks.payloads import PayloadCodec
from trio_tasks.processor.repeat import Repeat
from trio_tasks.refs import BrokerAccess, EarlyRef, JobRef

__all__ = [
    "Declaration",
    "EmitPlan",
    "SchedulePlan",
    "declare",
    "occurrence",
    "occurrence_id",
]


class EmitPlan(msgspec.Struct, frozen=True, gc=False):
    """A job that is ready to be sent.

    Attributes:
        job: the job.
        result: codec of the handler's result, if it was named by its function.
    """

    job: NewJob
    result: PayloadCodec | None

    def ref(self, access: BrokerAccess, *, created: bool) -> JobRef[Any]:
        """The ref of the job, now that the broker has answered."""
        job = self.job
        return JobRef(
            job.id, job.queue, access, created=created, codec=self.result, number=job.number
        )

    def early_ref(self, access: BrokerAccess, parent: Attempt | None = None) -> JobRef[Any]:
        """The ref of the job before it was sent; with `parent`, usable once that has ended."""
        job = self.job
        return EarlyRef(
            job.id, job.queue, access, codec=self.result, number=job.number, parent=parent
        )


class SchedulePlan(msgspec.Struct, frozen=True):
    """A schedule that is ready to be declared.

    Attributes:
        schedule: the schedule, without its next occurrence.
        repeat: when its occurrences are.
        expires: it vanishes if nobody declares or ticks it (see `Repeat.lifetime_ms`), as the
            schedules of handlers do when their code is gone.
        result: codec of the handler's result, if it was named by its function.
    """

    schedule: ScheduleRecord
    repeat: Repeat
    expires: bool
    result: PayloadCodec | None = None

    def ref(self, access: BrokerAccess, next_at_ms: int) -> JobRef[Any]:
        """The ref of the occurrence at `next_at_ms`, whose job appears when it is due."""
        schedule = self.schedule
        return JobRef(
            occurrence_id(schedule.name, next_at_ms),
            schedule.queue,
            access,
            codec=self.result,
            appears=True,
        )


def occurrence_id(schedule: str, at_ms: int) -> str:
    """The id of the job that one occurrence of a schedule becomes, however many try."""
    return f"{schedule}:{at_ms}"


def occurrence(schedule: ScheduleRecord) -> NewJob:
    """The job that the next occurrence of a schedule becomes."""
    at_ms = schedule.next_at_ms
    record = msgspec.structs.replace(
        schedule.template, emitted_at_ms=wall_clock_ms(), scheduled_for_ms=at_ms
    )
    return NewJob(
        id=occurrence_id(schedule.name, at_ms),
        queue=schedule.queue,
        record=record,
        priority=schedule.priority,
        deadline_ms=schedule.deadline_ms,
    )


class Declaration:
    """What to propose to a broker until it accepts a schedule. Does no I/O.

    The first instant after server time is proposed. The broker refuses it if it is past by then,
    or if the schedule has ticked it already; then a later one is.
    """

    __slots__ = ("_last_ms", "_margin_ms", "_plan")

    def __init__(self, plan: SchedulePlan) -> None:
        """Begin to declare `plan`."""
        self._plan = plan
        self._margin_ms = self._last_ms = 0

    def proposal(self, now_ms: int) -> ScheduleRecord:
        """The schedule with its next occurrence, by server time.

        Raises:
            ConfigurationError: there is no further occurrence.
        """
        repeat = self._plan.repeat
        next_at_ms = repeat.next_at_ms(max(now_ms + self._margin_ms, self._last_ms))
        if next_at_ms is None:
            raise ConfigurationError(f"repeat={repeat!r}: there is no further occurrence")
        lifetime_ms = repeat.lifetime_ms(now_ms) if self._plan.expires else None
        return msgspec.structs.replace(
            self._plan.schedule, next_at_ms=next_at_ms, expires_after_ms=lifetime_ms
        )

    def accepted(self, stored: ScheduleRecord) -> bool:
        """Whether the broker's answer ends it; else make another proposal."""
        if stored.next_at_ms:
            return True
        self._last_ms = stored.last_at_ms or 0
        # An interval shorter than a round trip would never be early enough.
        self._margin_ms = self._margin_ms * 2 or 10
        return False


async def declare(broker: Broker, plan: SchedulePlan, *, replace: bool) -> ScheduleRecord:
    """Declare a schedule; the one that is in force afterwards, with its next occurrence.

    Raises:
        ConfigurationError: there is no further occurrence.
        BrokerUnavailableError: Redis could not be reached in time.
    """
    declaration = Declaration(plan)
    while True:
        now_ms = await broker.time_ms(plan.schedule.queue)
        stored = await broker.declare(declaration.proposal(now_ms), replace=replace)
        if declaration.accepted(stored):
            return stored
