"""Jobs that are emitted outside a handler without waiting: sent soon, in order, by one task."""

from __future__ import annotations

import logging
from collections import deque

import anyio

from trio_tasks.broker import Broker, NewJob
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.errors import BrokerError, BrokerUnavailableError

__all__ = ["Postbox"]

log = logging.getLogger("trio_tasks.task_manager")

PAUSE_S = 0.1


class Postbox:
    """Sends what was posted, and tries again while the broker cannot be reached."""

    def __init__(self) -> None:
        self._waiting: deque[NewJob] = deque()
        self._under_way: list[NewJob] = []
        self._posted = Pulse()
        self._sent = Pulse()

    def post(self, job: NewJob) -> None:
        """Send a job soon."""
        self._waiting.append(job)
        self._posted.fire()

    async def flush(self) -> None:
        """Wait until everything that was posted is stored, or was refused."""
        while self._waiting or self._under_way:
            await self._sent.wait()

    def give_up(self) -> None:
        """Log the jobs that could not be sent, and forget them."""
        for job in [*self._under_way, *self._waiting]:
            log.error("job %r was posted but could not be sent before the stop", job.id)
        self._waiting.clear()

    async def run(self, broker: Broker) -> None:
        """Send, until cancelled. Repeating a send is harmless: ids and emit numbers are made."""
        while True:
            while not self._waiting:
                await self._posted.wait()
            self._under_way = list(self._waiting)
            self._waiting.clear()
            await self._send(broker, self._under_way)
            self._under_way = []
            self._sent.fire()

    async def _send(self, broker: Broker, jobs: list[NewJob]) -> None:
        while True:
            try:
                await broker.emit(jobs)
            except BrokerUnavailableError:
                await anyio.sleep(PAUSE_S)
            except BrokerError as error:
                for job in jobs:
                    log.error("job %r was posted but was refused: %s", job.id, error)
                return
            else:
                return
