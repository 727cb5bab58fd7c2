"""What a worker costs that has nothing to do: requests to the server, and CPU time of both.

A job before the clock has made it load and compile what it needs, one starts its clock, and one
stops it: these two are in its CPU time, and a second's worth beside the rest. The server's counters
are read when the first has settled, and before the second is emitted.
"""

from __future__ import annotations

import tempfile
import time

from examples.benchmarks.environments import Environment
from examples.benchmarks.measures import Measure
from examples.benchmarks.running import (
    EMPTY,
    LIMIT,
    Runner,
    Sample,
    complete,
    last,
    sample_of,
    wait_for,
)
from examples.benchmarks.server import fresh_server
from examples.benchmarks.systems import System

__all__ = ["measure_rest"]

_SETTLE = 1.0  # seconds after a job, so that it is acknowledged and forgotten
_OWN = 1  # request of ours, for the counters


def measure_rest(
    system: System, environment: Environment, measure: Measure, seconds: float
) -> Sample:
    """Let one worker rest.

    Figures of the sample: "requests" and "commands" per second, "core" and "server core": percent
    of one that the worker and the server were busy.

    Args:
        system: which one.
        environment: where its script runs.
        measure: how many handlers it might run at once.
        seconds: of rest.

    Raises:
        FailedError: its process ended early, took too long, or a job was not executed.
    """
    counted = {"warm": 2, "jobs": 1}
    with fresh_server() as server, tempfile.TemporaryFile() as errors:
        runner = Runner(system, environment, server, errors, LIMIT + seconds)
        runner.emit(how="preload", jobs=1)
        with runner.working(concurrency=measure.concurrency, **counted) as reports:
            time.sleep(_SETTLE)
            runner.emit(how="preload", first=1, jobs=1)
            wait_for("warm", reports)
            time.sleep(_SETTLE)
            before = server.counters()
            time.sleep(seconds)
            rest = server.counters() - before
            runner.emit(how="preload", first=2, jobs=1)
            sample = sample_of(complete(last(reports), 3), counted, EMPTY)
    sample.figures.update(
        {
            "requests": (rest.reads - _OWN) / seconds,
            "commands": (rest.commands - _OWN) / seconds,
            "core": 1e-4 * sample.client_us / sample.seconds,  # it is that of one job
            "server core": 100 * rest.cpu / seconds,
        }
    )
    return sample
