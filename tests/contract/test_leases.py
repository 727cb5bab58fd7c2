"""Leases: who is alive, who takes over, and what an outage proves (nothing)."""

from __future__ import annotations

import pytest

from tests.contract.world import Worker, World, error_bytes
from trio_tasks.broker import Applied, Delivery, TakeStatus
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Retry

pytestmark = pytest.mark.anyio

LEASE_MS = 30_000


async def _start(world: World, worker: Worker) -> Delivery:
    """Emit a job and take it."""
    await world.emit()
    return await worker.take_one()


async def test_a_dead_workers_job_is_taken_over_as_the_next_attempt(world: World) -> None:
    job_id = await world.emit()
    heir = await world.worker("heir")
    dead = await world.worker("dead", lease_ms=150)
    await dead.take_one()
    await heir.beat()
    deliveries: list[Delivery] = []

    async def taken_over() -> bool:
        deliveries.extend(await heir.take(2))
        return deliveries != []

    await world.until(taken_over)

    (delivery,) = deliveries
    assert (delivery.token.job_id, delivery.attempt) == (job_id, 2)
    assert delivery.token.deliveries == 2
    assert await world.state(job_id) is JobState.RUNNING


async def test_a_living_workers_job_is_not_taken_over(world: World) -> None:
    await world.emit()
    one, two = await world.worker("one"), await world.worker("two")
    await one.take_one()

    await one.beat()
    await two.beat()

    assert await two.take() == []


async def test_a_beat_declares_others_dead(world: World) -> None:
    await world.emit()
    heir, dead = await world.worker("heir"), await world.worker("dead")
    await dead.take_one()
    await world.kill(dead)

    assert (await heir.beat()).alive

    assert not (await dead.beat()).alive


async def test_a_worker_declared_dead_gets_no_job_and_is_told(world: World) -> None:
    heir, dead = await world.worker("heir"), await world.worker("dead")
    await world.kill(dead)
    await heir.beat()
    await world.emit()

    _, taken = await dead.step([], 1)

    assert (taken.status, list(taken.deliveries)) == (TakeStatus.DEAD, [])
    assert len(await heir.take()) == 1


async def test_a_worker_declared_dead_may_register_a_fresh_name(world: World) -> None:
    heir, dead = await world.worker("heir"), await world.worker("dead")
    await world.kill(dead)
    assert (await heir.beat()).alive
    job_id = await world.emit()

    reborn = await world.worker("dead")

    assert await reborn.take_ids(1) == [job_id]


async def test_a_worker_declared_dead_may_commit_what_nobody_has_taken(world: World) -> None:
    job_id = await world.emit()
    heir, dead = await world.worker("heir"), await world.worker("dead")
    delivery = await dead.take_one()
    await world.kill(dead)
    await heir.beat()

    assert await dead.end(delivery, result=b"1") is Applied.APPLIED

    assert await world.state(job_id) is JobState.COMPLETED
    assert await heir.take() == []


async def test_who_leaves_without_owning_anything_is_gone_at_once(world: World) -> None:
    worker = await world.worker()
    await worker.end(await _start(world, worker))

    await worker.leave()

    assert not (await worker.beat()).alive


async def test_who_leaves_owning_jobs_keeps_them_until_its_lease_ends(world: World) -> None:
    leaver, heir = await world.worker("leaver"), await world.worker("heir")
    delivery = await _start(world, leaver)

    await leaver.leave()

    assert await heir.take() == []
    await world.kill(leaver)
    assert await heir.take_ids(1) == [delivery.token.job_id]


async def test_a_taken_over_job_keeps_its_generation_and_error(world: World) -> None:
    job_id = await world.emit()
    error = error_bytes("no")
    dead, heir = await world.worker("dead"), await world.worker("heir")
    await dead.end(await dead.take_one(), Retry(delay_ms=0), error=error)
    await dead.take_one()
    await world.kill(dead)

    delivery = await heir.take_one()

    assert (delivery.attempt, delivery.generation) == (3, 0)
    assert (await world.read(job_id)).error == error


async def test_jobs_of_several_dead_workers_come_before_new_ones(world: World) -> None:
    ids = [await world.emit() for _ in range(4)]
    for name in ("a", "b"):
        dead = await world.worker(name)
        await dead.take(2)
        await world.kill(dead)
    new = await world.emit()
    heir = await world.worker("heir")

    taken = await heir.take_ids(5)

    assert set(taken[:4]) == set(ids)
    assert taken[4] == new


@pytest.mark.virtual_time
async def test_after_an_outage_nobody_is_declared_dead_for_another_lease(world: World) -> None:
    job_id = await world.emit()
    silent = await world.worker("silent", lease_ms=LEASE_MS)
    heir = await world.worker("heir", lease_ms=LEASE_MS)
    await silent.take_one()
    await heir.beat()

    # The server was away: nobody could beat.
    await world.pass_ms(10 * LEASE_MS)
    assert await heir.take() == []
    assert (await silent.beat()).alive

    # Now one of them is really silent.
    for _ in range(4):
        await world.pass_ms(LEASE_MS // 3)
        await heir.beat()
    assert await heir.take_ids(1) == [job_id]


@pytest.mark.virtual_time
async def test_an_outage_before_anybodys_first_beat_proves_nothing_either(world: World) -> None:
    await world.emit()
    silent = await world.worker("silent", lease_ms=LEASE_MS)
    heir = await world.worker("heir", lease_ms=LEASE_MS)
    await silent.take_one()

    await world.pass_ms(10 * LEASE_MS)

    assert await heir.take() == []
    assert (await silent.beat()).alive


@pytest.mark.virtual_time
async def test_a_job_waits_for_one_lease_where_all_workers_die_before_their_first_beat(
    world: World,
) -> None:
    job_id = await world.emit()
    first = await world.worker("first", lease_ms=LEASE_MS)
    await first.take_one()

    waits: list[list[str]] = []
    for number in range(4):
        await world.pass_ms(LEASE_MS // 4)
        heir = await world.worker(f"heir-{number}", lease_ms=LEASE_MS)
        waits.append(await heir.take_ids(1))

    assert waits == [[], [], [], [job_id]]


@pytest.mark.virtual_time
async def test_a_job_waits_at_most_two_leases_if_nobody_was_alive_in_between(
    world: World,
) -> None:
    await world.emit()
    dead = await world.worker("dead", lease_ms=LEASE_MS)
    await dead.take_one()
    await dead.beat()
    await world.pass_ms(100 * LEASE_MS)

    heir = await world.worker("heir", lease_ms=LEASE_MS)
    waited_ms = 0
    while not await heir.take():
        await heir.beat()
        await world.pass_ms(LEASE_MS // 3)
        waited_ms += LEASE_MS // 3

    assert LEASE_MS <= waited_ms <= 2 * LEASE_MS


@pytest.mark.virtual_time
async def test_a_worker_that_beats_every_third_of_a_lease_lives_for_ever(world: World) -> None:
    await world.emit()
    worker = await world.worker("worker", lease_ms=LEASE_MS)
    other = await world.worker("other", lease_ms=LEASE_MS)
    delivery = await worker.take_one()

    for _ in range(50):
        await world.pass_ms(LEASE_MS // 3)
        assert (await worker.beat()).alive
        assert (await other.beat()).alive
        assert await other.take() == []

    assert await worker.end(delivery) is Applied.APPLIED


@pytest.mark.virtual_time
async def test_the_silence_of_some_proves_their_death_while_others_beat(world: World) -> None:
    job_id = await world.emit()
    silent = await world.worker("silent", lease_ms=LEASE_MS)
    heir = await world.worker("heir", lease_ms=LEASE_MS)
    await silent.take_one()
    for _ in range(3):
        await heir.beat()
        assert await heir.take() == []
        await world.pass_ms(LEASE_MS // 3)

    await heir.beat()

    assert await heir.take_ids(1) == [job_id]
