"""Cancel, pause, debounce, schedules, ids, looking: through the public face."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tests.manager.conftest import Managers
from tests.manager.waiting import eventually
from trio_tasks import (
    ConfigurationError,
    Context,
    DebouncePolicy,
    Discard,
    Emit,
    Job,
    JobFailedError,
    JobNotFoundError,
    JobState,
    Repeat,
    RetryLater,
    TaskManager,
)

pytestmark = pytest.mark.anyio


# -- cancel --------------------------------------------------------------------------------------


async def test_a_cancelled_job_that_had_not_started_never_starts(
    manager: TaskManager[Any], calls: list[str]
) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        calls.append(job.id)

    async with manager:
        queued = await manager.emit(handler)
        delayed = await manager.emit(handler, delay=0.02)
        assert await queued.cancel("not needed") is True
        assert await delayed.cancel() is True
        assert await queued.cancel() is False
        await manager.start()
        await anyio.sleep(0.05)
        await manager.until_idle()
        with pytest.raises(JobFailedError) as caught:
            await queued.result(timeout=5)
    assert calls == []
    assert (caught.value.state, caught.value.reason) == (JobState.CANCELLED, "not needed")


@pytest.mark.both_loops
async def test_a_running_job_is_cancelled_at_once_in_the_same_process(
    manager: TaskManager[Any], calls: list[str]
) -> None:
    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> None:
        calls.append("begun")
        try:
            await anyio.sleep(60)
        finally:
            calls.append(str(ctx.cancel_reason))

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: bool(calls))
        began = anyio.current_time()
        assert await ref.cancel("changed my mind", wait=True) is True
        assert anyio.current_time() - began < 1
        info = await ref.info()
    assert calls == ["begun", "user"]
    assert (info.state, info.reason) == (JobState.CANCELLED, "changed my mind")


async def test_a_running_job_of_another_process_is_cancelled_within_a_heartbeat(
    managers: Managers, calls: list[str]
) -> None:
    worker, other = managers(lease=0.6), managers()

    @worker.handler("job")
    async def handler(job: Job[None]) -> None:
        calls.append("begun")
        await anyio.sleep(60)

    async with worker, other:
        await worker.start()
        ref = await other.emit("job")
        await eventually(lambda: bool(calls))
        assert await ref.cancel() is False
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert caught.value.state is JobState.CANCELLED


# -- ids -----------------------------------------------------------------------------------------


async def test_emitting_the_id_of_an_unfinished_job_returns_that_job(
    manager: TaskManager[Any], calls: list[int]
) -> None:
    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        first = await manager.emit(handler, 1, id="only-one")
        second = await manager.emit(handler, 2, id="only-one")
        assert (first.created, second.created) == (True, False)
        await manager.start()
        await second.result(timeout=5)
        third = await manager.emit(handler, 3, id="only-one")
        assert third.created is True
        await third.result(timeout=5)
    assert calls == [1, 3]


async def test_a_ref_can_be_made_from_an_id(manager: TaskManager[Any]) -> None:
    @manager.handler("job", queue="q")
    async def handler(job: Job[int]) -> set[int]:
        return {job.data}

    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 1)
        assert await manager.ref(handler, ref.id).result(timeout=5) == {1}
        assert await manager.queue("q").ref(ref.id).result(timeout=5) == [1]
        with pytest.raises(JobNotFoundError, match="nope"):
            await manager.queue("q").ref("nope").info()
        with pytest.raises(JobNotFoundError):
            await manager.queue("q").ref("nope").result(timeout=1)


async def test_without_retention_an_ended_job_is_not_found(manager: TaskManager[Any]) -> None:
    @manager.handler("job", retention=0)
    async def handler(job: Job[None]) -> int:
        return 1

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await manager.until_idle()
        with pytest.raises(JobNotFoundError):
            await ref.info()


# -- queues ----------------------------------------------------------------------------------------


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(
    manager: TaskManager[Any], calls: list[int]
) -> None:
    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        await manager.start()
        queue = manager.queue("default")
        await queue.pause()
        ref = await manager.emit(handler, 1)
        await anyio.sleep(0.05)
        assert calls == []
        assert await queue.is_paused()
        await queue.resume()
        resumed = anyio.current_time()
        await ref.result(timeout=5)
        assert anyio.current_time() - resumed < 0.5  # woken, not polled
    assert calls == [1]


async def test_queues_are_counted_and_listed(manager: TaskManager[Any]) -> None:
    @manager.handler("job", attempts=1)
    async def handler(job: Job[bool]) -> None:
        if job.data:
            raise ValueError

    async with manager:
        await manager.emit_many([Emit(handler, False), Emit(handler, True)])
        await manager.start()
        await manager.until_idle()
        await manager.stop()
        await manager.emit_many([Emit(handler, False), Emit(handler, False, delay=60)])
        await manager.emit("other", queue="elsewhere")
        stats = await manager.queue("default").stats()
        names = await manager.queues()
        [queued] = await manager.queue("default").jobs(state=JobState.QUEUED)
        [delayed] = await manager.queue("default").jobs(state="delayed")
    assert (stats.queued, stats.delayed, stats.dead, stats.completed) == (1, 1, 1, 1)
    assert names == ["default", "elsewhere"]
    assert queued.state is JobState.QUEUED
    assert delayed.reason == "delay"


# -- debounce --------------------------------------------------------------------------------------


async def test_leading_debounce_runs_the_first_and_skips_the_rest(
    managers: Managers, calls: list[int]
) -> None:
    one, two = managers(), managers()

    async def handler(job: Job[int]) -> int:
        calls.append(job.data)
        return job.data

    for manager in (one, two):
        manager.register_handler(
            handler, event="job", debounce=DebouncePolicy(60, key=lambda job: "same")
        )
    async with one, two:
        await one.start()
        await two.start()
        first = await one.emit(handler, 1)
        await first.result(timeout=5)
        second = await two.emit(handler, 2)
        with pytest.raises(JobFailedError) as caught:
            await second.result(timeout=5)
    assert calls == [1]
    assert caught.value.state is JobState.SKIPPED
    assert caught.value.stood_in_by == first.id


async def test_leading_debounce_reopens_when_the_holder_dies(
    manager: TaskManager[Any], calls: list[int]
) -> None:
    @manager.handler("job", debounce=60, attempts=1)
    async def handler(job: Job[int]) -> str:
        calls.append(job.data)
        if len(calls) == 1:
            raise ValueError
        return "ran"

    async with manager:
        await manager.start()
        with pytest.raises(JobFailedError):
            await (await manager.emit(handler, 1)).result(timeout=5)
        assert await (await manager.emit(handler, 1)).result(timeout=5) == "ran"


async def test_trailing_debounce_runs_the_last_one_after_the_window(
    manager: TaskManager[Any], calls: list[int]
) -> None:
    policy = DebouncePolicy(0.1, key="same", edge="trailing")

    @manager.handler("job", debounce=policy)
    async def handler(job: Job[int]) -> int:
        calls.append(job.data)
        return job.data

    async with manager:
        await manager.start()
        refs = [await manager.emit(handler, n) for n in range(3)]
        began = anyio.current_time()
        assert await refs[-1].result(timeout=5) == 2
        assert anyio.current_time() - began >= 0.09
        with pytest.raises(JobFailedError) as caught:
            await refs[0].result(timeout=5)
    assert calls == [2]
    assert caught.value.stood_in_by is not None


async def test_debounce_for_all_jobs_comes_from_the_processor(
    managers: Managers, calls: list[int]
) -> None:
    manager = managers(processor={"debounce": 60})

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        await manager.start()
        for data in (1, 1, 2):
            await manager.emit(handler, data)
            await manager.until_idle()
    assert calls == [1, 2]


# -- schedules -------------------------------------------------------------------------------------


async def test_two_managers_with_one_cron_handler_make_one_job_per_occurrence(
    managers: Managers, calls: list[datetime | None]
) -> None:
    one, two = managers(), managers()

    async def tick(job: Job[None]) -> None:
        calls.append(job.scheduled_for)

    for manager in (one, two):
        manager.register_handler(tick, event="tick", repeat=Repeat(every=0.1))
    async with one, two:
        await one.start()
        await two.start()
        await eventually(lambda: len(calls) >= 5)
    assert len(calls) == len(set(calls))
    instants = [at for at in calls if at is not None]
    assert len(instants) == len(calls)
    assert all(b - a >= timedelta(seconds=0.1) for a, b in pairwise(instants))


async def test_emit_with_repeat_stores_a_schedule(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("report")
    async def report(job: Job[str]) -> None:
        calls.append((job.data, job.scheduled_for))

    async with manager:
        await manager.start()
        ref = await manager.emit(report, "weekly", repeat=Repeat(every=0.1), id="my-report")
        assert ref.created is None
        await ref.result(timeout=5)
        [schedule] = await manager.schedules().list()
        assert (schedule.name, schedule.event, schedule.every) == ("my-report", "report", 0.1)
        assert await manager.schedules().remove("my-report") is True
        assert await manager.schedules().list() == []
        await manager.until_idle()
        seen = len(calls)
        await anyio.sleep(0.25)
    assert len(calls) == seen
    assert calls[0][0] == "weekly"


@pytest.mark.virtual_time
async def test_a_daily_job_runs_every_midnight_of_its_zone(
    managers: Managers, calls: list[Any]
) -> None:
    manager = managers()

    @manager.handler("daily", repeat=Repeat("0 0 * * *", timezone="Europe/Berlin"))
    async def daily(job: Job[None]) -> None:
        calls.append(job.scheduled_for)

    async with manager:
        await manager.start()
        await anyio.sleep(366 * 86_400)
    assert len(calls) in (365, 366, 367)
    assert len(set(calls)) == len(calls)
    assert {at.astimezone(UTC).hour for at in calls} == {22, 23}


@pytest.mark.virtual_time
async def test_a_schedule_whose_handler_is_gone_expires(managers: Managers) -> None:
    old, new = managers(), managers()

    @old.handler("daily", repeat="0 0 * * *")
    async def daily(job: Job[None]) -> None: ...

    @new.handler("other")
    async def other(job: Job[None]) -> None: ...

    async with new:
        async with old:
            await old.start()
        await new.start()
        assert [s.name for s in await new.schedules().list()] == ["daily"]
        await anyio.sleep(8 * 86_400)
        assert await new.schedules().list() == []


# -- unknown events --------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize(("ignore", "state"), [(False, JobState.DEAD), (True, JobState.SKIPPED)])
async def test_an_unknown_event_is_put_back_for_the_grace_then_ended(
    managers: Managers, ignore: bool, state: JobState
) -> None:
    manager = managers(processor={"ignore_config_errors": ignore}, retention=3600)

    @manager.handler("known")
    async def known(job: Job[None]) -> None: ...

    async with manager:
        await manager.start()
        ref = await manager.emit("unknown")
        await anyio.sleep(30)
        parked = await ref.info()
        await anyio.sleep(60)
        ended = await ref.info()
    assert (parked.state, parked.reason) == (JobState.DELAYED, "parked")
    assert (ended.state, ended.reason, ended.attempt) == (state, "no_handler", 0)


@pytest.mark.virtual_time
async def test_a_job_that_another_worker_handles_finds_it(
    managers: Managers, calls: list[str]
) -> None:
    old, new = managers(), managers()

    @old.handler("known")
    async def known(job: Job[None]) -> None: ...

    @new.handler("new-event")
    async def handler(job: Job[None]) -> None:
        calls.append(job.id)

    async with old, new:
        await old.start()
        ref = await old.emit("new-event")
        await anyio.sleep(30)
        await new.start()
        await ref.result(timeout=600)
    assert calls == [ref.id]


# -- events, statistics, the process-wide manager ------------------------------------------------


async def test_events_and_statistics_tell_what_happened(manager: TaskManager[Any]) -> None:
    @manager.handler("job", attempts=2)
    async def handler(job: Job[None]) -> None:
        raise ValueError

    kinds: list[tuple[str, JobState]] = []
    async with manager:
        events = manager.events()
        await manager.start()
        ref = await manager.emit(handler)
        with pytest.raises(JobFailedError):
            await ref.result(timeout=5)
        await manager.until_idle()
        numbers = manager.statistics().queues["default"]
    async for event in events:
        assert (event.id, event.name, event.queue) == (ref.id, "job", "default")
        kinds.append((event.kind, event.state))
    assert kinds == [
        ("started", JobState.RUNNING),
        ("failed", JobState.RUNNING),
        ("retried", JobState.DELAYED),
        ("started", JobState.RUNNING),
        ("failed", JobState.RUNNING),
        ("dead", JobState.DEAD),
    ]
    assert (numbers.started, numbers.failed, numbers.retried, numbers.dead) == (2, 2, 1, 1)


async def test_what_a_handler_asks_for_is_no_failure_in_statistics_and_events(
    manager: TaskManager[Any],
) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        if job.attempt == 1:
            raise RetryLater(0)
        raise Discard

    async with manager:
        events = manager.events()
        await manager.start()
        ref = await manager.emit(handler)
        with pytest.raises(JobFailedError, match="skipped"):
            await ref.result(timeout=5)
        await manager.until_idle()
        numbers = manager.statistics().queues["default"]
    kinds = [event.kind async for event in events]
    assert kinds == ["started", "retried", "started", "skipped"]
    assert (numbers.started, numbers.failed, numbers.retried, numbers.dead) == (2, 0, 1, 0)


async def test_the_process_wide_manager_lives_until_its_block_is_left(kind: str) -> None:
    with pytest.raises(RuntimeError, match="init"):
        TaskManager.instance()
    made = TaskManager.init("memory://", concurrency=2)
    assert TaskManager.init() is made
    assert TaskManager.instance() is made
    with pytest.raises(ConfigurationError, match="concurrency"):
        TaskManager.init(concurrency=3)
    async with made:
        assert TaskManager.instance() is made
    with pytest.raises(RuntimeError, match="init"):
        TaskManager.instance()


async def test_of_jobs_that_start_together_one_per_key_runs(
    managers: Managers, calls: list[int]
) -> None:
    manager = managers(concurrency=20)

    @manager.handler("job", debounce=60)
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        await manager.emit_many([Emit(handler, n % 10) for n in range(40)])
        await manager.start()
        await manager.until_idle()
        stats = await manager.queue("default").stats()
    assert sorted(calls) == list(range(10))
    assert (stats.completed, stats.skipped) == (10, 30)


async def test_a_job_whose_debounce_key_raises_is_dead_at_once(manager: TaskManager[Any]) -> None:
    policy = DebouncePolicy(60, key=lambda job: job.data["missing"])

    @manager.handler("job", attempts=2, debounce=policy)
    async def handler(job: Job[Any]) -> None: ...

    async with manager:
        await manager.start()
        ref = await manager.emit("job", {"a": 1})
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert (caught.value.reason, caught.value.attempts) == ("invalid_call", 1)
    assert caught.value.error is not None
    assert "the debounce key function of 'job' raised KeyError" in caught.value.error.message
    assert "KeyError: 'missing'" in caught.value.error.traceback
