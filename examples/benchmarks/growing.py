"""What a job costs, and how soon it starts, when there is much else: this engine alone.

Each load is measured like the small case, on a fresh server: the load is made; a worker that has no
work starts jobs, one after another; a worker at concurrency 32 works off jobs that do nothing. The
cost of a job is the CPU time of that worker, and that of the server from the end of the warm-up to
the last job, the renewals of a process that holds jobs and all else that goes on included.

With the load "queued" the jobs of the clock are the first of all that wait, and the worker is
stopped when they have run. Where jobs wait nobody is idle: latency is then that of another queue.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from examples.benchmarks.environments import Environment
from examples.benchmarks.measures import Load, Measure
from examples.benchmarks.running import (
    Runner,
    Sample,
    complete,
    last,
    sample_of,
    wait_for,
)
from examples.benchmarks.server import Server, fresh_server
from examples.benchmarks.systems import System

__all__ = ["measure_growth"]

_SCRIPT = Path(__file__).parent / "peers" / "growth.py"
_LIMIT = 600.0  # seconds for each process: a million jobs take their time
_IDLE_WARM = 5  # jobs before the latencies count
_HELD = 2000  # jobs at most that one process holds
_SETTLE = 1.0  # seconds after a load was made


def measure_growth(
    system: System, environment: Environment, measure: Measure, jobs: int, idle: int
) -> Sample:
    """Measure under one load once.

    Figures of the sample: "size" of the load, and "memory", in bytes of the server for each of its
    jobs, if it consists of jobs.

    Args:
        system: this engine.
        environment: where it runs.
        measure: with its load.
        jobs: within the clock, a tenth of them again before it.
        idle: jobs for the latency.

    Raises:
        FailedError: a process ended early, took too long, or a job was not executed.
    """
    load = measure.load
    counted = {"warm": max(1, jobs // 10), "jobs": jobs}
    with fresh_server() as server, tempfile.TemporaryFile() as errors, ExitStack() as stack:
        script = replace(environment, command=(environment.command[0], str(_SCRIPT)))
        runner = Runner(system, script, server, errors, _LIMIT)
        memory = _make(load, runner, server, counted, stack)
        queue = "beside" if load.kind == "queued" else "default"
        asked = {"load": load.kind, "size": load.size}
        latencies = _latencies(runner, {**asked, "queue": queue}, idle)
        if load.kind != "queued":
            runner.emit(how="preload", jobs=sum(counted.values()))
        beyond = load.size if load.kind == "queued" else 0
        handlers = {"concurrency": measure.concurrency, "beyond": beyond}
        with runner.working(**handlers, **asked, **counted) as reports:
            wait_for("warm", reports)
            before = server.counters()
            wait_for("over", reports)
            used = server.counters() - before
            report = complete(last(reports), sum(counted.values()))
    sample = sample_of(report, counted, used)
    share = sum(counted.values()) / jobs  # the counters are those of the clock alone
    return replace(
        sample,
        server_us=sample.server_us * share,
        commands=sample.commands * share,
        reads=sample.reads * share,
        latencies_ms=latencies,
        figures={"size": load.size} | ({} if memory is None else {"memory": memory}),
    )


def _make(
    load: Load, runner: Runner, server: Server, counted: dict[str, int], stack: ExitStack
) -> float | None:
    """Make the load; how many bytes each of its jobs takes."""
    empty, jobs = server.memory(), load.size
    match load.kind:
        case "none" | "queues":
            return None  # the worker makes the queues
        case "queued":
            jobs += sum(counted.values())
            runner.emit(how="preload", jobs=jobs)
        case "held" | "delayed" | "schedules":
            with runner.running(role="load", load=load.kind, size=load.size) as reports:
                last(reports)
    if load.kind == "held":
        holders = -(-load.size // _HELD)
        sizes = [len(range(at, load.size, holders)) for at in range(holders)]
        holding = [stack.enter_context(runner.running(role="hold", size=size)) for size in sizes]
        for reports in holding:
            last(reports)
    time.sleep(_SETTLE)
    return None if load.kind == "schedules" else (server.memory() - empty) / jobs


def _latencies(runner: Runner, asked: dict[str, object], jobs: int) -> tuple[float, ...]:
    counted = {"warm": _IDLE_WARM, "jobs": jobs}
    runner.emit(how="preload", jobs=_IDLE_WARM, **asked)
    with runner.working(concurrency=4, **asked, **counted) as reports:
        wait_for("warm", reports)
        runner.emit(how="idle", first=_IDLE_WARM, jobs=jobs, **asked)
        report = complete(last(reports), _IDLE_WARM + jobs)
    return tuple(1e-6 * each for each in report.get("latencies_ns", ()))
