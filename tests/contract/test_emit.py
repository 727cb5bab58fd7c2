"""Emit: what is stored, and who is the same job."""

from __future__ import annotations

import anyio
import pytest

from tests.contract.world import LONG_MS, World
from trio_tasks.broker import Emitted
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_an_emitted_job_is_queued_with_all_that_it_brought(world: World) -> None:
    job = world.job(
        "invoice-7",
        event="send",
        data=b'{"to":"a"}',
        attempts=4,
        timeout_ms=5_000,
        retention_ms=9_000,
        retry_delay_ms=100,
        parent_id="parent",
        emitted_at_ms=1_700_000_000_000,
        priority=3,
    )

    assert await world.send(job) == Emitted("invoice-7", created=True)

    stored = await world.read("invoice-7")
    assert stored.record == job.record
    assert (stored.id, stored.queue, stored.priority) == ("invoice-7", "default", 3)
    assert (stored.state, stored.attempt, stored.generation) == (JobState.QUEUED, 0, 0)
    assert (stored.why, stored.due_at_ms, stored.finished_at_ms) == (None, None, None)


async def test_a_batch_is_answered_in_its_order_over_several_queues(world: World) -> None:
    jobs = [world.job(queue=queue) for queue in ("a", "b", "a", "b")]

    emitted = await world.broker.emit(jobs)

    assert emitted == [Emitted(job.id, created=True) for job in jobs]
    assert [(await world.counts(queue)).queued for queue in ("a", "b")] == [2, 2]
    assert await world.broker.queues() == ["a", "b"]


async def test_more_jobs_than_one_atomic_step_takes_are_all_stored(world: World) -> None:
    jobs = [world.job() for _ in range(600)]

    emitted = await world.broker.emit(jobs)

    assert [answer.id for answer in emitted] == [job.id for job in jobs]
    assert (await world.counts()).queued == 600


async def test_a_minted_id_emitted_again_is_the_same_job_and_answers_the_same(world: World) -> None:
    job = world.job()
    await world.send(job)

    assert await world.send(job) == Emitted(job.id, created=True)  # this emit made it

    counts = await world.counts()
    assert (counts.queued, counts.emitted) == (1, 1)


async def test_a_minted_id_never_gets_a_second_life(world: World) -> None:
    job = world.job()
    await world.send(job)
    worker = await world.worker()
    await worker.end(await worker.take_one())

    assert await world.send(job) == Emitted(job.id, created=True)  # this emit made it

    assert await world.state(job.id) is JobState.COMPLETED
    assert await worker.take() == []


async def test_a_chosen_id_that_has_not_ended_is_that_job(world: World) -> None:
    await world.emit("nightly", data=b"1")

    assert await world.send(world.job("nightly", data=b"2")) == Emitted("nightly", created=False)

    stored = await world.read("nightly")
    assert stored.record is not None
    assert stored.record.data == b"1"
    assert len(stored.numbers) == 2
    assert (await world.counts()).queued == 1


async def test_a_running_job_answers_for_its_chosen_id(world: World) -> None:
    await world.emit("nightly")
    worker = await world.worker()
    await worker.take_one()

    assert not (await world.send(world.job("nightly"))).created

    assert await world.state("nightly") is JobState.RUNNING


async def test_an_ended_chosen_id_begins_a_new_life_from_scratch(world: World) -> None:
    await world.emit("nightly", data=b"1", priority=2, deadline_ms=LONG_MS)
    worker = await world.worker()
    await worker.end(await worker.take_one(), result=b"7", attempts=3)

    assert await world.send(world.job("nightly", data=b"2")) == Emitted("nightly", created=True)

    stored = await world.read("nightly")
    assert stored.state is JobState.QUEUED
    assert stored.record is not None
    assert stored.record.data == b"2"
    assert (stored.priority, stored.attempt, stored.attempts) == (0, 0, None)
    assert (stored.result, stored.finished_at_ms, stored.deadline_at_ms) == (None, None, None)
    assert stored.generation == 1
    delivery = await worker.take_one()
    assert (delivery.attempt, delivery.generation) == (1, 1)


async def test_a_new_life_of_a_dead_job_leaves_the_dlq(world: World) -> None:
    await world.bury("nightly")

    await world.emit("nightly")

    assert await world.listed(JobState.DEAD) == []
    stored = await world.read("nightly")
    assert (stored.state, stored.why, stored.error) == (JobState.QUEUED, None, None)


async def test_a_delayed_new_life_waits_for_its_instant(world: World) -> None:
    await world.bury("nightly")

    await world.emit("nightly", delay_ms=LONG_MS)

    stored = await world.read("nightly")
    assert (stored.state, stored.why) == (JobState.DELAYED, "delay")


async def test_an_emit_number_that_was_answered_makes_nothing_new_after_the_end(
    world: World,
) -> None:
    first, second = world.job("nightly"), world.job("nightly")
    await world.broker.emit([first, second])
    worker = await world.worker()
    await worker.end(await worker.take_one())

    await world.broker.emit([first, second])

    assert await world.state("nightly") is JobState.COMPLETED
    assert (await world.counts()).emitted == 1


async def test_a_number_of_a_former_life_makes_no_third_one(world: World) -> None:
    first, second = world.job("nightly"), world.job("nightly")
    worker = await world.worker()
    for job in (first, second):
        await world.send(job)
        await worker.end(await worker.take_one())

    assert await world.send(first) == Emitted("nightly", created=False)

    assert await world.state("nightly") is JobState.COMPLETED


async def test_only_the_numbers_of_the_present_life_are_shown(world: World) -> None:
    first, second, third = (world.job("nightly") for _ in range(3))
    await world.send(first)
    worker = await world.worker()
    await worker.end(await worker.take_one())
    await world.broker.emit([second, third])

    stored = await world.read("nightly")

    assert set(stored.numbers) == {second.number, third.number}


async def test_a_job_remembers_sixteen_numbers_and_always_its_maker(world: World) -> None:
    maker, *others = (world.job("nightly") for _ in range(20))
    await world.broker.emit([maker, *others])

    numbers = (await world.read("nightly")).numbers

    assert set(numbers) == {maker.number, *(job.number for job in others[-15:])}


async def test_one_id_twice_in_a_batch_is_one_job(world: World) -> None:
    emitted = await world.broker.emit([world.job("nightly"), world.job("nightly")])

    assert [answer.created for answer in emitted] == [True, False]


async def test_one_id_emitted_by_many_at_once_is_one_job(world: World) -> None:
    answers: list[Emitted] = []

    async def emit() -> None:
        answers.append(await world.send(world.job("nightly")))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(emit)

    assert sorted(answer.created for answer in answers) == [False] * 19 + [True]
    assert (await world.counts()).queued == 1


async def test_a_delayed_job_says_when_it_is_due_and_why_it_waits(world: World) -> None:
    before_ms = await world.now_ms()

    job_id = await world.emit(delay_ms=LONG_MS)

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (JobState.DELAYED, "delay")
    assert stored.due_at_ms is not None
    assert before_ms + LONG_MS <= stored.due_at_ms <= await world.now_ms() + LONG_MS


async def test_a_job_may_be_due_at_an_instant(world: World) -> None:
    due_at_ms = await world.now_ms() + LONG_MS

    job_id = await world.emit(due_at_ms=due_at_ms)

    assert (await world.read(job_id)).due_at_ms == due_at_ms


async def test_no_delay_and_a_past_instant_mean_at_once(world: World) -> None:
    ids = [
        await world.emit(delay_ms=0),
        await world.emit(due_at_ms=await world.now_ms() - 1),
    ]

    assert [await world.state(job_id) for job_id in ids] == [JobState.QUEUED] * 2


async def test_a_deadline_counts_from_the_emit_or_is_an_instant(world: World) -> None:
    now_ms = await world.now_ms()
    relative = await world.emit(deadline_ms=LONG_MS)
    absolute = await world.emit(deadline_at_ms=now_ms + 5)

    deadline_at_ms = (await world.read(relative)).deadline_at_ms
    assert deadline_at_ms is not None
    assert now_ms + LONG_MS <= deadline_at_ms <= await world.now_ms() + LONG_MS
    assert (await world.read(absolute)).deadline_at_ms == now_ms + 5


async def test_a_deadline_comes_with_the_delivery(world: World) -> None:
    deadline_at_ms = await world.now_ms() + LONG_MS
    await world.emit(deadline_at_ms=deadline_at_ms)
    worker = await world.worker()

    assert (await worker.take_one()).deadline_at_ms == deadline_at_ms


async def test_a_delayed_jobs_deadline_and_generation_come_with_the_delivery(world: World) -> None:
    deadline_at_ms = await world.now_ms() + LONG_MS
    await world.emit(delay_ms=1, deadline_at_ms=deadline_at_ms)
    await world.bury("nightly")
    await world.emit("nightly", delay_ms=2)
    await world.pass_ms(5)
    worker = await world.worker()

    first, second = await worker.take(2)

    assert (first.deadline_at_ms, first.generation) == (deadline_at_ms, 0)
    assert (second.deadline_at_ms, second.generation) == (None, 1)


async def test_a_job_whose_id_died_may_be_emitted_anew_and_die_again(world: World) -> None:
    await world.bury("nightly")
    await world.emit("nightly")
    worker = await world.worker()

    await worker.end(await worker.take_one(), Die("requested"))

    stored = await world.read("nightly")
    assert (stored.state, stored.why, stored.generation) == (JobState.DEAD, "requested", 1)
    assert await world.listed(JobState.DEAD) == ["nightly"]
