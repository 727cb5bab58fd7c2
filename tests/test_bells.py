"""What a slot sleeps at: it wakes once a ring, and a ring may meet a cancel in the same tick."""

from __future__ import annotations

import anyio
import pytest

from trio_tasks.native import Bell, native

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


class Sleeper:
    """Waits at a bell, and notes how each wait ended."""

    def __init__(self) -> None:
        self.bell: Bell = native().new_bell()
        self.scope = anyio.CancelScope()
        self.ended: list[str] = []

    async def run(self, waits: int = 1) -> None:
        for _ in range(waits):
            with anyio.CancelScope() as self.scope:
                await self.bell.wait()
            self.ended.append("cancelled" if self.scope.cancelled_caught else "rung")


async def test_each_ring_ends_one_wait() -> None:
    sleeper = Sleeper()
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(sleeper.run, 3)
        for ended in range(3):
            await anyio.wait_all_tasks_blocked()
            assert sleeper.ended == ["rung"] * ended
            sleeper.bell.ring()
    assert sleeper.ended == ["rung"] * 3


async def test_a_ring_after_a_cancel_in_the_same_tick_is_none() -> None:
    sleeper = Sleeper()
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(sleeper.run, 2)
        await anyio.wait_all_tasks_blocked()
        sleeper.scope.cancel()
        sleeper.bell.ring()
        await anyio.wait_all_tasks_blocked()
        assert sleeper.ended == ["cancelled"]
        sleeper.bell.ring()
    assert sleeper.ended == ["cancelled", "rung"]


async def test_a_ring_before_a_cancel_in_the_same_tick_ends_the_wait() -> None:
    sleeper = Sleeper()
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(sleeper.run)
        await anyio.wait_all_tasks_blocked()
        sleeper.bell.ring()
        sleeper.scope.cancel()
    assert sleeper.ended == ["rung"]
