"""The feed of one queue: takes jobs for free slots and carries the outcomes back.

Theory of operation
-------------------

One round trip carries everything: a *step* commits the outcomes that have accumulated and takes
jobs for the slots that are free. Two *pumps* do the same loop: wait until a step is worth its
while, do it. With one step under way a second goes out only if it carries at least a quarter of
the capacity, so that the server works while handlers run; there is no third pump, so there is
never a third step.

A step that parks a job takes none: a take would tell us, and nobody else, when the job is due
again, so that it would come back to us, who cannot run it, for ever. Without one the broker wakes
somebody to tell.

*Hungry* means: there may be jobs to take. A take that was filled leaves the feed hungry, one that
was not leaves it satisfied; then the *waker* waits for the queue's wake hint, until the next due
instant, or (a remote broker may lose hints) for a second, and makes the feed hungry again.

A feed that has all slots for itself does not listen while they are busy, as another worker shall
have the hint. While they are free it waits *armed*, where that saves a round trip: it reserves
them, and the broker hands out jobs for them in the moment in which the hint comes. No job waits for
a slot that is so reserved: whoever leaves a startable job behind leaves a hint. A server's
time-outs are coarse, so an armed wait ends well before the next due instant; the rest is waited for
by this loop's clock. A new instant that is earlier than its end comes with a hint.

Feeds that share the slots may be hundreds, and slots are full and free again hundreds of times a
second. So that costs them nothing: they go on listening, and have a turn at the slots when a hint
comes. Who gets none in time passes the hint on to other workers, and goes on standing in line: so
the next slot that is free is its own, however much there is to do in other queues. Nor does the
look that they have once a second end their wait. As they listen while takes are under way, a hint
may overtake the answer of a take that found nothing before it: that answer leaves them hungry.

Where a cancel may arrive: in a step. Its outcomes are put back, so nothing is lost; what its take
brought is in nobody's memory and is given back by the membership (see `Broker`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.broker import (
    Applied,
    Broker,
    Membership,
    Outcome,
    Registration,
    StartToken,
    StepReply,
    Taken,
    TakeStatus,
)
from trio_tasks.consumer.answers import Answers
from trio_tasks.consumer.committer import Entry, Outcomes, step_or_halves
from trio_tasks.consumer.debounces import Debounces
from trio_tasks.consumer.events import Events, QueueCounters
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.context import CancelReason
from trio_tasks.environment import loop_time, monotonic
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Park
from trio_tasks.processor.lease import stop_after_ms

if TYPE_CHECKING:
    from trio_tasks.consumer.attempt import Attempts
    from trio_tasks.consumer.logs import JobLogs
    from trio_tasks.consumer.slots import Slots

__all__ = ["Feed"]

log = logging.getLogger("trio_tasks.consumer")

POLL_S = 1.0
"""How long a lost wake hint can go unnoticed."""

PATIENCE_S = 0.01
"""How long a hint may wait for a slot of this worker before another worker has it."""

LATE_S = 0.2
"""How late a server may notice that a wait is over: it looks ten times a second when idle."""

MOST_WANTED = 128
"""The most jobs that one step takes. A quarter of it after a take that got no answer in time, as
their data may be more than the line can carry, and twice as many after each that did."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.4
"""Pause after a request that failed at once, doubled each time. (A Redis that is away makes the
request itself wait.)"""


class Feed:
    """One queue, as far as this process serves it."""

    def __init__(
        self,
        queue: str,
        *,
        broker: Broker,
        slots: Slots,
        attempts: Attempts,
        logs: JobLogs,
        events: Events,
        counters: QueueCounters,
        new_registration: Callable[[str], Registration],
        on_tick_hint: Callable[[str, int | None], None],
        on_rejoined: Callable[[str], None],
        relay: Callable[[str], None],
    ) -> None:
        self.queue = queue
        self.membership: Membership | None = None
        self.held: set[Held] = set()
        self.outcomes = Outcomes()
        self.debounces = Debounces(lambda: self.membership)
        self.counters = counters
        self.logs = logs
        self.draining = False
        self.left = False
        self.lease_changed = Pulse()
        self.renewed_at = -math.inf
        self.good_until = -math.inf
        self.registration: Registration | None = None
        self._stale_after = -math.inf
        self._joining = anyio.Lock()
        self._broker = broker
        self._slots = slots
        self._attempts = attempts
        self._events = events
        self._answers = Answers(
            queue,
            held=self.held,
            outcomes=self.outcomes,
            attempts=attempts,
            events=events,
            counters=counters,
            relay=relay,
        )
        self._new_registration = new_registration
        self._on_tick_hint = on_tick_hint
        self._on_rejoined = on_rejoined
        self._relay = relay
        self._most = MOST_WANTED
        self._hungry = False
        self._looks = False  # it is hungry for one job only: nobody has said that there are any
        self._told = False  # that there may be jobs, since the last take went out
        self._takes = 0
        self._steps = 0
        self._enough = 1  # outcomes, or slots, that make a second step worth its while
        self._due_at: float | None = None
        self._looked_at = -math.inf
        self._idle_pumps: list[anyio.Event] = []
        self._idle: anyio.Event | None = None
        self._wait_scope: anyio.CancelScope | None = None
        self._waits_until = -math.inf
        self._armed = False
        self._flushed = Pulse()
        self._pause_s = FIRST_PAUSE_S
        self._reported: str | None = None
        slots.join(self)

    # -- membership ------------------------------------------------------------------------------

    async def register(self) -> None:
        """Join the queue as a fresh incarnation.

        Raises:
            BrokerError: it could not.
        """
        registration = self._new_registration(self.queue)
        name = registration.incarnation
        async with self._joining:
            sent_at, sent = monotonic(), loop_time()
            self.membership = await self._broker.register(
                registration,
                have=lambda: [h.delivery.token for h in self._of(name)],
                lost=self._lost,
            )
        self.registration = registration
        self.renewed(sent, sent_at)
        self.hungry(True)

    async def rejoin(self) -> None:
        """Join the queue anew, perhaps on a server that has lost its data.

        Raises:
            BrokerError: it could not.
        """
        await self.register()
        log.info("queue %r: joined anew as a fresh incarnation", self.queue)
        self._on_rejoined(self.queue)

    def drain(self) -> None:
        """Take no more jobs, and leave the hints to others."""
        self.draining = True
        if self._wait_scope is not None:
            self._wait_scope.cancel()

    async def leave(self) -> None:
        """Wait until all is answered for, then leave the queue for good."""
        await self._flush()
        self.left = True
        async with self._joining:  # a member that joins anew just now is to be none either
            if self.membership is not None:
                try:
                    await self.membership.leave()
                except BrokerError as error:
                    self.counters.last_error = str(error)

    async def _flush(self) -> None:
        """Wait until no step is under way, nor an outcome left.

        A take that was under way when draining began may still bring jobs to give back.
        """
        while self.outcomes.waiting or self._steps:
            self.notify()
            await self._flushed.wait()

    def renewed(self, sent: float, sent_at: float) -> None:
        """The lease was renewed by a request sent at these instants (loop's and real clock)."""
        assert self.registration is not None
        good_for_s = stop_after_ms(self.registration.lease_ms) / 1000
        self.renewed_at = sent
        self.good_until = sent + good_for_s
        self._stale_after = sent_at + good_for_s
        self.lease_changed.fire()
        self.notify()

    def _no_longer_idle(self) -> None:
        """An idle member of a broker that is not remote did not renew: the keeper does it now."""
        assert self.registration is not None
        self.good_until = loop_time() + stop_after_ms(self.registration.lease_ms) / 1000
        self.lease_changed.fire()

    def stale(self) -> bool:
        """Whether the last renewal is too old to begin a handler, or to take jobs.

        Real time, so that a process that was frozen notices before it does anything else. Where
        members cannot vanish unseen a freeze stops all of them alike.
        """
        return self._broker.remote and monotonic() >= self._stale_after

    def died(self) -> None:
        """The incarnation is dead: its handlers are cancelled; the lease keeper joins anew."""
        if self.registration is not None:
            self.give_up(self._of(self.registration.incarnation))
        self.membership = None
        self._slots.step_out(self)
        self.lease_changed.fire()

    def give_up(self, jobs: Iterable[Held]) -> None:
        """Cancel attempts whose lease was lost."""
        for held in tuple(jobs):
            held.cancel(CancelReason.LEASE_LOST)

    def cancel(self, job_id: str, reason: str) -> None:
        """Cancel the attempt of a job at a user's request, if it is held here."""
        for held in tuple(self.held):
            if held.delivery.token.job_id == job_id:
                held.cancel(CancelReason.USER, reason)

    def _of(self, incarnation: str) -> list[Held]:
        return [h for h in self.held if h.delivery.token.incarnation == incarnation]

    def _lost(self, tokens: Sequence[StartToken]) -> None:
        gone = set(tokens)
        self.give_up(held for held in self.held if held.delivery.token in gone)

    # -- what the slots tell ---------------------------------------------------------------------

    def notify(self) -> None:
        """Something changed: a pump may have work."""
        if self._idle_pumps and self._worthwhile():
            self._idle_pumps.pop().set()

    def has_turn(self, room: int) -> None:
        """This feed, which stands in line, may take jobs now; there is room for so many."""
        if self._idle_pumps and (room >= self._enough or not self._steps) and self._worthwhile():
            self._idle_pumps.pop().set()

    def slots_available(self) -> None:
        """A slot is free again: the waker may wait for hints."""
        if self._idle is not None:
            self._idle.set()

    def slots_full(self) -> None:
        """No slot is free: hints are for other workers, but where slots are reserved for them.

        Nobody tells this to feeds that share the slots.
        """
        if self._wait_scope is not None and not self._armed:
            self._wait_scope.cancel()

    def hungry(self, hungry: bool) -> None:
        """There may be jobs to take, or there are none."""
        self._hungry = hungry
        self._looks = False
        if hungry:
            self.notify()
        else:
            self._slots.step_out(self)
            if self._idle is not None:
                self._idle.set()

    # -- what the attempts tell ------------------------------------------------------------------

    def began(self, held: Held) -> None:
        """A handler begins."""
        self.counters.started += 1
        if self._events.listened:
            self._events.publish("started", held, JobState.RUNNING)

    def end(self, held: Held, outcome: Outcome) -> None:
        """An attempt has come to its outcome. No await between the handler's end and this."""
        waiting = self.outcomes.waiting
        waiting.append((held, outcome))
        if self._idle_pumps and (not self._steps or len(waiting) >= self._enough):
            self.notify()

    def abandoned(self, held: Held) -> None:
        """A sync handler's thread was left behind; its job is left to its lease."""
        held.ended = True
        self.held.discard(held)
        self.counters.left_behind += 1

    # -- pumps -----------------------------------------------------------------------------------

    def _worthwhile(self) -> bool:
        if self.membership is None:
            return False
        waiting = len(self.outcomes.waiting)
        may_take = self._hungry and self._takes_jobs()
        if self._hungry and not may_take:
            self._slots.step_out(self)
        elif may_take and self._slots.room <= 0:
            self._slots.line_up(self)
            may_take = False
        if not self._steps:
            return bool(waiting or may_take)
        quarter = self._slots.quarter
        return waiting >= quarter or (may_take and self._slots.room >= quarter)

    def _takes_jobs(self) -> bool:
        return not self.draining and not self.stale()

    async def pump(self) -> None:
        """Do steps while they are worth their while, until cancelled. Two of these run."""
        while True:
            while not self._worthwhile():
                await self._sleep()
            assert self.membership is not None
            entries = self.outcomes.draw()
            want = 0
            if (self._hungry or not self._takes) and self._takes_jobs() and not _parks(entries):
                want = self._slots.reserve(self, 1 if self._looks else self._most)
            if not entries and not want:
                # Others have the first turn: `line_up` brings us back.
                self._slots.line_up(self)
                await self._sleep()
                continue
            await self._step(self.membership, entries, want)

    async def _sleep(self) -> None:
        bell = anyio.Event()
        self._idle_pumps.append(bell)
        if self._idle is not None:
            self._idle.set()
        try:
            await bell.wait()
        finally:
            if bell in self._idle_pumps:
                self._idle_pumps.remove(bell)

    async def _step(self, membership: Membership, entries: list[Entry], want: int) -> None:
        self._steps += 1
        self._enough = self._slots.quarter
        self._takes += bool(want)
        if want:
            self._told = False
        self.outcomes.under_way += len(entries)
        reply: StepReply | None = None
        try:
            talkers = [held for held, _ in entries if held.logged]
            if talkers:
                await self.logs.settle(talkers)
            reply = await step_or_halves(membership, entries, want, self._report)
        except BrokerError as error:
            self._report(error)
        finally:
            self._steps -= 1
            self._takes -= bool(want)
            self.outcomes.under_way -= len(entries)
            if reply is None:
                self.outcomes.put_back(entries)
            else:
                self._answers.hear(entries, reply.applied)
            taken = None if reply is None else reply.taken
            self._handed_out(membership, taken, want)
            if reply is not None and reply.relay:
                self._relay(self.queue)
            self._flushed.fire()
            self.notify()
        if want:
            answered = reply is not None and reply.taken is not None
            most = 2 * self._most if answered else min(self._most, want) // 4
            self._most = max(1, min(most, MOST_WANTED))
        if reply is None or Applied.REFUSED in reply.applied:
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
            await anyio.sleep(pause_s)
        else:
            self._pause_s, self._reported = FIRST_PAUSE_S, None

    def _report(self, error: BrokerError) -> None:
        """Keep an error for the statistics; say once that the broker refuses what we ask.

        That it is away the broker says itself.
        """
        text = self.counters.last_error = str(error)
        if not isinstance(error, BrokerUnavailableError) and text != self._reported:
            self._reported = text
            log.error("queue %r: the broker refused a step: %s", self.queue, text)

    def _handed_out(self, membership: Membership, taken: Taken | None, want: int) -> None:
        """A take for `want` reserved slots was answered, or has failed."""
        used = 0 if taken is None else self._started(membership, taken)
        self._slots.release(want - used)
        if taken is not None:
            self._taken(membership, taken, want)

    def _started(self, membership: Membership, taken: Taken) -> int:
        """Fill slots with what was handed out; how many slots are used.

        What came too old (`stale`) is given back by the attempt, which asks in the moment in which
        its handler would begin.
        """
        if not taken.deliveries:
            return 0
        left = membership is not self.membership or self.draining
        if not self._broker.remote and not self.held:
            self._no_longer_idle()
        now_ms, now = taken.now_ms, loop_time()
        jobs = [Held(delivery, self, now_ms, now) for delivery in taken.deliveries]
        self.held.update(jobs)
        if not left:
            self._slots.fill(jobs)
            return len(jobs)
        for held in jobs:
            # Of an incarnation that was left, or too late: given back, not begun.
            held.cause = CancelReason.SHUTDOWN if self.draining else CancelReason.LEASE_LOST
            self._attempts.give_up(held)
        return 0

    def _taken(self, membership: Membership, taken: Taken, want: int) -> None:
        now = self._looked_at = loop_time()
        self._take_up(membership, taken, want, now)
        if self._due_at is not None and self._due_at < self._waits_until - LATE_S:
            assert self._wait_scope is not None
            self._wait_scope.cancel()  # a look has found out what a lost hint had told

    def _take_up(self, membership: Membership, taken: Taken, want: int, now: float) -> None:
        match taken.status:
            case TakeStatus.TAKEN:
                due = taken.next_due_in_ms
                self._due_at = None if due is None else now + due / 1000
                self._on_tick_hint(self.queue, taken.next_tick_in_ms)
                self.hungry(len(taken.deliveries) >= want or self._told)
            case TakeStatus.PAUSED:
                self._due_at = None  # what is due waits too; `resume` wakes us
                self._on_tick_hint(self.queue, taken.next_tick_in_ms)
                self.hungry(self._told)
            case TakeStatus.DEAD:
                if membership is self.membership:
                    self.died()
            case TakeStatus.OLD:
                self.hungry(True)

    # -- waker -----------------------------------------------------------------------------------

    async def waker(self) -> None:
        """Make the feed hungry when there may be work, until cancelled."""
        while True:
            if self.membership is None or self.draining or self._hungry or self._takes:
                await self._change()
            elif self._slots.free > 0 or self._slots.shared:
                await self._listen(self.membership)
            else:
                self._slots.tell_when_free(self)
                with anyio.move_on_after(self._looked_at + POLL_S - loop_time()) as scope:
                    await self._change()
                if scope.cancelled_caught:
                    self.hungry(True)

    async def looker(self) -> None:
        """Look for work once a second though no hint has come, until cancelled.

        Only where hints may be lost, and where the waker does not do it between two waits.
        """
        if not (self._broker.remote and self._slots.shared):
            return
        while True:
            await anyio.sleep(max(POLL_S / 10, self._looked_at + POLL_S - loop_time()))
            overdue = loop_time() >= self._looked_at + POLL_S
            if overdue and self._wait_scope is not None and not (self._hungry or self._takes):
                self.hungry(True)
                self._looks = True

    async def _change(self) -> None:
        self._idle = anyio.Event()
        await self._idle.wait()

    def _reserved_to_wait(self) -> int:
        """Slots for what a hint may bring; none where that would keep them from other feeds."""
        if not self._broker.arms or self._slots.shared or self.stale():
            return 0
        return self._slots.reserve(self, min(self._most, self._slots.free))

    async def _listen(self, membership: Membership) -> None:
        """Wait for a hint, or until it is time to look without one; or until no slot is free."""
        due_s = math.inf if self._due_at is None else max(0.0, self._due_at - loop_time())
        want = self._reserved_to_wait() if due_s > 2 * LATE_S else 0
        looks = self._broker.remote and not self._slots.shared
        wait_s = min(POLL_S if looks else math.inf, due_s - LATE_S * bool(want))
        taken: Taken | None = None
        hinted = False
        self._armed = bool(want)
        if self._slots.shared:
            self._waits_until = loop_time() + wait_s
        with anyio.CancelScope() as self._wait_scope:
            try:
                if want:
                    taken = await membership.wait_and_take(wait_s, want)
                else:
                    hinted = await membership.wait(wait_s)
            except BrokerError:
                await anyio.sleep(FIRST_PAUSE_S)
            finally:
                self._armed = False
                self._handed_out(membership, taken, want)
        given_up = self._wait_scope.cancelled_caught
        self._wait_scope, self._waits_until = None, -math.inf
        if taken is not None and taken.deliveries:
            # What came begins first: to wait anew takes longer than to begin. The slot that was
            # woken runs in the first of these passes of the loop, but perhaps after this task.
            await checkpoint()
            await checkpoint()
        if taken is None and not given_up:
            self.hungry(True)
            self._told = True
            if hinted and self._slots.shared and self._slots.room <= 0:
                await self._pass_on(membership)

    async def _pass_on(self, membership: Membership) -> None:
        """Wait until a slot is found for what a hint may have told of, or tell others too.

        The feed goes on standing in line: whoever has a slot first has the job.
        """
        with anyio.move_on_after(PATIENCE_S) as scope:
            while self._hungry and self._told:
                await self._change()
        if scope.cancelled_caught and self._told:
            try:
                await membership.step((), 0)
            except BrokerError as error:
                self._report(error)  # others look once a second


def _parks(entries: list[Entry]) -> bool:
    """Whether a job is parked by one of these outcomes."""
    return any(isinstance(outcome.verdict, Park) for _, outcome in entries)
