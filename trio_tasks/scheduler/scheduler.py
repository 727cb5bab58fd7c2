"""The scheduler: one cron and one relay for each served queue, in one nursery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from trio_tasks.broker import Broker
from trio_tasks.control_c import protected
from trio_tasks.errors import BrokerError
from trio_tasks.plans import SchedulePlan
from trio_tasks.scheduler.cron import Cron
from trio_tasks.strays import steadfast

__all__ = ["Scheduler"]

RELAY_EVERY_S = 10.0
"""How soon the children of a worker that died in between reach their queues (remote brokers)."""

RELAY_EVERY_LOCAL_S = 3600.0
"""The same for a broker whose members cannot vanish unseen: its workers relay by themselves."""


class Scheduler:
    """Runs by the clock what no job's own life brings about."""

    def __init__(self, broker: Broker, declared: Mapping[str, Sequence[SchedulePlan]]) -> None:
        """Make a scheduler.

        Args:
            broker: where.
            declared: the served queues, each with the schedules that its handlers declare.
        """
        self._broker = broker
        self._stopped = False
        self._scope: anyio.CancelScope | None = None
        self._crons = {
            queue: Cron(queue, broker, schedules) for queue, schedules in declared.items()
        }

    def hint(self, queue: str, in_ms: int | None) -> None:
        """The next occurrence in `queue` comes `in_ms` from now."""
        self._crons[queue].hint(in_ms)

    def rejoined(self, queue: str) -> None:
        """`queue` was joined anew: its schedules are declared again."""
        self._crons[queue].declare_again()

    async def declare(self) -> None:
        """Put all handlers' schedules into force.

        Raises:
            BrokerError: the broker could not be reached.
        """
        for cron in self._crons.values():
            await cron.declare()

    def stop(self) -> None:
        """From now on no occurrence becomes a job here."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Run until cancelled or stopped. Nothing is lost by it."""
        if self._stopped:
            return
        async with anyio.create_task_group() as nursery:
            self._scope = nursery.cancel_scope
            for queue, cron in self._crons.items():
                nursery.start_soon(protected(steadfast(cron.run)))
                nursery.start_soon(protected(steadfast(self._relay)), queue)

    async def _relay(self, queue: str) -> None:
        while True:
            try:
                while await self._broker.relay(queue):
                    pass
            except BrokerError:
                pass  # it is unreachable: the rows stay where they are
            await anyio.sleep(RELAY_EVERY_S if self._broker.remote else RELAY_EVERY_LOCAL_S)
