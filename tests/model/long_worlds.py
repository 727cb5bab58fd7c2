"""The large worlds: several faults, several jobs. `make model` explores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests.model.actors import Cancel, Kind, Pause, RelayRead, Requeue, Setting
from tests.model.invariants import Invariant
from tests.model.leases import LeaseModel
from tests.model.lifecycle import Job, LifecycleModel
from tests.model.schedules import ScheduleModel
from tests.model.specs import (
    FAILS,
    FIRST_WINS,
    FRAIL,
    JUMPS,
    PARENT,
    PARENT_AWAY,
    A,
    chosen,
    last_wins,
    other,
    trailing,
    world,
)
from tests.model.store import New
from tests.model.worlds import PLAIN_ENDS

__all__ = ["LONG", "LONG_LIFECYCLES"]

LONG: Final = (
    world({}, Setting(name="two kills", jobs=("a",), kinds={"a": FRAIL}, faults={"kill": 2})),
    world({}, Setting(name="two jobs, a break", jobs=("a", "b"), faults={"break": 1})),
    world({}, Setting(name="two jobs, a freeze", jobs=("a", "b"), faults={"freeze": 1})),
    world(
        {},
        Setting(name="two jobs, a kill", jobs=("a", "b"), kinds={"a": FRAIL}, faults={"kill": 1}),
    ),
    world(
        {},
        Setting(name="two jobs, a stop", jobs=("a", "b"), kinds={"a": FRAIL}, faults={"stop": 1}),
    ),
    world({}, Setting(name="two breaks", jobs=("a",), victims=A, faults={"break": 2})),
    world({}, Setting(name="a break and a kill", jobs=("a",), faults={"break": 1, "kill": 1})),
    world(
        {},
        Setting(
            name="a break and a freeze", jobs=("a",), victims=A, faults={"break": 1, "freeze": 1}
        ),
    ),
    world({}, Setting(name="a freeze and a kill", jobs=("a",), faults={"freeze": 1, "kill": 1})),
    world({}, Setting(name="a stop and a break", jobs=("a",), faults={"stop": 1, "break": 1})),
    world({}, Setting(name="a stop and a kill", jobs=("a",), faults={"stop": 1, "kill": 1})),
    world(
        {},
        Setting(
            name="an attempt fails, a break", jobs=("a",), kinds={"a": FRAIL}, faults={"break": 1}
        ),
    ),
    world(
        {},
        Setting(
            name="two jobs of one worker, two breaks",
            jobs=("a", "b"),
            workers=1,
            faults={"break": 2},
        ),
    ),
    world(
        {},
        Setting(
            name="two steps under way, a break",
            jobs=("a", "b"),
            workers=1,
            slots=2,
            steps=2,
            faults={"break": 1},
        ),
    ),
    world(
        {}, Setting(name="a child, a break", jobs=("a",), kinds={"a": PARENT}, faults={"break": 1})
    ),
    world(
        {},
        Setting(
            name="a child for another queue, a kill, a relay that fails",
            jobs=("a",),
            kinds={"a": PARENT_AWAY},
            programs=((RelayRead(),),),
            faults={"kill": 1, "hang up": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a child with a chosen id for another queue, a break",
            jobs=("a",),
            kinds={"a": Kind(children=(New("x", "x", out=True),))},
            ended={"x": 1},
            programs=((RelayRead(),),),
            faults={"break": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="three emits of one chosen id, two are repeated",
            workers=1,
            programs=((chosen(1), chosen(2)), (chosen(3),)),
            faults={"hang up": 2},
        ),
    ),
    world(
        {},
        Setting(
            name="a cancel, a freeze",
            jobs=("a",),
            kinds={"a": FRAIL},
            beats=A,
            victims=A,
            programs=((Cancel("a", None),),),
            faults={"freeze": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a cancel that is repeated, a kill",
            jobs=("a",),
            kinds={"a": FRAIL},
            programs=((Cancel("a", None),),),
            faults={"kill": 1, "hang up": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a requeue that is repeated, a kill",
            jobs=("a",),
            kinds={"a": FAILS},
            programs=((Requeue("a"),),),
            faults={"kill": 1, "hang up": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="pause and resume are repeated, a kill",
            jobs=("a",),
            programs=((Pause(True), Pause(False)),),
            faults={"kill": 1, "hang up": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a leading key, a break",
            jobs=("x", "y"),
            kinds={"x": Kind(attempts=1, ends=("ok", "fail"), edge="leading"), "y": FIRST_WINS},
            faults={"break": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="a trailing key, a kill",
            kinds={"a": last_wins(1), "b": last_wins(2)},
            workers=1,
            programs=((trailing("a"), trailing("b")),),
            tick=10_000,
            age=20_000,
            faults={"kill": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="an unknown event, a kill",
            jobs=("a",),
            knows={0: (), 1: ("a",)},
            tick=5_000,
            age=20_000,
            faults={"kill": 1},
        ),
    ),
    world(
        {},
        Setting(
            name="the server loses all data, a break",
            programs=((New("y", "y"),),),
            faults={"flush": 1, "break": 1},
            excused=frozenset({Invariant.ACKED, Invariant.PRESENT}),
        ),
    ),
    # -- the last write is lost
    world(
        {}, Setting(name="a lost write, two workers", jobs=("a",), late=False, faults={"lose": 1})
    ),
    world(
        {},
        Setting(
            name="a lost write and a break",
            jobs=("a",),
            workers=1,
            slots=2,
            slow=True,
            faults={"lose": 1, "break": 1},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    world(
        {},
        Setting(
            name="a lost write and a kill",
            jobs=("a",),
            kinds={"a": FRAIL},
            workers=1,
            faults={"lose": 1, "kill": 1},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    world(
        {},
        Setting(
            name="two lost writes",
            jobs=("a",),
            workers=1,
            faults={"lose": 2},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    world(
        {},
        Setting(
            name="a lost write and a cancel",
            jobs=("a",),
            kinds={"a": FRAIL},
            workers=1,
            programs=((Cancel("a", None),),),
            faults={"lose": 1},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    world(
        {},
        Setting(
            name="a lost write and a requeue",
            jobs=("a",),
            kinds={"a": FAILS},
            workers=1,
            programs=((Requeue("a"),),),
            faults={"lose": 1},
            excused=frozenset({Invariant.ATTEMPTS}),
        ),
    ),
    # -- leases and schedules
    other(
        {},
        lambda off: LeaseModel(
            "three workers, a kill and an outage", off=off, workers=3, kills=1, outages=1
        ),
    ),
    other(
        {},
        lambda off: LeaseModel(
            "two workers, a kill and a jump", off=off, kills=1, jumps=1, jump_by=JUMPS
        ),
    ),
    other(
        {},
        lambda off: ScheduleModel(
            "two schedulers, a restart, a new definition, a jump",
            off=off,
            horizon=8,
            restarts=1,
            deploys=1,
            jumps=1,
            jump_by=(3, -3, 5, -5),
        ),
    ),
)
"""Worlds that take minutes."""

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
            ends=PLAIN_ENDS,
            crash=2,
            silence=1,
            stop=1,
            cancel=1,
            requeue=1,
        ),
        lambda: LifecycleModel(
            "two jobs, everything once",
            (Job(), Job(deadline=True)),
            ends=PLAIN_ENDS,
            crash=1,
            silence=1,
            stop=1,
            cancel=1,
            requeue=1,
        ),
    )
}
"""The same in long ones."""
