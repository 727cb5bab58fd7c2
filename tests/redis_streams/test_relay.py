"""What the log says of children that arrive too late."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis

from tests.contract.backdoors import redis_world
from tests.servers import ServerProcess
from trio_tasks.broker import RELAY_TOO_LATE_MS
from trio_tasks.job import JobState
from trio_tasks.redis_streams.broker import RedisBroker

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def test_a_child_that_is_dead_because_it_arrives_too_late_is_one_warning(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client: Any = redis.Redis
    with redis_client.from_url(server.url) as client:
        async with redis_world(server.url, patience=20) as world:
            worker = await world.worker()
            await world.emit()
            children = [world.job(name, queue="other") for name in ("late", "in-time")]
            await worker.end(await worker.take_one(), children=children)
            broker = cast("RedisBroker", world.broker)
            (out,) = client.keys(f"{broker._settings.namespace}:*:out")
            (_, late), (_, fresh) = client.xrange(out)
            client.delete(out)
            long_ago = await world.broker.time_ms("default") - RELAY_TOO_LATE_MS - 1_000
            client.xadd(out, late, id=f"{long_ago}-0")
            client.xadd(out, fresh)

            assert await world.broker.relay("default") == 2

            assert (await world.read("late", "other")).state is JobState.DEAD
            assert (await world.read("in-time", "other")).state is JobState.QUEUED
    [record] = [each for each in caplog.records if each.name == "trio_tasks.broker"]
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "job 'late' comes to queue 'other' too late: unless it was there before, it is dead"
        " (relayed_late)"
    )
