"""Debounce keys: asked for in batches, until the broker answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import anyio
import pytest

from trio_tasks.broker import DebounceAsk, Membership, StartToken
from trio_tasks.consumer.debounces import Debounces
from trio_tasks.errors import BrokerUnavailableError

pytestmark = pytest.mark.anyio


class Desk:
    """A membership that answers when it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.failures = 0
        self.open = anyio.Event()

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        self.batches.append(len(asks))
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError("away")
        return [ask.digest.upper() for ask in asks]


def ask(digest: str) -> DebounceAsk:
    return DebounceAsk(StartToken("q", digest, "w:1", "1-1", 0, 1), "leading", 1000, digest)


async def test_those_who_ask_while_a_batch_is_under_way_share_the_next() -> None:
    desk, answers = Desk(), dict[str, str | None]()
    debounces = Debounces(lambda: cast("Membership", desk))

    async def job(digest: str) -> None:
        answers[digest] = await debounces.ask(ask(digest))

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(debounces.run)
        nursery.start_soon(job, "a")
        await anyio.wait_all_tasks_blocked()
        for digest in ("b", "c", "d"):
            nursery.start_soon(job, digest)
        await anyio.wait_all_tasks_blocked()
        assert desk.batches == [1]
        desk.open.set()
        await anyio.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert desk.batches == [1, 3]
    assert answers == {"a": "A", "b": "B", "c": "C", "d": "D"}


async def test_an_asker_that_was_cancelled_is_left_out() -> None:
    desk = Desk()
    debounces = Debounces(lambda: cast("Membership", desk))
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(debounces.run)
        nursery.start_soon(debounces.ask, ask("a"))
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0):
            await debounces.ask(ask("b"))
        desk.open.set()
        await anyio.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert desk.batches == [1]


async def test_it_asks_again_until_the_broker_answers() -> None:
    desk = Desk()
    desk.failures = 1
    desk.open.set()
    debounces = Debounces(lambda: cast("Membership", desk))
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(debounces.run)
        with anyio.fail_after(5):
            assert await debounces.ask(ask("a")) == "A"
        nursery.cancel_scope.cancel()
    assert desk.batches == [1, 1]
