"""asyncio's own `task.cancel()`, which knows nothing of scopes, wherever it strikes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.faulty_broker import FaultyBroker
from tests.workshop import manager_on
from trio_tasks import Job

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker(uuid.uuid4().hex)


async def _nothing(job: Job[None]) -> None: ...


@pytest.mark.parametrize("starting", [False, True])
async def test_a_program_ends_in_whatever_turn_of_the_loop_its_task_is_cancelled(
    starting: bool, broker: FaultyBroker
) -> None:
    others = asyncio.all_tasks()
    entered = asyncio.Event()

    async def program(manager: Any) -> None:
        async with manager:
            if starting:
                await manager.start()
            entered.set()
            await asyncio.sleep(60)

    turns = 0
    while not entered.is_set():
        manager = manager_on(broker)
        manager.register_handler(_nothing, event="job")
        task = asyncio.create_task(program(manager))
        for _ in range(turns):
            await asyncio.sleep(0)
        turns += 1
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert manager.state in ("new", "closed")
        assert asyncio.all_tasks() == others
    assert turns > 3  # there were several
