"""`simulate` as users meet it: bugs of theirs are found, and the seed repeats them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from random import Random
from typing import Any

import anyio
import pytest
import trio

from tests.test_docs import DOCS, blocks, compiled
from trio_tasks import (
    ConfigurationError,
    Context,
    Emit,
    Job,
    Repeat,
    RetryPolicy,
    TaskManager,
)
from trio_tasks.testing import Faults, Report, SimulationError, simulate

Build = Callable[[str], TaskManager[Any]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="trio_tasks")


def _draw(luck: Random) -> Emit[Any]:
    return Emit("pay", luck.randrange(10**9))


class Bank:
    """Where a handler books payments; with a bug, or without."""

    def __init__(self, *, twice: bool) -> None:
        self.payments = Counter[int]()
        self._twice = twice

    def build(self, db: str) -> TaskManager[Any]:
        tasks = TaskManager(db, concurrency=3)

        @tasks.handler("pay", attempts=100)
        async def pay(job: Job[int]) -> None:
            if self._twice or not self.payments[job.data]:
                self.payments[job.data] += 1
            await trio.sleep(5)  # … and whoever is interrupted here pays once more

        return tasks


def _run(bank: Bank, seed: int) -> Report:
    return simulate(bank.build, seed=seed, hours=3, emits=_draw, faults={"crashes": 3})


def _paid_twice(seed: int) -> tuple[list[int], str]:
    bank = Bank(twice=True)
    report = _run(bank, seed)
    return [payment for payment, times in bank.payments.items() if times > 1], report.fingerprint


def test_a_handler_that_is_not_idempotent_is_found_and_the_seed_repeats_it() -> None:
    found = next(seed for seed in range(20) if _paid_twice(seed)[0])
    assert _paid_twice(found) == _paid_twice(found)


def test_the_same_handler_without_the_bug_passes() -> None:
    for seed in range(5):
        bank = Bank(twice=False)
        report = _run(bank, seed)
        assert set(bank.payments.values()) == {1}
        assert report.completed == report.emitted == len(bank.payments)
        assert report.happened["crashes"] >= 0


def _with_policy(policy: RetryPolicy) -> Report:
    outage = Random(5)

    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db, processor={"retry": policy})

        @tasks.handler("fetch")
        async def fetch() -> None:
            await trio.sleep(1)
            if outage.random() < 0.2:
                raise ConnectionResetError

        return tasks

    return simulate(build, seed=2, hours=5, emits=[Emit("fetch")], faults=None)


def test_a_policy_that_gives_up_too_soon_is_seen_in_the_report() -> None:
    report = _with_policy(RetryPolicy(max_retries=20, give_up_on=(OSError,)))
    assert report.dead > 10
    letter = report.dead_letters[0]
    assert letter.reason == "not_retryable"
    assert letter.error is not None
    assert letter.error.type == "ConnectionResetError"

    report = _with_policy(RetryPolicy(max_retries=20))
    assert report.dead == 0
    assert report.retried > 10


def _stubborn(db: str) -> TaskManager[Any]:
    """Now and then a handler that never ends: an hour must pass, which has few beats here."""
    tasks = TaskManager(db, lease=600)

    @tasks.handler("job")
    async def handler(job: Job[int]) -> None:
        if job.data == 3:
            await anyio.sleep_forever()

    return tasks


def _run_stubborn(seed: int) -> None:
    simulate(_stubborn, seed=seed, hours=0.5, emits=lambda luck: Emit("job", luck.randrange(4)))


def test_a_handler_that_hangs_is_an_error_that_names_the_job_and_the_seed() -> None:
    with pytest.raises(
        SimulationError, match=r"stuck in queue 'default': job .* running"
    ) as caught:
        _run_stubborn(3)
    error = caught.value
    assert "seed=3" in str(error)
    assert error.report.seed == 3
    assert error.violations == tuple(str(error).splitlines()[: len(error.violations)])
    assert error.report.trace[-1] in str(error)

    with pytest.raises(SimulationError) as again:
        _run_stubborn(3)
    assert again.value.report.fingerprint == error.report.fingerprint
    assert again.value.violations == error.violations


def test_each_seed_goes_another_way() -> None:
    prints = {_run(Bank(twice=False), seed).fingerprint for seed in range(5)}
    assert len(prints) == 5


def test_the_report_counts_children_schedules_and_faults() -> None:
    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db, concurrency=2)

        @tasks.handler("parent", queue="a")
        async def parent(ctx_job: Job[None], ctx: Context[Any]) -> None:
            ctx.emit("child", queue="b")

        @tasks.handler("child", queue="b")
        async def child() -> None: ...

        @tasks.handler("hourly", queue="b", repeat="30 * * * *")
        async def hourly() -> None: ...

        return tasks

    report = simulate(build, seed=1, hours=10, emits=[Emit("parent", queue="a")], faults=None)
    parents = report.happened["emits"]
    assert parents > 100
    assert report.emitted == report.completed == report.starts == 2 * parents + 10
    assert set(report.happened.values()) == {0, parents}
    assert report.hours == pytest.approx(10, abs=0.1)
    assert re.match(r"seed 1, 10 hours: \d+ jobs", str(report))


def test_all_clocks_are_the_virtual_one() -> None:
    seen: list[tuple[Any, Any]] = []

    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db)

        @tasks.handler("daily", repeat="0 6 * * *")
        async def daily(job: Job[None]) -> None:
            seen.append((job.scheduled_for, job.emitted_at))

        return tasks

    simulate(build, seed=0, hours=48, faults=None)
    assert [at.isoformat() for at, _ in seen] == [
        "2024-01-01T06:00:00+00:00",
        "2024-01-02T06:00:00+00:00",
    ]
    assert all(0 <= (emitted - at).total_seconds() < 1 for at, emitted in seen)


def test_what_leaves_a_manager_comes_out_with_the_seed() -> None:
    def build(db: str) -> TaskManager[Any]:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        simulate(build, seed=99)
    assert caught.value.__notes__ == ["simulate(..., seed=99) repeats it"]


MODULE_LEVEL = TaskManager("memory://")
"""A manager where build should make one: what people have who emit from anywhere."""


@MODULE_LEVEL.handler("job")
async def _job(job: Job[int]) -> None: ...


def test_a_manager_that_was_returned_before_is_refused_at_once_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="make it inside of build"):
            simulate(lambda db: MODULE_LEVEL, seed=1, hours=0.5, emits=[Emit("job", 1)])


def test_a_manager_that_was_used_elsewhere_is_refused_at_once() -> None:
    tasks = TaskManager("memory://")

    async def use() -> None:
        async with tasks:
            pass

    trio.run(use)
    with pytest.raises(ConfigurationError, match="make it inside of build"):
        simulate(lambda db: tasks, seed=1)


def test_what_is_no_manager_is_refused() -> None:
    def build(db: str) -> Any: ...  # forgot its return

    with pytest.raises(ConfigurationError, match="a value of type NoneType: it has to return a Ta"):
        simulate(build, seed=1)


def test_a_sync_handler_is_refused() -> None:
    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db)
        tasks.register_handler(lambda: None, event="sync")
        return tasks

    with pytest.raises(ConfigurationError, match="sync function"):
        simulate(build, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"hours": 0}, "hours"),
        ({"workers": 0}, "workers"),
        ({"per_hour": -1}, "per_hour"),
        ({"faults": {"crash": 1}}, "did you mean 'crashes'"),
        ({"faults": {"crashes": -1}}, "crashes"),
        ({"faults": {"longest": 0.5}}, "longest"),
        ({"emits": ["job"]}, "no Emit"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    options.setdefault("seed", 0)
    with pytest.raises(ConfigurationError, match=message):
        simulate(_stubborn, **options)


def test_inside_an_event_loop_is_an_error() -> None:
    async def main() -> None:
        simulate(_stubborn, seed=0)

    with pytest.raises(RuntimeError, match=r"await trio\.to_thread\.run_sync\(lambda: simul"):
        trio.run(main)
    with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(lambda: simulate\("):
        asyncio.run(main())


def test_the_way_out_of_an_event_loop_is_one() -> None:
    async def main() -> Report:
        with trio.fail_after(30):
            return await trio.to_thread.run_sync(lambda: _run(Bank(twice=False), 1))

    assert trio.run(main).fingerprint == _run(Bank(twice=False), 1).fingerprint


def _stuck(build: Build, emit: Emit[Any], hours: float = 0.05) -> SimulationError:
    with pytest.raises(SimulationError) as caught:
        simulate(build, seed=1, hours=hours, emits=[emit], per_hour=100, faults=None)
    return caught.value


@cache
def _all_stuck() -> SimulationError:
    """What several tests look at."""
    return _stuck(_stubborn, Emit("job", 3))


def test_a_stuck_job_says_since_when_its_handler_has_not_returned() -> None:
    error = _all_stuck()
    assert re.search(
        r"job '[^']+', running, attempt 1: its handler has not returned since \d+\.\d{3} s$",
        error.violations[0],
    )
    assert error.violations[-1].endswith(
        "nobody has taken it: the workers' slots are taken by other jobs"
    )


def test_a_stuck_job_says_that_no_worker_serves_its_queue() -> None:
    error = _stuck(_stubborn, Emit("job", 1, queue="zz"))
    assert error.violations[0].endswith(", queued, attempt 0: no worker serves the queue 'zz'")


def test_what_happened_last_leaves_out_what_changed_nothing() -> None:
    error = _all_stuck()
    shown = str(error).partition("What happened last:\n")[2].splitlines()
    assert any(" emit job:" in line for line in shown)
    assert any(":start" in line for line in shown)
    assert not [line for line in error.report.trace if re.search(r" (beat|step|read) $", line)]


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.5, "0.5 hours"), (0.01, "0.01 hours"), (1.01, "1 hour"), (8760.04, "8760 hours")],
)
def test_a_report_shows_its_hours_as_they_were(hours: float, text: str) -> None:
    report = simulate(_stubborn, seed=1, hours=0.01, per_hour=0, faults=None)
    assert f"seed 1, {text}: " in str(replace(report, hours=hours))


def test_schedules_end_with_the_hours_and_what_is_left_does_not_wait_for_them() -> None:
    ran = Counter[str]()

    def build(db: str) -> TaskManager[Any]:
        tasks = TaskManager(db)

        @tasks.handler("often", repeat=Repeat(every=5))
        async def often() -> None:  # and each takes as long as the gap between two of them
            ran["often"] += 1
            await trio.sleep(10)

        @tasks.handler("late", queue="other", retry=RetryPolicy(delay=7200, max_delay=7200))
        async def late(job: Job[int]) -> None:
            ran["late"] += 1
            if job.attempt == 1:
                raise ConnectionError

        return tasks

    report = simulate(build, seed=1, hours=0.2, emits=[Emit("late", 1, queue="other")], faults=None)
    assert report.completed == report.emitted
    assert report.hours > 2  # the retry came
    assert ran["late"] == 2 * report.happened["emits"] > 0
    assert 140 <= ran["often"] <= 150


def test_faults_have_defaults_and_none_means_none() -> None:
    report = simulate(_stubborn, seed=0, hours=200, per_hour=0)
    assert sum(report.happened.values()) > 20
    report = simulate(_stubborn, seed=0, hours=200, per_hour=0, faults=None)
    assert sum(report.happened.values()) == 0
    assert Faults().crashes > 0


def test_the_test_in_the_docs_passes() -> None:
    [block] = [block for block in blocks(DOCS / "simulation.md") if block.is_test]
    namespace: dict[str, Any] = {"__name__": "docs"}
    exec(compiled(block, "simulation.md"), namespace)
    namespace["test_bookings_survive_faults"]()


def test_the_table_in_the_docs_lists_all_faults() -> None:
    text = (DOCS / "simulation.md").read_text()
    shown = re.findall(r"^  \| `(\w+)` \|", text, re.MULTILINE)
    assert [*shown, "longest"] == [field.name for field in fields(Faults)]
