"""Looking: reading, listing and counting, all without changing anything."""

from __future__ import annotations

import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Release, Retry

pytestmark = pytest.mark.anyio


async def test_jobs_are_read_in_the_order_asked_for_with_gaps(world: World) -> None:
    one, two = await world.emit(), await world.emit()

    found = await world.broker.read("default", [two, "nobody", one])

    assert [job and job.id for job in found] == [two, None, one]


async def test_a_job_is_looked_up_in_its_own_queue_only(world: World) -> None:
    job_id = await world.emit(queue="other")

    assert await world.is_gone(job_id, "default")


async def test_queued_jobs_are_listed_in_the_order_in_which_they_will_start(
    world: World,
) -> None:
    low, high = await world.emit(priority=1), await world.emit(priority=8)
    low_too = await world.emit(priority=1)

    assert await world.listed(JobState.QUEUED) == [high, low, low_too]


async def test_running_jobs_are_listed_without_those_given_back(world: World) -> None:
    ids = [await world.emit() for _ in range(3)]
    worker = await world.worker()
    _, second, _ = await worker.take(3)
    await worker.end(second, Release(counted=False, began=False))

    assert await world.listed(JobState.RUNNING) == [ids[0], ids[2]]
    assert await world.listed(JobState.QUEUED) == [ids[1]]


async def test_delayed_jobs_are_listed_by_their_instants(world: World) -> None:
    later = await world.emit(delay_ms=2 * LONG_MS)
    sooner = await world.emit(delay_ms=LONG_MS)

    assert await world.listed(JobState.DELAYED) == [sooner, later]


async def test_dead_jobs_are_listed_by_their_deaths(world: World) -> None:
    ids: list[str] = []
    for _ in range(3):
        ids.append(await world.bury())
        await world.pass_ms(2)

    assert await world.listed(JobState.DEAD) == ids


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.DELAYED])
async def test_a_list_goes_on_after_the_last_job_seen(world: World, state: JobState) -> None:
    now_ms = await world.now_ms()
    due = [now_ms + LONG_MS + n if state is JobState.DELAYED else None for n in range(5)]
    ids = [await world.emit(due_at_ms=due_at_ms) for due_at_ms in due]
    if state is JobState.RUNNING:
        await (await world.worker()).take(5)

    assert await world.listed(state, limit=2) == ids[:2]
    assert await world.listed(state, limit=2, after=ids[1]) == ids[2:4]
    assert await world.listed(state, limit=2, after=ids[3]) == ids[4:]
    assert await world.listed(state, limit=2, after=ids[4]) == []


async def test_a_list_starts_anew_after_a_job_that_is_no_longer_there(world: World) -> None:
    ids = [await world.emit() for _ in range(2)]

    assert await world.listed(JobState.QUEUED, after="nobody") == ids


async def test_a_list_starts_anew_after_a_job_that_is_in_another_state_by_now(
    world: World,
) -> None:
    worker = await world.worker()
    ids = [await world.emit() for _ in range(3)]
    assert await worker.take_ids(2) == ids[:2]

    assert await world.listed(JobState.QUEUED, after=ids[1]) == ids[2:]
    assert await world.listed(JobState.RUNNING, after=ids[2]) == ids[:2]


async def test_a_dead_list_goes_on_after_the_last_job_seen(world: World) -> None:
    ids: list[str] = []
    for _ in range(3):
        ids.append(await world.bury())
        await world.pass_ms(2)

    assert await world.listed(JobState.DEAD, limit=1, after=ids[0]) == [ids[1]]


async def test_an_unused_queue_is_empty(world: World) -> None:
    counts = await world.counts("unused")

    assert (counts.queued, counts.running, counts.emitted, counts.paused) == (0, 0, 0, False)
    assert await world.broker.jobs("unused", JobState.QUEUED, limit=5) == []
    assert await world.broker.queues() == []


async def test_due_jobs_are_counted_as_delayed_until_somebody_takes(world: World) -> None:
    await world.emit(delay_ms=LONG_MS)
    await world.emit(delay_ms=5)
    await world.pass_ms(6)

    counts = await world.counts()

    assert (counts.delayed, counts.due, counts.queued) == (2, 1, 0)


async def test_released_jobs_are_counted_as_queued(world: World) -> None:
    await world.emit()
    await world.emit()
    worker = await world.worker()
    first, _ = await worker.take(2)

    await worker.end(first, Release(counted=False, began=False))

    counts = await world.counts()
    assert (counts.queued, counts.running) == (1, 1)


async def test_looking_changes_nothing(world: World) -> None:
    job_id = await world.emit(delay_ms=1)
    await world.pass_ms(2)

    await world.counts()
    await world.read(job_id)
    await world.listed(JobState.DELAYED)

    assert await world.state(job_id) is JobState.DELAYED


async def test_a_running_job_shows_the_start_of_its_present_attempt(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Retry(delay_ms=0))
    await world.pass_ms(5)
    before_ms = await world.now_ms()

    await worker.take_one()

    started_at_ms = (await world.read(job_id)).started_at_ms
    assert started_at_ms is not None
    assert before_ms - 1 <= started_at_ms <= await world.now_ms()
