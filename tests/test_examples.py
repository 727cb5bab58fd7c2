"""Each example is run as its readers run it, and says what its text promises.

They mostly wait, so a few run at a time; a test takes the output of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = ROOT / "examples"

LIMIT = 30.0  # seconds for one, on a busy machine; most take one
AT_A_TIME = 4

# Whole lines, or several that follow each other, as regular expressions, in whatever order.
SAYS: Mapping[str, Sequence[str]] = {
    "quickstart": [
        r"log: \['processing Ada'\]",
        r"  attempt 1 of 3, 0\.\d s after the emit",
        r"  attempt 3 of 3, \d+\.\d s after the emit",
        r"dead, exhausted: the mail server is down",
        r"requeued: Welcome, Ada!",
        r"StopReport\(completed=2, interrupted=0, released=0, abandoned=0\)",
    ],
    "context_and_lifespan": ["opening the database", "row 1", "row 2", "closing the database"],
    "cron": [
        r"   20\d\d-\d\d-\d\d 06:00:00\+0[12]:00",
        r"ping of \d\d\.[05]",
        r"remember: drink water",
        r"schedule report of event report",
        r"schedule water of event remind",
        r"removed: True",
    ],
    "delays": [
        r"state: delayed until 20.*\+00:00",
        r"   after a moment",
        r"ran 0\.[4-9] s after the beginning",
        r"   at an instant",
        r"the job with the deadline is dead because it is expired",
    ],
    "debounce": [
        r"alert: disk full",
        r"alert: fan broken",
        r"the second is skipped by the first: True",
        r"indexing README with the final text",
    ],
    "priorities": [
        r"priority 9: a password reset\npriority 5: an invoice\npriority 5: another invoice",
        r"priority 5: another invoice\npriority 0: the newsletter\npriority 0: the statistics",
    ],
    "graceful_stop": [
        r"stopping, with a grace of half a second",
        r"the job of 0\.2 s has finished",
        r"the job of 30\.0 s is cancelled because of: shutdown",
        r"StopReport\(completed=1, interrupted=1, released=1, abandoned=0\)",
        r"the job of 30\.0 s is queued again, attempts used: 0",
    ],
    "retries_and_dlq": [
        r"   flaky: attempt 3 of 4",
        r"flaky: done",
        r"busy: done",
        r"unknown user: dead, not_retryable, 1 attempt\(s\)",
        r"malformed: dead, cannot ever work, 1 attempt\(s\)",
        r"outdated: skipped, nobody needs it any more, 1 attempt\(s\)",
        r"broken: dead, exhausted, 4 attempt\(s\)",
        r"requeued: broken: done",
        r"in the DLQ: \['unknown user', 'malformed'\]",
    ],
    "typed_data": [
        r"Receipt 4\.20 True",
        r"refused: data\.id does not fit Order: .*",
        r"refused: data does not fit Order: .*",
        r"refused: data: a float that is NaN or infinite is not JSON",
    ],
    "producer": [r"sum: 6", r"sums: \[0, 2, 4\]"],
    "embed_in_trio_app": [
        "state: running",
        "cat.png is resized",
        "dog.png is resized",
        "state: closed",
    ],
    "embed_in_asyncio": ["health: 200", r"\['Hello, Ada!', 'Hello, Grace!'\]", "health: 503"],
    "lower_layers": [
        r"1 Retry\(delay_ms=100\)",
        r"2 Retry\(delay_ms=200\)",
        r"3 Die\(reason='exhausted', .*\)",
        r"failed first running",
        r"retried first delayed",
        r"succeeded first completed",
        r"b'\"greet with \{\\'name\\': \\'Ada\\'\}\"'",
    ],
    "testing_your_handlers": [r"30 days took \d+\.\d+ s; the last: report of .*"],
    "killed_worker": [
        r"300 orders are emitted; the workers A and B start",
        r"both have completed some; kill -9 A",
        r"  B takes over (order|mail) \d+: attempt 2",
        r"orders: 300 completed, 0 dead",
        r"mails: 300 completed, 0 dead",
        r"  B has stopped: StopReport\(completed=\d+, interrupted=0, released=0, abandoned=0\)",
        r"orders without a mail: 0",
        r"mails too many: 0",
        r"handlers ran \d+ times for 600 jobs",
    ],
    "modules": [r"ada@example\.org signed up", r"mails completed: 1", r"users completed: 1"],
}

Runs = Mapping[str, Future[subprocess.CompletedProcess[str]]]


def environment() -> dict[str, str]:
    """For a program that a reader starts in the checkout: the package, and the default server."""
    env = {key: value for key, value in os.environ.items() if key != "TRIO_TASKS_DB"}
    return {**env, "PYTHONPATH": str(ROOT)}


def run(name: str) -> subprocess.CompletedProcess[str]:
    """Run an example, with warnings as errors."""
    how = ["-m", f"examples.{name}"] if (EXAMPLES / name).is_dir() else [f"examples/{name}.py"]
    return subprocess.run(
        [sys.executable, "-W", "error", *how],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Generator[Runs]:
    """Runs of those examples whose tests were selected."""
    selected = [item.name for item in request.session.items]
    wanted = [name for name in SAYS if any(f"[{name}]" in test for test in selected)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        try:
            yield {name: pool.submit(run, name) for name in wanted}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SAYS)
def test_the_example_says_what_it_promises_and_ends(name: str, runs: Runs) -> None:
    done = runs[name].result()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for pattern in SAYS[name]:
        assert re.search(rf"^{pattern}$", done.stdout, re.MULTILINE), (pattern, done.stdout)


@pytest.mark.parametrize("name", ["quickstart", "killed_worker"])
def test_the_readme_shows_what_the_example_prints(name: str, runs: Runs) -> None:
    def shape(output: str) -> set[str]:
        """Its lines without numbers, and whether it was an order or a mail that was taken over."""
        lines = output.replace(" mail ", " order ").splitlines()
        return {re.sub(r"\d+(\.\d+)?", "N", line) for line in lines}

    shown = re.findall(r"^```text\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert shape(runs[name].result().stdout) in [shape(text) for text in shown]


def test_every_example_is_run() -> None:
    programs = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    applications = {path.parent.name for path in EXAMPLES.glob("*/__main__.py")}
    applications.remove("benchmarks")  # takes minutes; test_benchmarks.py runs a part of it
    assert programs | applications == SAYS.keys()
