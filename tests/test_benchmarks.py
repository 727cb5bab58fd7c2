"""The benchmark runs and counts honestly. Its times say nothing here, so no test looks at them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.benchmarks import running
from examples.benchmarks.environments import Environment, UnavailableError, cause, prepare
from examples.benchmarks.growing import measure_growth
from examples.benchmarks.measures import COST, EMITS, GROWTH, MEASURES, REST, TWO, Measure, quick
from examples.benchmarks.resting import measure_rest
from examples.benchmarks.results import Results
from examples.benchmarks.rounds import Plan, run_rounds
from examples.benchmarks.running import FailedError, Sample, measure_once
from examples.benchmarks.sharing import measure_shared
from examples.benchmarks.starting import measure_start
from examples.benchmarks.systems import SYSTEMS, System
from examples.benchmarks.tables import to_markdown
from tests.test_examples import ROOT, environment

LIMIT = 120.0  # seconds, on a busy machine; it takes six
WARM, JOBS = 3, 5

# Does what its worker body says, with a tally at hand; emits nothing.
FAKE = """
import sys
sys.path.insert(0, {peers!r})
import harness
from crowd import Crowd
asked = harness.assignment()
if asked.role == "emit":
    harness.report(seconds=1.0, cpu=0.0)
else:
    import time
    crowd = asked.crowd and Crowd(asked.crowd, asked.workers, asked.last, asked.me)
    tally = harness.Tally(asked, crowd or None)
    {work}
    time.sleep(60)
"""
EACH_ONCE = "for number in range(asked.last): tally.ran(number)"


def fake(work: str) -> Environment:
    program = FAKE.format(peers=str(ROOT / "examples" / "benchmarks" / "peers"), work=work)
    return Environment((sys.executable, "-c", program), {}, "1.0")


SYSTEM = System("fake", "none", "for tests")


def test_a_quick_run_executes_every_job_once_and_fills_the_tables() -> None:
    floor = "floor, slots"
    asked = ["--system", "trio_tasks", "--system", floor]
    asked += ["--measure", "drain, 32", "--measure", "emit, bulk", "--measure", "idle latency"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.benchmarks", "--quick", *asked],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    number = r"[\d,.]+"
    rows = [
        rf"\| trio_tasks \| {number} \| {number} \|",  # drain, emit
        rf"\| {floor} \| {number} \| – \|",  # it emits as the other floor does
        rf"\| {floor} \| {number} × \| – \|",
        rf"\| trio_tasks \|( {number} \|){{6}}",  # latency and cost
        r"\| trio_tasks \| .*Python .* \| .* \| 220 jobs, each once \|",  # 200 drained, 20 idle
        rf"\| {floor} \| Trio .* \| .* \| 220 jobs, each once \|",
    ]
    for row in rows:
        assert re.search(rf"^{row}$", done.stdout, re.MULTILINE), (row, done.stdout)


def test_the_help_keeps_names_with_commas_apart() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.benchmarks", "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    said = " ".join(done.stdout.split())  # argparse breaks lines
    for names in (SYSTEMS, (*MEASURES, *GROWTH)):
        assert "; ".join(each.name for each in names) in said


def test_a_percentile_of_few_latencies_is_at_most_the_longest() -> None:
    latencies = (1.0, 1.0, 2.0, 5.0)
    results = Results("Valkey", 1)
    results.add(SYSTEM.name, COST, Sample(4, 1.0, 0.0, 0.0, 0.0, 0.0, latencies_ms=latencies))
    assert results.latency(SYSTEM.name, COST, 50) == 1.5
    longest = results.latency(SYSTEM.name, COST, 99)
    assert longest is not None
    assert 4.0 < longest <= 5.0


def test_a_job_that_runs_twice_is_counted_as_repeated() -> None:
    sample = measure_once(SYSTEM, fake(EACH_ONCE + "\n    tally.ran(1)"), COST, WARM, JOBS)
    assert (sample.executed, sample.repeats) == (WARM + JOBS, 1)
    results = Results("Valkey", 1, {SYSTEM.name: "1.0"})
    results.add(SYSTEM.name, COST, sample)
    assert "| 8 jobs, 1 of them again |" in to_markdown(results, [SYSTEM])


def test_two_workers_share_a_queue_and_run_every_job_once() -> None:
    ours = SYSTEMS[0]
    sample = measure_shared(ours, prepare(ours, Path()), TWO, warm=20, jobs=80)
    assert (sample.executed, sample.repeats, sum(sample.shares)) == (100, 0, 100)
    assert all(sample.shares), "one of them starved"
    results = Results("Valkey", 1, {ours.name: "1.0"})
    results.add(ours.name, TWO, sample)
    row = r"^\| trio_tasks \|( [\d,.]+ \|){3} [\d.]+ % \|$"
    assert re.search(row, to_markdown(results, [ours]), re.MULTILINE)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ("range(4) if asked.me else range(3, 8)", (8, 1)),
        ("range(8) if asked.me else range(8)", (8, 8)),
    ],
)
def test_a_job_that_two_workers_run_is_counted_as_repeated(
    numbers: str, found: tuple[int, int]
) -> None:
    sample = measure_shared(
        SYSTEM, fake(f"for number in {numbers}: tally.ran(number)"), TWO, WARM, JOBS
    )
    assert (sample.executed, sample.repeats) == found


def test_a_job_that_no_worker_runs_is_a_failure_though_another_ran_twice() -> None:
    worker = fake("for number in range(asked.me, 4 + asked.me): tally.ran(number)")
    with pytest.raises(FailedError, match="5 of 8 jobs executed"):
        measure_shared(SYSTEM, worker, TWO, WARM, JOBS)


def test_a_job_that_does_not_run_is_a_failure_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "LIMIT", 0.1)
    worker = fake("for number in range(asked.last - 1): tally.ran(number)")
    results = Results("Valkey", 1, {SYSTEM.name: "1.0"})
    run_rounds(Plan(1, None, JOBS), [COST], {SYSTEM: worker}, results)
    assert not results.samples
    assert "- fake: 9 of 10 jobs executed within 0.1 s (drain, 32)" in to_markdown(
        results, [SYSTEM]
    )


def test_a_worker_without_work_is_watched_between_two_jobs() -> None:
    numbers = "[0, 1, 2]"  # a fake runs the last job at once, so its clock says nothing
    sample = measure_rest(SYSTEM, fake(f"for number in {numbers}: tally.ran(number)"), REST, 0.2)
    assert (sample.executed, sample.repeats) == (3, 0)
    assert sample.figures["requests"] == 0, "our own request for the counters is not counted"


def test_a_start_is_measured_with_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    ours = SYSTEMS[0]
    sample = measure_start(ours, prepare(ours, Path()), times=1)
    found = sample.figures
    assert 0 < found["import"] < found["names"]
    assert found["ready"] > 0
    assert 1e3 * sample.seconds >= found["names"] + found["ready"]


@pytest.mark.parametrize("measure", GROWTH, ids=lambda measure: measure.name)
def test_under_each_load_the_jobs_of_the_clock_run_once(measure: Measure) -> None:
    ours = SYSTEMS[0]
    small = quick(measure)
    sample = measure_growth(ours, prepare(ours, Path()), small, JOBS, idle=3)
    expected = range(WARM - 2 + JOBS, WARM - 2 + JOBS + small.load.size + 1)
    if measure.load.kind == "queued":  # some of those behind may run while the clock is read
        assert sample.executed in expected
    else:
        assert sample.executed == expected[0]
    assert sample.repeats == 0
    assert len(sample.latencies_ms) == 3
    assert sample.figures["size"] == small.load.size
    in_jobs = measure.load.kind in {"queued", "delayed", "held"}
    assert ("memory" in sample.figures) is in_jobs
    results = Results("Valkey", 1, {ours.name: "1.0"})
    results.add(ours.name, measure, sample)
    row = rf"^\| {measure.name} \| {small.load.size:,} \| [\d.]+ \| [\d.]+ \|"
    assert re.search(row, to_markdown(results, [ours]), re.MULTILINE)


def test_the_loads_are_not_among_the_usual_measures() -> None:
    assert not set(GROWTH) & set(MEASURES)


def test_a_process_that_dies_says_why() -> None:
    broken = Environment((sys.executable, "-c", "import no_such_module"), {}, "1.0")
    with pytest.raises(FailedError, match="No module named 'no_such_module'"):
        measure_once(SYSTEM, broken, EMITS[0], WARM, JOBS)


def test_a_peer_that_cannot_be_installed_stands_in_the_table_with_its_reason(
    tmp_path: Path,
) -> None:
    peer = System("peer", "none", "for tests", ("peer",), python=(3, 29))
    with pytest.raises(UnavailableError) as caught:
        prepare(peer, tmp_path)
    assert not list(tmp_path.iterdir()), "a half-made environment is left"
    results = Results("Valkey", 1)
    results.add_trouble(peer.name, f"cannot be installed: {caught.value}")
    text = to_markdown(results, [peer])
    assert "| peer | not here, see below | for tests |" in text
    assert "- peer: cannot be installed: needs Python 3.29 or later, which is not here" in text


def test_the_cause_is_the_line_with_the_error() -> None:
    assert cause("at main\nTypeError: no\n    at x\nNode.js v20\n") == "TypeError: no"
    assert cause("one\ntwo\n") == "two"
    assert cause("") == "no message"


def test_every_system_has_its_script_and_every_script_its_system() -> None:
    peers = ROOT / "examples" / "benchmarks" / "peers"
    assert {each.script for each in SYSTEMS} == {path.name for path in peers.glob("*_peer.*")}
