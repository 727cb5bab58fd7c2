"""The whole engine in virtual time: programs of jobs, faults and people, drawn by Hypothesis."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_tasks import (
    Context,
    DeadLetter,
    Discard,
    Emit,
    Handlers,
    Job,
    RetryLater,
    TaskManager,
)
from trio_tasks.environment import Luck
from trio_tasks.testing import Report, simulate
from trio_tasks.testing.program import (
    Action,
    CancelJob,
    Crash,
    CutOff,
    EmitJob,
    Faults,
    Losses,
    Outage,
    Pause,
    Stop,
)
from trio_tasks.testing.simulation import run_program

_examples = settings().max_examples
_some = settings(max_examples=max(1, _examples // 2))


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    """A simulation warns of thousands of troubles, as it should."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- what handlers do ---------------------------------------------------------------------------

End = Literal["return", "fail", "later", "discard", "die", "hang", "swallow"]
ENDS: tuple[End, ...] = ("return", "fail", "later", "discard", "die", "hang", "swallow")


class Attempt(msgspec.Struct):
    """One attempt of a job: how long it takes, what it emits, how it ends."""

    seconds: float
    end: End
    children: int = 0
    logs: bool = False


class Work(msgspec.Struct):
    """A job's data: what its attempts do; the last one stands for all further ones."""

    attempts: list[Attempt]


class Site:
    """The outside world, and handlers that act upon it."""

    def __init__(self) -> None:
        self.began = Counter[str]()
        self.returned = Counter[str]()
        self.children = Counter[str]()

    def build(self, db: str) -> TaskManager[Any]:
        tasks = TaskManager(db, concurrency=2, processor={"retry": {"delay": 3}})
        main, other = Handlers[Any](queue="main"), Handlers[Any](queue="other")

        @main.handler("work", timeout=45)
        async def work(job: Job[Work], ctx: Context[Any]) -> int:
            self.began[job.id] += 1
            plan = job.data.attempts[min(job.attempt, len(job.data.attempts)) - 1]
            if plan.logs:
                job.logger(f"attempt {job.attempt}")
            for number in range(plan.children):
                ctx.emit("child", job.id, queue=("main", "other")[number % 2], delay=number or None)
            try:
                await anyio.sleep(plan.seconds)
            except anyio.get_cancelled_exc_class():
                if plan.end != "swallow":
                    raise
            match plan.end:
                case "fail":
                    raise ConnectionError
                case "later":
                    raise RetryLater(10)
                case "discard":
                    raise Discard("enough")
                case "die":
                    raise DeadLetter("too bad")
                case "hang":
                    await anyio.sleep_forever()  # until its time-out
                case "return" | "swallow":
                    self.returned[job.id] += 1
            return job.attempt

        for group in (main, other):

            @group.handler("child")
            async def child(job: Job[str]) -> None:
                await anyio.sleep(0.5)
                self.children[job.id] += 1

        @other.handler("hourly", repeat="0 * * * *")
        async def hourly(job: Job[None]) -> None:
            assert job.scheduled_for is not None

        @other.handler("once-a-minute", debounce=60)
        async def once_a_minute(job: Job[int]) -> None:
            self.began[f"{job.data}"] += 1

        tasks.include(main, other)
        return tasks


# --- programs -----------------------------------------------------------------------------------

attempts = st.builds(
    Attempt,
    seconds=st.sampled_from([0.0, 0.1, 1.0, 8.0, 25.0, 60.0]),
    end=st.sampled_from(["return", "return", "return", *ENDS]),
    children=st.integers(0, 3),
    logs=st.booleans(),
)


def _work(plan: list[Attempt], priority: int) -> Emit[Any]:
    return Emit("work", Work(plan), queue="main", priority=priority)


def _once_a_minute(key: int) -> Emit[Any]:
    return Emit("once-a-minute", key, queue="other")


emits = st.builds(_work, st.lists(attempts, min_size=1, max_size=4), st.integers(0, 2)) | st.builds(
    _once_a_minute, st.integers(0, 1)
)

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
)
programs = st.lists(actions, max_size=40).map(
    lambda drawn: sorted(drawn, key=lambda action: action.at_s)
)


@_some
@given(programs, st.integers(0, 2**16), st.integers(1, 3))
def test_whatever_happens_every_job_comes_to_its_end_once(
    program: list[Action], seed: int, workers: int
) -> None:
    site = Site()
    report = run_program(site.build, program, seed=seed, workers=workers)

    assert report.emitted == report.completed + report.dead + report.skipped + report.cancelled
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
    done = Counter[int]()

    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db, concurrency=3)

        @tasks.handler("work", attempts=1000)
        async def work(job: Job[int]) -> None:
            await anyio.sleep(job.data % 13)
            done[job.data] += 1

        return tasks

    numbered: list[Action] = [
        EmitJob(action.at_s, Emit("work", place)) if isinstance(action, EmitJob) else action
        for place, action in enumerate(program)
        if not isinstance(action, CancelJob)
    ]
    report = run_program(build, numbered, seed=seed)
    assert report.emitted == report.completed
    assert len(done) == report.emitted
    troubles = sum(not isinstance(action, EmitJob) for action in numbered)
    assert troubles or max(done.values(), default=1) == 1


# --- seeds --------------------------------------------------------------------------------------


_RATES = ("outages", "cut_offs", "crashes", "losses", "stops", "pauses", "cancels")


def _life(seed: int, *, hours: float, per_hour: float, rate: float) -> Report:
    faults = Faults(**dict.fromkeys(_RATES, rate))
    site = Site()

    def emit(luck: Luck) -> Emit[Any]:
        ends: list[End] = ["return", "return", "return", "return", "fail", "later", "die"]
        plan = [
            Attempt(luck.expovariate(1 / 4), luck.choice(ends), luck.randrange(3)) for _ in range(3)
        ]
        return _work(plan, 0)

    return simulate(
        site.build, seed=seed, hours=hours, emits=emit, per_hour=per_hour, workers=2, faults=faults
    )


def test_thousands_of_hours_of_faults_lose_nothing() -> None:
    hours = 20.0 * _examples
    report = _life(4711, hours=hours, per_hour=0.5, rate=0.03)
    assert report.hours >= hours
    assert report.emitted > 1.4 * hours  # an occurrence an hour, and half a job
    assert min(report.happened[kind] for kind in _RATES) > 0


@pytest.mark.parametrize("seed", range(max(2, _examples // 20)))
def test_many_faults_in_a_short_time_lose_nothing(seed: int) -> None:
    report = _life(seed, hours=2, per_hour=60, rate=10)
    assert report.emitted > 0


_SCRIPT = """
import logging, sys
logging.disable(logging.CRITICAL)
from property_tests.test_simulation import _life
print(_life(11, hours=4, per_hour=30, rate=4).fingerprint)
"""


def test_a_seed_repeats_the_same_run_in_any_process() -> None:
    here = _life(11, hours=4, per_hour=30, rate=4).fingerprint
    again = _life(11, hours=4, per_hour=30, rate=4).fingerprint
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
