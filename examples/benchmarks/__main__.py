"""`python -m examples.benchmarks`: this engine and its peers, side by side, in one run.

Prints the tables as Markdown; `--output` keeps them with every sample (JSON) and a plot (SVG).
Takes about an hour with all systems; `--quick` a few seconds a system, for a first look.
`--growth`, this engine under loads, such as a million jobs that wait, takes minutes a round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.benchmarks.environments import (
    Environment,
    UnavailableError,
    default_cache,
    prepare,
    prepare_python,
)
from examples.benchmarks.measures import DRAINS, EMITS, GROWTH, MEASURES, Measure, quick
from examples.benchmarks.results import Results
from examples.benchmarks.rounds import Plan, run_rounds
from examples.benchmarks.server import fresh_server
from examples.benchmarks.systems import SYSTEMS, System
from examples.benchmarks.tables import to_markdown

_USUAL = Plan()
_QUICK = Plan(rounds=1, seconds=None, probe=100, idle=10, rest=0.5, starts=1, growth=200)


def main() -> None:
    """Measure, and say what was found."""
    chosen = _arguments()
    with fresh_server() as server:
        results = Results(server.version(), chosen.plan.rounds)
    running = _prepare(chosen.systems, chosen.cache, results)
    run_rounds(chosen.plan, chosen.measures, running, results)
    text = to_markdown(results, chosen.systems)
    print(text, end="")
    if chosen.output is not None:
        groups = {"working off": DRAINS, "emitting": EMITS, "under a load": GROWTH}
        names = {each.name for each in chosen.measures}
        rates = {
            title: [each for each in measures if each.name in names]
            for title, measures in groups.items()
        }
        _write(chosen.output, text, results.to_json(rates), chosen.cache, plot=any(rates.values()))


def _prepare(systems: Sequence[System], cache: Path, results: Results) -> dict[System, Environment]:
    """The systems that can run here; what keeps the others from it becomes part of the results."""
    running: dict[System, Environment] = {}
    for system in systems:
        try:
            running[system] = prepare(system, cache)
        except UnavailableError as error:
            results.add_trouble(system.name, f"cannot be installed: {error}")
        else:
            results.versions[system.name] = running[system].version
    return running


def _write(output: Path, text: str, samples: str, cache: Path, *, plot: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    data = output / "benchmarks.json"
    (output / "benchmarks.md").write_text(text)
    data.write_text(samples)
    if not plot:  # nothing that was measured is a rate
        return
    try:
        python = prepare_python("plot", ("matplotlib~=3.10",), cache)
    except UnavailableError as error:
        print(f"no plot: {error}", file=sys.stderr)
        return
    script = Path(__file__).with_name("plot.py")
    picture = output / "benchmarks.svg"
    subprocess.run([str(python), str(script), str(data), str(picture)], check=True)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the command line asks for."""

    plan: Plan
    systems: Sequence[System]
    measures: Sequence[Measure]
    cache: Path
    output: Path | None


def _arguments() -> _Chosen:
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks",
        description="This engine and its peers, side by side, in one run.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round: figures of no worth")
    add("--rounds", type=int, default=_USUAL.rounds, help="measurements of each kind; default 5")
    add("--seconds", type=float, default=_USUAL.seconds, help="that each takes; default 1")
    add("--growth", action="store_true", help="this engine under loads; not the usual measures")
    systems = [each.name for each in SYSTEMS]
    measures = [each.name for each in (*MEASURES, *GROWTH)]
    add("--system", action="append", choices=systems, metavar="NAME", help="; ".join(systems))
    add("--measure", action="append", choices=measures, metavar="NAME", help="; ".join(measures))
    add("--cache", type=Path, default=default_cache(), help="for the peers' environments")
    add("--output", type=Path, help="directory for the tables, every sample, and a plot")
    given = parser.parse_args()
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("--rounds is at least 1, --seconds more than 0")
    usual = GROWTH if given.growth else MEASURES
    wanted = given.measure or [each.name for each in usual]
    chosen = [each for each in (*MEASURES, *GROWTH) if each.name in wanted]
    return _Chosen(
        plan=_QUICK if given.quick else Plan(given.rounds, given.seconds),
        systems=[
            each
            for each in SYSTEMS
            if each.name in (given.system or systems)
            and (given.system or any(measure.suits(each) for measure in chosen))
        ],
        measures=[quick(each) for each in chosen] if given.quick else chosen,
        cache=given.cache,
        output=given.output,
    )


if __name__ == "__main__":
    main()
