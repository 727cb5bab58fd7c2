"""Slots: `concurrency` long-lived tasks, each running one attempt after another.

Theory of operation
-------------------

*Counting.* A slot is free, reserved for a take that is under way, promised to a job that was
handed out, or running one. `free` counts the first kind; feeds `reserve()` before they take. While
handlers are fast more may be reserved than slots are free (see `prefetch`), and `free` is then
negative; jobs that could not start in time are given back.

*Turns.* Feeds of several queues share the slots. A feed that has work but no slot queues up; who
was served last stands last. With fewer free slots than feeds in the queue only the first get one.

*Waking.* Handed-out jobs lie in `ready`. Waking a task costs 3.3 µs, running a no-op handler less
than that, so a hand-out wakes one slot, which goes on with the next job as long as handlers do
not suspend. The first time that a handler suspends while jobs lie ready, it wakes as many slots
as there are jobs (or can be woken). After 2 ms of uninterrupted work a slot lets others run.

*Scopes.* A slot has one cancel scope for all its jobs (a scope per attempt costs 4.5 µs on Trio
and 6.4 µs through AnyIO). To cancel a job, its slot's scope is cancelled; the slot leaves it,
records what happened to the job, and enters a new one. A cancel that comes in the tick in which
the job ends finds the job ended; the slot sees the cancelled scope before it begins another job.

*Stray cancels* (`strays`) do not end a slot. One that strikes in a job is a failure of that job,
whoever meant it; one that strikes between two jobs is nothing. A job that has cancelled its own
task and returned before that took effect leaves the cancel behind: the slot takes it on itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.consumer.held import Held
from trio_tasks.consumer.prefetch import LATE_S, Prefetch
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.environment import loop_clock, loop_time
from trio_tasks.native import native
from trio_tasks.strays import cancellable_task, forget, is_stray, say_ignored

if TYPE_CHECKING:
    import asyncio

    from trio_tasks.consumer.feeder import Feed

__all__ = ["Slot", "Slots"]

UNINTERRUPTED = 0.002
"""Seconds of work after which a slot lets other tasks run (measured: one checkpoint a job costs
2 to 3.5 µs; 2 ms are a fifth of the 10 ms for which nothing may hold the loop)."""

_HELD_UP_S = 0.001
"""Who wakes so much too late was held up with the whole process: then slots that can go on first.
What no slot can begin then is given back without delay."""


class Slot:
    """One slot: the job that it runs and the scope that it runs in."""

    __slots__ = ("bell", "cancelled", "held", "scope", "thread_scope")

    def __init__(self) -> None:
        self.held: Held | None = None
        self.bell = native().new_bell()
        self.scope = anyio.CancelScope()
        self.cancelled = False  # the scope; to ask AnyIO's costs 0.7 µs a job on Trio
        self.thread_scope: anyio.CancelScope | None = None

    def cancel(self, held: Held) -> None:
        """Cancel the attempt, if this slot still runs it."""
        if self.held is held:
            self.cancelled = True
            self.scope.cancel()


class Slots:
    """The slots of a consumer."""

    def __init__(
        self,
        concurrency: int,
        *,
        attempt: Callable[[Slot, Held], Awaitable[None]],
        broken_off: Callable[[Held, BaseException | None], None],
        too_late: Callable[[Held], None],
    ) -> None:
        """Make the slots; `run` must be started `concurrency` times.

        Args:
            concurrency: how many.
            attempt: runs one job in the slot's scope and ends it. Ordinary exceptions of the
                handler do not leave it; cancellation, groups and other BaseExceptions do.
            broken_off: ends a job whose attempt was left by such an exception: `None` if only
                cancellation was in it, else what remains.
            too_late: ends a job that was taken ahead and could not start in time.
        """
        self.concurrency = concurrency
        self.free = concurrency
        self.running = 0
        self.ready: deque[Held] = deque()
        self.slots: list[Slot] = []
        self._attempt = attempt
        self._broken_off = broken_off
        self._too_late = too_late
        self._prefetch = Prefetch(concurrency)
        self._suspensions = 0
        self._filled = Pulse()
        self._parked: dict[Slot, None] = {}  # the last one to park is woken first
        self._rung = 0  # slots that were woken and do not run yet
        self._feeds: list[Feed] = []
        self._line: deque[Feed] = deque()
        self._crowded_out: dict[Feed, None] = {}
        self._idle: anyio.Event | None = None

    # -- reserving -------------------------------------------------------------------------------

    def join(self, feed: Feed) -> None:
        """Add a feed to those that share the slots."""
        self._feeds.append(feed)

    @property
    def shared(self) -> bool:
        """Whether several feeds share the slots."""
        return len(self._feeds) > 1

    @property
    def room(self) -> int:
        """How many more jobs may be taken; negative when handlers have become slow."""
        return self.free + self._prefetch.most

    @property
    def quarter(self) -> int:
        """A quarter of all that may be taken, at least 1."""
        return max(1, (self.concurrency + self._prefetch.most) // 4)

    def reserve(self, feed: Feed, most: int) -> int:
        """Room for up to `most` jobs of `feed`; none, if others have the first turn."""
        line = self._line
        ahead = line.index(feed) if feed in line else len(line)
        room = self.room
        available = room - ahead
        if available <= 0 or not most:
            return 0
        if feed in line:
            line.remove(feed)
        granted = min(most, available, max(1, room // (len(line) + 1)))
        was_free = self.free > 0
        self.free -= granted
        if was_free and self.free <= 0 and not self.shared:
            feed.slots_full()
        return granted

    def line_up(self, feed: Feed) -> None:
        """`feed` has work and no slot: it is told when one is free, and has its turn."""
        if feed not in self._line:
            self._line.append(feed)

    def tell_when_free(self, feed: Feed) -> None:
        """No slot is free: tell `feed` when one is, which does not stand in line meanwhile."""
        self._crowded_out[feed] = None

    def step_out(self, feed: Feed) -> None:
        """`feed` has no more use for a slot: those behind it move up."""
        if feed in self._line:
            self._line.remove(feed)
            self._call_line()

    def release(self, count: int) -> None:
        """Give back `count` slots."""
        if not count:
            return
        was_full = self.free <= 0
        self.free += count
        if was_full and self.free > 0 and self._crowded_out:
            crowded_out, self._crowded_out = self._crowded_out, {}
            for feed in crowded_out:
                feed.slots_available()
        self._call_line()

    def _call_line(self) -> None:
        if not self._line:
            return
        room = self.free + self._prefetch.most
        if room > 0 and len(self._line) == 1:
            self._line[0].has_turn(room)
        elif room > 0:
            for feed in tuple(islice(self._line, room)):
                feed.has_turn(room)

    # -- filling ---------------------------------------------------------------------------------

    def fill(self, jobs: Sequence[Held]) -> None:
        """Hand jobs to reserved slots."""
        self.ready.extend(jobs)
        if self.ready and self._parked and not self._rung:
            self._ring()
        if self._surplus() > 0:
            self._filled.fire()

    def suspended(self) -> None:
        """A handler suspended for the first time: let others begin meanwhile."""
        self._suspensions += 1
        for _ in range(min(len(self.ready) - self._rung, len(self._parked))):
            self._ring()

    def _ring(self) -> None:
        slot, _ = self._parked.popitem()
        slot.bell.ring()
        self._rung += 1

    def withdraw(self) -> list[Held]:
        """Take back all jobs that have not begun; their slots are free again."""
        jobs = list(self.ready)
        self.ready.clear()
        self.release(len(jobs))
        return jobs

    # -- giving back -----------------------------------------------------------------------------

    async def give_back(self) -> None:
        """Give back what could not start in time, until cancelled."""
        while True:
            if self._surplus() <= 0:
                await self._filled.wait()
                continue
            late_at = self.ready[0].came_at + LATE_S
            await anyio.sleep(max(0.0, late_at - loop_time()))
            if loop_time() > late_at + _HELD_UP_S:
                await checkpoint()  # no sleep: timers have whole milliseconds
            if self._surplus() > 0 and self.ready[0].came_at + LATE_S <= loop_time():
                self._prefetch.was_late()
                late = [self.ready.pop() for _ in range(self._surplus())]
                self.release(len(late))
                for held in late:
                    self._too_late(held)

    def _surplus(self) -> int:
        """How many jobs lie ready for which there is no slot."""
        return len(self.ready) - len(self._parked) - self._rung

    async def wait_idle(self) -> None:
        """Wait until no job runs or lies ready."""
        while self.running or self.ready:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    # -- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """One slot, until it is cancelled from outside."""
        slot = Slot()
        self.slots.append(slot)
        task = cancellable_task()
        while True:
            forget(task)
            try:
                with anyio.CancelScope() as scope:
                    slot.scope, slot.cancelled = scope, False
                    await self._jobs(slot, task)
            except BaseException as error:  # noqa: ASYNC103 - raises what is not the handler's
                self._left_by(slot, error)
            else:
                self._left(slot, None)

    def _left_by(self, slot: Slot, error: BaseException) -> None:
        """The scope was left by an exception: part of it may belong to a scope further out."""
        outer, own = _split(error)
        self._left(slot, own)
        if outer is not None:
            raise outer

    def _left(self, slot: Slot, error: BaseException | None) -> None:
        """The scope was left; if in the middle of a job, that has come to its end."""
        held = slot.held
        if held is not None:
            slot.held = held.slot = None
            self._broken_off(held, error)
            self._ended()
        elif error is not None:
            if not is_stray(error):
                raise error  # not a handler's: ours
            say_ignored()

    async def _jobs(self, slot: Slot, task: asyncio.Task[Any] | None) -> None:
        clock, ready = loop_clock(), self.ready
        since = began = clock()
        while not slot.cancelled:
            if not ready:
                await self._park(slot)
                since = began = clock()
                continue
            held = ready.popleft()
            slot.held = held
            held.slot = slot
            self.running += 1
            suspensions = self._suspensions
            await self._attempt(slot, held)
            slot.held = held.slot = None
            self._ended()
            if task is not None and task.cancelling():
                await checkpoint()  # it is raised here, or has been raised
                return
            now = clock()
            suspended = self._suspensions != suspensions
            self._prefetch.ran(now - began, suspended=suspended)
            began = now
            if suspended:
                since = now  # others ran meanwhile
            elif now - since > UNINTERRUPTED:
                await checkpoint()
                since = began = clock()

    def _ended(self) -> None:
        self.running -= 1
        if self._idle is not None and not self.running and not self.ready:
            self._idle.set()
            self._idle = None
        if self._line or not self.free:
            self.release(1)
        else:  # nobody waits for it
            self.free += 1

    async def _park(self, slot: Slot) -> None:
        parked = self._parked
        parked[slot] = None
        try:
            await slot.bell.wait()
        finally:
            if slot in parked:
                del parked[slot]
            else:
                self._rung -= 1


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What must go on outwards (cancellation of an outer scope), and what is the handler's.

    On asyncio a handler raises `CancelledError` also when it awaits a task that somebody else has
    cancelled. That is the handler's: no scope around the slot is cancelled.
    """
    if anyio.current_effective_deadline() > -math.inf:
        return None, error
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(anyio.get_cancelled_exc_class())
    return None, error
