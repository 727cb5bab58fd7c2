"""Leases: renewed every third, let go at two thirds, joined anew when lost."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import (
    check_slots,
    consumer_of,
    eventually,
    feed_of,
    manager_on,
    onlooker,
    stored,
)
from trio_tasks import Context, Job, JobState, TaskManager

pytestmark = pytest.mark.anyio

LEASE = 30.0


def _patient(manager: TaskManager[Any], calls: list[Any], seconds: float = 600) -> Any:
    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> None:
        calls.append(("begun", anyio.current_time()))
        try:
            await anyio.sleep(seconds)
        finally:
            calls.append((ctx.cancel_reason or "ended", anyio.current_time()))

    return handler


def _beats(broker: FaultyBroker) -> list[float]:
    """When the beats of all memberships were sent."""
    return broker.sent.setdefault("beat", [])


async def test_a_lease_is_renewed_every_third_counted_from_the_sending(
    remote: FaultyBroker,
) -> None:
    manager = manager_on(remote, lease=LEASE)
    _patient(manager, [])
    remote.delay = 2.0
    sent = _beats(remote)
    async with manager:
        await manager.start()
        await anyio.sleep(10 * LEASE)
    assert len(sent) >= 29
    assert all(b - a == pytest.approx(LEASE / 3, abs=0.01) for a, b in pairwise(sent))


async def test_a_member_that_holds_nothing_does_not_beat_where_members_cannot_vanish(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, lease=LEASE)
    handler = _patient(manager, calls, 60)
    sent = _beats(broker)
    async with manager:
        await manager.start()
        await anyio.sleep(10 * LEASE)
        assert sent == []
        await manager.emit(handler)
        await manager.until_idle()
        assert 5 <= len(sent) <= 8
        await anyio.sleep(10 * LEASE)
        assert len(sent) <= 8


async def test_handlers_are_cancelled_when_two_thirds_of_a_lease_passed_without_a_renewal(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, lease=LEASE)
    handler = _patient(manager, calls)
    sent = _beats(remote)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: len(sent) == 2, within=60, every=0.02)
        await anyio.sleep(0.1)
        remote.go_away()
        await eventually(lambda: len(calls) == 2, within=60, every=0.02)
        (_, (reason, at)) = calls
        assert reason == "lease_lost"
        assert at - sent[1] == pytest.approx(LEASE * 2 / 3, abs=0.01)
        # The job is given back by its token when the broker is back, and runs again.
        assert (await stored(aside, ref.id)).state is JobState.RUNNING
        remote.come_back()
        await eventually(lambda: len(calls) == 3, within=15, every=0.02)
        job = await stored(aside, ref.id)
        assert (job.state, job.attempt, job.interruptions) == (JobState.RUNNING, 1, 1)
        check_slots(manager)


async def test_a_job_that_has_ended_is_not_given_back_when_its_outcome_cannot_be_stored_in_time(
    remote: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(remote, lease=LEASE)
    handler = _patient(manager, calls, 1)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: len(calls) == 1)
        remote.go_away()
        await anyio.sleep(2 * LEASE)
        remote.come_back()
        await ref.result(timeout=LEASE)
    assert [what for what, _ in calls] == ["begun", "ended"]
    assert not any("given back" in record.message for record in caplog.records)


async def test_a_beat_that_hangs_counts_from_when_it_was_sent(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, lease=LEASE)
    handler = _patient(manager, calls)
    async with manager:
        await manager.start()
        joined = anyio.current_time()
        await manager.emit(handler)
        remote.deadline = 1000.0
        remote.always["beat"] = Fault.SILENCE
        await eventually(lambda: len(calls) == 2, within=60, every=0.02)
        assert calls[1][1] - joined == pytest.approx(LEASE * 2 / 3, abs=0.05)


async def test_a_lost_beat_is_repeated_in_time_and_costs_no_job(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, lease=LEASE)
    handler = _patient(manager, calls, 100)
    remote.break_next("beat", *[Fault.BEFORE, Fault.AFTER, Fault.REFUSED] * 2)
    async with manager:
        await manager.start()
        await (await manager.emit(handler)).result(timeout=200)
    assert [reason for reason, _ in calls] == ["begun", "ended"]


async def test_others_take_over_after_the_lease_and_the_late_outcome_changes_nothing(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    frozen = manager_on(remote, lease=LEASE)
    healthy = FaultyBroker(remote.name, remote=True)
    heir = manager_on(healthy, lease=LEASE)
    ran: list[str] = []

    @frozen.handler("job")
    async def stuck(job: Job[None]) -> str:
        ran.append("frozen")
        with anyio.CancelScope(shield=True):  # as if it had not noticed
            await anyio.sleep(3 * LEASE)
        return "frozen"

    @heir.handler("job")
    async def handler(job: Job[None]) -> str:
        ran.append("heir")
        assert job.attempt == 2
        return "heir"

    async with frozen, heir:
        await frozen.start()
        ref = await heir.emit("job")
        await eventually(lambda: ran == ["frozen"])
        await heir.start()
        remote.always["beat"] = Fault.BEFORE
        assert await ref.result(timeout=4 * LEASE) == "heir"
        await eventually(lambda: feed_of(frozen).counters.stale == 1, within=3 * LEASE, every=0.02)
        assert (await stored(healthy, ref.id)).result == b'"heir"'
        check_slots(frozen)
    assert ran == ["frozen", "heir"]


async def test_joining_anew_is_tried_until_it_succeeds_at_growing_intervals(
    remote: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manager = manager_on(remote, lease=LEASE)
    handler = _patient(manager, calls, 0.1)
    async with manager:
        await manager.start()
        remote.always["register"] = Fault.BEFORE
        remote._memberships[0].vanish()
        remote.calls.clear()
        await anyio.sleep(100)
        assert 15 <= remote.calls["register"] <= 40
        remote.come_back()
        await (await manager.emit(handler)).result(timeout=8)
        check_slots(manager)
    assert sum("joined anew" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("lease", [0.5, 3.0])
async def test_a_worker_with_a_short_lease_is_heard_of_in_time_when_the_broker_is_back(
    lease: float, remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, lease=lease)
    _patient(manager, calls)
    sent = _beats(remote)
    async with manager:
        await manager.start()
        remote.always["beat"] = Fault.BEFORE
        await anyio.sleep(60)
        late = [b - a for a, b in pairwise(sent)]
        assert max(late) <= lease / 2
        assert len(sent) <= 60 * 6 / lease + 10


async def test_cancels_of_other_processes_arrive_with_the_beat(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, lease=LEASE)
    handler = _patient(manager, calls)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: bool(calls))
        asked = anyio.current_time()
        await aside.cancel("default", ref.id, number=None, reason="enough", retention_ms=60_000)
        await manager.until_idle()
        assert calls[1][0] == "user"
        assert calls[1][1] - asked <= LEASE / 3 + 0.1
        job = await stored(aside, ref.id)
        assert (job.state, job.why) == (JobState.CANCELLED, "enough")


async def test_a_stop_ends_the_lease_and_nobody_joins_again(remote: FaultyBroker) -> None:
    manager = manager_on(remote, lease=0.5)
    for queue in ("a", "b"):

        @manager.handler(f"job-{queue}", queue=queue)
        async def handler(job: Job[None]) -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    async with onlooker(remote) as aside, manager:
        await manager.start()
        await manager.emit("job-a", queue="a")
        await eventually(lambda: consumer_of(manager).feeds["a"].counters.started == 1)
        # The last outcome of one queue takes its time to arrive; the other has left by then.
        remote.calls.clear()
        remote.break_next("step", Fault.NO_ANSWER)
        remote.deadline = 0.7
        await manager.stop(grace=0)
        assert remote.calls["register"] == 0
        for queue in ("a", "b"):
            assert aside.store.queue(queue).members == {}


@pytest.mark.parametrize("answer_s", [0.01, 0.5])
async def test_a_stop_while_joining_anew_leaves_no_member_behind(
    answer_s: float, remote: FaultyBroker
) -> None:
    manager = manager_on(remote, lease=LEASE)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None: ...

    async with onlooker(remote) as aside, manager:
        await manager.start()
        remote.answer_delays["register"] = answer_s
        remote._memberships[0].vanish()
        await manager.emit(handler)
        members = aside.store.queue("default").members
        assert members == {}
        await eventually(lambda: bool(members), within=2 * LEASE, every=0.001)
        assert feed_of(manager).membership is None, "it does not know yet that it has joined"
        await manager.stop()
        assert members == {}
