"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from examples.benchmarks.measures import (
    COST,
    DRAINS,
    EMITS,
    GROWTH,
    IDLE,
    REST,
    SMALL,
    START,
    TWO,
    Measure,
)
from examples.benchmarks.results import Results
from examples.benchmarks.running import Sample
from examples.benchmarks.systems import OURS, System

__all__ = ["to_markdown"]

_Cell = Callable[[str], str]


def to_markdown(results: Results, systems: Iterable[System]) -> str:
    """All tables; a system without samples is in the last one, with the reason.

    Args:
        results: of a run.
        systems: that were asked for, in their order.
    """
    asked = list(systems)
    running = [system.name for system in asked if system.name in results.versions]
    head = (
        f"{results.server}, {results.machine}. Medians of {results.rounds} interleaved round(s);"
        " one worker process, one process that emits."
    )
    tables = [
        head,
        _table("Jobs per second", running, _rates(results, (*DRAINS, *EMITS))),
        _table(f"{OURS} compared: its rate ÷ theirs", running, _ratios(results)),
        _table("Idle, and the cost of a no-op job at concurrency 32", running, _costs(results)),
        _table("A worker without work", running, _rests(results)),
        _table("Start, with compiled code, medians", running, _starts(results)),
        _table("Two workers on one queue, no-op jobs, concurrency 32", running, _shared(results)),
        _table(
            f"{OURS} under a load, × of the small case",
            [each.name for each in GROWTH],
            _growth(results),
        ),
        _table("Systems", [system.name for system in asked], _about(results, asked)),
    ]
    if results.troubles:
        tables.append("\n".join(_troubles(results)))
    return "\n\n".join(filter(None, tables)) + "\n"


def _rates(results: Results, measures: Sequence[Measure]) -> dict[str, _Cell]:
    def cell(measure: Measure) -> _Cell:
        return lambda system: _count(results.rate(system, measure))

    return {measure.name: cell(measure) for measure in measures}


def _ratios(results: Results) -> dict[str, _Cell]:
    def cell(measure: Measure) -> _Cell:
        def ratio(system: str) -> str:
            ours, theirs = results.rate(OURS, measure), results.rate(system, measure)
            return _number(ours / theirs if ours and theirs else None, "×")

        return ratio

    return {measure.name: cell(measure) for measure in (*DRAINS, *EMITS) if not measure.ours_alone}


def _costs(results: Results) -> dict[str, _Cell]:
    return {
        "idle latency p50 (ms)": lambda system: _number(results.latency(system, IDLE, 50)),
        "p99 (ms)": lambda system: _number(results.latency(system, IDLE, 99)),
        "worker CPU (µs)": lambda system: _number(
            results.median(system, COST, lambda sample: sample.client_us)
        ),
        "server CPU (µs)": lambda system: _number(
            results.median(system, COST, lambda sample: sample.server_us)
        ),
        "commands": lambda system: _number(
            results.median(system, COST, lambda sample: sample.commands)
        ),
        "server's reads": lambda system: _number(
            results.median(system, COST, lambda sample: sample.reads)
        ),
    }


def _rests(results: Results) -> dict[str, _Cell]:
    titles = {
        "requests": "requests a second",
        "commands": "commands a second",
        "core": "worker, % of a core",
        "server core": "server, % of a core",
    }
    return {title: _figure(results, REST, name) for name, title in titles.items()}


def _starts(results: Results) -> dict[str, _Cell]:
    titles = {
        "import": "import trio_tasks (ms)",
        "names": "with the names of a worker (ms)",
        "ready": "trio.run to ready (ms)",
    }
    return {title: _figure(results, START, name) for name, title in titles.items()}


def _figure(results: Results, measure: Measure, name: str) -> _Cell:
    return lambda system: _number(
        results.median(system, measure, lambda sample: sample.figures[name])
    )


def _shared(results: Results) -> dict[str, _Cell]:
    """What two workers cost beside one, each job: the one is measured in the same rounds."""

    def cost(of: Callable[[Sample], float]) -> _Cell:
        def cell(system: str) -> str:
            one, two = results.median(system, COST, of), results.median(system, TWO, of)
            if two is None:
                return "–"
            return _number(two) + (f" ({_number(two / one, '×')})" if one else "")

        return cell

    return {
        "workers' CPU (µs, × of one)": cost(lambda sample: sample.client_us),
        "server CPU (µs, × of one)": cost(lambda sample: sample.server_us),
        "rate (jobs/s, × of one)": cost(lambda sample: sample.rate),
        "the smaller share": lambda system: _number(
            results.median(
                system, TWO, lambda sample: 100 * min(sample.shares) / sum(sample.shares)
            ),
            "%",
        ),
    }


def _growth(results: Results) -> dict[str, _Cell]:
    """A row for each load, not for each system."""
    measures = {each.name: each for each in GROWTH}

    def beside(of: Callable[[Measure], float | None]) -> _Cell:
        def cell(name: str) -> str:
            found, small = of(measures[name]), of(SMALL)
            if found is None:
                return "–"
            ratio = f" ({_number(found / small, '×')})" if small and name != SMALL.name else ""
            return _number(found) + ratio

        return cell

    def memory(name: str) -> str:
        samples = results.samples.get((OURS, name), [])
        found = [each.figures["memory"] for each in samples if "memory" in each.figures]
        return _number(median(found) / 1000 if found else None)

    return {
        "how many": lambda name: _count(
            results.median(OURS, measures[name], lambda sample: sample.figures["size"])
        ),
        "worker CPU (µs)": beside(
            lambda measure: results.median(OURS, measure, lambda sample: sample.client_us)
        ),
        "server CPU (µs)": beside(
            lambda measure: results.median(OURS, measure, lambda sample: sample.server_us)
        ),
        "idle latency p50 (ms)": beside(lambda measure: results.latency(OURS, measure, 50)),
        "p99 (ms)": beside(lambda measure: results.latency(OURS, measure, 99)),
        "memory a job (kB)": memory,
    }


def _about(results: Results, systems: Sequence[System]) -> dict[str, _Cell]:
    configured = {system.name: system.configured for system in systems}

    def executions(system: str) -> str:
        if system not in results.versions:
            return "–"
        executed, repeats = results.executions(system)
        if not executed:
            return "none"
        return f"{executed:,} jobs, " + (f"{repeats:,} of them again" if repeats else "each once")

    return {
        "version": lambda system: results.versions.get(system, "not here, see below"),
        "configured": lambda system: configured[system],
        "executions": executions,
    }


def _troubles(results: Results) -> Iterable[str]:
    for (system, what), measures in results.troubles.items():
        yield f"- {system}: {what}" + (f" ({'; '.join(measures)})" if measures else "")


def _table(title: str, systems: Sequence[str], columns: dict[str, _Cell]) -> str:
    """A table with a row for each system; columns and rows of which there is nothing are not."""
    cells = {name: [cell(system) for system in systems] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if set(column) - {"–"}}
    if not shown:
        return ""
    rows = [["", *shown], ["---"] * (len(shown) + 1)]
    for system, *row in zip(systems, *shown.values(), strict=True):
        if set(row) - {"–"}:
            rows.append([system, *row])
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _number(value: float | None, unit: str = "") -> str:
    """With three digits that matter."""
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}{' ' + unit if unit else ''}"
