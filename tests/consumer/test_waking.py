"""How a feed learns of work: by hints, looks and due instants; when it leaves them to others."""

from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import (
    check_slots,
    counting,
    emit,
    eventually,
    manager_on,
    onlooker,
    sleeper,
    slots_of,
)
from trio_tasks import Emit, Job
from trio_tasks.memory.hints import Hint

pytestmark = pytest.mark.anyio


async def test_an_idle_worker_asks_nothing_of_a_broker_that_loses_no_hints(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=4)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        await manager.emit(handler, 1)
        await manager.until_idle()
        await anyio.sleep(1)
        broker.calls.clear()
        await anyio.sleep(30 * 60)
        assert +broker.calls == {}
        await manager.emit(handler, 2)
        await manager.until_idle()
    assert calls == [1, 2]


async def test_an_idle_worker_looks_about_once_a_second_where_hints_may_be_lost(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, concurrency=4)
    counting(manager, calls)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        remote.calls.clear()
        remote.deadline = 1
        await anyio.sleep(100)
        assert 90 <= remote.calls["step"] <= 110
        del remote.calls["wait"], remote.calls["take"]
        assert remote.calls.total() <= 140
        remote.always["wait"] = Fault.SILENCE  # hints are lost
        await anyio.sleep(10)
        await emit(aside, "job", "found")
        await anyio.sleep(1.1)
    assert calls == ["found"]


async def test_an_idle_worker_that_has_the_slots_to_itself_reserves_them_for_what_wakes_it(
    calls: list[Any],
) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, arms=True)
    manager = manager_on(broker, concurrency=4)
    counting(manager, calls)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        assert slots_of(manager).free == 0
        broker.calls.clear()
        await emit(aside, "job", 1)
        await anyio.sleep(0.001)
        assert calls == [1]
        assert broker.calls["wait"] == 1  # the next one; the first has brought the job
        assert broker.calls["step"] == 1  # its end


@pytest.mark.parametrize(("arms", "concurrency"), [(True, 4), (True, 1000), (False, 1000)])
async def test_a_retry_is_on_time_though_the_worker_waited_before_it_was_known(
    arms: bool, concurrency: int
) -> None:
    manager = manager_on(
        FaultyBroker(remote=True, arms=arms),
        concurrency=concurrency,
        processor={"retry": {"delay": 0.3, "jitter": 0}},
    )
    began: list[float] = []

    @manager.handler("job", attempts=2)
    async def job(job: Job[int]) -> None:
        await anyio.sleep(0.1)  # so the worker waits for more meanwhile
        began.append(anyio.current_time())
        if job.attempt == 1:
            raise ValueError("again")

    async with manager:
        await manager.start()
        await anyio.sleep(0.5)
        await manager.emit("job", 1)
        await eventually(lambda: len(began) == 2)
    assert began[1] - began[0] == pytest.approx(0.3 + 0.1, abs=0.01)


async def test_idle_queues_that_share_slots_reserve_none(calls: list[Any]) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, arms=True)
    manager = manager_on(broker, concurrency=4)
    counting(manager, calls)

    @manager.handler("elsewhere", queue="other")
    async def elsewhere(job: Job[int]) -> None: ...

    async with manager:
        await manager.start()
        await anyio.sleep(1)
        assert slots_of(manager).free == 4


async def test_a_job_begins_before_its_worker_waits_for_the_next(calls: list[Any]) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, arms=True)
    manager = manager_on(broker, concurrency=4)

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(slots_of(manager).free)

    async with manager:
        await manager.start()
        await anyio.sleep(1)
        assert slots_of(manager).free == 0, "all are reserved"
        await manager.emit(handler, 1)
        await manager.until_idle()
    assert calls == [3]


async def test_an_idle_worker_leaves_at_once_though_slots_are_reserved(calls: list[Any]) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, arms=True)
    manager = manager_on(broker, concurrency=4)
    counting(manager, calls)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        with anyio.fail_after(0.1):
            await manager.stop()
        await emit(aside, "job", 1)
        await anyio.sleep(1)
    assert calls == []


@pytest.mark.parametrize("delay", [0.01, 0.1, 0.3, 0.5, 0.95, 1.05, 1.5, 2.1])
async def test_a_delayed_job_is_in_time_though_armed_waits_end_late(
    calls: list[Any], delay: float
) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, remote=True, arms=True)
    broker.late = 0.1
    manager = manager_on(broker, concurrency=4)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        await anyio.sleep(0.6)
        await manager.emit(handler, 1, delay=delay)
        await anyio.sleep(delay - 0.002)
        assert not calls
        await anyio.sleep(0.004)
        assert calls == [1]


async def test_a_retry_is_in_time_though_other_slots_wait_armed(calls: list[Any]) -> None:
    broker = FaultyBroker(uuid.uuid4().hex, remote=True, arms=True)
    manager = manager_on(broker, concurrency=4)

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        await anyio.sleep(0.3)
        calls.append(anyio.current_time())
        if job.attempt == 1:
            raise ValueError

    async with manager:
        await manager.start()
        await manager.emit(handler, 1, attempts=2, retry_delay=0.05)
        await anyio.sleep(2)
    first, second = calls
    assert second - first == pytest.approx(0.35, abs=0.01)


async def test_a_delayed_job_is_taken_at_its_instant(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        began = anyio.current_time()
        for delay in (30, 10, 20):
            await manager.emit(handler, delay, delay=delay)
        broker.calls.clear()
        for delay in (10, 20, 30):
            await eventually(lambda n=delay: n in calls, within=40)
            assert anyio.current_time() - began == pytest.approx(delay, abs=0.02)
        assert broker.calls["take"] <= 12


async def test_a_paused_queue_with_a_job_that_is_due_does_not_run_hot(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        await manager.emit(handler, 1, delay=5)
        await manager.queue("default").pause()
        broker.calls.clear()
        await anyio.sleep(60)
        assert broker.calls["step"] <= 5
        await manager.queue("default").resume()
        await manager.until_idle()
    assert calls == [1]


async def test_a_worker_without_a_free_slot_leaves_hints_to_others(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=1)
    handler = counting(manager, calls, 5)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit(handler, 1)
        await anyio.sleep(0.1)
        await emit(aside, "job", 2)
        assert aside.store.queue("default").hint.take()


async def test_a_hint_for_which_a_busy_worker_of_many_queues_finds_no_slot_is_passed_on(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=1)
    one, _ = sleeper(manager, "one", calls), sleeper(manager, "two", calls)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit(one, 5)
        await anyio.sleep(0.1)
        hint = aside.store.queue("two").hint
        await emit(aside, "sleep-two", 0, queue="two")
        await anyio.sleep(0.005)
        assert not hint.take(), "it may have a slot soon"
        await anyio.sleep(0.01)
        assert hint.take()
        hint.push()
        await anyio.sleep(2)
        assert hint.take(), "who has no slot does not listen"
        hint.push()
        await manager.until_idle()
    assert calls == [("one", 5), ("two", 0)]


async def test_a_queue_with_little_to_do_has_its_turn_beside_one_that_keeps_the_slots_busy(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=2)
    one, two = sleeper(manager, "one", calls), sleeper(manager, "two", calls)
    async with manager:
        await manager.start()
        await manager.emit_many([Emit(one, 0.1) for _ in range(100)])
        for number in range(1, 11):
            await anyio.sleep(0.13)
            await manager.emit(two, 0)
            began = anyio.current_time()
            await eventually(lambda so_far=number: calls.count(("two", 0)) == so_far)
            assert anyio.current_time() - began < 0.11
        await manager.until_idle()
        check_slots(manager)


async def test_a_hint_that_overtakes_the_answer_of_a_take_is_not_lost(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=1)
    one, _ = sleeper(manager, "one", calls), sleeper(manager, "two", calls)
    async with manager:
        await manager.start()
        broker.answer_delays["step"] = 0.05
        for number in range(60):
            await manager.emit(one, 0)
            await eventually(lambda so_far=number: len(calls) > so_far, within=1)
            await anyio.sleep(0.007 * (number % 13))
        await manager.until_idle()
        check_slots(manager)


async def test_a_hint_waits_for_a_slot_that_is_free_soon(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=1)
    one, two = sleeper(manager, "one", calls), sleeper(manager, "two", calls)
    async with manager:
        await manager.start()
        await anyio.sleep(1)  # or the first look of all finds this job, and its hint costs another
        await manager.emit(one, 0.008)
        await anyio.sleep(0.001)
        broker.calls.clear()
        began = anyio.current_time()
        await manager.emit(two, 0)
        await eventually(lambda: len(calls) == 2)
        assert anyio.current_time() - began < 0.01
        assert broker.calls["step"] <= 3, "none of them of nothing"
        await manager.until_idle()


async def test_queues_that_share_slots_look_once_a_second_and_go_on_waiting(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, concurrency=1)
    for number in range(10):
        sleeper(manager, f"q{number}", calls)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        remote.calls.clear()
        await anyio.sleep(100)
        assert 900 <= remote.calls["take"] <= 1100
        assert remote.calls["wait"] == 0, "a look ends no wait"
        aside.store.queue("q3").hint = Hint()  # hints are lost
        await emit(aside, "sleep-q3", 0, queue="q3")
        await anyio.sleep(1.2)
    assert calls == [("q3", 0)]


async def test_a_due_instant_that_only_a_look_has_told_of_is_kept_all_the_same(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, concurrency=1)
    for queue in ("one", "two"):
        sleeper(manager, queue, calls)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        aside.store.queue("two").hint = Hint()
        await emit(aside, "sleep-two", 0, queue="two", delay_ms=10_500)
        await anyio.sleep(10.49)
        assert not calls
        await anyio.sleep(0.02)
        assert calls == [("two", 0)]
