"""How contexts, refs and queues reach the manager's engine: to emit, to look, to cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trio_tasks.broker import Broker
from trio_tasks.callables import Event
from trio_tasks.context import Attempt
from trio_tasks.emitter import Emitter
from trio_tasks.engine import Engine
from trio_tasks.options import EmitOptions
from trio_tasks.plans import SchedulePlan, declare
from trio_tasks.refs import JobRef

__all__ = ["ManagerAccess", "ManagerOutlet"]


class ManagerAccess:
    """Where the broker of a manager is, for refs and queues that outlive its block."""

    def __init__(self, engine: Callable[[str], Engine], retention_ms: int) -> None:
        """`engine` returns the open engine, or raises a RuntimeError that says what was called."""
        self._engine = engine
        self.retention_ms = retention_ms

    @property
    def broker(self) -> Broker:
        """The connected broker."""
        return self._engine("this call").broker

    def awaited(self, queue: str) -> None:
        """Whoever waits for a job that only this process might run may have forgotten `start()`."""
        self._engine("result()").waits("result()", queue)

    def cancel_noted(self, queue: str, job_id: str, reason: str) -> None:
        """Cancel a job at once that runs in this process."""
        consumer = self._engine("cancel()").consumer
        feed = None if consumer is None else consumer.feeds.get(queue)
        if feed is not None:
            feed.cancel(job_id, reason)


class ManagerOutlet:
    """What the contexts of a manager, and the manager itself, emit through."""

    def __init__(
        self, engine: Callable[[str], Engine], emitter: Emitter, access: ManagerAccess
    ) -> None:
        self._engine = engine
        self._emitter = emitter
        self._access = access

    def child(
        self, attempt: Attempt, event: Event, data: object, options: EmitOptions
    ) -> JobRef[Any]:
        """Make a job part of an attempt's outcome."""
        return self._emitter.child(attempt, self._access, event, data, options)

    def post(self, event: Event, data: object, options: EmitOptions) -> JobRef[Any]:
        """Send a job soon."""
        engine = self._engine("emit()")
        plan = self._emitter.plan_job(event, data, options)
        engine.postbox.post(plan.job)
        return plan.early_ref(self._access)

    async def send(
        self, event: Event, data: object, options: EmitOptions, parent_id: str | None
    ) -> JobRef[Any]:
        """Send a job, or store a schedule; durable when it returns."""
        broker = self._engine("emit()").broker
        plan = self._emitter.plan(event, data, options, parent_id=parent_id)
        if isinstance(plan, SchedulePlan):
            schedule = await declare(broker, plan, replace=True)
            return plan.ref(self._access, schedule.next_at_ms)
        [emitted] = await broker.emit([plan.job])
        return plan.ref(self._access, created=emitted.created)
