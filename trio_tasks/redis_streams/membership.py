"""One incarnation in one queue of a Redis server: steps, beats, and `own` on every connection.

Theory of operation
-------------------
The server knows which starts are this incarnation's: its pending entries. This process knows
which of them it has in memory: `have()`. The two differ when the answer of a step is lost: with
its connection, or because whoever asked was cancelled. `own(g, have)` makes them agree: the server
gives back, uncounted, every start that is not in `have`, names those of `have` that are no longer
ours (`lost`), and refuses from then on the takes of any smaller `g`, so that a request of an old
connection that is carried out late starts nothing.

So `own` is sent

* on every new connection, before anybody else may use it (`Link.on_connect`), and
* after a step that took jobs has failed or was cancelled, by a task of the broker's nursery: what
  the step may still have handed out is in nobody's memory. Steps that take wait for it.

Each time `g` grows by one and `have()` is read in the same moment. The answer of a step that was
sent before, under a smaller `g`, may come to its caller afterwards; what it hands out has been
given back by then, so it counts as OLD.

Takes go out on the connection of all requests or, behind a command that blocks until there may be
work, on the one that waits for it (`wait_and_take`). Which of them it was `own` need not know: a
take bears the `g` under which it was sent, so none that was sent before an `own`, on whichever
connection, starts anything after it.

A server that restarts without its last write may have forgotten a start that we hold. It would
hand the job out again, and if it came back to us the new start had the token of the old one, whose
outcome would then end it. `own` notices (`FORGOTTEN`), and the incarnation takes nothing more: to
its owner it is dead.

Steps are sent again only where they take nothing: outcomes are fenced by their tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import anyio
import anyio.abc

from trio_tasks.broker import (
    Beat,
    DebounceAsk,
    Outcome,
    Registration,
    StartToken,
    StepReply,
    Taken,
    TakeStatus,
)
from trio_tasks.control_c import protected
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.asking import OUTAGES, Asks
from trio_tasks.redis_streams.calls import Call, OwnReply, OwnStatus
from trio_tasks.redis_streams.evaluation import evaluate
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.misplaced import MisplacedKeyError, is_wrong_type
from trio_tasks.redis_streams.wire import Connection, RedisReplyError

__all__ = ["Memberships", "RedisMembership"]

log = logging.getLogger("trio_tasks.broker")

T = TypeVar("T")

_DEAD = Taken(TakeStatus.DEAD, 0)
"""What a take is answered that was not sent."""


class Waits(Protocol):
    """How a member waits for work: see `Wakes`."""

    async def wait(self, queue: str, timeout: float) -> bool:
        """See `Wakes.wait`."""
        ...

    async def wait_and_call(self, queue: str, timeout: float, call: Call[T]) -> T | None:
        """See `Wakes.wait_and_call`."""
        ...


class Memberships:
    """The living memberships of a broker, and what they share."""

    def __init__(
        self,
        *,
        cmd: Asks,
        waits: Waits,
        tasks: anyio.abc.TaskGroup,
        tombstone_ms: int,
    ) -> None:
        self.cmd = cmd
        self.waits = waits
        self.tasks = tasks
        self.tombstone_ms = tombstone_ms
        self._living: set[RedisMembership] = set()
        self._namesakes_reported = False

    async def join(
        self,
        keys: QueueKeys,
        registration: Registration,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> RedisMembership:
        """Register a fresh incarnation."""
        joined = await self.cmd.call(calls.register(keys, registration), repeat=True)
        if joined.namesakes and not self._namesakes_reported:
            self._namesakes_reported = True
            log.info(
                "%d other worker(s) have the consumer id %r too; all of them work",
                joined.namesakes,
                registration.consumer_id,
            )
        membership = RedisMembership(self, keys, registration, have, lost, defects=joined.defects)
        self._living.add(membership)
        return membership

    def part(self, membership: RedisMembership) -> None:
        """It has left, or is dead."""
        self._living.discard(membership)

    async def own_all(
        self,
        connection: Connection,
        *,
        here: Callable[[str], bool] = lambda _: True,
        outages: frozenset[str] = OUTAGES,
    ) -> None:
        """Announce a new connection for every incarnation, before anybody uses it.

        Args:
            connection: the new one.
            here: whether the queue of that name is reached by it.
            outages: error codes that say that the connection is of no use.

        Raises:
            BrokerError: the connection broke, or the server is of no use now.
        """
        living = [membership for membership in self._living if here(membership.queue)]
        announcements = [membership.announcement() for membership in living]
        answers = await evaluate(connection, announcements, timeout=self.cmd.timeout)
        for membership, answer in zip(living, answers, strict=True):
            if not isinstance(answer, RedisReplyError):
                membership.heard(answer)
            elif answer.code in outages:
                raise answer
            elif not is_wrong_type(answer):
                # This queue's affair; its next step tries again (and names a misplaced key).
                log.warning("queue %r: %s", membership.queue, answer)

    def moved(self, away: Callable[[str], bool]) -> None:
        """Queues of these names are reached by another connection now: announce that first."""
        for membership in self._living:
            if away(membership.queue):
                membership.disown()


class RedisMembership:
    """One incarnation. Its methods are those of `Membership`; see there."""

    def __init__(
        self,
        home: Memberships,
        keys: QueueKeys,
        registration: Registration,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
        *,
        defects: int,
    ) -> None:
        self._home = home
        self._keys = keys
        self._registration = registration
        self._have = have
        self._lost = lost
        self._ordinal = 0
        self._owned = True  # nothing was taken yet: the first connection need not be announced
        self._forgotten = False  # a token of ours may come again
        self._announcing = anyio.Lock()
        self._defects_before = defects
        self._defects_told = 0

    def __repr__(self) -> str:
        return f"<RedisMembership {self.incarnation!r} in {self.queue!r}>"

    @property
    def queue(self) -> str:
        """The queue."""
        return self._registration.queue

    @property
    def incarnation(self) -> str:
        """The name of this life of the consumer."""
        return self._registration.incarnation

    # -- own -------------------------------------------------------------------------------------

    def announcement(self) -> Call[OwnReply]:
        """What to send; from now on the answers of takes that were sent before count as OLD."""
        self._ordinal += 1
        self._owned = False
        return calls.own(
            self._keys, incarnation=self.incarnation, ordinal=self._ordinal, have=self._have()
        )

    def disown(self) -> None:
        """Let the next step that takes announce its connection first."""
        self._owned = False

    def heard(self, reply: OwnReply) -> None:
        """The answer. OLD: another announcement was made and is answered by itself."""
        match reply.status:
            case OwnStatus.OWNED | OwnStatus.FORGOTTEN:
                self._owned = True
                if reply.lost:
                    self._lost(reply.lost)
                if reply.status is OwnStatus.FORGOTTEN:
                    self._forgotten = True
                    self._home.part(self)
            case OwnStatus.DEAD:
                self._owned = True  # the next step goes out, and hears it
                self._home.part(self)
            case OwnStatus.OLD:
                pass

    async def _announce(self) -> None:
        async with self._announcing:
            if not self._owned:
                self.heard(await self._home.cmd.call(self.announcement()))

    async def _give_back(self) -> None:
        try:
            await self._announce()
        except BrokerUnavailableError:
            pass  # there will be a new connection, and with it an announcement
        except BrokerError as error:
            log.warning("queue %r: %s", self.queue, error)

    # -- the protocol ----------------------------------------------------------------------------

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        """Apply outcomes, then hand out up to `want` jobs, in one round trip.

        Cancelled after it was sent, or failed: its outcomes may have been applied; what it handed
        out is given back within a round trip of the next good connection.
        """
        cmd = self._home.cmd
        if not want:
            return await cmd.call(self._step(outcomes, 0), repeat=True)
        if not self._owned:
            await self._announce()
        if self._forgotten:
            reply = await self.step(outcomes, 0)
            return StepReply(reply.applied, _DEAD, reply.relay)
        ordinal = self._ordinal
        try:
            reply = await cmd.call(self._step(outcomes, want))
        except BaseException as error:
            # Where the connection is lost the next one begins with an announcement.
            lost = isinstance(error, BrokerUnavailableError)
            if not lost or isinstance(error, MisplacedKeyError):
                self._in_doubt()
            raise
        return StepReply(reply.applied, self._heard_under(ordinal, reply.taken), reply.relay)

    async def wait_and_take(self, timeout: float, want: int) -> Taken | None:
        """Wait until there may be work in the queue, and take jobs then, in one round trip.

        Cancelled, or failed: as `step`.
        """
        if not self._owned:
            await self._announce()
        if self._forgotten:
            return _DEAD
        ordinal = self._ordinal
        try:
            call = self._step((), want)
            reply = await self._home.waits.wait_and_call(self.queue, timeout, call)
        except BaseException:
            self._in_doubt()  # of the connection that takes otherwise nothing is known
            raise
        return None if reply is None else self._heard_under(ordinal, reply.taken)

    def _in_doubt(self) -> None:
        """A take may have handed out, or may hand out yet, what is in nobody's memory."""
        if not self._home.cmd.over:
            self._owned = False
            self._home.tasks.start_soon(protected(self._give_back))

    def _heard_under(self, ordinal: int, taken: Taken | None) -> Taken:
        """The answer of a take that was sent under this ordinal."""
        assert taken is not None
        if taken.status is TakeStatus.DEAD:
            self._home.part(self)
        elif ordinal != self._ordinal:
            return Taken(TakeStatus.OLD, taken.now_ms)
        return taken

    def _step(self, outcomes: Sequence[Outcome], want: int) -> Call[StepReply]:
        return calls.step(
            self._keys,
            incarnation=self.incarnation,
            ordinal=self._ordinal,
            outcomes=outcomes,
            want=want,
            lease_ms=self._registration.lease_ms,
            tombstone_ms=self._home.tombstone_ms,
        )

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        """The id of the job that holds each key now; repeated until the deadline."""
        call = calls.debounce(self._keys, asks, tombstone_ms=self._home.tombstone_ms)
        return await self._home.cmd.call(call, repeat=True)

    async def beat(self) -> Beat:
        """Renew the lease, collect cancel requests; repeated until the deadline."""
        call = calls.beat(
            self._keys, incarnation=self.incarnation, lease_ms=self._registration.lease_ms
        )
        reply = await self._home.cmd.call(call, repeat=True)
        self._tell_defects(reply.defects - self._defects_before)
        beat = reply.beat
        if self._forgotten:
            return Beat(alive=False, now_ms=beat.now_ms)
        if not beat.alive:
            self._home.part(self)
        return beat

    def _tell_defects(self, defects: int) -> None:
        """Say that something was dropped; again only when it is twice as much."""
        if defects > 0 and defects >= 2 * self._defects_told:
            self._defects_told = defects
            log.warning(
                "queue %r: %d times since this worker joined, an entry had no job that could be"
                " read, and was dropped: the server has lost a write, or somebody has changed keys",
                self.queue,
                defects,
            )

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        """Append log lines to the job of this start; not repeated, as that would double them."""
        await self._home.cmd.call(calls.log(self._keys, token, lines, max_lines=max_lines))

    async def wait(self, timeout: float) -> bool:
        """Wait until there may be work in the queue; see `Wakes`."""
        return await self._home.waits.wait(self.queue, timeout)

    async def leave(self) -> None:
        """Leave the queue; repeated until the deadline. Cancelled: its lease ends by itself."""
        if not self._owned:
            await self._give_back()  # a member that owns something is not let go
        self._home.part(self)
        await self._home.cmd.call(
            calls.leave(self._keys, incarnation=self.incarnation), repeat=True
        )
