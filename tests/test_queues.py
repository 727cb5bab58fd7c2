"""Queues and schedules from outside."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import anyio
import pytest
from trio.testing import MockClock

from tests.access import Access, Worker, opened
from trio_tasks.broker import RECORD_VERSION, NewJob, Record
from trio_tasks.emitter import Emitter
from trio_tasks.environment import Ids
from trio_tasks.errors import ConfigurationError, JobNotFoundError
from trio_tasks.handlers import Handlers, Registry
from trio_tasks.job import JobState
from trio_tasks.plans import SchedulePlan, declare
from trio_tasks.processor.decisions import Die, Skip
from trio_tasks.queues import Queue, QueueStatistics, QueueStats, Schedules, Statistics

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def emit(access: Access, *ids: str, queue: str = "default", **fields: Any) -> None:
    record = Record(RECORD_VERSION, "some-event", b"null")
    await access.broker.emit([NewJob(id=i, queue=queue, record=record, **fields) for i in ids])


async def die(access: Access, *ids: str) -> None:
    """Emit jobs that end in the DLQ, one second after another."""
    worker = await Worker.join(access)
    for job_id in ids:
        await emit(access, job_id)
        await worker.end(await worker.take(), Die("exhausted"))
        await anyio.sleep(1)


# --- Queues ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "{x}", 5])
def test_a_queue_that_cannot_be_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="queue="):
        Queue(name, Access(cast(Any, None)))


async def test_a_queue_that_nobody_used_is_empty() -> None:
    async with opened() as access:
        assert await Queue("new", access).stats() == QueueStats(
            queued=0,
            delayed=0,
            waiting=0,
            running=0,
            dead=0,
            paused=False,
            completed=0,
            skipped=0,
            cancelled=0,
        )
        assert await Queue("new", access).jobs("queued") == []


async def test_stats_count_states_now_and_ends_in_total() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        worker = await Worker.join(access)
        await die(access, "dead@1", "dead@2")
        await emit(access, "completed@1", "skipped@1", "cancelled@1", "running@1")
        await worker.end(await worker.take())
        await worker.end(await worker.take(), Skip("not needed"))
        await queue.ref("cancelled@1").cancel()
        await worker.take()
        await emit(access, "queued@1", "queued@2")
        await emit(access, "delayed@1", "delayed@2", "delayed@3", delay_ms=60_000)
        await queue.pause()
        assert await queue.stats() == QueueStats(
            queued=2,
            delayed=3,
            waiting=0,
            running=1,
            dead=2,
            paused=True,
            completed=1,
            skipped=1,
            cancelled=1,
        )


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        worker = await Worker.join(access)
        await emit(access, "p@1")
        await queue.pause()
        assert await queue.is_paused()
        with pytest.raises(ValueError, match="not enough values"):
            await worker.take()
        await queue.resume()
        assert not await queue.is_paused()
        assert (await worker.take()).token.job_id == "p@1"


async def test_jobs_are_listed_by_state_in_pages() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        await emit(access, "q@1", "q@2", "q@3")
        await emit(access, "d@1", delay_ms=60_000)
        assert [job.id for job in await queue.jobs(state="queued")] == ["q@1", "q@2", "q@3"]
        assert [job.id for job in await queue.jobs(JobState.DELAYED)] == ["d@1"]
        assert [job.id for job in await queue.jobs("queued", limit=2)] == ["q@1", "q@2"]
        assert [job.id for job in await queue.jobs("queued", after="q@1")] == ["q@2", "q@3"]
        worker = await Worker.join(access)
        await worker.take()
        assert [job.id for job in await queue.jobs("running")] == ["q@1"]


@pytest.mark.parametrize("state", ["completed", JobState.SKIPPED, "waiting", "pending", 5])
async def test_other_states_are_refused(state: Any) -> None:
    async with opened() as access:
        with pytest.raises(ConfigurationError) as raised:
            await Queue("default", access).jobs(state)
        assert f"state={state!r}: jobs are listed by one of 'queued', 'running'" in str(
            raised.value
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"limit": 0}, "limit=0: give a whole number from 1 to 10000"),
        ({"limit": 10_001}, "limit=10001"),
        ({"after": "a b"}, "after='a b'"),
    ],
)
async def test_wrong_pages_are_refused(arguments: dict[str, Any], text: str) -> None:
    async with opened() as access:
        queue = Queue("default", access)
        with pytest.raises(ConfigurationError, match=text):
            await queue.jobs("queued", **arguments)
        with pytest.raises(ConfigurationError, match=text):
            await queue.dead_letters(**arguments)


async def test_a_job_by_id_and_its_ref() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        await emit(access, "p@1")
        assert (await queue.job("p@1")).state is JobState.QUEUED
        ref = queue.ref("p@1")
        assert (ref.id, ref.queue, ref.created) == ("p@1", "default", None)
        with pytest.raises(JobNotFoundError):
            await queue.job("nobody")
        for use in (queue.job, queue.requeue):
            with pytest.raises(ConfigurationError, match="id='a b'"):
                await use("a b")


async def test_the_dlq_is_listed_in_pages_the_oldest_first() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        await die(access, "p@1", "p@2", "p@3")
        assert [job.id for job in await queue.dead_letters()] == ["p@1", "p@2", "p@3"]
        assert [job.id for job in await queue.dead_letters(limit=1)] == ["p@1"]
        (last,) = await queue.dead_letters(after="p@2")
        assert (last.id, last.reason) == ("p@3", "exhausted")


async def test_requeue_moves_a_dead_job_once() -> None:
    async with opened() as access:
        queue = Queue("default", access)
        await die(access, "p@1")
        assert await queue.requeue("p@1")
        assert not await queue.requeue("p@1")
        job = await queue.job("p@1")
        assert (job.state, job.attempt, job.generation) == (JobState.QUEUED, 0, 1)
        with pytest.raises(JobNotFoundError):
            await queue.requeue("nobody")


async def test_a_queue_without_an_entered_manager_raises_at_once() -> None:
    async with opened() as access:
        access.is_open = False
        queue = Queue("default", access)
        for use in (queue.pause, queue.resume, queue.is_paused, queue.stats, queue.dead_letters):
            with pytest.raises(RuntimeError, match="async with tasks"):
                await use()


def test_a_queues_repr() -> None:
    assert repr(Queue("q", Access(cast(Any, None)))) == "<Queue 'q'>"


# --- Schedules ------------------------------------------------------------------------------------


async def declared(access: Access, event: str, **options: Any) -> None:
    emitter = Emitter(Registry(Handlers[Any]()), max_data_bytes=1000)
    plan = emitter.plan(event, options.pop("data", None), cast(Any, options))
    assert isinstance(plan, SchedulePlan)
    await declare(access.broker, plan, replace=True)


def schedules_of(access: Access, *known: str) -> Schedules:
    return Schedules(access, Ids(), lambda: known)


async def test_schedules_of_all_queues_are_listed() -> None:
    async with opened() as access:
        await declared(access, "report", repeat={"pattern": "0 9 * * *", "timezone": "Asia/Tokyo"})
        await declared(access, "ping", repeat={"every": 30}, queue="b", id="heartbeat")
        heartbeat, report = await schedules_of(access, "known-here-only").list()
        assert (report.name, report.event, report.queue) == ("report", "report", "default")
        assert (report.pattern, report.every, report.timezone) == ("0 9 * * *", None, "Asia/Tokyo")
        assert (report.next.hour, report.next.minute) == (9, 0)
        assert report.next.utcoffset() == timedelta(hours=9)
        assert (heartbeat.name, heartbeat.event, heartbeat.queue) == ("heartbeat", "ping", "b")
        assert (heartbeat.pattern, heartbeat.every) == (None, 30)


async def test_a_removed_schedule_is_gone() -> None:
    async with opened() as access:
        await declared(access, "report", repeat="@daily")
        schedules = schedules_of(access)
        assert await schedules.remove("report")
        assert not await schedules.remove("report")
        assert await schedules.list() == []


async def test_a_triggered_schedule_makes_a_job_now_and_keeps_its_next_occurrence() -> None:
    async with opened() as access:
        await declared(access, "report", data={"a": 1}, repeat="@daily", priority=3, deadline=60)
        schedules = schedules_of(access)
        before = await schedules.list()
        ref = await schedules.trigger("report")
        info = await ref.info()
        assert (info.name, info.data, info.priority) == ("report", {"a": 1}, 3)
        assert info.scheduled_for is None
        assert info.emitted_at.year > 1970
        assert ref.created is True
        assert "@" in ref.id
        (stored,) = await access.broker.read("default", [ref.id])
        assert stored is not None
        assert stored.deadline_at_ms is not None
        assert await schedules.list() == before


async def test_an_unknown_schedule_is_refused_with_a_list() -> None:
    async with opened() as access:
        schedules = schedules_of(access)
        with pytest.raises(ConfigurationError, match="no such schedule; there are: none"):
            await schedules.trigger("report")
        await declared(access, "other", repeat="@daily")
        with pytest.raises(ConfigurationError, match=r"name='report': .* there are: 'other'"):
            await schedules.trigger("report")


async def test_a_name_in_several_queues_needs_the_queue() -> None:
    async with opened() as access:
        for queue in ("a", "b"):
            await declared(access, "report", repeat="@daily", queue=queue)
        schedules = schedules_of(access)
        for use in (schedules.remove, schedules.trigger):
            with pytest.raises(
                ConfigurationError, match=r"the queues 'a', 'b' have .* give queue="
            ):
                await use("report")
        assert (await schedules.trigger("report", queue="b")).queue == "b"
        assert await schedules.remove("report", queue="a")
        assert [schedule.queue for schedule in await schedules.list()] == ["b"]


# --- Numbers --------------------------------------------------------------------------------------


def test_the_totals_of_statistics_are_sums_over_queues() -> None:
    one = QueueStatistics(
        started=1, completed=2, failed=3, retried=4, dead=5, in_flight=6, last_error="ValueError"
    )
    statistics = Statistics(connected=True, last_error=None, queues={"a": one, "b": one})
    assert statistics.started == 2
    assert statistics.completed == 4
    assert statistics.failed == 6
    assert statistics.retried == 8
    assert statistics.dead == 10
    assert statistics.in_flight == 12
