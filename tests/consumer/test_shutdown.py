"""The stop protocol: bounded in every phase, and nothing is lost by it."""

from __future__ import annotations

import threading
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
    slots_of,
    stored,
)
from trio_tasks import Context, Emit, Job, JobState, StopReport, TaskManager
from trio_tasks.broker import Membership
from trio_tasks.consumer.committer import Entry

pytestmark = pytest.mark.anyio

LIMITS = 2.0 + 0.05
"""What a stop may take beyond its grace."""


def _sleeper(manager: TaskManager[Any]) -> Any:
    @manager.handler("job")
    async def handler(job: Job[float]) -> None:
        await anyio.sleep(job.data)

    return handler


@pytest.mark.parametrize("when", ["before", "while handlers run", "at the last outcome"])
async def test_a_stop_is_bounded_though_the_broker_is_away(when: str, remote: FaultyBroker) -> None:
    manager = manager_on(remote, concurrency=4)
    handler = _sleeper(manager)
    async with manager:
        await manager.start()
        await manager.emit_many([Emit(handler, 3) for _ in range(6)])
        await anyio.sleep(0.5)
        if when == "before":
            remote.go_away()
        began = anyio.current_time()
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(manager.stop, 5)
            await anyio.sleep(1)
            if when == "while handlers run":
                remote.go_away()
            await anyio.sleep(1)
            if when == "at the last outcome":
                remote.go_away()
        assert anyio.current_time() - began <= 5 + LIMITS
        assert manager.state == "connected"


@pytest.mark.parametrize("how", [Fault.SILENCE, Fault.NO_ANSWER])
async def test_a_stop_is_bounded_though_requests_hang(how: Fault, remote: FaultyBroker) -> None:
    manager = manager_on(remote, concurrency=4)
    handler = _sleeper(manager)
    remote.deadline = 1000
    async with manager:
        await manager.start()
        await manager.emit_many([Emit(handler, 60) for _ in range(4)])
        await anyio.sleep(0.5)
        remote.always = dict.fromkeys(["step", "beat", "leave", "relay"], how)
        began = anyio.current_time()
        await manager.stop(grace=1)
        assert anyio.current_time() - began <= 1 + LIMITS


async def test_jobs_that_a_take_in_flight_brings_are_given_back_before_the_queue_is_left(
    remote: FaultyBroker,
) -> None:
    manager = manager_on(remote, concurrency=4)
    handler = _sleeper(manager)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        await anyio.sleep(0.5)
        remote.delay = 0.3
        refs = await manager.emit_many([Emit(handler, 60) for _ in range(3)])
        await eventually(lambda: feed_of(manager)._takes > 0)
        report = await manager.stop(grace=0)
        assert report == StopReport(released=3)
        for ref in refs:
            job = await stored(aside, ref.id)
            assert (job.state, job.attempt, job.interruptions) == (JobState.QUEUED, 0, 0)
        store = aside.store.queue("default")
        assert store.members == {}
        assert set(store.pending) == {"~released"}


async def test_no_job_starts_after_a_stop_began(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=2)
    started: list[int] = []
    stopping = anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        assert not stopping.is_set()
        started.append(job.data)
        await anyio.sleep(0.1)

    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit_many([Emit(handler, n) for n in range(20)])
        await anyio.sleep(0.25)
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(manager.stop, 5)
            await eventually(lambda: manager.state == "stopping")
            stopping.set()
        counts = await aside.counts("default")
        assert (counts.completed, counts.queued) == (len(started), 20 - len(started))
        assert counts.running == 0
        assert (await manager.stop()).completed == len(started)


async def test_jobs_that_were_taken_ahead_are_given_back_when_a_stop_begins(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=1)
    fast, ahead = 400, 50
    started: list[int] = []
    last_began, may_end = anyio.Event(), anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        started.append(job.data)
        if job.data == fast:
            last_began.set()
            await may_end.wait()

    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit_many([Emit(handler, n) for n in range(fast + ahead)])
        await last_began.wait()
        lay_ready = len(slots_of(manager).ready)
        assert lay_ready > 0
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(manager.stop, 5)
            await eventually(lambda: manager.state == "stopping")
            await anyio.wait_all_tasks_blocked()
            counts = await aside.counts("default")
            assert (counts.running, counts.queued) == (1, ahead - 1), "at once, not after the grace"
            may_end.set()
        assert started == list(range(fast + 1))
        assert (await manager.stop()).released == lay_ready


async def test_an_async_handler_that_shields_itself_keeps_its_lease_and_completes(
    remote: FaultyBroker,
) -> None:
    manager = manager_on(remote, concurrency=2, lease=1)

    @manager.handler("job")
    async def handler(job: Job[float]) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(job.data)
        return "completed"

    healthy = FaultyBroker(remote.name, remote=True)
    other = manager_on(healthy, lease=1)

    @other.handler("job")
    async def thief(job: Job[float]) -> str:
        return "stolen"

    async with manager, other:
        await manager.start()
        ref = await manager.emit(handler, 8)
        await anyio.sleep(0.5)
        await other.start()
        began = anyio.current_time()
        report = await manager.stop(grace=0)
        assert anyio.current_time() - began == pytest.approx(7.5, abs=0.1)
        assert report.completed == 1
        assert (await stored(healthy, ref.id)).result == b'"completed"'


@pytest.mark.real_time
@pytest.mark.both_loops
async def test_a_stop_leaves_a_thread_behind_after_its_limit_and_gives_back_the_rest(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=3)
    release, stuck = threading.Event(), threading.Event()

    @manager.handler("thread")
    def blocking(job: Job[None], ctx: Context[Any]) -> None:
        stuck.set()
        release.wait(10)
        with pytest.raises(RuntimeError, match="returned"):
            ctx.emit("thread")
        with pytest.raises(RuntimeError, match="returned"):
            job.logger("too late")
        done.set()

    done = threading.Event()
    sleep = _sleeper(manager)
    try:
        async with onlooker(broker) as aside, manager:
            await manager.start()
            thread = await manager.emit(blocking)
            rest = await manager.emit_many([Emit(sleep, 8) for _ in range(2)])
            await eventually(lambda: stuck.is_set() and len(feed_of(manager).held) == 3)
            began = anyio.current_time()
            report = await manager.stop(grace=0)
            assert anyio.current_time() - began <= LIMITS + 0.5
            assert report == StopReport(interrupted=2, released=2, abandoned=1)
            assert (await stored(aside, thread.id)).state is JobState.RUNNING
            for ref in rest:
                assert (await stored(aside, ref.id)).state is JobState.QUEUED
            check_slots(manager)
    finally:
        release.set()
    assert await anyio.to_thread.run_sync(done.wait, 5)


@pytest.mark.real_time
async def test_a_thread_that_ends_within_the_limit_is_waited_for(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    begun = threading.Event()

    @manager.handler("thread")
    def blocking(job: Job[None], ctx: Context[Any]) -> str:
        begun.set()
        while ctx.cancel_reason is None:
            threading.Event().wait(0.005)
        return str(ctx.cancel_reason)

    async with manager:
        await manager.start()
        ref = await manager.emit(blocking)
        await eventually(begun.is_set)
        report = await manager.stop(grace=0)
        assert report == StopReport(completed=1)
        assert (await stored(broker, ref.id)).result == b'"shutdown"'


async def test_a_second_request_without_grace_cuts_the_first_short(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    handler = _sleeper(manager)
    reports: list[StopReport] = []

    async def stop(grace: float) -> None:
        reports.append(await manager.stop(grace))

    async with manager:
        await manager.start()
        await manager.emit(handler, 600)
        await anyio.sleep(0.1)
        began = anyio.current_time()
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(stop, 500)
            await anyio.sleep(1)
            nursery.start_soon(stop, 400)  # changes nothing
            await anyio.sleep(1)
            assert manager.state == "stopping"
            nursery.start_soon(stop, 0)
        assert anyio.current_time() - began <= 2 + LIMITS
    assert reports == [StopReport(interrupted=1, released=1)] * 3


async def test_a_stop_that_is_cancelled_goes_on_by_itself(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    handler = _sleeper(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 2)
        await anyio.sleep(0.1)
        with anyio.move_on_after(0.5) as scope:
            await manager.stop(grace=30)
        assert scope.cancelled_caught
        assert manager.state == "stopping"
        assert (await manager.stop()).completed == 1
        assert (await stored(broker, ref.id)).state is JobState.COMPLETED
        assert manager.state == "connected"


async def test_children_for_other_queues_are_carried_there_before_a_stop_has_ended(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)

    @manager.handler("parent")
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        await anyio.sleep(1)
        for n in range(3):
            ctx.emit("child", n, queue="elsewhere")

    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit(parent)
        await anyio.sleep(0.5)
        broker.break_next("relay", Fault.BEFORE)
        await manager.stop(grace=5)
        counts = await aside.counts("elsewhere")
        assert counts.queued == 3


async def test_a_cancelled_job_that_lies_ready_at_a_stop_is_cancelled_not_given_back(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=2)
    handler = _sleeper(manager)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        feed = feed_of(manager)
        applied = anyio.Event()
        step = feed._step

        async def and_stop(membership: Membership, entries: list[Entry], want: int) -> None:
            # In the tick in which the job was handed out, before a slot has begun it.
            await step(membership, entries, want)
            if feed.held and not applied.is_set():
                applied.set()
                for held in feed.held:
                    feed.cancel(held.delivery.token.job_id, "not needed")
                consumer_of(manager).request_stop(0)

        feed._step = and_stop
        ref = await manager.emit(handler, 60)
        await applied.wait()
        await engine_stopped(manager)
        assert (await stored(aside, ref.id)).state in (JobState.CANCELLED, JobState.QUEUED)


async def engine_stopped(manager: TaskManager[Any]) -> None:
    await consumer_of(manager).closed.wait()


@pytest.mark.both_loops
async def test_after_a_clean_stop_nothing_is_held_owed_or_pending(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=4)
    handler = _sleeper(manager)
    async with onlooker(broker) as aside, manager:
        await manager.start()
        await manager.emit_many([Emit(handler, 0.01 * (n % 5)) for n in range(40)])
        await anyio.sleep(0.03)
        await manager.stop(grace=5)
        assert consumer_of(manager).idle()
        check_slots(manager)
        store = aside.store.queue("default")
        assert store.members == {}
        assert set(store.pending) <= {"~released"}
        counts = await aside.counts("default")
        assert counts.completed + counts.queued == 40


async def test_a_worker_can_start_again_after_a_stop_that_failed(remote: FaultyBroker) -> None:
    manager = manager_on(remote, lease=5)
    handler = _sleeper(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 1)
        await anyio.sleep(0.5)
        remote.go_away()
        await manager.stop(grace=2)
        remote.come_back()
        await manager.start()
        await ref.result(timeout=20)
        assert (await stored(remote, ref.id)).attempt in (1, 2)


async def test_a_worker_that_stops_leaves_wake_hints_to_those_who_go_on() -> None:
    stopping: TaskManager[Any] = TaskManager("memory://hints", concurrency=2)
    other: TaskManager[Any] = TaskManager("memory://hints")
    handler = _sleeper(stopping)
    done = anyio.Event()

    @other.handler("job")
    async def takes_it(job: Job[float]) -> None:
        done.set()

    async with stopping:
        await stopping.start()
        await stopping.emit(handler, 20)
        await anyio.sleep(1)
        async with other, anyio.create_task_group() as nursery:
            await other.start()
            nursery.start_soon(stopping.stop, 25)
            await anyio.sleep(1)
            await other.emit("job", 0)
            with anyio.fail_after(1):
                await done.wait()
