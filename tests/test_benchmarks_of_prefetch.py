"""The programs that measure prefetch run, and lose no job. Their times say nothing here."""

from __future__ import annotations

import re
import subprocess
import sys

from examples.benchmarks.waiting import figures
from tests.test_examples import ROOT, environment

LIMIT = 120.0  # seconds, on a busy machine; either takes a few


def said_by(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.benchmarks.{program}", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_job_whose_wait_is_measured_runs_once() -> None:
    asked = ["--rounds", "1", "--share", "0.1"]
    asked += ["--load", "no-op", "--load", "one in ten 50 ms"]
    said = said_by("waiting", *asked)
    times = r"( \d+\.\d\d \|){6}"
    assert re.search(rf"^\| no-op \| 3,000, each once \| [\d,]+ \|{times}$", said, re.MULTILINE)
    sleepers = rf"^\| … of these, those that sleep \| \d+, each once \| [\d,]+ \|{times}$"
    assert re.search(sleepers, said, re.MULTILINE), said


def test_of_few_waits_no_percentile_is_above_the_longest() -> None:
    assert figures([[1.0, 1.0, 2.0, 5.0]]) == ["1.50", "4.91", "5.00"]


def test_whatever_is_done_to_a_busy_worker_no_job_is_missing() -> None:
    said = said_by("prompt", "--rounds", "1", "--backlog", "8000")
    assert "| SIGTERM | jobs that stay in its hand | 0 | 0 |" in said
    assert re.search(r"\| `cancel\(\)`, .* \| of these jobs, those that began \| 0 \| 0 \|", said)
    assert said.endswith(" 0 are missing.\n"), said
