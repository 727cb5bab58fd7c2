"""What a run has found: every sample, and medians of them."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from os import cpu_count
from statistics import median, quantiles

from examples.benchmarks.measures import Measure
from examples.benchmarks.running import Sample

__all__ = ["Results"]


@dataclass(slots=True)
class Results:
    """Samples by system and measure.

    Attributes:
        server: its version.
        rounds: measurements of each kind.
        versions: of the systems that run here.
        troubles: of a system, and what happened; at which measures, or at none of them.
        samples: those of the same system and measure in the order of the rounds.
    """

    server: str
    rounds: int
    versions: dict[str, str] = field(default_factory=dict[str, str])
    troubles: dict[tuple[str, str], list[str]] = field(
        default_factory=dict[tuple[str, str], "list[str]"]
    )
    samples: dict[tuple[str, str], list[Sample]] = field(
        default_factory=dict[tuple[str, str], "list[Sample]"]
    )

    @property
    def machine(self) -> str:
        """What it was measured on, in a few words."""
        return f"{cpu_count()} cores, {platform.system()} {platform.machine()}"

    def add(self, system: str, measure: Measure, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.setdefault((system, measure.name), []).append(sample)

    def add_trouble(self, system: str, what: str, measure: Measure | None = None) -> None:
        """Keep what a system did not do: at a measure, or at all."""
        places = self.troubles.setdefault((system, what), [])
        if measure is not None:
            places.append(measure.name)

    def median(self, system: str, measure: Measure, of: Callable[[Sample], float]) -> float | None:
        """The median over the rounds; `None` if there is none."""
        samples = self.samples.get((system, measure.name))
        return median(map(of, samples)) if samples else None

    def rate(self, system: str, measure: Measure) -> float | None:
        """The median rate, in jobs per second."""
        return self.median(system, measure, lambda sample: sample.rate)

    def latency(self, system: str, measure: Measure, percentile: int) -> float | None:
        """The median over the rounds of a percentile of the latencies, in milliseconds."""

        def of(sample: Sample) -> float:
            return quantiles(sample.latencies_ms, n=100, method="inclusive")[percentile - 1]

        return self.median(system, measure, of)

    def executions(self, system: str) -> tuple[int, int]:
        """Jobs that were executed in all rounds, and executions beyond the first of a job."""
        found = list(chain(*(kept for key, kept in self.samples.items() if key[0] == system)))
        return sum(each.executed for each in found), sum(each.repeats for each in found)

    def to_json(self, rates: Mapping[str, Sequence[Measure]]) -> str:
        """All of it, and the median rates of groups of measures, for the plot."""
        groups = {
            title: {
                measure.name: {name: self.rate(name, measure) for name in self.versions}
                for measure in measures
            }
            for title, measures in rates.items()
        }
        samples = [
            {"system": system, "measure": measure, **asdict(sample)}
            for (system, measure), kept in self.samples.items()
            for sample in kept
        ]
        return json.dumps(
            {
                "server": self.server,
                "machine": self.machine,
                "rounds": self.rounds,
                "versions": self.versions,
                "troubles": [
                    {"system": system, "what": what, "measures": measures}
                    for (system, what), measures in self.troubles.items()
                ],
                "rates": groups,
                "samples": samples,
            },
            indent=1,
        )
