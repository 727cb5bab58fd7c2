"""Time-outs of attempts: one task, one heap, and no job kept in memory longer than it lives."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.faulty_broker import FaultyBroker
from tests.workshop import consumer_of, manager_on, stored
from trio_tasks import Emit, Job, JobState, RetryPolicy
from trio_tasks.consumer.timeouts import FIRST_SWEEP

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_each_attempt_has_its_own_time(broker: FaultyBroker, calls: list[Any]) -> None:
    manager = manager_on(broker, concurrency=8)

    @manager.handler("job", retry=RetryPolicy(0))
    async def handler(job: Job[float]) -> None:
        began = anyio.current_time()
        try:
            await anyio.sleep(60)
        finally:
            calls.append((job.data, anyio.current_time() - began))

    async with manager:
        await manager.start()
        times = [0.5, 0.1, 0.3, 0.2, 0.4]
        for seconds in times:
            await manager.emit(handler, seconds, timeout=seconds)
        await manager.until_idle()
    assert [data for data, _ in calls] == sorted(times)
    assert all(after > data - 0.05 for data, after in calls)


async def test_a_long_time_out_does_not_keep_jobs_that_have_ended(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=100)

    @manager.handler("job", timeout=86_400)
    async def handler(job: Job[int]) -> None: ...

    async with manager:
        await manager.start()
        for _ in range(5):
            await manager.emit_many([Emit(handler, n) for n in range(1000)])
            await manager.until_idle()
        assert len(consumer_of(manager)._timeouts._heap) <= 2 * FIRST_SWEEP


async def test_a_time_out_that_is_earlier_than_those_that_wait_is_kept(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=2)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        await anyio.sleep(600)

    async with manager:
        await manager.start()
        long = await manager.emit(handler, timeout=100)
        await anyio.sleep(1)
        began = anyio.current_time()
        short = await manager.emit(handler, timeout=1)
        await anyio.sleep(1.1)
        assert (await stored(broker, short.id)).state is JobState.DEAD
        assert anyio.current_time() - began < 2
        assert (await stored(broker, long.id)).state is JobState.RUNNING
