"""The cron of one queue: declare what the handlers say, tick what is due.

The start declares, and who starts last is right. Later declarations only renew: a worker of an
older release that has joined anew leaves alone what a newer one has changed meanwhile.

Any number of these may run for a queue, in any number of processes: an occurrence is turned into
a job by compare-and-set, so it becomes at most one. The next instant is computed here, from the
broker's time; the broker refuses a tick that is not due by its own clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from trio_tasks import environment
from trio_tasks.broker import Broker, ScheduleRecord, TickAnswer
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueFullError,
)
from trio_tasks.job import instant
from trio_tasks.plans import SchedulePlan, declare, occurrence
from trio_tasks.processor.repeat import Repeat

__all__ = ["Cron"]

log = logging.getLogger("trio_tasks.scheduler")

DECLARE_AGAIN_S = 5.0
"""Pause while the server's memory is too full for a schedule; jobs run meanwhile."""

REDECLARE_S = 86_400.0
"""How often a handler's schedule is declared again, which renews its life of seven days or more."""

LONGEST_SLEEP_S = 60.0
"""How long a change that nobody told us of can go unnoticed (remote brokers only)."""

PAUSE_S = 0.5
"""Pause after a failure, and before a definition that cannot be read is looked at again."""


class Cron:
    """Schedules of one queue."""

    def __init__(self, queue: str, broker: Broker, declared: Sequence[SchedulePlan]) -> None:
        self._queue = queue
        self._broker = broker
        self._declared = tuple(declared)
        self._own = {plan.schedule.name for plan in declared}
        self._next_at: float | None = None
        self._looked_at = -float("inf")
        self._hint = anyio.Event()
        self._declare_at = -float("inf")
        self._pending: dict[str, None] = {}
        self._is_full = False
        self._changed: set[str] = set()
        self._unreadable: set[str] = set()
        self._refused = ""  # what was said of it

    def hint(self, in_ms: int | None) -> None:
        """A take has told when the next occurrence is: wake up, if it is sooner than known.

        One that is overdue is ours to tick, or that of a handler that no living worker has: it is
        worth a look now and then, not with every take.
        """
        if in_ms is None:
            return
        now = environment.loop_time()
        if in_ms <= 0 and now < self._looked_at + PAUSE_S:
            return
        if self._next_at is None or now + in_ms / 1000 < self._next_at - 0.001:
            self._hint.set()

    def declare_again(self) -> None:
        """The queue was joined anew, perhaps on a server that has lost its data."""
        self._declare_at = -float("inf")
        self._hint.set()

    async def run(self) -> None:
        """Declare and tick, until cancelled. A cancel loses nothing: each tick is one step."""
        while True:
            try:
                if self._declared and environment.loop_time() >= self._declare_at:
                    await self._renew()
                wait_s = await self._tick_due()
                self._refused = ""
            except BrokerError as error:
                wait_s = PAUSE_S
                self._report(error)
            now = environment.loop_time()
            self._next_at = None if wait_s is None else now + wait_s
            longest_s = LONGEST_SLEEP_S if self._broker.remote else None
            if self._declared:
                until_declare = max(0.0, self._declare_at - now)
                longest_s = until_declare if longest_s is None else min(longest_s, until_declare)
            if wait_s is None or (longest_s is not None and longest_s < wait_s):
                wait_s = longest_s
            with anyio.move_on_after(wait_s):
                await self._hint.wait()
            self._hint = anyio.Event()

    def _report(self, error: BrokerError) -> None:
        """Say once that the broker refuses what we ask. That it is away it says itself."""
        if not isinstance(error, BrokerUnavailableError) and str(error) != self._refused:
            self._refused = str(error)
            log.error("schedules of queue %r: the broker refuses: %s", self._queue, error)

    async def declare(self) -> None:
        """Put the handlers' schedules into force.

        What the server has no memory for is declared later; the worker shall run all the same, so
        that memory becomes free.

        Raises:
            BrokerError: the broker could not be reached.
        """
        self._pending = dict.fromkeys(plan.schedule.name for plan in self._declared)
        await self._declare_pending()

    async def _renew(self) -> None:
        stored = {
            schedule.name: schedule.definition
            for schedule in await self._broker.schedules(self._queue)
        }
        for plan in self._declared:
            name, definition = plan.schedule.name, plan.schedule.definition
            if stored.get(name, definition) == definition:
                self._pending[name] = None
            elif name not in self._pending and name not in self._changed:
                self._changed.add(name)
                log.info("schedule %r: another process has changed it, and it stays so", name)
        await self._declare_pending()

    async def _declare_pending(self) -> None:
        for plan in self._declared:
            name = plan.schedule.name
            if name not in self._pending:
                continue
            try:
                await declare(self._broker, plan, replace=True)
            except ConfigurationError as error:
                log.warning("schedule %r: %s", name, error)
            except QueueFullError as error:
                if not self._is_full:
                    self._is_full = True
                    log.warning("schedule %r is declared later: %s", name, error)
                self._declare_at = environment.loop_time() + DECLARE_AGAIN_S
                return
            del self._pending[name]
        self._is_full = False
        self._declare_at = environment.loop_time() + REDECLARE_S

    async def _tick_due(self) -> float | None:
        """Tick what is due; seconds until the next occurrence, `None` if there is none."""
        self._looked_at = environment.loop_time()
        answer = await self._broker.due_schedules(self._queue)
        due = [schedule for schedule in answer.due if self._is_ours(schedule)]
        again = False
        for schedule in due:
            again |= await self._tick(schedule, answer.now_ms)
        if again:
            return 0.0
        if due:
            return PAUSE_S  # only such as cannot be read, or as are not due after all
        return None if answer.next_in_ms is None else answer.next_in_ms / 1000

    def _is_ours(self, schedule: ScheduleRecord) -> bool:
        """A handler's schedule ticks only where that handler is, so that it can expire."""
        return schedule.expires_after_ms is None or schedule.name in self._own

    async def _tick(self, schedule: ScheduleRecord, now_ms: int) -> bool:
        try:
            repeat = Repeat.from_json(schedule.definition)
        except ConfigurationError:
            if schedule.name not in self._unreadable:
                self._unreadable.add(schedule.name)
                log.error("schedule %r: its definition cannot be read", schedule.name)
            return False
        at_ms = schedule.next_at_ms
        missed = repeat.missed(at_ms, now_ms)
        if missed:
            log.warning(
                "schedule %r in queue %r: no job for the occurrence of %s, missed by %.0f s",
                schedule.name,
                schedule.queue,
                instant(at_ms).isoformat(),
                (now_ms - at_ms) / 1000,
            )
        answer = await self._broker.tick(
            schedule,
            next_at_ms=repeat.next_at_ms(max(now_ms, at_ms)),
            job=None if missed else occurrence(schedule),
        )
        return answer is not TickAnswer.EARLY
