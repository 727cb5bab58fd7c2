"""Jobs that are emitted outside a handler without waiting: sent soon, in order, by one task."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import anyio

from trio_tasks.broker import Broker, NewJob
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.errors import BrokerError, BrokerUnavailableError

__all__ = ["Postbox"]

log = logging.getLogger("trio_tasks.task_manager")

PAUSE_S = 0.1


class Postbox:
    """Sends what was posted, and tries again while the broker cannot be reached.

    What was accepted is stored, or named in the log; what comes after `close()` is refused.
    """

    def __init__(self) -> None:
        self._waiting: deque[NewJob] = deque()
        self._under_way: list[NewJob] = []
        self._closed = False
        self._posted = Pulse()
        self._sent = Pulse()

    def post(self, job: NewJob) -> None:
        """Send a job soon.

        Raises:
            RuntimeError: it is closed.
        """
        if self._closed:
            raise RuntimeError(
                "emit() of get_context(): this TaskManager is being left, and what was posted in"
                " time has been sent; nothing can be sent any more"
            )
        self._waiting.append(job)
        self._posted.fire()

    async def flush(self) -> None:
        """Wait until everything that was posted is stored, or was refused."""
        while self._waiting or self._under_way:
            await self._sent.wait()

    def close(self) -> None:
        """Accept no more jobs, and log those of which it is not known that they were stored."""
        self._closed = True
        left = [*self._under_way, *self._waiting]
        if left:
            log.error("posted but not sent before the TaskManager was left: %s", _named(left))

    async def run(self, broker: Broker) -> None:
        """Send, until cancelled. Repeating a send is harmless: ids and emit numbers are made."""
        while True:
            if not self._under_way:
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
                log.error("posted but refused (%s): %s", error, _named(jobs))
                return
            else:
                return


def _named(jobs: Sequence[NewJob]) -> str:
    return f"{len(jobs)} job(s), {', '.join(repr(job.id) for job in jobs)}"
