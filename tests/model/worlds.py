"""The worlds: what is in each, and which rules it is about.

Each is as small as what it shall show allows. `SHORT` are explored by the tests, `LONG` by
`make model` as well. A rule belongs to a world that finds the damage when it is switched off, and
the number (or `STUCK`) says which damage: of the list of invariants in `invariants.py`.

What a server that loses its last write weakens
-----------------------------------------------

`WEAKENED` has those invariants, and the tests make sure that each of them is indeed broken:

* an emit that was acknowledged may be lost (1);
* a handler may begin once more than its attempts allow, since its last hand-out was lost (5);
* two jobs of one leading key may complete in its window, since the key was lost (13).

And a handler may run under a start that was lost, until its worker has heard the answer to the
first request on its new connection, which is `own` (23). All the rest holds: a job is in one
place, an outcome counts once, children exist once, and every job ends. That is so because what a
single server loses is the end of its history. Of two nodes of a cluster one may lose what the
other keeps; then a child may exist whose parent's completion was lost, and will be completed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.model.actors import Cancel, Kind, Pause, RelayRead, Requeue, Setting
from tests.model.explore import Model
from tests.model.invariants import Invariant
from tests.model.leases import LeaseModel
from tests.model.lifecycle import Job, LifecycleModel
from tests.model.rules import Rule
from tests.model.schedules import ScheduleModel
from tests.model.store import New
from tests.model.world import WorldModel

__all__ = [
    "LIFECYCLES",
    "LONG",
    "LONG_LIFECYCLES",
    "LOSSY",
    "SHORT",
    "STUCK",
    "WEAKENED",
    "Spec",
]

STUCK: Final = "from here"
"""The damage of a job that cannot end."""


@dataclass(frozen=True)
class Spec:
    """A world that can be made with rules switched off.

    Attributes:
        about: the rules that it shows the need of, each with the damage.
        setting: of what kind of worlds, if of `WorldModel`'s.
    """

    name: str
    make: Callable[[frozenset[Rule]], Model[Any]]
    about: Mapping[Rule, str]
    setting: Setting | None = None


def _world(about: Mapping[Rule, str], **setting: Any) -> Spec:
    whole = Setting(**setting)
    return Spec(whole.name, lambda off: WorldModel(replace(whole, off=off)), about, whole)


def _leases(name: str, about: Mapping[Rule, str], **setting: Any) -> Spec:
    return Spec(name, lambda off: LeaseModel(name, off=off, **setting), about)


def _schedules(name: str, about: Mapping[Rule, str], **setting: Any) -> Spec:
    return Spec(name, lambda off: ScheduleModel(name, off=off, **setting), about)


_A: Final = frozenset({0})
_B: Final = frozenset({1})
_ONCE: Final = Kind(attempts=1)
_FRAIL: Final = Kind(ends=("ok", "fail"))
_FAILS: Final = Kind(attempts=1, ends=("fail",))
_PARENT: Final = Kind(children=(New("c@", "child"),))
_PARENT_AWAY: Final = Kind(children=(New("c@", "child", out=True),))
_PARENT_OF_X: Final = Kind(children=(New("x", "x"),))
_FIRST_WINS: Final = Kind(edge="leading")
_JUMPS: Final = tuple(sign * by for sign in (1, -1) for by in (*range(1, 14), 40))
_MINUTES: Final = 60_000


def _last_wins(order: int) -> Kind:
    return Kind(edge="trailing", order=order, ends=("ok", "fail"))


def _trailing(job: str) -> New:
    return New(job, job, digest="key", window=10_000)


def _chosen(number: int) -> New:
    return New("x", "x", number)


SHORT: Final = (
    # -- starting
    _world(
        {Rule.COUNTED: "5"},
        name="a killed worker's job is handed out again",
        jobs=("a",),
        kinds={"a": _ONCE},
        faults={"kill": 1},
    ),
    _world(
        {Rule.ASK_FIRST: "5"},
        name="poison kills whoever touches its data",
        jobs=("a",),
        kinds={"a": Kind(poison=True)},
        workers=1,
    ),
    _world(
        {Rule.RETRY_COUNTS: "28"},
        name="the key function of a debounced job raises",
        jobs=("a",),
        kinds={"a": Kind(raises=True)},
        workers=1,
        tick=5_000,
        age=5_000,
    ),
    # -- connections
    _world(
        {Rule.OWN_FIRST: STUCK, Rule.OWN_FENCES: STUCK, Rule.OWN_UNCOUNTED: "9"},
        name="a connection breaks with a take under way",
        jobs=("a",),
        kinds={"a": _ONCE},
        workers=1,
        faults={"break": 1},
    ),
    _world(
        {Rule.TAKE_NEEDS_MEMBER: STUCK},
        name="the take of a killed worker is applied late",
        jobs=("a",),
        workers=1,
        beats=_A,
        faults={"kill": 1},
    ),
    _world(
        {Rule.BEAT_RENEWS_MEMBERS: "9"},
        name="a beat of an incarnation that was left is applied late",
        jobs=("a",),
        kinds={"a": _ONCE},
        deaf=_B,
        beats=_A | _B,
        victims=_A,
        faults={"break": 1},
    ),
    _world(
        {Rule.FRESH_NAME: STUCK},
        name="a worker that was declared dead joins anew",
        jobs=("a",),
        deaf=_B,
        beats=_B,
        victims=_A,
        faults={"break": 1},
    ),
    _world(
        {Rule.LEFT_GIVEN_BACK: "23", Rule.GIVEN_UP_RELEASED: STUCK, Rule.FENCE: "23"},
        name="a worker is frozen",
        jobs=("a",),
        faults={"freeze": 1},
    ),
    _world(
        {Rule.TWO_THIRDS: "23"},
        name="a worker is cut off",
        jobs=("a",),
        faults={"break": 1},
    ),
    _leases("a worker dies", {Rule.OUTAGE_NOT_A_THIRD: "23"}, kills=1),
    _leases(
        "the server is away for a while",
        {Rule.OUTAGE: "23", Rule.OUTAGE_NOT_TWO_THIRDS: "23"},
        outages=1,
    ),
    _leases("the server's clock jumps", {}, jumps=1, jump_by=_JUMPS),
    # -- starting
    _world(
        {Rule.LEADING_LIFE: "13"},
        name="a leading key of an id that is emitted anew",
        kinds={"x": _FIRST_WINS},
        workers=1,
        programs=((_chosen(1), _chosen(2)),),
    ),
    _world(
        {Rule.REPARK: "28"},
        name="one worker knows the event and one does not",
        jobs=("a",),
        knows={0: (), 1: ("a",)},
        tick=5_000,
        age=20_000,
    ),
    # -- finishing
    _world(
        {Rule.FENCE_COUNT: "23"},
        name="a release is applied late",
        jobs=("a",),
        workers=1,
        faults={"break": 2},
    ),
    _world(
        {Rule.TOMBSTONE: "11", Rule.MINTED_ONCE: "11"},
        name="an emit of a minted id is repeated",
        workers=1,
        programs=((New("a", "a"),),),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.CANCEL_KEPT: "17"},
        name="a running job is cancelled",
        jobs=("a",),
        kinds={"a": Kind(ends=())},
        workers=1,
        beats=_A,
        programs=((Cancel("a", None),),),
        faults={"break": 1},
    ),
    _world(
        {Rule.REQUEUE_GENERATION: "10"},
        name="a requeue is repeated",
        jobs=("a",),
        kinds={"a": _FAILS},
        workers=1,
        programs=((Requeue("a"),),),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.LEAVE_WAITS: "9"},
        name="a worker stops",
        jobs=("a",),
        kinds={"a": _ONCE},
        faults={"stop": 1},
    ),
    # -- identity
    _world(
        {Rule.NUMBERS_KEPT: "11"},
        name="an emit of a chosen id is repeated",
        workers=1,
        programs=((_chosen(1),),),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.ATTACHED_KEPT: "11", Rule.NUMBERS_INHERITED: "11"},
        name="two emits of one chosen id, one is repeated",
        workers=1,
        programs=((_chosen(1),), (_chosen(2),)),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.CANCEL_NUMBER: "17"},
        name="a cancel is applied late",
        workers=1,
        programs=((_chosen(1), Cancel("x", 1), _chosen(2)),),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.PAUSE_NUMBER: STUCK},
        name="a pause is applied late",
        jobs=("a",),
        workers=1,
        programs=((Pause(True), Pause(False)),),
        faults={"hang up": 1},
    ),
    # -- children
    _world(
        {Rule.CHILD_NUMBER: "16"},
        name="a child with the id of a job that has ended",
        jobs=("a",),
        kinds={"a": _PARENT_OF_X},
        ended={"x": 1},
        workers=1,
        faults={"break": 1},
    ),
    _world(
        {Rule.CHILD_ID: "11", Rule.ROW_AFTER_TARGET: "16"},
        name="a child is relayed by two, one of whom fails",
        jobs=("a",),
        kinds={"a": _PARENT_AWAY},
        workers=1,
        programs=((RelayRead(),), (RelayRead(),)),
        faults={"hang up": 1},
    ),
    _world(
        {Rule.LATE_DEAD: "11", Rule.LATE_TO_TARGET: "16"},
        name="a child is under way for an hour",
        jobs=("a",),
        kinds={"a": _PARENT_AWAY},
        workers=1,
        programs=((RelayRead(),),),
        faults={"hang up": 1},
        tick=10 * _MINUTES,
        age=60 * _MINUTES,
        tombstone=10 * _MINUTES,
    ),
    # -- time
    _schedules(
        "two schedulers, one is restarted",
        {Rule.CRON_CAS: "14", Rule.DECLARE_KEEPS: "14"},
        restarts=1,
    ),
    _schedules(
        "the clock jumps there and back, and the schedule changes",
        {Rule.AFTER_LAST: STUCK, Rule.CRON_NOT_EARLY: "14"},
        schedulers=1,
        jumps=2,
        jump_by=(4, -4),
        deploys=1,
    ),
    _world(
        {Rule.TRAILING_CHECKED: "12", Rule.TRAILING_KEPT: "12"},
        name="two jobs of a trailing key",
        kinds={"a": _last_wins(1), "b": _last_wins(2)},
        programs=((_trailing("a"), _trailing("b")),),
        tick=10_000,
        age=20_000,
    ),
)
"""Worlds in which every invariant holds, and every job ends."""

WEAKENED: Final = frozenset({Invariant.ACKED, Invariant.ATTEMPTS, Invariant.ONE_WIN})

LOSSY: Final = (
    _world(
        {Rule.OWN_NAMES_LOST: "23"},
        name="a server forgets a hand-out",
        jobs=("a",),
        kinds={"a": _FRAIL},
        workers=1,
        faults={"lose": 1},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    _world(
        {Rule.LOST_JOINS_ANEW: "23"},
        name="a server forgets a hand-out, and the handler is slow to end",
        jobs=("a",),
        workers=1,
        slots=2,
        slow=True,
        faults={"lose": 1},
    ),
    _world(
        {},
        name="a server forgets an emit",
        workers=1,
        programs=((_chosen(1),),),
        faults={"lose": 1},
        excused=frozenset({Invariant.ACKED}),
    ),
    _world(
        {},
        name="a server forgets a child",
        jobs=("a",),
        kinds={"a": _PARENT_AWAY},
        workers=1,
        programs=((RelayRead(),),),
        faults={"lose": 1},
    ),
    _world(
        {Rule.LEADING_PRESENT: "23"},
        name="a server forgets a leading key",
        jobs=("x", "y"),
        kinds={"x": _FIRST_WINS, "y": _FIRST_WINS},
        workers=1,
        faults={"lose": 1},
        excused=frozenset({Invariant.ONE_WIN}),
    ),
)
"""Worlds whose server may lose its last write. What they excuse must be broken in them."""

_UNCLOSED: Final = frozenset({Invariant.OPEN_AGAIN})
"""A job that held a leading key and whose worker fell silent may be found to have no attempt left.
Its key is then not opened again, as nobody knows that it held it; it ends with its window."""

LONG: Final = (
    _world({}, name="two kills", jobs=("a",), kinds={"a": _FRAIL}, faults={"kill": 2}),
    _world({}, name="two jobs, a break", jobs=("a", "b"), faults={"break": 1}),
    _world({}, name="two jobs, a freeze", jobs=("a", "b"), faults={"freeze": 1}),
    _world({}, name="two jobs, a kill", jobs=("a", "b"), kinds={"a": _FRAIL}, faults={"kill": 1}),
    _world({}, name="two jobs, a stop", jobs=("a", "b"), kinds={"a": _FRAIL}, faults={"stop": 1}),
    _world({}, name="two breaks", jobs=("a",), victims=_A, faults={"break": 2}),
    _world({}, name="a break and a kill", jobs=("a",), faults={"break": 1, "kill": 1}),
    _world(
        {},
        name="a break and a freeze",
        jobs=("a",),
        victims=_A,
        faults={"break": 1, "freeze": 1},
    ),
    _world({}, name="a freeze and a kill", jobs=("a",), faults={"freeze": 1, "kill": 1}),
    _world({}, name="a stop and a break", jobs=("a",), faults={"stop": 1, "break": 1}),
    _world({}, name="a stop and a kill", jobs=("a",), faults={"stop": 1, "kill": 1}),
    _world(
        {}, name="an attempt fails, a break", jobs=("a",), kinds={"a": _FRAIL}, faults={"break": 1}
    ),
    _world(
        {},
        name="two jobs of one worker, two breaks",
        jobs=("a", "b"),
        workers=1,
        faults={"break": 2},
    ),
    _world(
        {},
        name="two steps under way, a break",
        jobs=("a", "b"),
        workers=1,
        slots=2,
        steps=2,
        faults={"break": 1},
    ),
    _world({}, name="a child, a break", jobs=("a",), kinds={"a": _PARENT}, faults={"break": 1}),
    _world(
        {},
        name="a child for another queue, a kill, a relay that fails",
        jobs=("a",),
        kinds={"a": _PARENT_AWAY},
        programs=((RelayRead(),),),
        faults={"kill": 1, "hang up": 1},
    ),
    _world(
        {},
        name="a child with a chosen id for another queue, a break",
        jobs=("a",),
        kinds={"a": Kind(children=(New("x", "x", out=True),))},
        ended={"x": 1},
        programs=((RelayRead(),),),
        faults={"break": 1},
    ),
    _world(
        {},
        name="three emits of one chosen id, two are repeated",
        workers=1,
        programs=((_chosen(1), _chosen(2)), (_chosen(3),)),
        faults={"hang up": 2},
    ),
    _world(
        {},
        name="a cancel, a freeze",
        jobs=("a",),
        kinds={"a": _FRAIL},
        beats=_A,
        victims=_A,
        programs=((Cancel("a", None),),),
        faults={"freeze": 1},
    ),
    _world(
        {},
        name="a cancel that is repeated, a kill",
        jobs=("a",),
        kinds={"a": _FRAIL},
        programs=((Cancel("a", None),),),
        faults={"kill": 1, "hang up": 1},
    ),
    _world(
        {},
        name="a requeue that is repeated, a kill",
        jobs=("a",),
        kinds={"a": _FAILS},
        programs=((Requeue("a"),),),
        faults={"kill": 1, "hang up": 1},
    ),
    _world(
        {},
        name="pause and resume are repeated, a kill",
        jobs=("a",),
        programs=((Pause(True), Pause(False)),),
        faults={"kill": 1, "hang up": 1},
    ),
    _world(
        {},
        name="a leading key, a break",
        jobs=("x", "y"),
        kinds={"x": Kind(attempts=1, ends=("ok", "fail"), edge="leading"), "y": _FIRST_WINS},
        faults={"break": 1},
        excused=_UNCLOSED,
    ),
    _world(
        {},
        name="a trailing key, a kill",
        kinds={"a": _last_wins(1), "b": _last_wins(2)},
        workers=1,
        programs=((_trailing("a"), _trailing("b")),),
        tick=10_000,
        age=20_000,
        faults={"kill": 1},
    ),
    _world(
        {},
        name="an unknown event, a kill",
        jobs=("a",),
        knows={0: (), 1: ("a",)},
        tick=5_000,
        age=20_000,
        faults={"kill": 1},
    ),
    _world(
        {},
        name="the server loses all data, a break",
        programs=((New("y", "y"),),),
        faults={"flush": 1, "break": 1},
        excused=frozenset({Invariant.ACKED, Invariant.PRESENT}),
    ),
    # -- the last write is lost
    _world({}, name="a lost write, two workers", jobs=("a",), late=False, faults={"lose": 1}),
    _world(
        {},
        name="a lost write and a break",
        jobs=("a",),
        workers=1,
        slots=2,
        slow=True,
        faults={"lose": 1, "break": 1},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    _world(
        {},
        name="a lost write and a kill",
        jobs=("a",),
        kinds={"a": _FRAIL},
        workers=1,
        faults={"lose": 1, "kill": 1},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    _world(
        {},
        name="two lost writes",
        jobs=("a",),
        workers=1,
        faults={"lose": 2},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    _world(
        {},
        name="a lost write and a cancel",
        jobs=("a",),
        kinds={"a": _FRAIL},
        workers=1,
        programs=((Cancel("a", None),),),
        faults={"lose": 1},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    _world(
        {},
        name="a lost write and a requeue",
        jobs=("a",),
        kinds={"a": _FAILS},
        workers=1,
        programs=((Requeue("a"),),),
        faults={"lose": 1},
        excused=frozenset({Invariant.ATTEMPTS}),
    ),
    # -- leases and schedules
    _leases("three workers, a kill and an outage", {}, workers=3, kills=1, outages=1),
    _leases("two workers, a kill and a jump", {}, kills=1, jumps=1, jump_by=_JUMPS),
    _schedules(
        "two schedulers, a restart, a new definition, a jump",
        {},
        horizon=8,
        restarts=1,
        deploys=1,
        jumps=1,
        jump_by=(3, -3, 5, -5),
    ),
)
"""Worlds that take minutes."""

_PLAIN_ENDS: Final = ("succeeds", "fails")

LIFECYCLES: Final[Mapping[str, Callable[[], LifecycleModel]]] = {
    model().name: model
    for model in (
        lambda: LifecycleModel(
            "one job, whatever its handler does", (Job(),), crash=1, cancel=1, requeue=1, revive=1
        ),
        lambda: LifecycleModel(
            "one job, a silence and a stop", (Job(),), ends=_PLAIN_ENDS, silence=1, stop=2, cancel=1
        ),
        lambda: LifecycleModel(
            "one job that nobody knows", (Job(known=frozenset()),), crash=1, stop=1, cancel=1
        ),
        lambda: LifecycleModel(
            "one job that only one worker knows",
            (Job(known=frozenset({0}), lenient=True),),
            ends=_PLAIN_ENDS,
            crash=1,
        ),
        lambda: LifecycleModel(
            "one job that nobody can read", (Job(readable=False),), crash=2, silence=1
        ),
        lambda: LifecycleModel(
            "one job of a newer version", (Job(supported=False),), crash=1, stop=1
        ),
        lambda: LifecycleModel(
            "one job with a deadline", (Job(deadline=True),), ends=_PLAIN_ENDS, crash=1, requeue=1
        ),
        lambda: LifecycleModel(
            "two jobs, a crash and a cancel",
            (Job(), Job(deadline=True)),
            ends=_PLAIN_ENDS,
            crash=1,
            cancel=1,
        ),
    )
}
"""The lifecycle and the Processor alone, in short worlds."""

LONG_LIFECYCLES: Final[Mapping[str, Callable[[], LifecycleModel]]] = {
    model().name: model
    for model in (
        lambda: LifecycleModel(
            "one job, everything",
            (Job(),),
            crash=2,
            silence=1,
            stop=1,
            cancel=1,
            requeue=1,
            revive=1,
        ),
        lambda: LifecycleModel(
            "one job that only one worker knows, everything",
            (Job(known=frozenset({0})),),
            ends=_PLAIN_ENDS,
            crash=2,
            silence=1,
            stop=1,
            cancel=1,
            requeue=1,
        ),
        lambda: LifecycleModel(
            "two jobs, everything once",
            (Job(), Job(deadline=True)),
            ends=_PLAIN_ENDS,
            crash=1,
            silence=1,
            stop=1,
            cancel=1,
            requeue=1,
        ),
    )
}
"""The same in long ones."""
