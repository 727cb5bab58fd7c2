"""What happens in a simulation: emits, what people do, and faults, each at its time.

A program is drawn by luck from rates (`draw`), or made by anybody else, such as Hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from trio_tasks.emitter import Emit
from trio_tasks.environment import Luck
from trio_tasks.options import check_number

__all__ = [
    "Action",
    "CancelJob",
    "ClockStep",
    "Crash",
    "CutOff",
    "EmitJob",
    "Faults",
    "Losses",
    "Outage",
    "Pause",
    "Program",
    "Stop",
    "draw",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what happens in a simulation: times an hour of virtual time, on average.

    Attributes:
        outages: the server is away for all.
        cut_offs: one worker is cut off from the server and goes on, as one whose network is broken
            or whose process was frozen. If it lasts for longer than the lease, others get its jobs.
        crashes: one worker dies without a goodbye, and is started again. Its handlers are
            cancelled, since Trio cannot make a task vanish; whatever they still ask of the server
            does not arrive.
        losses: times of a bad network, in which each tenth request is lost, or its answer.
        stops: one worker stops gracefully, and is started again, as at a deployment.
        pauses: a queue is paused, and resumed.
        cancels: a job that was emitted lately is cancelled.
        clock_steps: the server's clock jumps, forward or back, by up to an hour.
        longest: how long any of these lasts at most, in seconds. Short ones are as likely as long
            ones: with 300, half of them are shorter than 17 s.

    Raises:
        ConfigurationError: a number is negative, or `longest` is below 1.
    """

    outages: float = 0.05
    cut_offs: float = 0.05
    crashes: float = 0.05
    losses: float = 0.05
    stops: float = 0.05
    pauses: float = 0.05
    cancels: float = 0.1
    clock_steps: float = 0.05
    longest: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name == "longest" else 0
            check_number(field.name, getattr(self, field.name), least=least)


@dataclass(frozen=True, slots=True)
class EmitJob:
    """Emit a job."""

    at_s: float
    emit: Emit[Any]


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Cancel one of the jobs that were emitted: 0 is the last one, 1 the one before."""

    at_s: float
    before: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause a queue for a while: by its number in the order of names."""

    at_s: float
    for_s: float
    queue: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a worker gracefully; it starts again after a while."""

    at_s: float
    for_s: float
    worker: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A worker dies without a goodbye; it starts again after a while."""

    at_s: float
    for_s: float
    worker: int


@dataclass(frozen=True, slots=True)
class CutOff:
    """A worker is cut off from the server for a while."""

    at_s: float
    for_s: float
    worker: int


@dataclass(frozen=True, slots=True)
class Outage:
    """The server is away for a while."""

    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Requests and answers are lost for a while."""

    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The server's clock jumps, forward or (negative) back."""

    at_s: float
    by_s: float


Action: TypeAlias = (
    EmitJob | CancelJob | Pause | Stop | Crash | CutOff | Outage | Losses | ClockStep
)
"""Something that happens `at_s` seconds after the beginning."""

Program: TypeAlias = list[Action]

_BURST = 4
"""How many jobs are emitted at a time, on average."""

_GAPS_S = 0.001, 5.0
"""The time between the emits of a burst: sometimes much, sometimes hardly any."""

_NEAR_S = 0.005, 30.0
"""Faults where nothing happens find nothing: three of four come this soon after an emit."""

_LONGEST_STEP_S = 3600.0


def draw(
    luck: Luck,
    faults: Faults | None,
    *,
    hours: float,
    workers: int,
    next_emit: Callable[[Luck], Emit[Any]] | None,
    per_hour: float,
) -> Program:
    """A program that lasts for `hours` of virtual time."""
    end_s = 3600 * hours
    program: Program = []
    if next_emit is not None:
        for at_s in _times(luck, per_hour / _BURST, end_s):
            for _ in range(math.ceil(luck.expovariate(1 / (_BURST - 0.5)))):
                program.append(EmitJob(at_s, next_emit(luck)))
                at_s += _between(luck, *_GAPS_S)  # noqa: PLW2901
    if faults is not None:
        emits_s = [action.at_s for action in program]

        def times(per_hour: float) -> list[float]:
            return [
                luck.choice(emits_s) + _between(luck, *_NEAR_S)
                if emits_s and luck.random() < 0.75
                else at_s
                for at_s in _times(luck, per_hour, end_s)
            ]

        def for_s() -> float:
            return _between(luck, 1.0, faults.longest)

        program += [Outage(at_s, for_s()) for at_s in times(faults.outages)]
        program += [
            CutOff(at_s, for_s(), luck.randrange(workers)) for at_s in times(faults.cut_offs)
        ]
        program += [Crash(at_s, for_s(), luck.randrange(workers)) for at_s in times(faults.crashes)]
        program += [Losses(at_s, for_s()) for at_s in times(faults.losses)]
        program += [Stop(at_s, for_s(), luck.randrange(workers)) for at_s in times(faults.stops)]
        program += [Pause(at_s, for_s(), luck.randrange(100)) for at_s in times(faults.pauses)]
        program += [CancelJob(at_s, luck.randrange(5)) for at_s in times(faults.cancels)]
        program += [
            ClockStep(at_s, luck.choice((-1, 1)) * _between(luck, 1.0, _LONGEST_STEP_S))
            for at_s in times(faults.clock_steps)
        ]
    return sorted(program, key=lambda action: action.at_s)


def _between(luck: Luck, least: float, most: float) -> float:
    """A number at random, as likely small as large."""
    return least * (most / least) ** luck.random()


def _times(luck: Luck, per_hour: float, end_s: float) -> list[float]:
    """Instants at random, so many an hour on average."""
    times: list[float] = []
    if per_hour > 0:
        at_s = luck.expovariate(per_hour / 3600)
        while at_s < end_s:
            times.append(at_s)
            at_s += luck.expovariate(per_hour / 3600)
    return times
