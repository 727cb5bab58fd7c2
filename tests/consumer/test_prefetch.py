"""Prefetch: fast handlers are fed by few round trips, and no job waits behind a slow one."""

from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.faulty_broker import FaultyBroker
from tests.workshop import eventually, manager_on, slots_of
from trio_tasks import Emit, Job, TaskManager
from trio_tasks.consumer.attempt import in_handler
from trio_tasks.consumer.prefetch import LATE_S, MOST_AHEAD, Prefetch

pytestmark = pytest.mark.anyio


# -- how many --------------------------------------------------------------------------------------


def after(prefetch: Prefetch, *seconds: float, times: int = 1, suspended: bool = True) -> int:
    """How many may be taken ahead after so many runs of these durations."""
    for _ in range(times):
        for duration in seconds:
            prefetch.ran(duration, suspended=suspended)
    return prefetch.most


def test_nothing_is_taken_ahead_before_anything_is_known() -> None:
    assert Prefetch(1).most == Prefetch(500).most == 0


def test_as_many_are_taken_ahead_as_slots_work_off_within_two_milliseconds() -> None:
    assert after(Prefetch(1), 0.000_1, times=500) == 20
    assert after(Prefetch(10), 0.000_1, times=500) == 200
    assert after(Prefetch(10), 0.005, times=500) == 4
    assert after(Prefetch(10), 0.021, times=500) == 0


def test_as_many_are_taken_ahead_as_run_one_after_the_other_where_handlers_never_suspend() -> None:
    for concurrency in (4, 32, 500):
        prefetch = Prefetch(concurrency)
        assert after(prefetch, 0.000_1, times=500, suspended=False) == 25
        assert after(prefetch, 0.000_1, times=500) == min(20 * concurrency, MOST_AHEAD)
    assert after(Prefetch(32), 0.000_01, times=500, suspended=False) == MOST_AHEAD
    assert after(Prefetch(32), 0.003, times=500, suspended=False) == 0


def test_a_hiccup_of_handlers_that_never_suspend_adds_up_to_little() -> None:
    prefetch = Prefetch(4)
    after(prefetch, 0.000_008, times=500, suspended=False)
    assert after(prefetch, 0.000_2, suspended=False) >= 40, "were it usual, it would be 12"
    assert after(prefetch, 0.000_008, times=150, suspended=False) == MOST_AHEAD


def test_however_fast_handlers_are_there_is_a_limit() -> None:
    assert after(Prefetch(1), 0.0, times=10_000) == MOST_AHEAD
    assert after(Prefetch(100), 0.000_001, times=10_000) == MOST_AHEAD


def test_the_slowest_handler_lately_decides() -> None:
    prefetch = Prefetch(4)
    assert after(prefetch, 0.000_005, times=1000) == MOST_AHEAD
    assert after(prefetch, 0.05) == 0
    assert after(prefetch, 0.000_005, times=50) == 0
    assert after(prefetch, 0.000_005, times=500) == MOST_AHEAD
    assert after(prefetch, *[0.000_005] * 9, 0.05, times=100) == 0, "one in ten is slow"


def test_a_job_that_was_late_ends_it_until_handlers_have_been_fast_again() -> None:
    prefetch = Prefetch(4)
    after(prefetch, 0.000_005, times=1000)
    prefetch.was_late()
    assert prefetch.most == 0
    assert after(prefetch, 0.000_005, times=30) == 0
    assert after(prefetch, 0.000_005, times=500) == MOST_AHEAD


# -- what becomes of them --------------------------------------------------------------------------


class Works:
    """A manager whose only handler takes as long as its data say, and what it did."""

    def __init__(self, broker: FaultyBroker, concurrency: int = 1) -> None:
        self.began: list[tuple[float, float]] = []
        self.attempts: set[int] = set()
        self.manager = manager_on(broker, concurrency=concurrency)
        self.manager.register_handler(self.work, event="work")

    async def work(self, job: Job[float]) -> None:
        self.began.append((anyio.current_time(), job.data))
        self.attempts.add(job.attempt)
        if job.data:
            await anyio.sleep(job.data)

    async def learns_that_handlers_are_fast(self) -> None:
        await self.manager.emit_many([Emit("work", 0.0) for _ in range(1000)])
        await eventually(lambda: len(self.began) == 1000)
        await self.manager.until_idle()
        self.began.clear()


def given_back_by(manager: TaskManager[Any], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each job lay ready that the manager gives back from now on, since it was late."""
    ages: list[float] = []
    slots = slots_of(manager)
    too_late = slots._too_late

    def noted(held: Any) -> None:
        ages.append(anyio.current_time() - held.came_at)
        too_late(held)

    monkeypatch.setattr(slots, "_too_late", noted)
    return ages


def hold_up(seconds: float) -> None:
    """Hold up the whole process."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


async def test_fast_handlers_are_fed_many_jobs_by_one_round_trip(broker: FaultyBroker) -> None:
    works = Works(broker)
    async with works.manager as manager:
        await manager.emit_many([Emit("work", 0.0) for _ in range(2000)])
        await manager.start()
        await eventually(lambda: len(works.began) == 2000)
        assert broker.calls["step"] < 150


async def test_what_was_taken_ahead_starts_elsewhere_when_handlers_have_become_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = uuid.uuid4().hex
    works, helps = Works(FaultyBroker(name)), Works(FaultyBroker(name), concurrency=40)
    async with works.manager as manager, helps.manager:
        await manager.start()
        events = manager.events()
        await works.learns_that_handlers_are_fast()
        given_back = given_back_by(manager, monkeypatch)
        emitted_at = anyio.current_time()
        await manager.emit_many([Emit("work", 1.0) for _ in range(40)])
        await helps.manager.start()
        await manager.until_idle()

        began = [at - emitted_at for at, _ in works.began + helps.began]
        assert len(began) == 40
        assert max(began) <= 0.005
        assert len(given_back) >= 30
        assert works.attempts | helps.attempts == {1}, "it costs no attempt"
        assert (await manager.stop()).released == 0, "and is no affair of a stop's report"
    assert {event.kind async for event in events} == {"started", "succeeded"}


@pytest.mark.parametrize(
    "naps",
    [
        pytest.param([0.0] * 5000, id="always fast"),
        pytest.param([0.0] * 2000 + [0.05] * 200, id="fast, then slow"),
        pytest.param(
            [0.05 if n * n % 10 == 9 else 0.0 for n in range(2000)], id="one in five slow"
        ),
        pytest.param([0.05 if n % 10 == 9 else 0.0 for n in range(2000)], id="one in ten slow"),
        pytest.param([0.05 if n % 500 == 499 else 0.0 for n in range(5000)], id="few slow"),
    ],
)
async def test_no_job_lies_at_a_busy_worker_for_more_than_five_milliseconds(
    broker: FaultyBroker, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.answer_delays["step"] = 0.001
    manager = manager_on(broker, concurrency=4)
    waits: list[float] = []

    async def work(job: Job[float]) -> None:
        held = in_handler.get()
        assert held is not None
        waits.append(anyio.current_time() - held.came_at)
        if job.data:
            await anyio.sleep(job.data)
        else:
            hold_up(0.000_012)

    manager.register_handler(work, event="work")
    async with manager:
        await manager.emit_many([Emit("work", nap) for nap in naps])
        await manager.start()
        given_back = given_back_by(manager, monkeypatch)
        await manager.until_idle()
    assert len(waits) == len(naps), "each ran once"
    assert max(waits + given_back) <= 0.005


async def test_what_comes_back_to_the_same_worker_runs_in_its_order(
    broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(broker)
    async with works.manager as manager:
        await manager.start()
        await works.learns_that_handlers_are_fast()
        given_back = given_back_by(manager, monkeypatch)
        durations = [0.01 + n / 1000 for n in range(20)]
        await manager.emit_many([Emit("work", duration) for duration in durations])
        await manager.until_idle()
    assert len(given_back) >= 19
    assert [data for _, data in works.began] == durations


async def test_jobs_taken_ahead_do_not_start_in_a_paused_queue(broker: FaultyBroker) -> None:
    works = Works(broker)
    async with works.manager as manager:
        await manager.start()
        await works.learns_that_handlers_are_fast()
        await manager.emit_many([Emit("work", 0.003) for _ in range(100)])
        await eventually(lambda: len(works.began) > 0)
        await manager.queue("default").pause()
        paused_at = anyio.current_time()
        await anyio.sleep(5)
        assert all(at <= paused_at + 0.01 for at, _ in works.began)
        assert len(works.began) < 100
        await manager.queue("default").resume()
        await manager.until_idle()
    assert len(works.began) == 100


async def test_a_stop_gives_what_was_taken_ahead_to_others_at_once() -> None:
    name = uuid.uuid4().hex
    works, helps = Works(FaultyBroker(name)), Works(FaultyBroker(name), concurrency=40)
    async with works.manager as manager, helps.manager:
        await manager.start()
        await works.learns_that_handlers_are_fast()
        await manager.emit_many([Emit("work", 1.0) for _ in range(40)])
        await eventually(lambda: len(works.began) == 1)
        await helps.manager.start()
        stopped_at = anyio.current_time()
        report = await manager.stop(grace=60)
        assert report.completed == 1001
        await helps.manager.until_idle()
        assert all(at <= stopped_at + LATE_S for at, _ in helps.began)
        assert len(works.began) + len(helps.began) == 40


async def test_jobs_are_not_given_back_because_the_whole_process_was_held_up(
    broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(broker)

    async def holds_the_loop(job: Job[None]) -> None:
        hold_up(0.1)

    works.manager.register_handler(holds_the_loop, event="hold")
    async with works.manager as manager:
        await manager.start()
        await works.learns_that_handlers_are_fast()
        given_back = given_back_by(manager, monkeypatch)
        await manager.emit_many([Emit("hold"), *(Emit("work", 0.0) for _ in range(100))])
        await manager.until_idle()
    assert len(works.began) == 100
    assert given_back == []


async def test_no_job_is_given_back_for_which_a_slot_is_free(
    broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(broker, concurrency=4)

    async def holds_the_loop(job: Job[None]) -> None:
        hold_up(0.01)

    works.manager.register_handler(holds_the_loop, event="hold")
    async with works.manager as manager:
        await manager.start()
        given_back = given_back_by(manager, monkeypatch)
        await manager.emit_many([Emit("hold")] * 4)
        await manager.until_idle()
    assert given_back == []


async def test_a_process_that_was_held_up_gives_back_at_once_what_no_slot_can_begin(
    broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(broker)

    async def holds_the_loop_and_sleeps(job: Job[None]) -> None:
        hold_up(LATE_S + 0.0015)
        await anyio.sleep(1)

    works.manager.register_handler(holds_the_loop_and_sleeps, event="hold")
    async with works.manager as manager:
        await manager.start()
        await works.learns_that_handlers_are_fast()
        given_back = given_back_by(manager, monkeypatch)
        await manager.emit_many([Emit("hold"), *(Emit("work", 0.0) for _ in range(100))])
        await manager.until_idle()
    assert len(given_back) == 100
    assert max(given_back) <= 0.005


@pytest.mark.parametrize(("concurrency", "share"), [(4, 0.0), (32, 0.05)])
async def test_what_handlers_that_never_suspend_work_off_is_hardly_ever_given_back(
    broker: FaultyBroker, concurrency: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(broker, concurrency)

    async def computes(job: Job[None]) -> None:
        hold_up(0.000_1)

    works.manager.register_handler(computes, event="compute")
    async with works.manager as manager:
        await manager.start()
        given_back = given_back_by(manager, monkeypatch)
        broker.calls.clear()
        await manager.emit_many([Emit("compute") for _ in range(5000)])
        await manager.until_idle()
        assert broker.calls["take"] < 5000 / 4, "it takes ahead"
    assert len(given_back) <= share * 5000


async def test_more_is_taken_ahead_where_handlers_suspend_so_that_slots_share_the_work(
    broker: FaultyBroker,
) -> None:
    works = Works(broker, concurrency=4)
    ahead: set[int] = set()

    async def rests(job: Job[None]) -> None:
        ahead.add(len(slots_of(works.manager).ready))
        await anyio.sleep(0.001)

    works.manager.register_handler(rests, event="rest")
    async with works.manager as manager:
        await manager.start()
        await manager.emit_many([Emit("rest")] * 1000)
        await manager.until_idle()
    assert 6 <= max(ahead) <= 12
