"""One incarnation of a consumer in one queue of a memory store."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from trio_tasks.broker import Beat, DebounceAsk, Outcome, Registration, StartToken, StepReply, Taken
from trio_tasks.memory import committing, debouncing, members, taking
from trio_tasks.memory.store import Store

__all__ = ["MemoryMembership"]


class MemoryMembership:
    """Keeps the `Membership` contract; made by `MemoryBroker.register`."""

    __slots__ = ("_incarnation", "_lease_ms", "_queue", "_store")

    def __init__(self, store: Store, registration: Registration) -> None:
        self._store = store
        self._queue = registration.queue
        self._incarnation = registration.incarnation
        self._lease_ms = registration.lease_ms

    def __repr__(self) -> str:
        return f"<MemoryMembership {self._incarnation!r} in {self._queue!r}>"

    @property
    def queue(self) -> str:
        """The queue that it works in."""
        return self._queue

    @property
    def incarnation(self) -> str:
        """The name that its starts bear."""
        return self._incarnation

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        """Apply outcomes, then hand out up to `want` jobs, in one step."""
        await checkpoint()
        with self._store.step(self._queue) as (queue, now_ms):
            rows, taken = len(queue.out), None
            applied = [committing.commit(queue, outcome, now_ms) for outcome in outcomes]
            if not outcomes and not want:
                queue.startable = True
            if want:
                taken = taking.take(queue, self._incarnation, want, now_ms, lease_ms=self._lease_ms)
            return StepReply(applied, taken, relay=len(queue.out) > rows)

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        """Who holds each key now, the asker's own id if it got it."""
        await checkpoint()
        with self._store.step(self._queue) as (queue, now_ms):
            return [debouncing.ask_debounce(queue, ask, now_ms) for ask in asks]

    async def beat(self) -> Beat:
        """Renew the lease, declare the dead, collect cancel requests."""
        await checkpoint()
        with self._store.step(self._queue) as (queue, now_ms):
            return members.beat(queue, self._incarnation, now_ms)

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        """Keep log lines with the job of this start, unless it was superseded."""
        await checkpoint()
        with self._store.step(self._queue) as (queue, now_ms):
            committing.log(queue, token, lines, max_lines, now_ms)

    async def wait(self, timeout: float) -> bool:
        """Wait for a hint that there is work, at most `timeout` seconds; whether one came."""
        return await self._store.queue(self._queue).hint.wait(timeout)

    async def wait_and_take(self, timeout: float, want: int) -> Taken:
        """Wait for a hint or until `timeout` is over, and hand out up to `want` jobs at once."""
        await self.wait(timeout)
        with self._store.step(self._queue) as (queue, now_ms):
            return taking.take(queue, self._incarnation, want, now_ms, lease_ms=self._lease_ms)

    @property
    def alive(self) -> bool:
        """Whether it is a member still."""
        return self._incarnation in self._store.queue(self._queue).members

    def vanish(self) -> None:
        """Be dead from now on, whatever it owns; does nothing if it has left."""
        with self._store.step(self._queue) as (queue, _):
            members.declare_dead(queue, self._incarnation)

    async def leave(self) -> None:
        """Leave the queue. What it still owns can be taken over."""
        await checkpoint()
        with self._store.step(self._queue) as (queue, _):
            members.leave(queue, self._incarnation)
