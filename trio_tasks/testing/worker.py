"""The workers of a simulation: each is a task that lives one life of a manager after another.

Each life has a line of its own to the server. A crash cuts the line for good and cancels the
worker: whatever its engine still tries does not arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import anyio

from trio_tasks.consumer.held import Held
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerUnavailableError
from trio_tasks.task_manager import TaskManager
from trio_tasks.testing.line import Network, SimulatedLine

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["RESTART_S", "Worker"]

RESTART_S = 1.0
"""How long somebody who could not reach the server waits before the next try."""

STOP_S = 2.1
"""A stop takes this long after its grace at most; a little more than the engine promises, as what
comes at the same instant has no order."""


class Worker:
    """One worker through all its lives.

    Attributes:
        name: for the trace.
        up: set while it is started.
    """

    def __init__(
        self, number: int, network: Network, manager: Callable[[SimulatedLine], TaskManager[Any]]
    ) -> None:
        self.name = f"worker {number}"
        self.up = anyio.Event()
        self._network = network
        self._manager = manager
        self._tasks: TaskManager[Any] | None = None
        self._line: SimulatedLine | None = None
        self._scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._down_s = 0.0
        self._retired = anyio.Event()
        self._retires = False

    async def run(self, nursery: TaskGroup) -> None:
        """Live one life after another, until `retire()`."""
        while not self._retires:
            self._line = line = SimulatedLine(self._network, self.name)
            self._tasks = tasks = self._manager(line)
            self._leave, self._down_s = anyio.Event(), RESTART_S
            try:
                with anyio.CancelScope() as self._scope:
                    async with tasks:
                        await tasks.start()
                        self.up.set()
                        await self._leave.wait()
                        stops_at = loop_time()
                        self._network.ledger.stops(self.name)
                    self._has_stopped(line, stops_at, tasks._settings.grace)
            except BrokerUnavailableError:
                pass  # it could not connect, or join: whoever supervises it starts it again
            if self.up.is_set():  # a start that failed leaves those who wait for the next one
                self.up = anyio.Event()
            self._tasks = None
            nursery.start_soon(line.expire)
            await anyio.sleep(self._down_s)
        self._retired.set()

    def _has_stopped(self, line: SimulatedLine, began_at: float, grace: float) -> None:
        """What must hold after a stop that nobody has cut short."""
        took_s = loop_time() - began_at
        if took_s > grace + STOP_S:
            self._network.ledger.violations.append(
                f"{self.name} took {took_s:.1f} s to stop, with a grace of {grace:g} s"
            )
        if line.connected and line.trouble_at < began_at and (left := line.pending()):
            self._network.ledger.violations.append(f"{self.name} has stopped and left {left}")

    async def retire(self) -> None:
        """Stop it gracefully, for good."""
        self._retires = True
        self._leave.set()
        await self._retired.wait()

    async def stop(self, for_s: float) -> None:
        """Stop it gracefully, if it is up; it starts again after a while."""
        if self.up.is_set():
            self._down_s = for_s
            self._leave.set()
            await anyio.sleep(for_s)

    async def crash(self, for_s: float) -> None:
        """Let it die, if it lives; it starts again after a while."""
        if self.up.is_set() and self._line is not None:
            self._down_s = for_s
            self._line.die()
            self._scope.cancel()
            await anyio.sleep(for_s)

    async def cut_off(self, for_s: float) -> None:
        """Cut its line, if it is up; for longer than a lease: its members are dead."""
        line = self._line
        if self.up.is_set() and line is not None:
            line.cut()
            async with anyio.create_task_group() as nursery:
                nursery.start_soon(line.end_leases)
                await anyio.sleep(for_s)
                line.mend()
                nursery.cancel_scope.cancel()

    def held(self) -> Iterator[Held]:
        """The starts in its memory."""
        engine = None if self._tasks is None else self._tasks._engine
        if engine is not None and engine.consumer is not None:
            for feed in engine.consumer.feeds.values():
                yield from feed.held

    def could_take(self, queue: str, within_s: float) -> bool:
        """Whether it serves a queue, has nothing to do, and had no trouble for a while."""
        engine = None if self._tasks is None else self._tasks._engine
        consumer = None if engine is None else engine.consumer
        feed = None if consumer is None else consumer.feeds.get(queue)
        return (
            self._line is not None
            and self._line.connected
            and self._line.trouble_at + within_s < loop_time()
            and feed is not None
            and feed.membership is not None
            and not feed.draining
            and self.is_idle()
        )

    def is_idle(self) -> bool:
        """Whether it holds nothing, and all its slots are free."""
        engine = None if self._tasks is None else self._tasks._engine
        consumer = None if engine is None else engine.consumer
        if consumer is None:
            return False
        slots = consumer._slots
        return consumer.idle() and slots.free == slots.concurrency
