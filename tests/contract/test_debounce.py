"""Debounce: leading, decided at the start; trailing, decided at the emit."""

from __future__ import annotations

import anyio
import pytest

from tests.contract.world import LONG_MS, Worker, World
from trio_tasks.broker import Debounce, Delivery
from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Cancel, Complete, Die, Release, Retry

pytestmark = pytest.mark.anyio

WINDOW_MS = 30


async def started(world: World, worker: Worker, id: str | None = None) -> Delivery:
    job_id = await world.emit(id)
    delivery = await worker.take_one()
    assert delivery.token.job_id == job_id
    return delivery


@pytest.mark.both_loops
async def test_the_first_job_to_start_gets_a_leading_key_and_others_learn_who_has_it(
    world: World,
) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)

    assert await worker.ask(first, "k", edge="leading") == first.token.job_id
    assert await worker.ask(second, "k", edge="leading") == first.token.job_id
    assert await worker.ask(second, "other", edge="leading") == second.token.job_id


async def test_of_many_workers_that_ask_at_once_one_gets_the_key(world: World) -> None:
    workers = [await world.worker(f"w{number}") for number in range(5)]
    deliveries = [await started(world, worker) for worker in workers]
    answers: list[str | None] = []

    async def ask(worker: Worker, delivery: Delivery) -> None:
        answers.append(await worker.ask(delivery, "k", edge="leading"))

    async with anyio.create_task_group() as tasks:
        for worker, delivery in zip(workers, deliveries, strict=True):
            tasks.start_soon(ask, worker, delivery)

    assert len(answers) == 5
    assert len({*answers}) == 1


async def test_a_batch_of_asks_is_answered_in_order(world: World) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    one = worker.ask_for(first, "k", edge="leading")
    two = worker.ask_for(second, "k", edge="leading")

    assert await worker.membership.debounce([one, two]) == [first.token.job_id] * 2


async def test_the_holder_keeps_its_key_when_it_is_retried(world: World) -> None:
    worker = await world.worker()
    first = await started(world, worker)
    await worker.ask(first, "k", edge="leading")
    await worker.end(first, Retry(delay_ms=0))

    again = await worker.take_one()

    assert await worker.ask(again, "k", edge="leading") == first.token.job_id


async def test_a_new_life_of_the_holder_is_somebody_else(world: World) -> None:
    worker = await world.worker()
    first = await started(world, worker, "nightly")
    await worker.ask(first, "k", edge="leading")
    await worker.end(first)
    second = await started(world, worker, "nightly")
    assert await worker.ask(second, "k", edge="leading") not in (None, "nightly")
    await worker.end(second, Die("x"))

    third = await started(world, worker)

    assert await worker.ask(third, "k", edge="leading") == "nightly"


async def test_a_leading_key_is_free_again_after_its_window(world: World) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    await worker.ask(first, "k", edge="leading", window_ms=WINDOW_MS)

    await world.pass_ms(WINDOW_MS + 1)

    assert await worker.ask(second, "k", edge="leading") == second.token.job_id


@pytest.mark.parametrize("verdict", [Die("x"), Cancel("x")])
async def test_a_leading_window_reopens_when_its_holder_fails_for_good(
    world: World, verdict: Complete
) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    await worker.ask(first, "k", edge="leading")

    await worker.end(first, verdict)

    assert await worker.ask(second, "k", edge="leading") == second.token.job_id


async def test_a_leading_window_reopens_when_a_cancel_request_ends_its_holder(
    world: World,
) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    await worker.ask(first, "k", edge="leading")
    await world.cancel(first.token.job_id)

    await worker.end(first, Retry(delay_ms=LONG_MS))

    assert await worker.ask(second, "k", edge="leading") == second.token.job_id


@pytest.mark.parametrize("verdict", [Retry(delay_ms=LONG_MS), Release(counted=True, began=True)])
async def test_a_leading_window_reopens_when_its_holder_is_cancelled_while_it_waits(
    world: World, verdict: Complete
) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    await worker.ask(first, "k", edge="leading")
    await worker.end(first, verdict)

    await world.cancel(first.token.job_id)

    assert await worker.ask(second, "k", edge="leading") == second.token.job_id


async def test_a_leading_window_reopens_when_its_holder_is_found_exhausted_by_another_worker(
    world: World,
) -> None:
    lost = await world.worker("lost")
    first = await started(world, lost)
    await lost.ask(first, "k", edge="leading")
    await world.kill(lost)
    worker = await world.worker()

    # The heir is told nothing of the key: its data are not touched.
    await worker.end(await worker.take_one(), Die("exhausted"), ran=False)

    second = await started(world, worker)
    assert await worker.ask(second, "k", edge="leading") == second.token.job_id


async def test_a_requeued_holder_reopens_nothing_that_another_has_got_meanwhile(
    world: World,
) -> None:
    worker = await world.worker()
    first = await started(world, worker)
    await worker.ask(first, "k", edge="leading")
    await worker.end(first, Die("x"))
    second = await started(world, worker)
    await worker.ask(second, "k", edge="leading")
    await world.broker.requeue("default", first.token.job_id)

    await worker.end(await worker.take_one(), Die("x"))

    third = await started(world, worker)
    assert await worker.ask(third, "k", edge="leading") == second.token.job_id


@pytest.mark.parametrize("verdict", [Complete(), Retry(delay_ms=LONG_MS)])
async def test_a_leading_window_stays_closed_while_its_holder_succeeds_or_waits(
    world: World, verdict: Complete
) -> None:
    worker = await world.worker()
    first, second = await started(world, worker), await started(world, worker)
    await worker.ask(first, "k", edge="leading")

    await worker.end(first, verdict)

    assert await worker.ask(second, "k", edge="leading") == first.token.job_id


async def test_nobody_but_the_holder_reopens_a_leading_window(world: World) -> None:
    worker = await world.worker()
    first, second, third = [await started(world, worker) for _ in range(3)]
    await worker.ask(first, "k", edge="leading")

    await worker.end(second, Die("x"))

    assert await worker.ask(third, "k", edge="leading") == first.token.job_id


@pytest.mark.parametrize("edge", ["leading", "trailing"])
async def test_a_superseded_start_gets_no_key(world: World, edge: Edge) -> None:
    worker = await world.worker()
    stale = await started(world, worker)
    await worker.end(stale, Release(counted=False, began=False))
    present = await worker.take_one()

    assert await worker.ask(stale, "k", edge=edge) is None
    assert await worker.ask(present, "k", edge=edge) == present.token.job_id


def trailing(window_ms: int = LONG_MS) -> Debounce:
    return Debounce("trailing", window_ms, "digest")


async def test_a_trailing_job_waits_for_its_window_whatever_delay_it_asked_for(
    world: World,
) -> None:
    before_ms = await world.now_ms()

    job_id = await world.emit(debounce=trailing(), delay_ms=5)

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (JobState.DELAYED, "debounce")
    assert stored.due_at_ms is not None
    assert stored.due_at_ms >= before_ms + LONG_MS


async def test_a_later_trailing_job_replaces_the_one_that_waits(world: World) -> None:
    first = await world.emit(debounce=trailing())

    second = await world.emit(debounce=trailing())

    stored = await world.read(first)
    assert (stored.state, stored.why, stored.by) == (JobState.SKIPPED, "debounced", second)
    assert await world.state(second) is JobState.DELAYED
    counts = await world.counts()
    assert (counts.delayed, counts.skipped) == (1, 1)


async def test_of_many_trailing_jobs_the_last_one_runs(world: World) -> None:
    ids = [await world.emit(debounce=trailing(WINDOW_MS)) for _ in range(5)]
    worker = await world.worker()

    await world.pass_ms(WINDOW_MS + 1)

    assert await worker.take_ids(5) == [ids[-1]]


async def test_trailing_keys_do_not_meddle_with_each_other(world: World) -> None:
    first = await world.emit(debounce=Debounce("trailing", LONG_MS, "a"))
    await world.emit(debounce=Debounce("trailing", LONG_MS, "b"))

    assert await world.state(first) is JobState.DELAYED


async def test_a_repeated_trailing_emit_replaces_nothing(world: World) -> None:
    first, second = (world.job(debounce=trailing()) for _ in range(2))
    await world.broker.emit([first, second])

    await world.send(first)

    assert await world.state(second.id) is JobState.DELAYED
    assert await world.state(first.id) is JobState.SKIPPED


async def test_a_trailing_job_that_starts_learns_whether_it_is_still_the_last(
    world: World,
) -> None:
    worker = await world.worker()
    first = await world.emit(debounce=trailing(0))
    delivery = await worker.take_one()
    assert await worker.ask(delivery, "digest", edge="trailing") == first

    second = await world.emit(debounce=trailing())

    assert await worker.ask(delivery, "digest", edge="trailing") == second
    assert await world.state(first) is JobState.RUNNING


async def test_a_trailing_jobs_retry_is_replaced_by_newer_data(world: World) -> None:
    worker = await world.worker()
    first = await world.emit(debounce=trailing(0))
    await worker.end(await worker.take_one(), Retry(delay_ms=LONG_MS))

    second = await world.emit(debounce=trailing())

    stored = await world.read(first)
    assert (stored.state, stored.by, stored.attempt) == (JobState.SKIPPED, second, 1)


async def test_a_trailing_job_that_ended_is_not_touched_by_the_next_burst(
    world: World,
) -> None:
    worker = await world.worker()
    first = await world.emit(debounce=trailing(0))
    await worker.end(await worker.take_one())

    await world.emit(debounce=trailing())

    assert await world.state(first) is JobState.COMPLETED


async def test_a_trailing_job_whose_key_nobody_knows_may_run(world: World) -> None:
    worker = await world.worker()
    delivery = await started(world, worker)

    assert await worker.ask(delivery, "never seen", edge="trailing") == delivery.token.job_id


async def test_a_new_life_under_a_trailing_key_does_not_replace_itself(world: World) -> None:
    worker = await world.worker()
    await world.emit("nightly", debounce=trailing(0))
    await worker.end(await worker.take_one())

    await world.emit("nightly", debounce=trailing())

    assert await world.state("nightly") is JobState.DELAYED
    assert (await world.counts()).skipped == 0
