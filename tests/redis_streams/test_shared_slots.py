"""Queues that share the slots of a worker, on a real server."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.servers import start_server
from trio_tasks import Emit, Job, TaskManager

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_job_has_the_next_free_slot_however_much_there_is_to_do_in_another_queue() -> None:
    """Counted in jobs of the other queue that began meanwhile: a few slots, not a second's."""
    with start_server() as server:
        manager: TaskManager[Any] = TaskManager(server.url, concurrency=4)
        assert max(await _overtaken(manager)) <= 16


async def _overtaken(manager: TaskManager[Any]) -> list[int]:
    begun = 0
    overtaken: list[int] = []

    @manager.handler("busy", queue="busy")
    async def busy(_job: Job[None]) -> None:
        nonlocal begun
        begun += 1
        await anyio.sleep(0.02)

    @manager.handler("rare", queue="rare")
    async def rare(job: Job[int]) -> None:
        overtaken.append(begun - job.data)

    with anyio.fail_after(60):
        async with manager:
            await manager.start()
            await manager.emit_many([Emit(busy) for _ in range(1000)])
            for _ in range(10):
                await (await manager.emit(rare, begun)).result()
            assert begun < 1000, "there was a backlog all the time"
            await manager.stop(grace=0)
    return overtaken
