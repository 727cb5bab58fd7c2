"""The order of the measurements: in each round each system once, one after the other.

So a minute in which the machine has something else to do falls on all of them, and the median over
the rounds drops it. How many jobs a measurement takes is found in a round that does not count.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from examples.benchmarks.environments import Environment
from examples.benchmarks.growing import measure_growth
from examples.benchmarks.measures import Measure
from examples.benchmarks.resting import measure_rest
from examples.benchmarks.results import Results
from examples.benchmarks.running import FailedError, Sample, measure_once
from examples.benchmarks.sharing import measure_shared
from examples.benchmarks.starting import measure_start
from examples.benchmarks.systems import System

__all__ = ["Plan", "run_rounds"]

_LEAST, _MOST = 200, 200_000  # jobs
_WARM = 5000  # jobs at most: engines that compile while they run are fast after some thousands
_TRUSTED = 5  # a rate tells of a count that is at most so many times as large


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: measurements of each kind.
        seconds: that one is meant to take; `None`: `probe` jobs, without a look beforehand.
        probe: jobs of the round that does not count, and as many again for its warm-up.
        idle: jobs of a measurement of the idle latency.
        rest: seconds for which a worker is watched that has no work.
        starts: of a program, in each round.
        growth: jobs of a drain under a load.
    """

    rounds: int = 5
    seconds: float | None = 1.0
    probe: int = 500
    idle: int = 300
    rest: float = 10.0
    starts: int = 5
    growth: int = 50_000


def run_rounds(
    plan: Plan,
    measures: Sequence[Measure],
    systems: Mapping[System, Environment],
    results: Results,
) -> None:
    """Measure, and put samples and troubles into the results.

    A system that fails at a measure is not asked for it again.
    """
    jobs: dict[tuple[Measure, System], int] = {}
    for number in range(plan.rounds + 1):
        for measure, system in product(measures, systems):
            if not measure.suits(system) or (number and (measure, system) not in jobs):
                continue
            if measure.once and number > 1:
                continue
            print(f"round {number}: {measure.name}: {system.name}", file=sys.stderr)
            try:
                if number == 0:
                    jobs[measure, system] = _enough(plan, measure, system, systems[system])
                else:
                    count = jobs[measure, system]
                    warm = min(count, _WARM)
                    sample = _measure(plan, system, systems[system], measure, warm, count)
                    results.add(system.name, measure, sample)
            except FailedError as error:
                jobs.pop((measure, system), None)
                results.add_trouble(system.name, str(error), measure)


def _measure(
    plan: Plan,
    system: System,
    environment: Environment,
    measure: Measure,
    warm: int,
    count: int,
) -> Sample:
    """One sample, by whoever measures that."""
    match measure.kind:
        case "rest":
            return measure_rest(system, environment, measure, plan.rest)
        case "start":
            return measure_start(system, environment, plan.starts)
        case "growth":
            return measure_growth(system, environment, measure, count, plan.idle)
        case "drain" if measure.workers > 1:
            return measure_shared(system, environment, measure, warm, count)
        case "drain" | "emit" | "idle":
            return measure_once(system, environment, measure, warm, count)


def _enough(plan: Plan, measure: Measure, system: System, environment: Environment) -> int:
    """Jobs that take about as long as planned."""
    match measure.kind:
        case "idle":
            return plan.idle
        case "rest":
            return 1
        case "start":
            return 0
        case "growth":
            return plan.growth
        case _:
            pass
    if measure.workers > 1:  # as many as for one, so that what a start costs is spread alike
        return _enough(plan, replace(measure, workers=1), system, environment)
    count = plan.probe
    if plan.seconds is None:
        return count
    while True:
        sample = _measure(plan, system, environment, measure, min(count, _WARM), count)
        count = min(max(int(sample.rate * plan.seconds), _LEAST), _MOST)
        # A short look misjudges the fast ones.
        if sample.jobs * _TRUSTED >= count:
            return count
