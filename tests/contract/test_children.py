"""Children exist if, and only if, their parent's completion was applied."""

from __future__ import annotations

import anyio
import pytest

from tests.contract.world import LONG_MS, World, error_bytes
from trio_tasks.broker import RELAY_TOO_LATE_MS, Applied, Debounce
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Release, Retry, Skip

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_children_of_the_same_queue_are_there_with_the_completion(world: World) -> None:
    parent = await world.emit()
    worker = await world.worker()
    ready = world.job(parent_id=parent, priority=5)
    delayed = world.job("chosen", parent_id=parent, delay_ms=LONG_MS)

    reply = await worker.membership.step(
        [worker.outcome(await worker.take_one(), children=[ready, delayed])], 0
    )

    assert not reply.relay
    assert (await world.read(ready.id)).record == ready.record
    assert await world.state("chosen") is JobState.DELAYED
    assert await worker.take_ids(2) == [ready.id]


async def test_a_child_can_be_taken_in_the_very_step_that_completes_its_parent(
    world: World,
) -> None:
    await world.emit()
    worker = await world.worker()
    child = world.job()

    _, taken = await worker.step([worker.outcome(await worker.take_one(), children=[child])], 1)

    assert [delivery.token.job_id for delivery in taken.deliveries] == [child.id]


@pytest.mark.parametrize(
    "verdict",
    [Retry(delay_ms=LONG_MS), Die("x"), Skip("x"), Cancel("x"), Release(False, began=True)],
    ids=lambda verdict: type(verdict).__name__,
)
async def test_no_other_outcome_has_children(world: World, verdict: Complete) -> None:
    await world.emit()
    worker = await world.worker()
    here, there = world.job(), world.job(queue="other")

    await worker.end(await worker.take_one(), verdict, children=[here, there])
    await world.broker.relay("default")

    assert await world.is_gone(here.id)
    assert await world.is_gone(there.id, "other")


async def test_a_cancel_request_does_not_keep_a_completions_children_away(
    world: World,
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await world.cancel(job_id)
    child = world.job()

    await worker.end(delivery, children=[child])

    assert await world.state(child.id) is JobState.QUEUED


async def test_a_child_whose_chosen_id_waits_already_is_that_job(world: World) -> None:
    await world.emit("nightly", delay_ms=LONG_MS)
    await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), children=[world.job("nightly")])

    assert await world.state("nightly") is JobState.DELAYED


async def test_a_child_whose_chosen_id_has_ended_begins_a_new_life(world: World) -> None:
    worker = await world.worker()
    await world.emit("nightly")
    await worker.end(await worker.take_one())
    await world.emit()

    await worker.end(await worker.take_one(), children=[world.job("nightly")])

    assert await worker.take_ids(1) == ["nightly"]


async def test_children_for_other_queues_appear_when_they_are_relayed(world: World) -> None:
    parent = await world.emit()
    worker = await world.worker()
    child = world.job("chosen", queue="other", parent_id=parent, priority=2)

    reply = await worker.membership.step(
        [worker.outcome(await worker.take_one(), children=[child])], 0
    )

    assert reply.relay
    assert (await world.counts()).outgoing == 1
    assert await world.is_gone(child.id, "other")
    assert await world.broker.relay("default") == 1
    stored = await world.read(child.id, "other")
    assert (stored.state, stored.record, stored.priority) == (JobState.QUEUED, child.record, 2)
    assert (await world.counts()).outgoing == 0
    assert await world.broker.queues() == ["default", "other"]


async def test_relaying_again_delivers_nothing_twice(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    children = [world.job(queue=queue) for queue in ("one", "two", "one")]
    await worker.end(await worker.take_one(), children=children)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(world.broker.relay, "default")

    assert await world.broker.relay("default") == 0
    assert [(await world.counts(queue)).queued for queue in ("one", "two")] == [2, 1]


async def test_a_relayed_childs_delay_counts_from_its_parents_completion(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    delayed = world.job(queue="other", delay_ms=LONG_MS, deadline_ms=2 * LONG_MS)
    soon = world.job(queue="other", delay_ms=10)
    before_ms = await world.now_ms()
    await worker.end(await worker.take_one(), children=[delayed, soon])
    after_ms = await world.now_ms()
    await world.pass_ms(20)

    await world.broker.relay("default")

    stored = await world.read(delayed.id, "other")
    assert stored.due_at_ms is not None
    assert before_ms <= stored.due_at_ms - LONG_MS <= after_ms
    assert stored.deadline_at_ms == stored.due_at_ms + LONG_MS
    assert await world.state(soon.id, "other") is JobState.QUEUED


async def test_a_repeated_completion_leaves_no_second_row(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    outcome = worker.outcome(await worker.take_one(), children=[world.job(queue="other")])
    await worker.commit(outcome)
    await world.broker.relay("default")

    reply = await worker.membership.step([outcome], 0)

    assert list(reply.applied) == [Applied.REPEATED]
    assert not reply.relay
    assert (await world.counts()).outgoing == 0


async def test_a_relayed_child_keeps_its_trailing_debounce(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    debounce = Debounce("trailing", LONG_MS, "digest")
    children = [world.job(queue="other", debounce=debounce) for _ in range(2)]
    await worker.end(await worker.take_one(), children=children)

    await world.broker.relay("default")

    assert await world.state(children[0].id, "other") is JobState.SKIPPED
    assert await world.state(children[1].id, "other") is JobState.DELAYED


@pytest.mark.virtual_time
async def test_a_child_that_was_under_way_for_too_long_arrives_dead(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    child = world.job("chosen", queue="other", delay_ms=1)
    await worker.end(await worker.take_one(), children=[child])
    await world.pass_ms(RELAY_TOO_LATE_MS + 1)

    assert await world.broker.relay("default") == 1

    stored = await world.read("chosen", "other")
    assert (stored.state, stored.why) == (JobState.DEAD, "relayed_late")
    assert stored.record == child.record
    counts = await world.counts("other")
    assert (counts.dead, counts.emitted) == (1, 1)


@pytest.mark.virtual_time
async def test_a_late_child_that_had_arrived_before_is_left_alone(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    child = world.job("chosen", queue="other")
    await worker.end(await worker.take_one(), children=[child])
    await world.send(child)
    await world.pass_ms(RELAY_TOO_LATE_MS + 1)

    await world.broker.relay("default")

    assert await world.state("chosen", "other") is JobState.QUEUED


async def test_a_dead_job_is_told_to_the_dead_letter_stream_once(world: World) -> None:
    stream = world.backdoor.stream("graveyard")
    job_id = await world.emit(event="send", data=b'"x"')
    worker = await world.worker()
    delivery = await worker.take_one()
    outcome = worker.outcome(
        delivery, Die("exhausted"), error=error_bytes("no"), dead_letter_stream=stream
    )

    reply = await worker.membership.step([outcome], 0)
    assert reply.relay
    await worker.commit(outcome)
    await world.broker.relay("default")
    await world.broker.relay("default")

    (entry,) = await world.backdoor.dead_letters(stream)
    assert (entry["id"], entry["generation"]) == (job_id, "0")


async def test_only_the_dead_are_told_to_the_dead_letter_stream(world: World) -> None:
    stream = world.backdoor.stream("graveyard")
    await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), dead_letter_stream=stream)
    await world.broker.relay("default")

    assert await world.backdoor.dead_letters(stream) == []


async def test_a_completion_may_have_as_many_children_as_the_contract_allows(
    world: World,
) -> None:
    await world.emit()
    worker = await world.worker()
    children = [world.job() for _ in range(250)]

    assert await worker.end(await worker.take_one(), children=children) is Applied.APPLIED

    assert (await world.counts()).queued == 250
