"""What the tests of refs, queues, contexts and emits need of an engine: a broker, and outcomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from trio_tasks.broker import Applied, Delivery, Membership, NewJob, Outcome, Registration
from trio_tasks.context import CancelReason
from trio_tasks.job import Job
from trio_tasks.memory import MemoryBroker
from trio_tasks.processor.decisions import Complete, Verdict
from trio_tasks.testing import make_job

__all__ = ["Access", "Attempted", "Worker", "opened", "some_job"]


class Access:
    """A `BrokerAccess`: what a manager is for refs and queues."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.memory = broker
        self.retention_ms = 60_000
        self.is_open = True
        self.noted: list[tuple[str, str, str]] = []

    @property
    def broker(self) -> MemoryBroker:
        if not self.is_open:
            raise RuntimeError("enter the manager first: async with tasks")
        return self.memory

    def awaited(self, queue: str) -> None: ...

    def cancel_noted(self, queue: str, job_id: str, reason: str) -> None:
        self.noted.append((queue, job_id, reason))


@asynccontextmanager
async def opened() -> AsyncGenerator[Access]:
    async with MemoryBroker() as broker:
        yield Access(broker)


class Worker:
    """Takes jobs of one queue and ends them as it is told."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    @classmethod
    async def join(cls, access: Access, queue: str = "default") -> Worker:
        registration = Registration(
            queue=queue,
            incarnation="worker:1",
            consumer_id="worker",
            host="here",
            events=[],
            lease_ms=1_000_000,
        )
        return cls(await access.broker.register(registration, have=list, lost=lambda _lost: None))

    async def take(self) -> Delivery:
        reply = await self._membership.step([], 1)
        assert reply.taken is not None
        (delivery,) = reply.taken.deliveries
        return delivery

    async def log(self, delivery: Delivery, *lines: bytes) -> None:
        await self._membership.log(delivery.token, lines, 100)

    async def end(
        self,
        delivery: Delivery,
        verdict: Verdict | None = None,
        *,
        result: bytes | None = None,
        error: bytes | None = None,
        children: Sequence[NewJob] = (),
        retention_ms: int = 60_000,
    ) -> None:
        assert delivery.record is not None
        outcome = Outcome(
            token=delivery.token,
            event=delivery.record.event,
            attempt=delivery.attempt,
            verdict=Complete() if verdict is None else verdict,
            retention_ms=retention_ms,
            result=result,
            error=error,
            children=children,
        )
        reply = await self._membership.step([outcome], 0)
        assert reply.applied[0] in (Applied.APPLIED, Applied.CANCELLED)


class Attempted:
    """An `Attempt`: what the consumer holds of a start."""

    def __init__(self, job: Job[object] | None = None) -> None:
        self.ended = False
        self.children: tuple[NewJob, ...] = ()
        self.job = some_job() if job is None else job
        self.job_id = self.job.id
        self.cause: CancelReason | None = None


def some_job(job_id: str = "parent") -> Job[object]:
    return make_job(None, id=job_id, name="some-event")
