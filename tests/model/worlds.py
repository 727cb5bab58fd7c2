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
from typing import Final

from tests.model.actors import Cancel, Kind, Pause, RelayRead, Requeue, Setting
from tests.model.invariants import Invariant
from tests.model.leases import LeaseModel
from tests.model.lifecycle import Job, LifecycleModel
from tests.model.rules import Rule
from tests.model.schedules import ScheduleModel
from tests.model.specs import (
    FAILS,
    FIRST_WINS,
    FRAIL,
    JUMPS,
    MINUTES,
    ONCE,
    PARENT_AWAY,
    PARENT_OF_X,
    STUCK,
    A,
    B,
    chosen,
    last_wins,
    other,
    trailing,
    world,
)
from tests.model.store import New

__all__ = ["LIFECYCLES", "LOSSY", "PLAIN_ENDS", "SHORT", "WEAKENED"]

SHORT: Final = (
    # -- starting
    world(
        {Rule.COUNTED: "5"},
        Setting(
            name="a killed worker's job is handed out again",
            jobs=("a",),
            kinds={"a": ONCE},
            faults={"kill": 1},
        ),
    ),
    world(
        {Rule.ASK_FIRST: "5"},
        Setting(
            name="poison kills whoever touches its data",
            jobs=("a",),
            kinds={"a": Kind(poison=True)},
            workers=1,
        ),
    ),
    world(
        {Rule.RETRY_COUNTS: "28"},
        Setting(
            name="the server refuses to say who holds a debounce key",
            jobs=("a",),
            kinds={"a": Kind(edge="leading", spoilt=True)},
            workers=1,
            tick=5_000,
            age=5_000,
        ),
    ),
    world(
        {},
        Setting(
            name="the key function of a debounced job raises",
            jobs=("a",),
            kinds={"a": Kind(edge="leading", raises=True)},
            workers=1,
            faults={"break": 1},
        ),
    ),
    # -- connections
    world(
        {Rule.OWN_FIRST: STUCK, Rule.OWN_FENCES: STUCK, Rule.OWN_UNCOUNTED: "9"},
        Setting(
            name="a connection breaks with a take under way",
            jobs=("a",),
            kinds={"a": ONCE},
            workers=1,
            faults={"break": 1},
        ),
    ),
    world(
        {Rule.TAKE_NEEDS_MEMBER: STUCK},
        Setting(
            name="the take of a killed worker is applied late",
            jobs=("a",),
            workers=1,
            beats=A,
            faults={"kill": 1},
        ),
    ),
    world(
        {Rule.BEAT_RENEWS_MEMBERS: "9"},
        Setting(
            name="a beat of an incarnation that was left is applied late",
            jobs=("a",),
            kinds={"a": ONCE},
            deaf=B,
            beats=A | B,
            victims=A,
            faults={"break": 1},
        ),
    ),
    world(
        {Rule.FRESH_NAME: STUCK},
        Setting(
            name="a worker that was declared dead joins anew",
            jobs=("a",),
            deaf=B,
            beats=B,
            victims=A,
            faults={"break": 1},
        ),
    ),
    world(
        {Rule.LEFT_GIVEN_BACK: "23", Rule.GIVEN_UP_RELEASED: STUCK, Rule.FENCE: "23"},
        Setting(name="a worker is frozen", jobs=("a",), faults={"freeze": 1}),
    ),
    world(
        {Rule.TWO_THIRDS: "23"},
        Setting(name="a worker is cut off", jobs=("a",), faults={"break": 1}),
    ),
    other(
        {Rule.OUTAGE_NOT_A_THIRD: "23"}, lambda off: LeaseModel("a worker dies", off=off, kills=1)
    ),
    other(
        {Rule.OUTAGE: "23", Rule.OUTAGE_NOT_TWO_THIRDS: "23"},
        lambda off: LeaseModel("the server is away for a while", off=off, outages=1),
    ),
    other({}, lambda off: LeaseModel("the server's clock jumps", off=off, jumps=1, jump_by=JUMPS)),
    # -- starting
    world(
        {Rule.LEADING_LIFE: "13"},
        Setting(
            name="a leading key of an id that is emitted anew",
            kinds={"x": FIRST_WINS},
            workers=1,
            programs=((chosen(1), chosen(2)),),
        ),
    ),
    world(
        {Rule.LEADING_RECORDED: "13"},
        Setting(
            name="the holder of a leading key is killed in its last attempt",
            jobs=("x",),
            kinds={"x": Kind(attempts=1, edge="leading")},
            faults={"kill": 1},
        ),
    ),
    world(
        {Rule.REPARK: "28"},
        Setting(
            name="one worker knows the event and one does not",
            jobs=("a",),
            knows={0: (), 1: ("a",)},
            tick=5_000,
            age=20_000,
        ),
    ),
    # -- finishing
    world(
        {Rule.FENCE_COUNT: "23"},
        Setting(name="a release is applied late", jobs=("a",), workers=1, faults={"break": 2}),
    ),
    world(
        {Rule.TOMBSTONE: "11", Rule.MINTED_ONCE: "11"},
        Setting(
            name="an emit of a minted id is repeated",
            workers=1,
            programs=((New("a", "a"),),),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.CANCEL_KEPT: "17"},
        Setting(
            name="a running job is cancelled",
            jobs=("a",),
            kinds={"a": Kind(ends=())},
            workers=1,
            beats=A,
            programs=((Cancel("a", None),),),
            faults={"break": 1},
        ),
    ),
    world(
        {Rule.REQUEUE_GENERATION: "10"},
        Setting(
            name="a requeue is repeated",
            jobs=("a",),
            kinds={"a": FAILS},
            workers=1,
            programs=((Requeue("a"),),),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.LEAVE_WAITS: "9"},
        Setting(name="a worker stops", jobs=("a",), kinds={"a": ONCE}, faults={"stop": 1}),
    ),
    # -- identity
    world(
        {Rule.NUMBERS_KEPT: "11"},
        Setting(
            name="an emit of a chosen id is repeated",
            workers=1,
            programs=((chosen(1),),),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.ATTACHED_KEPT: "11", Rule.NUMBERS_INHERITED: "11"},
        Setting(
            name="two emits of one chosen id, one is repeated",
            workers=1,
            programs=((chosen(1),), (chosen(2),)),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.CANCEL_NUMBER: "17"},
        Setting(
            name="a cancel is applied late",
            workers=1,
            programs=((chosen(1), Cancel("x", 1), chosen(2)),),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.PAUSE_NUMBER: STUCK},
        Setting(
            name="a pause is applied late",
            jobs=("a",),
            workers=1,
            programs=((Pause(True), Pause(False)),),
            faults={"hang up": 1},
        ),
    ),
    # -- children
    world(
        {Rule.CHILD_NUMBER: "16"},
        Setting(
            name="a child with the id of a job that has ended",
            jobs=("a",),
            kinds={"a": PARENT_OF_X},
            ended={"x": 1},
            workers=1,
            faults={"break": 1},
        ),
    ),
    world(
        {Rule.CHILD_ID: "11", Rule.ROW_AFTER_TARGET: "16"},
        Setting(
            name="a child is relayed by two, one of whom fails",
            jobs=("a",),
            kinds={"a": PARENT_AWAY},
            workers=1,
            programs=((RelayRead(),), (RelayRead(),)),
            faults={"hang up": 1},
        ),
    ),
    world(
        {Rule.LATE_DEAD: "11", Rule.LATE_TO_TARGET: "16"},
        Setting(
            name="a child is under way for an hour",
            jobs=("a",),
            kinds={"a": PARENT_AWAY},
            workers=1,
            programs=((RelayRead(),),),
            faults={"hang up": 1},
            tick=10 * MINUTES,
            age=60 * MINUTES,
            tombstone=10 * MINUTES,
        ),
    ),
    # -- time
    other(
        {Rule.CRON_CAS: "14", Rule.DECLARE_KEEPS: "14"},
        lambda off: ScheduleModel("two schedulers, one is restarted", off=off, restarts=1),
    ),
    other(
        {Rule.AFTER_LAST: STUCK, Rule.CRON_NOT_EARLY: "14"},
        lambda off: ScheduleModel(
            "the clock jumps there and back, and the schedule changes",
            off=off,
            schedulers=1,
            jumps=2,
            jump_by=(4, -4),
            deploys=1,
        ),
    ),
    world(
        {Rule.TRAILING_CHECKED: "12", Rule.TRAILING_KEPT: "12"},
        Setting(
            name="two jobs of a trailing key",
            kinds={"a": last_wins(1), "b": last_wins(2)},
            programs=((trailing("a"), trailing("b")),),
            tick=10_000,
            age=20_000,
        ),
    ),
)
"""Worlds in which every invariant holds, and every job ends."""

WEAKENED: Final = frozenset({Invariant.ACKED, Invariant.ATTEMPTS, Invariant.ONE_WIN})

LOSSY: Final = (
    world(
        {Rule.OWN_NAMES_LOST: "23"},
        Setting(
            name="a server forgets a hand-out",
            jobs=("a",),
            kinds={"a": FRAIL},
            workers=1,
            faults={"lose": 1},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    world(
        {Rule.LOST_JOINS_ANEW: "23"},
        Setting(
            name="a server forgets a hand-out, and the handler is slow to end",
            jobs=("a",),
            workers=1,
            slots=2,
            slow=True,
            faults={"lose": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a server forgets an emit",
            workers=1,
            programs=((chosen(1),),),
            faults={"lose": 1},
            excused=frozenset({Invariant.ACKED}),
        ),
    ),
    world(
        {},
        Setting(
            name="a server forgets a child",
            jobs=("a",),
            kinds={"a": PARENT_AWAY},
            workers=1,
            programs=((RelayRead(),),),
            faults={"lose": 1},
        ),
    ),
    world(
        {Rule.ASKS_AS_PRESENT: "23"},
        Setting(
            name="a server forgets a leading key",
            jobs=("x", "y"),
            kinds={"x": FIRST_WINS, "y": FIRST_WINS},
            workers=1,
            faults={"lose": 1},
            excused=frozenset({Invariant.ONE_WIN}),
        ),
    ),
)
"""Worlds whose server may lose its last write. What they excuse must be broken in them."""

PLAIN_ENDS: Final = ("succeeds", "fails")

LIFECYCLES: Final[Mapping[str, Callable[[], LifecycleModel]]] = {
    model().name: model
    for model in (
        lambda: LifecycleModel(
            "one job, whatever its handler does", (Job(),), crash=1, cancel=1, requeue=1, revive=1
        ),
        lambda: LifecycleModel(
            "one job, a silence and a stop", (Job(),), ends=PLAIN_ENDS, silence=1, stop=2, cancel=1
        ),
        lambda: LifecycleModel(
            "one job that nobody knows", (Job(known=frozenset()),), crash=1, stop=1, cancel=1
        ),
        lambda: LifecycleModel(
            "one job that only one worker knows",
            (Job(known=frozenset({0}), lenient=True),),
            ends=PLAIN_ENDS,
            crash=1,
        ),
        lambda: LifecycleModel(
            "one job that nobody can read", (Job(readable=False),), crash=2, silence=1
        ),
        lambda: LifecycleModel(
            "one job of a newer version", (Job(supported=False),), crash=1, stop=1
        ),
        lambda: LifecycleModel(
            "one job with a deadline", (Job(deadline=True),), ends=PLAIN_ENDS, crash=1, requeue=1
        ),
        lambda: LifecycleModel(
            "two jobs, a crash and a cancel",
            (Job(), Job(deadline=True)),
            ends=PLAIN_ENDS,
            crash=1,
            cancel=1,
        ),
    )
}
"""The lifecycle and the Processor alone, in short worlds."""
