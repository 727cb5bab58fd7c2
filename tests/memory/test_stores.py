"""What is the memory broker's own: stores that are shared by name, and its clock."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.contract.backdoors import MemoryBackdoor
from tests.contract.world import World
from trio_tasks.broker import NewJob, Record, Registration
from trio_tasks.environment import wall_clock_ms
from trio_tasks.job import JobState
from trio_tasks.memory import MemoryBroker

START_MS = 1_700_000_000_000
YEAR_S = 365 * 86_400


def run(program: Callable[[], Awaitable[None]]) -> None:
    trio.run(program, clock=MockClock(autojump_threshold=0))


def job(id: str = "job") -> NewJob:
    return NewJob(id=id, queue="default", record=Record(1, "work", b"null"), number=f"n-{id}")


def registration(incarnation: str, lease_ms: int = 30_000) -> Registration:
    return Registration(
        queue="default",
        incarnation=incarnation,
        consumer_id="w",
        host="h",
        events=["work"],
        lease_ms=lease_ms,
    )


async def queued(broker: MemoryBroker) -> list[str]:
    return [found.id for found in await broker.jobs("default", JobState.QUEUED, limit=9)]


def test_brokers_of_one_name_share_their_jobs() -> None:
    async def program() -> None:
        async with MemoryBroker("shared") as one, MemoryBroker("shared") as two:
            await one.emit([job()])
            assert await queued(two) == ["job"]

    run(program)


def test_other_names_and_private_brokers_share_nothing() -> None:
    async def program() -> None:
        async with (
            MemoryBroker("shared") as one,
            MemoryBroker("other") as two,
            MemoryBroker() as three,
            MemoryBroker() as four,
        ):
            await one.emit([job()])
            await three.emit([job("private")])
            assert await queued(two) == []
            assert await queued(four) == []

    run(program)


def test_a_store_lives_as_long_as_somebody_holds_it() -> None:
    async def program() -> None:
        async with MemoryBroker("mortal") as broker:
            await broker.emit([job()])

    async def look() -> None:
        async with MemoryBroker("mortal") as broker:
            assert await queued(broker) == []

    run(program)
    gc.collect()
    run(look)


def test_jobs_stay_while_nobody_is_in_the_block() -> None:
    broker = MemoryBroker()

    async def emit() -> None:
        async with broker:
            await broker.emit([job()])

    async def look() -> None:
        async with broker:
            assert await queued(broker) == ["job"]

    run(emit)
    run(look)


def test_the_clock_shows_the_wall_clock_unless_it_is_set() -> None:
    async def program() -> None:
        before_ms = wall_clock_ms()
        async with MemoryBroker() as broker:
            assert before_ms <= await broker.time_ms("default") <= wall_clock_ms()
        async with MemoryBroker(starts_at_ms=START_MS) as broker:
            assert await broker.time_ms("default") == START_MS

    run(program)


def test_the_clock_is_the_loops() -> None:
    async def program() -> None:
        async with MemoryBroker(starts_at_ms=START_MS) as broker:
            await anyio.sleep(YEAR_S)
            assert await broker.time_ms("default") == START_MS + 1000 * YEAR_S

    run(program)


def test_the_clock_goes_on_in_the_next_loop_where_it_stood() -> None:
    broker = MemoryBroker(starts_at_ms=START_MS)

    async def program() -> None:
        async with broker:
            times.append(await broker.time_ms("default"))
            await anyio.sleep(5)

    times: list[int] = []
    run(program)
    run(program)

    assert times == [START_MS, START_MS + 5_000]


def test_who_slept_until_an_instant_finds_it_reached() -> None:
    async def program() -> None:
        async with MemoryBroker(starts_at_ms=START_MS) as broker:
            for at_ms in range(1, 2_000):
                await anyio.sleep(0.001)
                assert await broker.time_ms("default") == START_MS + at_ms

    run(program)


def test_outside_the_block_nothing_can_be_asked() -> None:
    broker = MemoryBroker()

    async def program() -> None:
        with pytest.raises(RuntimeError):
            await broker.emit([job()])
        async with broker:
            assert broker.connected
            with pytest.raises(RuntimeError):
                await broker.__aenter__()
        assert not broker.connected
        with pytest.raises(RuntimeError):
            await broker.counts("default")

    run(program)


def test_who_closes_without_leaving_lets_others_have_its_jobs_at_once() -> None:
    async def program() -> None:
        async with MemoryBroker("shared") as heir_broker:
            heir = await heir_broker.register(registration("heir"), have=list, lost=print)
            async with MemoryBroker("shared") as broker:
                await broker.emit([job()])
                dead = await broker.register(registration("dead"), have=list, lost=print)
                await dead.step([], 1)
                while await heir.wait(0):
                    pass

            assert await heir.wait(0)
            taken = (await heir.step([], 1)).taken
            assert taken is not None
            assert [delivery.attempt for delivery in taken.deliveries] == [2]

    run(program)


def test_every_method_lets_others_run_and_can_be_cancelled_before_it_does_anything() -> None:
    async def program() -> None:
        async with MemoryBroker() as broker:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await broker.emit([job()])
            assert scope.cancelled_caught
            assert await queued(broker) == []

    run(program)


def test_waiting_for_a_year_takes_no_time() -> None:
    async def program() -> None:
        async with MemoryBroker() as broker:
            membership = await broker.register(registration("w"), have=list, lost=print)
            assert not await membership.wait(YEAR_S)
            async with broker.watch("default") as watch:
                await watch.wait(YEAR_S)

    run(program)


def test_a_clock_that_is_set_back_and_then_forward_ends_nobodys_lease() -> None:
    async def program() -> None:
        async with MemoryBroker() as broker:
            world = World(broker, MemoryBackdoor(broker.store))
            holder = await world.worker("holder", lease_ms=30_000)
            other = await world.worker("other", lease_ms=30_000)
            await other.beat()
            broker.store.clock.jump(-3_600_000)
            await world.emit()
            await holder.take_one()

            broker.store.clock.jump(40_000)

            assert await other.take() == []

    run(program)
