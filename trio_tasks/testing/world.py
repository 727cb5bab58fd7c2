"""The world of a simulation: a server in memory, workers that come and go, and somebody who emits.

Theory of operation. The server is one `MemoryBroker`. Workers reach it over lines of their own. The
*desk* is a manager that never starts; it emits, cancels and pauses, over a line that the server's
outages concern too. Everything happens by the virtual clock and by the luck of one seed; see
`replay.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, assert_never
from weakref import WeakSet

import anyio

from trio_tasks.consumer.held import Held
from trio_tasks.environment import Luck, loop_time
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError, JobNotFoundError
from trio_tasks.job import JobInfo, JobState
from trio_tasks.memory import MemoryBroker
from trio_tasks.refs import JobRef
from trio_tasks.task_manager import TaskManager
from trio_tasks.testing.ledger import Ledger
from trio_tasks.testing.line import Network, SimulatedLine
from trio_tasks.testing.program import (
    Action,
    CancelJob,
    ClockStep,
    Crash,
    CutOff,
    EmitJob,
    Losses,
    Outage,
    Pause,
    Program,
    Stop,
)
from trio_tasks.testing.unreliable import UnreliableBroker
from trio_tasks.testing.worker import RESTART_S, Worker

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["START_MS", "Build", "World"]

Build = Callable[[str], TaskManager[Any]]

START_MS = 1_704_067_200_000
"""What all clocks show at first: Monday, 1 January 2024, 00:00 UTC."""

PATIENCE_S = 20.0
"""How long after an emit somebody must have taken the job."""

SETTLE_S = 86_400.0
"""How long retries and delayed jobs may take once all faults are over."""

STUCK_S = 3600.0
"""Whatever has not moved for so long by then is stuck."""


class World:
    """Runs one program. Used once.

    Attributes:
        ledger: what happened.
        dead: the jobs that ended in a DLQ, up to a thousand a queue.
    """

    def __init__(self, build: Build, luck: Luck, *, workers: int) -> None:
        """Make a world.

        Args:
            build: makes the manager of a worker's life, or the desk.
            luck: for what is not in the program: latencies, and which requests are lost.
            workers: how many.
        """
        self.server = MemoryBroker(starts_at_ms=START_MS)
        self.ledger = Ledger(self.server.store, self._held)
        self.dead: list[JobInfo] = []
        self._network = Network(self.server, self.ledger, luck)
        self._build = build
        self._workers = [Worker(n, self._network, self._manager) for n in range(workers)]
        self._refs: list[JobRef[Any]] = []
        self._failure: Exception | None = None

    def _manager(self, line: SimulatedLine) -> TaskManager[Any]:
        """A new manager at the end of a line."""
        tasks = _made_by(self._build)
        for entry in tasks._registry:
            if not entry.is_async:
                raise ConfigurationError(
                    f"simulate: {entry!r} is a sync function, which runs in a thread, where no"
                    " virtual clock counts and nothing repeats itself; give an async one"
                )
        tasks._new_broker = lambda: UnreliableBroker(self.server, line)
        return tasks

    def _held(self) -> Iterator[Held]:
        for worker in self._workers:
            yield from worker.held()

    # -- the course of things --------------------------------------------------------------------

    async def run(self, program: Program, *, lasts_s: float) -> None:
        """Run a program, see to it that everything comes to its end, and audit what is left.

        Raises:
            Exception: the first that has left a manager, or `build`.
        """
        async with self.server, anyio.create_task_group() as nursery:
            for worker in self._workers:
                nursery.start_soon(self._unless_it_fails, nursery, worker.run, nursery)
            await self._unless_it_fails(nursery, self._direct, program, lasts_s)
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        self.ledger.audit()

    async def _unless_it_fails(
        self, nursery: TaskGroup, client: Callable[..., Awaitable[None]], *args: object
    ) -> None:
        """The first failure ends all; others may fail for the same cause, which helps nobody."""
        try:
            await client(*args)
        except Exception as error:
            self._failure = self._failure or error
            nursery.cancel_scope.cancel()

    async def _direct(self, program: Program, lasts_s: float) -> None:
        began = loop_time()

        async def until(at_s: float) -> None:
            await anyio.sleep(max(0.0, began + at_s - loop_time()))

        async with self._manager(SimulatedLine(self._network, "desk")) as desk:
            async with anyio.create_task_group() as actions:
                for action in program:
                    await until(action.at_s)
                    actions.start_soon(self._perform, action, desk)
                await until(lasts_s)
            await self._settle()
            for queue in await desk.queues():
                self.dead += await desk.queue(queue).dead_letters(limit=1000)
        for worker in self._workers:
            await worker.retire()

    async def _perform(self, action: Action, desk: TaskManager[Any]) -> None:
        self.ledger.note(f"-- {action}")
        self.ledger.counts[_KINDS[type(action)]] += 1
        match action:
            case EmitJob(emit=emit):
                try:
                    (ref,) = await desk.emit_many([emit])
                except BrokerUnavailableError:
                    self.ledger.counts["emits in doubt"] += 1
                else:
                    self._refs[-100:] = [*self._refs[-99:], ref]
                    await self._see_it_taken(ref)
            case CancelJob(before=before):
                if before < len(self._refs):
                    with suppress(BrokerUnavailableError, JobNotFoundError):
                        await self._refs[-1 - before].cancel("simulation")
            case Pause(for_s=for_s, queue=number):
                if names := sorted(self.server.store.names):
                    await self._pause(desk, names[number % len(names)], for_s)
            case Stop(for_s=for_s, worker=number):
                await self._workers[number % len(self._workers)].stop(for_s)
            case Crash(for_s=for_s, worker=number):
                await self._workers[number % len(self._workers)].crash(for_s)
            case CutOff(for_s=for_s, worker=number):
                await self._workers[number % len(self._workers)].cut_off(for_s)
            case Outage(for_s=for_s):
                await self._network.outage(for_s)
            case Losses(for_s=for_s):
                await self._network.bad_time(for_s)
            case ClockStep(by_s=by_s):
                self._network.set_clock(by_s)
            case _:
                assert_never(action)
        if not isinstance(action, EmitJob | CancelJob | ClockStep):
            self.ledger.note(f"-- over: {action}")

    async def _see_it_taken(self, ref: JobRef[Any]) -> None:
        """No job waits beside a worker who has nothing to do."""
        await anyio.sleep(PATIENCE_S)
        idle = set(self._workers)
        for _ in range(2):
            job = self.server.store.queue(ref.queue).jobs.get(ref.id)
            idle = {w for w in idle if w.could_take(ref.queue, PATIENCE_S)}
            paused = self.server.store.queue(ref.queue).paused
            if job is None or job.state is not JobState.QUEUED or paused or not idle:
                return
            await anyio.sleep(1)
        self.ledger.violations.append(f"job {ref.id!r} waits, and there are idle workers")

    async def _pause(self, desk: TaskManager[Any], name: str, for_s: float) -> None:
        queue = desk.queue(name)
        with suppress(BrokerUnavailableError):
            await queue.pause()
        await anyio.sleep(for_s)
        while True:
            try:
                return await queue.resume()
            except BrokerUnavailableError:
                await anyio.sleep(RESTART_S)

    async def _settle(self) -> None:
        """Wait until nothing is left to do; what is left at last is stuck."""
        ledger = self.ledger
        ledger.note("-- all faults are over")
        for worker in self._workers:
            await worker.up.wait()
        for queue in self.server.store.queues.values():
            queue.schedules.clear()  # a frequent one would let this last for the whole day
        gives_up_at = loop_time() + SETTLE_S
        pause_s = 1.0
        while (left := ledger.unfinished()) or ledger.in_state(JobState.DELAYED):
            if loop_time() > gives_up_at:
                break
            await anyio.sleep(pause_s if left else ledger.until_due_s() + 0.001)
            pause_s = min(1.1 * pause_s, 60.0)
        if left:
            await anyio.sleep(STUCK_S)
            stuck = sorted(
                left & ledger.unfinished(), key=lambda item: ("running" not in item.what, item)
            )
            ledger.violations += [
                f"stuck in queue {item.queue!r}: {item.what}: {ledger.what_holds(item)}"
                for item in stuck[:10]
            ]
            if stuck:
                return
        for worker in self._workers:
            pause_s = 0.01
            with anyio.move_on_after(STUCK_S) as scope:
                while not worker.is_idle():
                    await anyio.sleep(pause_s)
                    pause_s *= 1.1
            if scope.cancelled_caught:
                ledger.violations.append(f"{worker.name} has slots that are free for nobody")


_used: WeakSet[TaskManager[Any]] = WeakSet()
"""The managers of all simulations of this process."""


def _made_by(build: Build) -> TaskManager[Any]:
    """A manager that nobody has had before: one life of one worker is one process."""
    tasks = build("memory://")
    if not isinstance(tasks, TaskManager):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"simulate: build returned a value of type {type(tasks).__qualname__}: it has to"
            " return a TaskManager"
        )
    if tasks in _used or tasks.state != "new":
        raise ConfigurationError(
            "simulate: build returned a TaskManager that is in use or was: each call stands for a"
            " new process, so make it inside of build, as in `tasks = TaskManager(db);"
            " tasks.include(handlers); return tasks`"
        )
    _used.add(tasks)
    return tasks


_KINDS: dict[type[Action], str] = {
    EmitJob: "emits",
    CancelJob: "cancels",
    Pause: "pauses",
    Stop: "stops",
    Crash: "crashes",
    CutOff: "cut_offs",
    Outage: "outages",
    Losses: "losses",
    ClockStep: "clock_steps",
}
