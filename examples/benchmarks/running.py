"""One measurement: a fresh server, the processes of one system, and what they report."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import IO, TypedDict, cast

from examples.benchmarks.environments import Environment, cause
from examples.benchmarks.measures import Measure
from examples.benchmarks.server import Counters, Server, fresh_server
from examples.benchmarks.systems import System

__all__ = [
    "EMPTY",
    "FailedError",
    "Report",
    "Runner",
    "Sample",
    "complete",
    "last",
    "measure_once",
    "sample_of",
    "wait_for",
]

_ROOT = Path(__file__).parent.parent.parent
_PREFIX = b"REPORT "
LIMIT = 60.0  # seconds that a process may take for its jobs
_LAST_RESORT = 30.0  # seconds after that, when it is killed
EMPTY = Counters(0.0, 0, 0)


class FailedError(Exception):
    """A system did not do what it was asked to do; the text says what it did."""


class Report(TypedDict, total=False):
    """What the scripts say, see `peers/harness.py` and `peers/start.py`."""

    warm: int
    over: bool
    finished: bool
    executed: int
    repeats: int
    clocked: int
    seconds: float
    cpu: float
    latencies_ns: list[int]
    import_ms: float
    names_ms: float
    ready_ms: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement gave.

    Attributes:
        jobs: within the clock.
        seconds: on the clock.
        client_us: CPU time of the process within the clock, per job, in microseconds.
        server_us: CPU time of the server, per job; warm-up and start of the process included.
        commands: that the server processed, per job.
        reads: of the server, per job.
        executed: jobs that have run, those of the warm-up included; 0 where none should.
        repeats: executions beyond the first one of their jobs.
        latencies_ms: of an idle measure.
        shares: jobs that each of several workers ran.
        figures: what else a measure gives, by name.
    """

    jobs: int
    seconds: float
    client_us: float
    server_us: float
    commands: float
    reads: float
    executed: int = 0
    repeats: int = 0
    latencies_ms: tuple[float, ...] = ()
    shares: tuple[int, ...] = ()
    figures: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


def measure_once(
    system: System, environment: Environment, measure: Measure, warm: int, jobs: int
) -> Sample:
    """Measure one system once.

    Args:
        system: which one.
        environment: where its script runs.
        measure: what.
        warm: jobs before the clock starts, at least 1.
        jobs: jobs while it runs, at least 1.

    Raises:
        FailedError: a process ended early, took too long, or not all jobs were executed.
    """
    counted = {"warm": warm, "jobs": jobs}
    with fresh_server() as server, tempfile.TemporaryFile() as errors:
        runner = Runner(system, environment, server, errors, LIMIT)
        if measure.kind == "emit":
            before = server.counters()
            report = runner.emit(how=measure.how, tasks=measure.tasks, **counted)
            return sample_of(report, counted, server.counters() - before)
        handlers = {"concurrency": measure.concurrency, "nap": measure.nap}
        if measure.kind == "drain":
            runner.emit(how="preload", jobs=warm + jobs)
            before = server.counters()
            with runner.working(**handlers, **counted) as reports:
                report = last(reports)
            return sample_of(complete(report, warm + jobs), counted, server.counters() - before)
        runner.emit(how="preload", jobs=warm)
        with runner.working(**handlers, **counted) as reports:
            wait_for("warm", reports)
            runner.emit(how="idle", first=warm, jobs=jobs)
            report = last(reports)
        return sample_of(complete(report, warm + jobs), counted, EMPTY)


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs the script of one system.

    Attributes:
        system: whose.
        environment: where.
        server: that it works with.
        errors: where its standard error goes.
        limit: seconds that it may take for its jobs.
    """

    system: System
    environment: Environment
    server: Server
    errors: IO[bytes]
    limit: float

    def emit(self, **asked: object) -> Report:
        """Run the script as an emitter."""
        with self.running(role="emit", **asked) as reports:
            return last(reports)

    @contextmanager
    def working(self, **asked: object) -> Generator[Generator[Report]]:
        """Run the script as a worker; it ends itself, or is killed when the block is left."""
        with self.running(role="work", **asked) as reports:
            yield reports

    @contextmanager
    def running(self, **asked: object) -> Generator[Generator[Report]]:
        """Run the script; it is killed when the block is left."""
        assignment = json.dumps({"url": self.server.url, "limit": self.limit, **asked})
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if not self.system.packages:
            variables["PYTHONPATH"] = str(_ROOT)  # this checkout, whatever is installed
        process = subprocess.Popen(
            [*self.environment.command, assignment, *self.system.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**variables, **self.environment.variables},
        )
        last_resort = Timer(self.limit + _LAST_RESORT, process.kill)
        last_resort.start()
        try:
            assert process.stdout is not None
            yield self._reports(process.stdout)
        finally:
            last_resort.cancel()
            process.kill()
            process.communicate()

    def _reports(self, stdout: IO[bytes]) -> Generator[Report]:
        """What it reports, until it has reported how long it took."""
        for line in stdout:
            if line.startswith(_PREFIX):
                report = cast("Report", json.loads(line[len(_PREFIX) :]))
                yield report
                if "seconds" in report:
                    return
        self.errors.seek(0)
        raise FailedError(f"its process ended early: {cause(self.errors.read().decode())}")


def last(reports: Generator[Report]) -> Report:
    """What it reports in the end."""
    *_, final = reports
    return final


def wait_for(what: str, reports: Generator[Report]) -> None:
    """Return when this has been reported: "warm" or "over"."""
    for each in reports:
        if what in each:
            return


def complete(report: Report, jobs: int) -> Report:
    """The same report.

    Raises:
        FailedError: not all jobs were executed in time.
    """
    if not report.get("finished"):
        raise FailedError(f"{report.get('executed')} of {jobs} jobs executed within {LIMIT:g} s")
    return report


def sample_of(report: Report, counted: Mapping[str, int], server: Counters) -> Sample:
    """The sample of one process that has worked or emitted.

    Args:
        report: what it reports in the end.
        counted: jobs, "warm" and within the clock ("jobs").
        server: what that took of the server.
    """
    jobs, everything = counted["jobs"], counted["jobs"] + counted["warm"]
    return Sample(
        jobs=jobs,
        seconds=report.get("seconds", 0.0),
        client_us=1e6 * report.get("cpu", 0.0) / jobs,
        server_us=1e6 * server.cpu / everything,
        commands=server.commands / everything,
        reads=server.reads / everything,
        executed=report.get("executed", 0),
        repeats=report.get("repeats", 0),
        latencies_ms=tuple(1e-6 * each for each in report.get("latencies_ns", ())),
    )
