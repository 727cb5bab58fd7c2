"""Cron: at most one job per occurrence, none forgotten, and nobody runs hot."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import emit, eventually, feed_of, manager_on, onlooker
from trio_tasks import Context, Job, Repeat, TaskManager
from trio_tasks.job import instant

pytestmark = pytest.mark.anyio

MINUTE, DAY = 60.0, 86_400.0


def _ticking(
    broker: FaultyBroker, calls: list[Any], repeat: Repeat | str, **options: Any
) -> TaskManager[Any]:
    manager = manager_on(broker, **options)

    @manager.handler("tick", repeat=repeat)
    async def tick(job: Job[None]) -> None:
        calls.append(job.scheduled_for)

    return manager


def _is_complete(occurrences: list[datetime | None], seconds: float) -> bool:
    instants = [at for at in occurrences if at is not None]
    return len(instants) == len(occurrences) and all(
        (b - a).total_seconds() == seconds for a, b in pairwise(sorted(instants))
    )


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.REFUSED])
async def test_an_occurrence_becomes_one_job_whichever_request_fails(
    fault: Fault, broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = _ticking(broker, calls, "* * * * *")
    async with manager:
        await manager.start()
        for method in ("tick", "due_schedules", "tick", "step", "declare", "time_ms"):
            broker.break_next(method, fault)
            await anyio.sleep(5 * MINUTE)
    assert 29 <= len(calls) <= 31
    assert _is_complete(calls, 60)


async def test_a_tick_that_is_refused_again_and_again_is_said_once(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = _ticking(broker, calls, "* * * * *")
    async with manager:
        await manager.start()
        for _ in range(5):
            broker.break_next("tick", Fault.REFUSED)
        await anyio.sleep(5 * MINUTE)
    assert len(calls) >= 4
    refusals = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert len(refusals) == 1
    assert "'default'" in refusals[0]


async def test_many_schedulers_make_one_job_per_occurrence(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    managers = [
        _ticking(FaultyBroker(broker.name), calls, Repeat(every=10), concurrency=2)
        for _ in range(4)
    ]
    async with anyio.create_task_group() as nursery, onlooker(broker):
        for manager in managers:
            nursery.start_soon(_serve, manager)
        await anyio.sleep(600)
        nursery.cancel_scope.cancel()
    assert 59 <= len(calls) <= 61
    assert _is_complete(calls, 10)


async def _serve(manager: TaskManager[Any]) -> None:
    async with manager:
        await manager.start()
        await anyio.sleep_forever()


@pytest.mark.virtual_time
async def test_a_missed_occurrence_is_passed_over_and_the_next_one_comes(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = _ticking(broker, calls, "0 * * * *")
    async with onlooker(broker):
        async with manager:
            await manager.start()
            await eventually(lambda: len(calls) == 1, within=3700, every=1)
        await anyio.sleep(3.5 * 3600)
        async with manager:
            await manager.start()
            await anyio.sleep(60)
            assert len(calls) == 1
            await anyio.sleep(3600)
    assert len(calls) == 2
    [missed] = [text for text in caplog.messages if "missed" in text]
    assert re.fullmatch(
        r"schedule '\S+' in queue 'default': no job for the occurrence of"
        r" \d{4}-\d\d-\d\dT\d\d:00:00\+00:00, missed by \d+ s",
        missed,
    )


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_after_a_clock_jump_on_the_server_cron_goes_on_after_the_later_of_now_and_last(
    minutes: int, remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = _ticking(remote, calls, "* * * * *")
    async with manager:
        await manager.start()
        await anyio.sleep(5.5 * MINUTE)
        last, before = calls[-1], len(calls)
        remote.store.clock.jump(minutes * 60_000)
        now = instant(await remote.time_ms("default"))
        await anyio.sleep(20 * MINUTE)
    # The poll notices it within a second, in which a minute may have begun.
    assert timedelta(0) < calls[before] - max(now, last) <= timedelta(seconds=62)
    assert calls == sorted(set(calls)), "none twice, none out of turn"
    assert _is_complete(calls[before:], 60)
    assert len(calls) - before == pytest.approx(20 if minutes > 0 else 10, abs=1)


async def test_schedules_that_nobody_ticks_do_not_make_the_others_run_hot(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    other = _ticking(FaultyBroker(broker.name), [], "* * * * *")
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with onlooker(broker):
        async with other:
            await other.start()  # declares its schedule, and is gone
        async with manager:
            await manager.start()
            await anyio.sleep(5 * MINUTE)  # the schedule is overdue, and not ours
            broker.calls.clear()
            for n in range(1000):
                await emit(broker, "job", n)
                await anyio.sleep(0.01)
            await manager.until_idle()
            assert len(calls) == 1000
            assert broker.calls["due_schedules"] <= 2 * 10 / 0.5


async def test_a_definition_that_cannot_be_read_is_said_once_and_not_looked_at_hotly(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = _ticking(broker, calls, Repeat(every=10))
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await anyio.sleep(1)
        store = aside.store.queue("default")
        schedule = store.schedules["tick"].record
        store.put_schedule(
            replace(schedule, name="broken", definition=b"{", expires_after_ms=None),
            aside.store.clock.now_ms(),
        )
        broker.calls.clear()
        await anyio.sleep(100)
        assert broker.calls["due_schedules"] <= 100 / 0.5 + 30
        assert sum("cannot be read" in record.message for record in caplog.records) == 1
    assert len(calls) in (10, 11)


async def test_a_schedule_that_another_process_declares_ticks_here_in_time(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker)
    other = manager_on(FaultyBroker(broker.name))

    @manager.handler("job")
    async def handler(job: Job[str]) -> None:
        calls.append(anyio.current_time())

    async with manager, other:
        await manager.start()
        await anyio.sleep(10)
        broker.calls.clear()
        ref = await other.emit("job", "x", repeat=Repeat(every=7), id="mine")
        await emit(broker, "job", "now")  # what a take tells is how it hears of it
        await ref.result(timeout=20)
        assert await other.schedules().remove("mine")
        await manager.until_idle()
        seen = len(calls)
        await anyio.sleep(100)
    assert len(calls) == seen


async def test_a_schedule_is_declared_again_when_the_queue_was_joined_anew(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = _ticking(remote, calls, Repeat(every=10))
    async with manager:
        await manager.start()
        await eventually(lambda: len(calls) == 2, within=30, every=0.1)
        queue = remote.store.queue("default")
        queue.schedules.clear()  # FLUSHALL
        queue.members.clear()
        await eventually(lambda: len(calls) == 5, within=60, every=0.1)


@pytest.mark.virtual_time
async def test_a_day_of_a_minutely_schedule_is_complete(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = _ticking(broker, calls, "* * * * *")
    async with manager:
        await manager.start()
        await anyio.sleep(DAY)
    assert len(calls) in (1439, 1440, 1441)
    assert _is_complete(calls, 60)


async def test_a_stop_lets_no_further_occurrence_become_a_job(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = _ticking(broker, calls, Repeat(every=1))

    @manager.handler("long")
    async def long(job: Job[None]) -> None:
        await anyio.sleep(30)

    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit(long)
        await anyio.sleep(0.1)
        emitted = (await aside.counts("default")).emitted
        await manager.stop(grace=60)
        assert (await aside.counts("default")).emitted == emitted


async def test_rows_that_a_dead_worker_left_on_their_way_are_carried_on(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote)

    @manager.handler("parent")
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        ctx.emit("child", 1, queue="elsewhere")

    @manager.handler("child", queue="elsewhere")
    async def child(job: Job[int]) -> None:
        calls.append(job.data)

    async with onlooker(remote):
        remote.always["relay"] = Fault.BEFORE
        async with manager:
            await manager.start()
            await manager.emit(parent)
            await anyio.sleep(1)
        assert calls == []
        remote.come_back()
        async with manager:
            await manager.start()
            await eventually(lambda: calls == [1], within=11)


async def test_a_worker_starts_and_works_though_the_server_has_no_memory_for_its_schedules(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = _ticking(broker, calls, Repeat(every=10))

    @manager.handler("job")
    async def handler(job: Job[None]) -> None: ...

    async with manager:
        broker.always["declare"] = Fault.FULL
        await manager.start()
        await (await manager.emit(handler)).result(timeout=5)
        await anyio.sleep(60)
        assert calls == []
        assert caplog.text.count("is declared later") == 1
        broker.come_back()
        await eventually(lambda: len(calls) == 2, within=30, every=0.1)


@pytest.mark.virtual_time
async def test_who_starts_last_decides_and_an_older_worker_that_joins_anew_does_not(
    broker: FaultyBroker,
) -> None:
    older: list[Any] = []
    newer: list[Any] = []
    old = _ticking(FaultyBroker(broker.name), older, "0 1 * * *")
    new = _ticking(FaultyBroker(broker.name), newer, "0 2 * * *")
    async with onlooker(broker), new, old:
        await old.start()
        await new.start()
        (schedule,) = await new.schedules().list()
        feed_of(old).died()
        await anyio.sleep(3 * DAY)  # it has joined anew, and has renewed what it declares
        (after,) = await new.schedules().list()
        assert after.pattern == schedule.pattern == "0 2 * * *"
        assert await new.schedules().remove("tick")
        feed_of(old).died()
        await anyio.sleep(MINUTE)
        (restored,) = await new.schedules().list()
        assert restored.pattern == "0 1 * * *", "what is lost, whoever sees it puts back"
    assert {at.hour for at in older + newer} == {2}
