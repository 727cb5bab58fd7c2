"""Schedules: an occurrence becomes at most one job, whoever declares and ticks."""

from __future__ import annotations

import anyio
import pytest
from msgspec.structs import replace

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import ScheduleRecord, TickAnswer
from trio_tasks.job import JobState

pytestmark = pytest.mark.anyio


async def declared(
    world: World, *, in_ms: int = LONG_MS, expires_after_ms: int | None = None
) -> ScheduleRecord:
    schedule = world.schedule(
        next_at_ms=await world.now_ms() + in_ms, expires_after_ms=expires_after_ms
    )
    return await world.broker.declare(schedule, replace=False)


async def due(world: World) -> ScheduleRecord:
    """A schedule whose occurrence has come."""
    schedule = await declared(world, in_ms=60)

    async def has_come() -> bool:
        return list((await world.broker.due_schedules("default")).due) == [schedule]

    await world.until(has_come)
    return schedule


@pytest.mark.both_loops
async def test_a_declared_schedule_is_listed_with_its_next_occurrence(world: World) -> None:
    schedule = await declared(world)

    assert await world.broker.schedules("default") == [schedule]
    assert schedule.last_at_ms is None
    assert await world.broker.schedules("other") == []


async def test_schedules_are_listed_by_name(world: World) -> None:
    now_ms = await world.now_ms()
    for name in ("b", "c", "a"):
        schedule = world.schedule(name, next_at_ms=now_ms + LONG_MS)
        await world.broker.declare(schedule, replace=False)

    assert [s.name for s in await world.broker.schedules("default")] == ["a", "b", "c"]


async def test_declaring_an_unchanged_definition_keeps_its_overdue_instant(
    world: World,
) -> None:
    schedule = await due(world)

    again = await world.broker.declare(
        replace(schedule, next_at_ms=await world.now_ms() + LONG_MS), replace=False
    )

    assert again == schedule
    assert (await world.broker.due_schedules("default")).due == [schedule]


async def test_declaring_an_unchanged_definition_can_replace_its_options(world: World) -> None:
    schedule = await declared(world)
    changed = replace(schedule, priority=7, next_at_ms=schedule.next_at_ms + 5)

    assert await world.broker.declare(changed, replace=False) == schedule
    assert await world.broker.declare(changed, replace=True) == replace(schedule, priority=7)


async def test_a_changed_definition_takes_the_new_instant(world: World) -> None:
    schedule = await declared(world)
    changed = replace(schedule, definition=b"other", next_at_ms=schedule.next_at_ms - 9)

    assert await world.broker.declare(changed, replace=False) == changed

    assert await world.broker.schedules("default") == [changed]


async def test_an_instant_that_has_passed_is_refused(world: World) -> None:
    schedule = world.schedule(next_at_ms=await world.now_ms() - 1)

    refused = await world.broker.declare(schedule, replace=False)

    assert (refused.next_at_ms, refused.last_at_ms) == (0, None)
    assert await world.broker.schedules("default") == []


async def test_a_changed_definition_never_goes_back_behind_its_last_occurrence(
    world: World,
) -> None:
    schedule = await due(world)
    far_ms = await world.now_ms() + 2 * LONG_MS
    await world.broker.tick(schedule, next_at_ms=far_ms, job=None)
    changed = replace(schedule, definition=b"other", next_at_ms=schedule.next_at_ms)

    refused = await world.broker.declare(changed, replace=False)

    assert (refused.next_at_ms, refused.last_at_ms) == (0, schedule.next_at_ms)
    (stored,) = await world.broker.schedules("default")
    assert (stored.definition, stored.next_at_ms) == (schedule.definition, far_ms)


async def test_a_take_tells_when_the_next_occurrence_comes(world: World) -> None:
    await declared(world)
    worker = await world.worker()

    _, taken = await worker.step([], 1)

    assert taken.next_tick_in_ms is not None
    assert LONG_MS - 5_000 < taken.next_tick_in_ms <= LONG_MS


async def test_a_tick_makes_the_occurrence_a_job_and_advances(world: World) -> None:
    schedule = await due(world)
    next_at_ms = await world.now_ms() + LONG_MS
    job = world.occurrence(schedule)

    answer = await world.broker.tick(schedule, next_at_ms=next_at_ms, job=job)

    assert answer is TickAnswer.CREATED
    assert await world.state(job.id) is JobState.QUEUED
    (advanced,) = await world.broker.schedules("default")
    assert advanced == replace(schedule, next_at_ms=next_at_ms, last_at_ms=schedule.next_at_ms)
    assert (await world.broker.due_schedules("default")).due == []


async def test_of_many_schedulers_that_tick_one_makes_the_job(world: World) -> None:
    schedule = await due(world)
    next_at_ms = await world.now_ms() + LONG_MS
    answers: list[TickAnswer] = []

    async def tick() -> None:
        job = world.occurrence(schedule)
        answers.append(await world.broker.tick(schedule, next_at_ms=next_at_ms, job=job))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(tick)

    assert sorted(answers) == [TickAnswer.CREATED, *[TickAnswer.TAKEN] * 7]
    assert (await world.counts()).emitted == 1


async def test_an_occurrence_can_be_passed_over(world: World) -> None:
    schedule = await due(world)
    next_at_ms = await world.now_ms() + LONG_MS

    answer = await world.broker.tick(schedule, next_at_ms=next_at_ms, job=None)

    assert answer is TickAnswer.PASSED
    (advanced,) = await world.broker.schedules("default")
    assert (advanced.next_at_ms, advanced.last_at_ms) == (next_at_ms, schedule.next_at_ms)
    assert (await world.counts()).emitted == 0


async def test_an_occurrence_does_not_tick_before_its_instant(world: World) -> None:
    schedule = await declared(world)
    job = world.occurrence(schedule)

    answer = await world.broker.tick(schedule, next_at_ms=schedule.next_at_ms + LONG_MS, job=job)

    assert answer is TickAnswer.EARLY
    assert await world.is_gone(job.id)
    assert await world.broker.schedules("default") == [schedule]


async def test_a_schedule_that_was_changed_meanwhile_does_not_tick(world: World) -> None:
    schedule = await due(world)
    changed = replace(schedule, definition=b"other", next_at_ms=await world.now_ms() + LONG_MS)
    await world.broker.declare(changed, replace=False)

    answer = await world.broker.tick(
        schedule, next_at_ms=changed.next_at_ms, job=world.occurrence(schedule)
    )

    assert answer is TickAnswer.TAKEN
    assert (await world.counts()).emitted == 0


async def test_the_last_occurrence_removes_its_schedule(world: World) -> None:
    schedule = await due(world)
    job = world.occurrence(schedule)

    assert await world.broker.tick(schedule, next_at_ms=None, job=job) is TickAnswer.CREATED

    assert await world.broker.schedules("default") == []
    assert await world.state(job.id) is JobState.QUEUED


async def test_a_removed_schedule_leaves_its_jobs(world: World) -> None:
    schedule = await due(world)
    job = world.occurrence(schedule)
    next_at_ms = await world.now_ms() + LONG_MS
    await world.broker.tick(schedule, next_at_ms=next_at_ms, job=job)

    assert await world.broker.remove_schedule("default", schedule.name)
    assert not await world.broker.remove_schedule("default", schedule.name)

    assert await world.broker.schedules("default") == []
    assert await world.state(job.id) is JobState.QUEUED
    answer = await world.broker.tick(schedule, next_at_ms=next_at_ms, job=job)
    assert answer is TickAnswer.TAKEN


async def test_an_occurrence_that_was_made_before_is_not_made_again(world: World) -> None:
    schedule = await due(world)
    job = world.occurrence(schedule)
    await world.send(job)
    next_at_ms = await world.now_ms() + LONG_MS

    await world.broker.tick(schedule, next_at_ms=next_at_ms, job=job)

    assert (await world.counts()).emitted == 1


async def test_due_schedules_tell_when_the_next_one_comes(world: World) -> None:
    schedule = await due(world)
    later = world.schedule("later", next_at_ms=await world.now_ms() + LONG_MS)
    await world.broker.declare(later, replace=False)

    answer = await world.broker.due_schedules("default")

    assert answer.due == [schedule]
    assert answer.next_in_ms == later.next_at_ms - answer.now_ms


async def test_no_schedules_no_next_instant(world: World) -> None:
    answer = await world.broker.due_schedules("default")

    assert (list(answer.due), answer.next_in_ms) == ([], None)


async def test_a_schedule_that_nobody_declares_any_more_vanishes(world: World) -> None:
    await declared(world, expires_after_ms=30)

    await world.pass_ms(40)

    assert await world.broker.schedules("default") == []
    assert (await world.broker.due_schedules("default")).due == []


async def test_declaring_again_keeps_a_schedule_alive(world: World) -> None:
    schedule = await declared(world, expires_after_ms=200)
    await world.pass_ms(50)
    await world.broker.declare(replace(schedule, expires_after_ms=LONG_MS), replace=True)

    await world.pass_ms(160)

    assert len(await world.broker.schedules("default")) == 1


@pytest.mark.virtual_time
async def test_ticking_keeps_a_schedule_alive(world: World) -> None:
    schedule = await declared(world, in_ms=1_000, expires_after_ms=1_500)
    for _ in range(10):
        await world.pass_ms(1_000)
        (schedule,) = (await world.broker.due_schedules("default")).due
        await world.broker.tick(schedule, next_at_ms=schedule.next_at_ms + 1_000, job=None)

    assert len(await world.broker.schedules("default")) == 1
    await world.pass_ms(1_500)
    assert await world.broker.schedules("default") == []
