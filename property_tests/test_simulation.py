"""The whole engine in virtual time: programs of jobs, faults and people, drawn by Hypothesis."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from property_tests.planted import BUGS, Bug
from property_tests.site import (
    ENDS,
    RATES,
    Attempt,
    Site,
    Steady,
    Work,
    life,
    steady_life,
    to_key,
    to_work,
)
from trio_tasks import Emit
from trio_tasks.environment import Luck
from trio_tasks.testing.program import (
    Action,
    CancelJob,
    ClockStep,
    Crash,
    CutOff,
    EmitJob,
    Losses,
    Outage,
    Pause,
    Stop,
)
from trio_tasks.testing.simulation import run_program
from trio_tasks.testing.world import World

_examples = settings().max_examples
_thorough = _examples > 100
"""`make verify` runs all of this at length; `make test` a part of it."""

_some = settings(max_examples=max(1, _examples // 2))


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    """A simulation warns of thousands of troubles, as it should."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- programs -----------------------------------------------------------------------------------

attempts = st.builds(
    Attempt,
    seconds=st.sampled_from([0.0, 0.1, 1.0, 8.0, 25.0, 60.0]),
    end=st.sampled_from(["return", "return", "return", *ENDS]),
    children=st.integers(0, 3),
    logs=st.booleans(),
)


options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(0, 2),
        "id": st.sampled_from(["a", "b"]),
        "delay": st.sampled_from([0.5, 15.0]),
        "deadline": st.sampled_from([20.0, 60.0]),  # beyond any delay: others are refused
        "attempts": st.integers(1, 3),
    },
)


@st.composite
def _emits(draw: st.DrawFn) -> Emit[Any]:
    if draw(st.booleans()):
        return to_work(draw(st.lists(attempts, min_size=1, max_size=4)), **draw(options))
    return to_key(draw(st.sampled_from(["first", "last"])), draw(st.integers(0, 1)), draw(attempts))


emits = _emits()

times = st.floats(0.001, 600).map(lambda at_s: round(at_s, 3))
whiles = st.sampled_from([0.01, 1.0, 4.0, 12.0, 25.0, 45.0, 100.0])
which = st.integers(0, 2)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(EmitJob, times, emits),
    st.builds(EmitJob, times, emits),
    st.builds(EmitJob, times, emits),
    st.builds(CancelJob, times, which),
    st.builds(Pause, times, whiles, which),
    st.builds(Stop, times, whiles, which),
    st.builds(Crash, times, whiles, which),
    st.builds(CutOff, times, whiles, which),
    st.builds(Outage, times, whiles),
    st.builds(Losses, times, whiles),
    st.builds(ClockStep, times, st.sampled_from([-3600.0, -40.0, -1.0, 1.0, 20.0, 40.0, 3600.0])),
)
programs = st.lists(actions, max_size=40).map(
    lambda drawn: sorted(drawn, key=lambda action: action.at_s)
)

DEAD_AND_EMITTED_ANEW: list[Action] = [
    EmitJob(1.0, Emit("work", Work([Attempt(0.0, "fail")]), queue="main", id="a", attempts=1)),
    EmitJob(2.0, Emit("work", Work([Attempt(0.0, "return")]), queue="main", id="a")),
]


@_some
@given(programs, st.integers(0, 2**16), st.integers(1, 3))
@example(program=DEAD_AND_EMITTED_ANEW, seed=0, workers=1)
def test_whatever_happens_every_job_comes_to_its_end_once(
    program: list[Action], seed: int, workers: int
) -> None:
    site = Site()
    report = run_program(site.build, program, seed=seed, workers=workers)

    ended = report.completed + report.dead + report.skipped + report.cancelled
    assert report.emitted == ended + report.removed
    assert report.delayed == 0
    # Handlers that return count as completed, unless a fault came in between or a cancel did.
    assert sum(site.returned.values()) + sum(site.children.values()) <= report.starts
    if not any(isinstance(action, CancelJob) for action in program):
        assert report.cancelled == 0


@_some
@given(programs, st.integers(0, 2**16))
def test_without_faults_of_their_own_jobs_complete_whatever_the_others_are(
    program: list[Action], seed: int
) -> None:
    site = Steady()
    numbered: list[Action] = [
        EmitJob(action.at_s, Emit("work", place)) if isinstance(action, EmitJob) else action
        for place, action in enumerate(program)
        if not isinstance(action, CancelJob)
    ]
    site.check(run_program(site.build, numbered, seed=seed))
    troubles = sum(not isinstance(action, EmitJob) for action in numbered)
    assert troubles or max(site.done.values(), default=1) == 1


# --- seeds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_seed(request: pytest.FixtureRequest) -> int:
    """`make verify SEED=…`; without it the same seeds each time."""
    return int(request.config.getoption("--hypothesis-seed") or 0)


def test_hundreds_of_hours_of_faults_lose_nothing(first_seed: int) -> None:
    hours = 8.0 * _examples if _thorough else 400.0
    report = life(first_seed, hours=hours, per_hour=0.5, rate=0.03)
    assert report.hours >= hours
    assert report.emitted > 3 * hours  # three occurrences an hour, and some jobs
    assert min(report.happened[kind] for kind in RATES) > 0


@pytest.mark.parametrize("seed", range(max(2, _examples // 20) if _thorough else 3))
def test_many_faults_in_a_short_time_lose_nothing(seed: int, first_seed: int) -> None:
    report = life(first_seed + seed, hours=2, per_hour=60, rate=10)
    assert report.emitted > 0


@pytest.mark.parametrize("seed", range(max(1, _examples // 50)))
def test_what_faults_interrupt_is_done_in_the_end_and_once(seed: int, first_seed: int) -> None:
    report = steady_life(first_seed + seed, hours=1, per_hour=60, rate=10)
    assert report.emitted > 0


# Some at each run, all in a thorough one.
_bugs = BUGS if _thorough else BUGS[::10]


@pytest.mark.parametrize("plant", _bugs, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        _search(seeds=40)


def _search(seeds: int) -> None:
    for seed in range(seeds):
        life(seed, hours=2, per_hour=60, rate=10)
        steady_life(seed, hours=2, per_hour=60, rate=10)


_SCRIPT = """
import logging, sys
logging.disable(logging.CRITICAL)
from property_tests.site import life
print(life(11, hours=2, per_hour=30, rate=4).fingerprint)
"""


def test_a_seed_repeats_the_same_run_in_any_process() -> None:
    here = life(11, hours=2, per_hour=30, rate=4).fingerprint
    again = life(11, hours=2, per_hour=30, rate=4).fingerprint
    other = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=Path(__file__).parent.parent,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert here == again == other.stdout.strip()


def test_whoever_waits_for_a_worker_waits_through_its_starts_that_fail() -> None:
    async def main() -> None:
        world = World(Site().build, Luck(0), workers=1)
        (worker,) = world._workers
        async with world.server, anyio.create_task_group() as nursery:
            nursery.start_soon(world._network.outage, 60.0)
            nursery.start_soon(worker.run, nursery)
            with anyio.fail_after(90):
                await worker.up.wait()
            await worker.retire()

    trio.run(main, clock=MockClock(autojump_threshold=0))
