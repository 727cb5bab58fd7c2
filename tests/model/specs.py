"""How worlds are specified; and the kinds of jobs that live in several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.model.actors import Kind, Setting
from tests.model.explore import Model
from tests.model.leases import LeaseModel
from tests.model.rules import Rule
from tests.model.schedules import ScheduleModel
from tests.model.store import New
from tests.model.world import WorldModel

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


def world(about: Mapping[Rule, str], setting: Setting) -> Spec:
    return Spec(setting.name, lambda off: WorldModel(replace(setting, off=off)), about, setting)


def other(
    about: Mapping[Rule, str], make: Callable[[frozenset[Rule]], LeaseModel | ScheduleModel]
) -> Spec:
    return Spec(make(frozenset()).name, make, about)


A: Final = frozenset({0})
B: Final = frozenset({1})
ONCE: Final = Kind(attempts=1)
FRAIL: Final = Kind(ends=("ok", "fail"))
FAILS: Final = Kind(attempts=1, ends=("fail",))
PARENT: Final = Kind(children=(New("c@", "child"),))
PARENT_AWAY: Final = Kind(children=(New("c@", "child", out=True),))
PARENT_OF_X: Final = Kind(children=(New("x", "x"),))
FIRST_WINS: Final = Kind(edge="leading")
JUMPS: Final = tuple(sign * by for sign in (1, -1) for by in (*range(1, 14), 40))
MINUTES: Final = 60_000


def last_wins(order: int) -> Kind:
    return Kind(edge="trailing", order=order, ends=("ok", "fail"))


def trailing(job: str) -> New:
    return New(job, job, digest="key", window=10_000)


def chosen(number: int) -> New:
    return New("x", "x", number)
