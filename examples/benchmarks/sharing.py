"""Several workers on one queue: what a job costs them all, how they share, that none runs twice.

They come to a queue in which all jobs wait. The handlers of the first jobs wait until each worker
runs one (see `peers/crowd.py`), and the clock starts when the warm-up is over, as for one worker.
What a job costs is the CPU time of all of them; a job that two of them ran is a repeated one.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

from examples.benchmarks.environments import Environment
from examples.benchmarks.measures import Measure
from examples.benchmarks.peers.crowd import Crowd
from examples.benchmarks.running import (
    EMPTY,
    LIMIT,
    FailedError,
    Report,
    Runner,
    Sample,
    complete,
    last,
    sample_of,
)
from examples.benchmarks.server import Counters, fresh_server
from examples.benchmarks.systems import System

__all__ = ["measure_shared"]


def measure_shared(
    system: System, environment: Environment, measure: Measure, warm: int, jobs: int
) -> Sample:
    """Measure the workers of one system once; arguments and errors as `measure_once`.

    There must be more jobs than all workers together have handlers: those of the first to come
    hold theirs until the last one has some.
    """
    counted = {"warm": warm, "jobs": jobs}
    with fresh_server() as server, tempfile.TemporaryFile() as errors, ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile()).name
        crowd = Crowd.make(file, measure.workers, warm + jobs)
        runner = Runner(system, environment, server, errors, LIMIT)
        runner.emit(how="preload", jobs=warm + jobs)
        before = server.counters()
        shared = {"concurrency": measure.concurrency, "workers": measure.workers, "crowd": file}
        working = [
            stack.enter_context(runner.working(me=me, **shared, **counted))
            for me in range(measure.workers)
        ]
        reports = [complete(last(each), warm + jobs) for each in working]
        return _sample(reports, crowd, counted, server.counters() - before)


def _sample(
    reports: list[Report], crowd: Crowd, counted: dict[str, int], server: Counters
) -> Sample:
    """The sample of all; each has had a clock of its own, and tells how many jobs were left."""
    everything = counted["jobs"] + counted["warm"]
    executed, shared = crowd.executed()
    if executed != everything:
        raise FailedError(f"{executed} of {everything} jobs executed, though all were counted")
    each = [
        sample_of(report, {"jobs": report.get("clocked", 0), "warm": 0}, EMPTY)
        for report in reports
    ]
    slowest = min(each, key=lambda sample: sample.rate)
    return Sample(
        jobs=slowest.jobs,
        seconds=slowest.seconds,
        client_us=sum(sample.client_us for sample in each),
        server_us=1e6 * server.cpu / everything,
        commands=server.commands / everything,
        reads=server.reads / everything,
        executed=executed,
        repeats=shared + sum(sample.repeats for sample in each),
        shares=tuple(crowd.counts),
    )
