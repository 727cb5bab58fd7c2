"""Occurrences of one schedule: several schedulers, restarts, and jumps of the server's clock.

The schedule has an occurrence every other tick. A scheduler looks, computes, and sends a tick;
between looking and the tick's being applied anything may happen, and the request may be applied
long afterwards. Time ends at a horizon, so that there is an end to check: no occurrence up to
there may be waiting then.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.model import server as srv
from tests.model.explore import Step
from tests.model.rules import Rule
from tests.model.store import Frozen, New, Server

__all__ = ["ScheduleModel"]

EVERY: Final = 2
MISSED_AFTER: Final = 3


class Tick(NamedTuple):
    """A tick on its way."""

    definition: str
    occurrence: int
    following: int
    passes: bool


class World(NamedTuple):
    """`sent`: the tick of each scheduler; `late`: those that nobody waits for any more.

    `fired` and `passed`: occurrences that became jobs, and that were passed over as missed.
    """

    server: Frozen
    sent: tuple[Tick | None, ...]
    left: tuple[int, int, int]
    late: tuple[Tick, ...] = ()
    fired: tuple[int, ...] = ()
    passed: tuple[int, ...] = ()
    broken: str | None = None


class ScheduleModel:
    """The model; see `explore.Model`.

    Args:
        name: its name.
        off: rules that are switched off.
        schedulers: how many.
        horizon: the last instant.
        restarts: how often a scheduler may be started anew, which declares the schedule.
        deploys: how often the definition may change.
        jumps: how often the clock may jump; `jump_by`: by how much.
    """

    def __init__(
        self,
        name: str,
        *,
        off: frozenset[Rule] = frozenset(),
        schedulers: int = 2,
        horizon: int = 6,
        restarts: int = 0,
        deploys: int = 0,
        jumps: int = 0,
        jump_by: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._off = off
        self._schedulers = schedulers
        self._horizon = horizon
        self._left = (restarts, deploys, jumps)
        self._jump_by = jump_by
        self._empty = Server(off)

    def initial(self) -> World:
        """The schedule is declared at 0."""
        server = self._empty.thaw(self._empty.frozen())
        srv.declare(server, "v1", EVERY)
        return World(server.frozen(), (None,) * self._schedulers, self._left)

    def parts(self, state: World) -> tuple[Hashable, ...]:
        """The server, and the rest."""
        return state

    def violation(self, state: World) -> str | None:
        """What the last step broke."""
        return state.broken

    def is_end(self, state: World) -> bool:
        """Time is over, and no occurrence waits."""
        server = self._empty.thaw(state.server)
        schedule = server.schedule
        assert schedule is not None
        return server.now == self._horizon and schedule.next > server.now

    def steps(self, state: World) -> Iterator[Step[World]]:
        """All steps, in a fixed order."""
        server = self._empty.thaw(state.server)
        for index, tick in enumerate(state.sent):
            name = f"scheduler {index + 1}"
            if tick is None:
                yield from self._looks(state, server, index, name)
            else:
                yield self._applied(_sends(state, index, None), tick, f"{name}'s")
        for place, tick in enumerate(state.late):
            rest = (*state.late[:place], *state.late[place + 1 :])
            yield self._applied(state._replace(late=rest), tick, "late, a")
        if server.now < self._horizon:
            server.now += 1
            yield Step(f"it is {server.now}", state._replace(server=server.frozen()))
        yield from self._faults(state)

    def _looks(self, state: World, server: Server, index: int, name: str) -> Iterator[Step[World]]:
        schedule = server.schedule
        assert schedule is not None
        if schedule.next <= server.now:
            following = self._next(server.now, schedule.next)
            passes = (
                server.now - schedule.next > MISSED_AFTER or _after(schedule.next) <= server.now
            )
            tick = Tick(schedule.definition, schedule.next, following, passes)
            text = (
                f"{name} looks at {server.now}: {schedule.next} is {'missed' if passes else 'due'}"
            )
            yield Step(text, _sends(state, index, tick))

    def _next(self, now: int, last: int) -> int:
        return _after(max(now, last) if Rule.AFTER_LAST not in self._off else now)

    def _applied(self, state: World, tick: Tick, whose: str) -> Step[World]:
        server, at = self._empty.thaw(state.server), tick.occurrence
        job = None if tick.passes else New(f"schedule:{at}", "job")
        answer = srv.tick(server, tick.definition, at, tick.following, job)
        after = state._replace(server=server.frozen())
        if answer == "created":
            after = after._replace(fired=tuple(sorted([*state.fired, at])))
            if at in state.fired:
                after = after._replace(broken=f"14: the occurrence {at} became two jobs")
            elif at > server.now:
                after = after._replace(broken=f"14: the occurrence {at} came at {server.now}")
        if answer == "passed":
            after = after._replace(passed=tuple(sorted({*state.passed, at})))
        return Step(f"server: {whose} tick of {at} → {answer}", after)

    def _faults(self, state: World) -> Iterator[Step[World]]:
        restarts, deploys, jumps = state.left
        for index, tick in enumerate(state.sent):
            if tick is not None and restarts:
                late = tuple(sorted([*state.late, tick]))
                after = _sends(state, index, None)._replace(late=late)
                yield self._declared(after, (restarts - 1, deploys, jumps), "is started again")
        if restarts and None in state.sent:
            yield self._declared(state, (restarts - 1, deploys, jumps), "is started again")
        if deploys:
            yield self._declared(
                state, (restarts, deploys - 1, jumps), "has a new definition", "v2"
            )
        for by in self._jump_by if jumps else ():
            server = self._empty.thaw(state.server)
            server.now = min(max(server.now + by, 0), self._horizon)
            after = state._replace(server=server.frozen(), left=(restarts, deploys, jumps - 1))
            yield Step(f"the server's clock jumps by {by}", after, fault=True)

    def _declared(
        self, state: World, left: tuple[int, int, int], text: str, definition: str = ""
    ) -> Step[World]:
        """A scheduler declares the schedule, with what it thinks comes next."""
        server = self._empty.thaw(state.server)
        before = server.schedule
        assert before is not None
        srv.declare(server, definition or before.definition, self._next(server.now, before.last))
        after = state._replace(server=server.frozen(), left=left)
        schedule = server.schedule
        if schedule is not None and not definition and schedule.next > before.next:
            after = after._replace(broken=f"14: the occurrence {before.next} is lost")
        now = server.now
        return Step(f"a scheduler {text} at {now} and declares", after, fault=True)


def _after(instant: int) -> int:
    return instant // EVERY * EVERY + EVERY


def _sends(state: World, index: int, tick: Tick | None) -> World:
    sent = list(state.sent)
    sent[index] = tick
    return state._replace(sent=tuple(sent))
