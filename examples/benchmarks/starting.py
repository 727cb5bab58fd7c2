"""How long a program of this engine takes to begin, in a fresh interpreter each time.

The code is compiled beforehand into a directory of this measure's own, whatever the environment
says about writing bytecode: what is measured is every start but the first after an installation.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from examples.benchmarks.environments import Environment
from examples.benchmarks.running import LIMIT, Report, Runner, Sample, last
from examples.benchmarks.server import fresh_server
from examples.benchmarks.systems import System

__all__ = ["measure_start"]

_SCRIPT = Path(__file__).parent / "peers" / "start.py"


def measure_start(system: System, environment: Environment, times: int) -> Sample:
    """Start a worker so many times.

    Figures of the sample, medians: "import": of the package; "names": of that, and of what a
    worker takes from it, which the package loads at first use; "ready": from `trio.run` to the
    instant in which it would take a job. All in milliseconds.

    Args:
        system: this engine.
        environment: where it runs.
        times: how often.

    Raises:
        FailedError: a process ended early, or took too long.
    """
    with (
        fresh_server() as server,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory(prefix="tt-bench-") as compiled,
    ):
        variables = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        script = replace(
            environment, command=(environment.command[0], str(_SCRIPT)), variables=variables
        )
        runner = Runner(system, script, server, errors, LIMIT)
        _, *reports = [_start(runner) for _ in range(1 + times)]  # the first one compiles
    return Sample(
        jobs=0,
        seconds=median(each.get("seconds", 0.0) for each in reports),
        client_us=0.0,
        server_us=0.0,
        commands=0.0,
        reads=0.0,
        figures={
            "import": median(each.get("import_ms", 0.0) for each in reports),
            "names": median(each.get("names_ms", 0.0) for each in reports),
            "ready": median(each.get("ready_ms", 0.0) for each in reports),
        },
    )


def _start(runner: Runner) -> Report:
    with runner.running() as reports:
        return last(reports)
