"""Take: who gets which job, and when."""

from __future__ import annotations

import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import TakeStatus
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Release, Retry

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_hand_out_is_a_counted_start_with_a_token(world: World) -> None:
    job = world.job(priority=4)
    await world.send(job)
    worker = await world.worker()

    delivery = await worker.take_one()

    assert delivery.token.job_id == job.id
    assert delivery.token.queue == "default"
    assert delivery.token.incarnation == worker.membership.incarnation
    assert (delivery.token.level, delivery.token.deliveries) == (4, 1)
    assert (delivery.attempt, delivery.generation, delivery.interruptions) == (1, 0, 0)
    assert delivery.record == job.record
    stored = await world.read(job.id)
    assert (stored.state, stored.attempt) == (JobState.RUNNING, 1)
    assert stored.started_at_ms is not None


async def test_jobs_of_one_priority_come_in_the_order_of_their_emits(world: World) -> None:
    ids = [await world.emit() for _ in range(5)]
    worker = await world.worker()

    assert await worker.take_ids(3) == ids[:3]
    assert await worker.take_ids(3) == ids[3:]


async def test_higher_priorities_come_first(world: World) -> None:
    ids = {priority: await world.emit(priority=priority) for priority in (0, 9, 5, 1)}
    worker = await world.worker()

    assert await worker.take_ids(10) == [ids[9], ids[5], ids[1], ids[0]]


async def test_a_lower_priority_waits_while_a_higher_one_can_start(world: World) -> None:
    await world.emit(priority=0)
    worker = await world.worker()
    for _ in range(3):
        high = await world.emit(priority=7)
        assert await worker.take_ids(1) == [high]


async def test_two_workers_never_get_the_same_job(world: World) -> None:
    ids = {await world.emit() for _ in range(6)}
    one, two = await world.worker("one"), await world.worker("two")

    first, second = await one.take_ids(4), await two.take_ids(4)

    assert len(first) == 4
    assert len(second) == 2
    assert {*first, *second} == ids


async def test_an_empty_queue_gives_nothing_and_names_no_instant(world: World) -> None:
    worker = await world.worker()

    _, taken = await worker.step([], 1)

    assert (taken.status, list(taken.deliveries)) == (TakeStatus.TAKEN, [])
    assert (taken.next_due_in_ms, taken.next_tick_in_ms) == (None, None)


async def test_a_take_tells_when_the_next_delayed_job_is_due(world: World) -> None:
    await world.emit(delay_ms=2 * LONG_MS)
    await world.emit(delay_ms=LONG_MS)
    worker = await world.worker()

    _, taken = await worker.step([], 1)

    assert list(taken.deliveries) == []
    assert taken.next_due_in_ms is not None
    assert LONG_MS - 5_000 < taken.next_due_in_ms <= LONG_MS


async def test_a_take_tells_server_time(world: World) -> None:
    worker = await world.worker()
    before_ms = await world.now_ms()

    _, taken = await worker.step([], 1)

    assert before_ms <= taken.now_ms <= await world.now_ms()


async def test_a_due_job_is_promoted_and_handed_out_in_the_same_step(world: World) -> None:
    job_id = await world.emit(delay_ms=80)
    worker = await world.worker()
    assert await worker.take() == []

    await world.pass_ms(81)

    assert await worker.take_ids(1) == [job_id]


async def test_a_due_job_is_promoted_alone(world: World) -> None:
    later = await world.emit(delay_ms=LONG_MS)
    due = await world.emit(delay_ms=10)
    worker = await world.worker()

    await world.pass_ms(11)

    assert await worker.take_ids(2) == [due]
    assert await world.state(later) is JobState.DELAYED


async def test_a_due_job_keeps_its_priority(world: World) -> None:
    high = await world.emit(priority=8, delay_ms=10)
    low = await world.emit(priority=1)
    worker = await world.worker()

    await world.pass_ms(11)

    assert await worker.take_ids(2) == [high, low]


async def test_due_jobs_start_in_the_order_of_their_instants(world: World) -> None:
    now_ms = await world.now_ms()
    later = await world.emit(due_at_ms=now_ms + 80)
    sooner = await world.emit(due_at_ms=now_ms + 70)
    worker = await world.worker()

    await world.pass_ms(81)

    assert await worker.take_ids(2) == [sooner, later]


async def test_what_was_given_back_comes_before_what_is_new_in_its_priority(world: World) -> None:
    old = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    new = await world.emit()
    high = await world.emit(priority=1)

    await worker.end(delivery, Release(counted=False, began=False))

    assert await worker.take_ids(3) == [high, old, new]


async def test_a_step_commits_before_it_takes(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), Retry(delay_ms=0))

    _, taken = await worker.step([outcome], 1)

    assert [delivery.token.job_id for delivery in taken.deliveries] == [job_id]
    assert taken.deliveries[0].attempt == 2


async def test_every_level_is_served(world: World) -> None:
    ids = [await world.emit(priority=priority) for priority in range(10)]
    worker = await world.worker()

    assert await worker.take_ids(20) == ids[::-1]
