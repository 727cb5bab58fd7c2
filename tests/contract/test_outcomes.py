"""Outcomes: what becomes of a job by what its start came to."""

from __future__ import annotations

import pytest

from tests.contract.world import LONG_MS, World, adds_up, error_bytes
from trio_tasks.broker import Applied, Debounce
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Park, Retry, Skip, Verdict
from trio_tasks.processor.lease import PARK_MS

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_completed_job_keeps_its_result_and_its_times(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()

    assert await worker.end(delivery, result=b'{"n":1}') is Applied.APPLIED

    stored = await world.read(job_id)
    assert (stored.state, stored.result, stored.error) == (JobState.COMPLETED, b'{"n":1}', None)
    assert (stored.attempt, stored.why) == (1, None)
    assert stored.started_at_ms is not None
    assert stored.finished_at_ms is not None
    assert stored.started_at_ms <= stored.finished_at_ms <= await world.now_ms()
    assert await worker.take() == []


async def test_many_outcomes_of_one_step_are_answered_in_order(world: World) -> None:
    ids = [await world.emit() for _ in range(3)]
    worker = await world.worker()
    one, two, three = await worker.take(3)

    applied = await worker.commit(
        worker.outcome(one),
        worker.outcome(two, Die("requested")),
        worker.outcome(three, Skip("debounced", by=ids[0])),
    )

    assert applied == [Applied.APPLIED] * 3
    states = [await world.state(job_id) for job_id in ids]
    assert states == [JobState.COMPLETED, JobState.DEAD, JobState.SKIPPED]


async def test_a_retry_waits_with_its_error_and_then_runs_as_the_next_attempt(
    world: World,
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    error = error_bytes("first")

    await worker.end(await worker.take_one(), Retry(delay_ms=80), error=error, attempts=4)

    stored = await world.read(job_id)
    assert (stored.state, stored.why, stored.error) == (JobState.DELAYED, "retry", error)
    assert (stored.attempt, stored.attempts) == (1, 4)
    assert await worker.take() == []
    await world.pass_ms(81)
    delivery = await worker.take_one()
    assert (delivery.token.job_id, delivery.attempt) == (job_id, 2)


async def test_a_retry_never_starts_before_its_instant(world: World) -> None:
    await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Retry(delay_ms=30))
    committed_at_ms = await world.now_ms()

    while not await worker.take():
        await world.pass_ms(3)

    # The commit was applied at most a few milliseconds before `now_ms` answered.
    assert await world.now_ms() >= committed_at_ms + 20


async def test_a_job_that_completes_after_a_failure_has_the_attempts_of_both(
    world: World,
) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Retry(delay_ms=0), error=error_bytes("no"))

    await worker.end(await worker.take_one(), result=b"1", attempts=4)

    stored = await world.read(job_id)
    assert (stored.state, stored.attempt, stored.attempts) == (JobState.COMPLETED, 2, 4)
    assert stored.result == b"1"


async def test_a_dead_job_lies_in_the_dlq_with_reason_error_and_data(world: World) -> None:
    job_id = await world.emit(data=b'{"k":[]}')
    worker = await world.worker()
    error = error_bytes("no")

    await worker.end(await worker.take_one(), Die("exhausted"), error=error, attempts=1)

    (stored,) = await world.broker.jobs("default", JobState.DEAD, limit=10)
    assert (stored.id, stored.state) == (job_id, JobState.DEAD)
    assert (stored.why, stored.error, stored.attempt) == ("exhausted", error, 1)
    assert stored.record is not None
    assert stored.record.data == b'{"k":[]}'
    assert stored.finished_at_ms is not None


@pytest.mark.parametrize("other", ["other", "-"])
async def test_a_skipped_job_names_who_stood_in_for_it(world: World, other: str) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), Skip("debounced", by=other))

    stored = await world.read(job_id)
    assert (stored.state, stored.why, stored.by) == (JobState.SKIPPED, "debounced", other)
    assert await world.listed(JobState.DEAD) == []


async def test_a_cancelled_attempt_ends_the_job_with_its_reason(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    assert await worker.end(await worker.take_one(), Cancel("by hand")) is Applied.APPLIED

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (JobState.CANCELLED, "by hand")


async def test_a_parked_attempt_does_not_count(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    since_ms = await world.now_ms()

    await worker.end(await worker.take_one(), Park(delay_ms=0, since_ms=since_ms))

    stored = await world.read(job_id)
    assert (stored.state, stored.why, stored.attempt) == (JobState.DELAYED, "parked", 0)
    delivery = await worker.take_one()
    assert (delivery.attempt, delivery.unknown_since_ms) == (1, since_ms)


async def test_it_is_the_first_park_that_says_since_when_an_event_is_unknown(
    world: World,
) -> None:
    await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Park(delay_ms=0, since_ms=1_000))

    delivery = await worker.take_one()
    assert delivery.unknown_since_ms == 1_000
    await worker.end(delivery, Park(delay_ms=0, since_ms=2_000))

    assert (await worker.take_one()).unknown_since_ms == 1_000


async def test_a_park_after_a_failure_keeps_the_attempts_used(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.end(await worker.take_one(), Retry(delay_ms=0))
    delivery = await worker.take_one()
    assert delivery.attempt == 2

    await worker.end(delivery, Park(delay_ms=0, since_ms=1))

    assert (await world.read(job_id)).attempt == 1
    assert (await worker.take_one()).attempt == 2


@pytest.mark.parametrize(
    "verdict", [Die("no_handler", unless_served=True), Skip("no_handler", unless_served=True)]
)
@pytest.mark.parametrize("event", ["rare", "send-mail", "-"])
async def test_a_job_whose_event_a_living_worker_serves_is_parked_instead(
    world: World, verdict: Die | Skip, event: str
) -> None:
    job_id = await world.emit(event=event)
    await world.worker("knows", events=[event, "work"])
    worker = await world.worker("does-not", events=["work"])
    delivery = await worker.take_one()

    assert await worker.end(delivery, verdict) is Applied.PARKED

    stored = await world.read(job_id)
    assert (stored.state, stored.why, stored.attempt) == (JobState.DELAYED, "parked", 0)
    assert stored.due_at_ms is not None
    assert stored.due_at_ms > await world.now_ms() + PARK_MS // 2


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Die("no_handler", unless_served=True), JobState.DEAD),
        (Skip("no_handler", unless_served=True), JobState.SKIPPED),
    ],
)
async def test_a_job_whose_event_nobody_alive_serves_ends(
    world: World, verdict: Die | Skip, state: JobState
) -> None:
    job_id = await world.emit(event="rare")
    gone = await world.worker("knew", events=["rare"])
    await gone.leave()
    worker = await world.worker(events=["work", "rar", "rarer"])

    assert await worker.end(await worker.take_one(), verdict) is Applied.APPLIED

    stored = await world.read(job_id)
    assert (stored.state, stored.why) == (state, "no_handler")


async def test_an_undecodable_record_is_handed_out_raw_and_can_be_buried(world: World) -> None:
    job_id = await world.emit()
    await world.backdoor.spoil("default", job_id, b"\xc1garbage")
    worker = await world.worker()

    delivery = await worker.take_one()
    assert (delivery.record, delivery.raw, delivery.version) == (None, b"\xc1garbage", None)
    await worker.end(delivery, Die("undecodable"))

    (stored,) = await world.broker.jobs("default", JobState.DEAD, limit=1)
    assert (stored.record, stored.raw, stored.why) == (None, b"\xc1garbage", "undecodable")


async def test_poison_does_not_stop_the_jobs_behind_it(world: World) -> None:
    poison = await world.emit()
    good = await world.emit()
    await world.backdoor.spoil("default", poison, b"\xc1")
    worker = await world.worker()

    assert await worker.take_ids(2) == [poison, good]


async def test_a_record_of_a_newer_version_is_handed_out_raw_with_its_version(
    world: World,
) -> None:
    job_id = await world.emit(version=2, event="future")
    worker = await world.worker()

    delivery = await worker.take_one()

    assert (delivery.token.job_id, delivery.record, delivery.version) == (job_id, None, 2)
    assert b"future" in delivery.raw


async def test_outcomes_count_up_to_what_was_emitted(world: World) -> None:
    for _ in range(7):
        await world.emit()
    await world.emit(delay_ms=LONG_MS)
    worker = await world.worker()
    verdicts = [Complete(), Die("x"), Skip("x"), Cancel("x"), Retry(LONG_MS)]
    for verdict in verdicts:
        await worker.end(await worker.take_one(), verdict)
    await worker.take_one()

    counts = await world.counts()

    assert (counts.queued, counts.running, counts.delayed, counts.dead) == (1, 1, 2, 1)
    assert (counts.completed, counts.skipped, counts.cancelled) == (1, 1, 1)
    assert (counts.emitted, counts.removed) == (8, 0)
    assert adds_up(counts)


async def test_a_dead_job_whose_id_is_emitted_anew_counts_as_removed(world: World) -> None:
    for step in ("emitted", "emitted anew", "requeued"):
        if step == "requeued":
            await world.broker.requeue("default", "x")
        else:
            await world.emit("x")
        assert adds_up(await world.counts()), step
        worker = await world.worker()
        await worker.end(await worker.take_one(), Die("x"))
        assert adds_up(await world.counts()), step
    await world.cancel(await world.emit("y"))
    await world.emit("y", delay_ms=LONG_MS)

    counts = await world.counts()

    assert (counts.emitted, counts.dead, counts.removed) == (4, 1, 1)
    assert (counts.cancelled, counts.delayed) == (1, 1)
    assert adds_up(counts)


async def test_a_job_that_is_replaced_counts_as_skipped(world: World) -> None:
    for _ in range(3):
        await world.emit(debounce=Debounce("trailing", LONG_MS, "digest"))
        assert adds_up(await world.counts())

    counts = await world.counts()

    assert (counts.emitted, counts.delayed, counts.skipped, counts.removed) == (3, 1, 2, 0)


async def test_a_retry_uses_its_attempt_though_no_handler_began(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    await worker.end(await worker.take_one(), Retry(delay_ms=0), ran=False)

    assert (await world.read(job_id)).attempt == 1
    assert (await worker.take_one()).attempt == 2


@pytest.mark.parametrize("verdict", [Die("exhausted"), Skip("debounced"), Cancel("user")])
async def test_an_end_before_the_handler_began_uses_no_attempt(
    world: World, verdict: Verdict
) -> None:
    job_id = await world.emit()
    worker = await world.worker()

    assert await worker.end(await worker.take_one(), verdict, ran=False) is Applied.APPLIED

    assert (await world.read(job_id)).attempt == 0
