"""The order of the measurements: in each round each system once, one after the other.

So a minute in which the machine has something else to do falls on all of them, and the median over
the rounds drops it. How many jobs a measurement takes is found in a round that does not count.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.benchmarks.environments import Environment
from examples.benchmarks.measures import Measure
from examples.benchmarks.results import Results
from examples.benchmarks.running import FailedError, Sample, measure_once
from examples.benchmarks.systems import System

__all__ = ["Plan", "run_rounds"]

_LEAST, _MOST = 200, 200_000  # jobs


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: measurements of each kind.
        seconds: that one is meant to take; `None`: `probe` jobs, without a look beforehand.
        probe: jobs of the round that does not count, and as many again for its warm-up.
        idle: jobs of a measurement of the idle latency.
    """

    rounds: int = 5
    seconds: float | None = 1.0
    probe: int = 500
    idle: int = 300


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
    for number in range(0 if plan.seconds else 1, plan.rounds + 1):
        for measure in measures:
            for system, environment in systems.items():
                if not measure.suits(system) or (number > 1 and (measure, system) not in jobs):
                    continue
                print(f"round {number}: {measure.name}: {system.name}", file=sys.stderr)
                known = jobs.pop((measure, system), _first(plan, measure))
                warm = max(1, min(known // 4, 5000)) if number else known
                try:
                    sample = measure_once(system, environment, measure, warm, known)
                except FailedError as error:
                    results.add_trouble(system.name, str(error), measure)
                    continue
                jobs[measure, system] = known
                if number:
                    results.add(system.name, measure, sample)
                else:
                    jobs[measure, system] = _enough(plan, measure, sample)


def _first(plan: Plan, measure: Measure) -> int:
    return plan.idle if measure.kind == "idle" else plan.probe


def _enough(plan: Plan, measure: Measure, sample: Sample) -> int:
    """Jobs that take about as long as planned."""
    if measure.kind == "idle" or plan.seconds is None:
        return _first(plan, measure)
    return min(max(int(sample.rate * plan.seconds), _LEAST), _MOST)
