"""The world of a simulation: a server in memory, workers that come and go, and somebody who emits.

Theory of operation. The server is one `MemoryBroker`. Each *worker* is a task that lives one life
of a manager after another; each life has a line of its own to the server. A crash cuts the line
for good and cancels the worker: whatever its engine still tries does not arrive. The *desk* is a
manager that never starts; it emits and cancels, over a line that the server's outages concern too.

Nobody polls here, or a thousand hours would be millions of polls: workers rely on hints, and the
server sees to what a poll is for. Waiting for a hint is broken off while a line is down, so that
no hint is swallowed there; and when the lease of a silent member has ended, the server declares
it dead by itself, and hints that there may be work.

Everything happens by the virtual clock and by the luck of one seed; see `replay.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, assert_never, cast

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.consumer.held import Held
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.environment import Luck, loop_time
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError, JobNotFoundError
from trio_tasks.job import JobInfo, JobState
from trio_tasks.memory import MemoryBroker
from trio_tasks.memory.membership import MemoryMembership
from trio_tasks.refs import JobRef
from trio_tasks.task_manager import TaskManager
from trio_tasks.testing.ledger import Ledger
from trio_tasks.testing.program import (
    Action,
    CancelJob,
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

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["START_MS", "Build", "World"]

T = TypeVar("T")

Build = Callable[[str], TaskManager[Any]]

START_MS = 1_704_067_200_000
"""What all clocks show at first: Monday, 1 January 2024, 00:00 UTC."""

REQUEST_TIMEOUT_S = 5.0
"""How long a request waits for a line that is down."""

LOSS_SHARE = 0.1
"""The share of requests that a bad network loses, or their answers."""

RESTART_S = 1.0
"""How long a worker that could not reach the server waits before it tries again."""

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
        self.luck = luck
        self.server = MemoryBroker(starts_at_ms=START_MS)
        self.lines: list[SimulatedLine] = []
        self.outages = 0
        self.bad_networks = 0
        self.ledger = Ledger(self.server.store, self._running)
        self.dead: list[JobInfo] = []
        self._build = build
        self._workers = [Worker(self, number) for number in range(workers)]
        self._refs: list[JobRef[Any]] = []

    def manager(self, line: SimulatedLine) -> TaskManager[Any]:
        """A new manager at the end of a line."""
        tasks = self._build("memory://")
        for entry in tasks._registry:
            if not entry.is_async:
                raise ConfigurationError(
                    f"simulate: {entry!r} is a sync function, which runs in a thread, where no"
                    " virtual clock counts and nothing repeats itself; give an async one"
                )
        tasks._new_broker = lambda: UnreliableBroker(self.server, line)
        return tasks

    def _running(self) -> Iterator[Held]:
        for worker in self._workers:
            yield from worker.running()

    # -- the course of things --------------------------------------------------------------------

    async def run(self, program: Program, *, lasts_s: float) -> None:
        """Run a program, see to it that everything comes to its end, and audit what is left."""
        began = loop_time()

        async def until(at_s: float) -> None:
            await anyio.sleep(max(0.0, began + at_s - loop_time()))

        async with self.server, anyio.create_task_group() as nursery:
            for worker in self._workers:
                nursery.start_soon(worker.run, nursery)
            line = SimulatedLine(self, "desk")
            async with self.manager(line) as desk:
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
            nursery.cancel_scope.cancel()
        self.ledger.audit()

    async def _perform(self, action: Action, desk: TaskManager[Any]) -> None:
        self.ledger.note(f"-- {action}")
        self.ledger.counts[_KINDS[type(action)]] += 1
        match action:
            case EmitJob(emit=emit):
                try:
                    self._refs[-100:] = [*self._refs[-99:], *await desk.emit_many([emit])]
                except BrokerUnavailableError:
                    self.ledger.counts["emits in doubt"] += 1
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
                self.outages += 1
                for line in self.lines:
                    line.cut()
                await anyio.sleep(for_s)
                self.outages -= 1
                for line in self.lines:
                    line.mend()
            case Losses(for_s=for_s):
                self.bad_networks += 1
                await anyio.sleep(for_s)
                self.bad_networks -= 1
            case _:
                assert_never(action)
        if not isinstance(action, EmitJob | CancelJob):
            self.ledger.note(f"-- over: {action}")

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
                left & ledger.unfinished(), key=lambda item: ("running" not in item[1], item)
            )
            ledger.violations += [f"stuck in queue {name!r}: {what}" for name, what in stuck[:10]]
            if stuck:
                return
        for worker in self._workers:
            with anyio.move_on_after(STUCK_S) as scope:
                while not worker.is_idle():  # noqa: ASYNC110 - what runs here is the user's affair
                    await anyio.sleep(0.01)
            if scope.cancelled_caught:
                ledger.violations.append(f"{worker.name} has slots that are free for nobody")


_KINDS: dict[type[Action], str] = {
    EmitJob: "emits",
    CancelJob: "cancels",
    Pause: "pauses",
    Stop: "stops",
    Crash: "crashes",
    CutOff: "cut_offs",
    Outage: "outages",
    Losses: "losses",
}


class SimulatedLine:
    """The line of one client; see `Line`.

    Attributes:
        memberships: those that were registered over it.
    """

    remote = False

    def __init__(self, world: World, client: str) -> None:
        self.client = client
        self.memberships: list[MemoryMembership] = []
        self._world = world
        self._cuts = world.outages
        self._dead = False
        self._changes = 0
        self._changed = Pulse()
        self._waits: list[anyio.CancelScope] = []
        world.lines.append(self)

    @property
    def connected(self) -> bool:
        """Whether it is not down."""
        return not self._cuts and not self._dead

    def cut(self) -> None:
        """Be down until `mend`, for one more reason. What is under way is lost."""
        self._cuts += 1
        self._changes += 1
        for scope in self._waits:
            scope.cancel()

    def mend(self) -> None:
        """One reason less."""
        self._cuts -= 1
        self._changed.fire()

    def die(self) -> None:
        """Be down for good."""
        self._dead = True
        self.cut()
        self._changed.fire()

    async def carry(self, request: str, send: Callable[[], Awaitable[T]], asked: object) -> T:
        """See `Line`."""
        if request == "wait":
            return await self._wait(send)
        await self._in_time()
        changes = self._changes
        if self._is_lost():
            raise BrokerUnavailableError("the request was lost")
        await self._latency()
        if changes != self._changes:
            raise BrokerUnavailableError("the line went down before the request had arrived")
        answer = await send()
        self._world.ledger.heard(self.client, request, asked, answer)
        if isinstance(answer, MemoryMembership):
            self.memberships.append(answer)
        await self._latency()
        if changes != self._changes or self._is_lost():
            raise BrokerUnavailableError("the answer was lost")
        return answer

    async def _in_time(self) -> None:
        if self._dead:
            await checkpoint()
        elif self._cuts:
            with anyio.move_on_after(REQUEST_TIMEOUT_S):
                while self._cuts and not self._dead:
                    await self._changed.wait()
        if not self.connected:
            raise BrokerUnavailableError("the server could not be reached")

    def _is_lost(self) -> bool:
        return self._world.bad_networks > 0 and self._world.luck.random() < LOSS_SHARE / 2

    async def _latency(self) -> None:
        """Mostly none; now and then some milliseconds, in which anything may happen."""
        luck = self._world.luck
        if luck.random() < 0.2:
            await anyio.sleep(luck.expovariate(1 / 0.02))

    async def _wait(self, send: Callable[[], Awaitable[T]]) -> T:
        if self.connected:
            with anyio.CancelScope() as scope:
                self._waits.append(scope)
                try:
                    return await send()
                finally:
                    self._waits.remove(scope)
        while not self.connected:
            await self._changed.wait()
        return cast(T, True)  # look again

    async def expire(self) -> None:
        """Nobody is at the end of this line any more: the server ends the leases in time."""
        if self in self._world.lines:
            self._world.lines.remove(self)
        await self.end_leases()

    async def end_leases(self) -> None:
        """After a lease without a sign of life its members are dead, if it is still down."""
        store = self._world.server.store
        leases_ms = [
            member.lease_ms
            for membership in self.memberships
            if (member := store.queue(membership.queue).members.get(membership.incarnation))
        ]
        await anyio.sleep(max(leases_ms, default=0) / 1000)
        if self in self._world.lines and self.connected:
            return
        for membership in self.memberships:
            membership.vanish()
        for name in sorted(store.queues):
            with store.step(name) as (queue, _):
                queue.startable = True  # a hint that it has taken may have died with it


class Worker:
    """One worker through all its lives.

    Attributes:
        up: set while it is started.
    """

    def __init__(self, world: World, number: int) -> None:
        self.name = f"worker {number}"
        self.up = anyio.Event()
        self._world = world
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
            self._line = line = SimulatedLine(self._world, self.name)
            self._tasks = tasks = self._world.manager(line)
            self._leave, self._down_s = anyio.Event(), RESTART_S
            try:
                with anyio.CancelScope() as self._scope:
                    async with tasks:
                        await tasks.start()
                        self.up.set()
                        await self._leave.wait()
            except BrokerUnavailableError:
                pass  # it could not connect, or join: whoever supervises it starts it again
            self.up = anyio.Event()
            self._tasks = None
            nursery.start_soon(line.expire)
            await anyio.sleep(self._down_s)
        self._retired.set()

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

    def running(self) -> Iterator[Held]:
        """What its handlers work on."""
        engine = None if self._tasks is None else self._tasks._engine
        if engine is not None and engine.consumer is not None:
            for feed in engine.consumer.feeds.values():
                yield from (held for held in feed.held if held.begun and not held.ended)

    def is_idle(self) -> bool:
        """Whether it holds nothing, and all its slots are free."""
        engine = None if self._tasks is None else self._tasks._engine
        consumer = None if engine is None else engine.consumer
        if consumer is None:
            return False
        slots = consumer._slots
        return consumer.idle() and slots.free == slots.concurrency
