"""The network of a simulation: one server in memory, and a line to it for each client.

Theory of operation. A request takes its time on a line, may be lost there, and so may its answer.
A line that was *cut* comes back when it is mended; one that has *died* does not.

Nobody polls here, or a thousand hours would be millions of polls: workers rely on hints, and the
network sees to what a poll is for. Waiting for a hint is broken off while a line is down, so that
no hint is swallowed there; and when the lease of a silent member has ended, the server declares
it dead by itself, and hints that there may be work.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.consumer.pulse import Pulse
from trio_tasks.environment import Luck, loop_time
from trio_tasks.errors import BrokerUnavailableError
from trio_tasks.memory import MemoryBroker
from trio_tasks.memory.membership import MemoryMembership
from trio_tasks.testing.ledger import Ledger

__all__ = ["Network", "SimulatedLine"]

T = TypeVar("T")

REQUEST_TIMEOUT_S = 5.0
"""How long a request waits for a line that is down."""

POLL_S = 1.0
"""How long a lost hint goes unnoticed where workers poll."""

LOSS_SHARE = 0.1
"""The share of requests that a bad network loses, or their answers."""


class Network:
    """The server, and the lines that lead to it."""

    def __init__(self, server: MemoryBroker, ledger: Ledger, luck: Luck) -> None:
        """Make a network.

        Args:
            server: all that is carried ends there.
            ledger: hears of all that has arrived.
            luck: for latencies, and for which requests are lost.
        """
        self.server = server
        self.ledger = ledger
        self.luck = luck
        self.lines: list[SimulatedLine] = []
        self.outages = 0
        self.bad_times = 0

    async def outage(self, for_s: float) -> None:
        """The server is away for all."""
        self.outages += 1
        for line in self.lines:
            line.cut()
        await anyio.sleep(for_s)
        self.outages -= 1
        for line in self.lines:
            line.mend()

    async def bad_time(self, for_s: float) -> None:
        """Requests and answers are lost for a while."""
        self.bad_times += 1
        await anyio.sleep(for_s)
        self.bad_times -= 1

    def set_clock(self, by_s: float) -> None:
        """The server's clock jumps. Whoever times something by it looks again."""
        self.hint_all()  # what has expired by now is gone for good
        self.ledger.clock_set(by_s)
        self.server.store.clock.jump(round(1000 * by_s))
        self.hint_all()
        self.ledger.clock_set()

    def hint_all(self) -> None:
        """There may be work in any queue."""
        store = self.server.store
        for name in sorted(store.queues):
            with store.step(name) as (queue, _):
                queue.startable = True


class SimulatedLine:
    """The line of one client; see `Line`.

    Attributes:
        client: whose it is, for the ledger.
        memberships: those that were registered over it.
        trouble_at: when something was last lost or late, on the loop's clock.
    """

    remote = False

    def __init__(self, network: Network, client: str) -> None:
        self.client = client
        self.memberships: list[MemoryMembership] = []
        self.trouble_at = -math.inf
        self._network = network
        self._cuts = network.outages
        self._dead = False
        self._changes = 0
        self._changed = Pulse()
        self._waits: list[anyio.CancelScope] = []
        network.lines.append(self)

    @property
    def connected(self) -> bool:
        """Whether it is not down."""
        return not self._cuts and not self._dead

    def cut(self) -> None:
        """Be down until `mend`, for one more reason. What is under way is lost."""
        self._cuts += 1
        self._changes += 1
        self.trouble_at = loop_time()
        for scope in self._waits:
            scope.cancel()

    def mend(self) -> None:
        """One reason less."""
        self._cuts -= 1
        self.trouble_at = loop_time()
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
        self._network.ledger.heard(self, request, asked, answer)
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
        network = self._network
        lost = network.bad_times > 0 and network.luck.random() < LOSS_SHARE / 2
        if lost:
            self.trouble_at = loop_time()
        return lost

    async def _latency(self) -> None:
        """Mostly none; now and then some milliseconds, in which anything may happen."""
        luck = self._network.luck
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
        if self in self._network.lines:
            self._network.lines.remove(self)
        await self.end_leases()

    async def end_leases(self) -> None:
        """After a lease without a sign of life its members are dead, if it is still down."""
        store = self._network.server.store
        leases_ms = [
            member.lease_ms
            for membership in self.memberships
            if (member := store.queue(membership.queue).members.get(membership.incarnation))
        ]
        await anyio.sleep(POLL_S)
        self._network.hint_all()  # a hint that it has taken may have died with it
        await anyio.sleep(max(0.0, max(leases_ms, default=0) / 1000 - POLL_S))
        if self in self._network.lines and self.connected:
            return
        for membership in self.memberships:
            membership.vanish()
        self._network.hint_all()

    def pending(self) -> list[str]:
        """The jobs that the server thinks are running at this end."""
        store = self._network.server.store
        return [
            entry.job_id
            for membership in self.memberships
            for entry in store.queue(membership.queue)
            .pending.get(membership.incarnation, {})
            .values()
        ]
