"""The TypeScript engine's own introduction, ported to Python section by section.

Whoever comes from there finds each line of its text, and each option that it lists, at work here.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import pytest
import redis

from tests.manager.waiting import eventually
from tests.servers import ServerProcess, timed
from trio_tasks import (
    ConfigurationError,
    Context,
    Job,
    JobFailedError,
    JobState,
    Repeat,
    TaskManager,
)
from trio_tasks.environment import wall_clock_ms

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"]),
]

timely = timed(20)


def now() -> datetime:
    return datetime.fromtimestamp(wall_clock_ms() / 1000, UTC)


@pytest.fixture
def db(server: ServerProcess) -> Generator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:  # pyright: ignore[reportUnknownMemberType]
        yield client


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@dataclass
class AppContext:
    """What the original calls `{db: myDatabase, cache: myCache, config: myConfig}`."""

    db: dict[str, str] = field(default_factory=lambda: {"123": "Ada"})
    cache: dict[str, str] = field(default_factory=dict[str, str])
    config: dict[str, str] = field(default_factory=dict[str, str])


@timely
async def test_basic_setup(
    db: redis.Redis, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    context: dict[str, Any] = {}  # your app context
    task_manager = TaskManager.init(
        db=db,
        ctx=context,
        concurrency=4,
        processor={
            "retry": {"max_retries": 3, "delay": 1.0},
            "debounce": 300,  # optional: 5 minutes
        },
        namespace=namespace,
    )
    children: list[Any] = []

    async def my_event(job: Job[Any], ctx: Context[Any]) -> None:
        print("Processing:", job.name, job.data)
        await job.logger("Job started")
        # Emit child jobs if needed
        ctx.emit("child-job", {"parentId": job.data["id"]})
        await job.logger("Job completed")

    async def child_job(job: Job[Any]) -> None:
        children.append(job.data)

    task_manager.register_handler(handler=my_event, event="my-event", queue="default")
    task_manager.register_handler(handler=child_job, event="child-job", queue="default")

    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("my-event", {"id": 7})
        await ref.result(timeout=10)
        info = await ref.info()
        await task_manager.until_idle()
        again = await task_manager.emit("my-event", {"id": 7})
        with pytest.raises(JobFailedError) as caught:
            await again.result(timeout=10)
        assert (caught.value.state, caught.value.stood_in_by) == (JobState.SKIPPED, ref.id)
        await task_manager.stop()

    assert capsys.readouterr().out == "Processing: my-event {'id': 7}\n"
    assert [line.message for line in info.logs] == ["Job started", "Job completed"]
    assert children == [{"parentId": 7}]


@timely
async def test_with_cron_repeatable_jobs(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(db, namespace=namespace)
    ran: list[datetime | None] = []

    async def report(job: Job[None]) -> None:
        ran.append(job.scheduled_for)

    task_manager.register_handler(
        handler=report,
        event="daily-report",
        queue="scheduler",
        repeat={"pattern": "0 0 * * *"},  # every day at midnight
    )
    task_manager.register_handler(
        handler=report, event="each-second", queue="scheduler", repeat="* * * * * *", attempts=2
    )
    async with task_manager:
        await task_manager.start()
        await eventually(lambda: len(ran) >= 2)
        schedules = {schedule.name: schedule for schedule in await task_manager.schedules().list()}
    assert all(at is not None and at.microsecond == 0 for at in ran)
    assert schedules["daily-report"].next == Repeat(pattern="0 0 * * *").next(now())[0]


@timely
async def test_emit_jobs(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(db, namespace=namespace)
    users: list[Any] = []
    mails: list[tuple[Any, int, int]] = []

    @task_manager.handler("process-user")
    async def _(job: Job[Any]) -> None:
        users.append(job.data)

    @task_manager.handler("send-email", queue="emails")
    async def _(job: Job[Any]) -> None:
        mails.append((job.data, job.attempt, job.attempts))

    async with task_manager:
        await task_manager.start()
        # A simple job
        await task_manager.emit(event="process-user", data={"userId": "123"})
        # With options
        mail = await task_manager.emit(
            event="send-email",
            queue="emails",
            data={"to": "user@example.com"},
            retry_count=3,
            delay_until=now() + timedelta(seconds=60),  # delay 1 minute
        )
        soon = await task_manager.emit(
            "send-email",
            {"to": "soon@example.com"},
            queue="emails",
            retry_count=3,
            delay_until=now() + timedelta(milliseconds=50),
        )
        await soon.result(timeout=10)
        await task_manager.until_idle()
        info = await mail.info()
    assert users == [{"userId": "123"}]
    assert mails == [({"to": "soon@example.com"}, 1, 4)]
    assert (info.state, info.attempts) == (JobState.DELAYED, 4)


@timely
async def test_using_context(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(db=db, ctx=AppContext(), concurrency=4, namespace=namespace)
    notified: list[Any] = []

    @task_manager.handler(event="process-user")
    async def _(job: Job[Any], ctx: Context[AppContext]) -> None:
        # Access your context
        user = ctx.app.db[job.data["userId"]]
        ctx.app.cache[f"user:{user}"] = user
        # Emit new jobs
        ctx.emit("notify-user", {"userId": user})

    @task_manager.handler(event="notify-user")
    async def _(job: Job[Any], ctx: Context[AppContext]) -> None:
        notified.append((job.data, dict(ctx.app.cache)))

    async with task_manager:
        await task_manager.start()
        # getContext(): emit outside of handlers
        context = task_manager.get_context()
        assert context.app.config == {}
        context.emit("process-user", {"userId": "123"})
        await eventually(lambda: bool(notified))
    assert notified == [({"userId": "Ada"}, {"user:Ada": "Ada"})]


@timely
async def test_id_a_job_that_waits_is_not_emitted_twice(db: redis.Redis, namespace: str) -> None:
    async with TaskManager(db, namespace=namespace) as task_manager:
        first = await task_manager.emit("event", {"n": 1}, id="mine")
        second = await task_manager.emit("event", {"n": 2}, id="mine")
        info = await second.info()
    assert (first.id, first.created, second.created) == ("mine", True, False)
    assert info.data == {"n": 1}


@timely
async def test_priority_higher_values_are_processed_first(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(db, namespace=namespace)
    order: list[int] = []

    @task_manager.handler("event")
    async def _(job: Job[int]) -> None:
        order.append(job.data)

    async with task_manager:
        for priority in (0, 5, 9):
            await task_manager.emit("event", priority, priority=priority)
        await task_manager.start()
        await task_manager.until_idle()
    assert order == [9, 5, 0]


@timely
@pytest.mark.parametrize(
    ("at_emit", "at_handler"),
    [({"attempts": 2}, {}), ({"retry_count": 1}, {}), ({}, {"attempts": 2})],
)
async def test_attempts_and_retry_count_say_how_often_a_job_runs(
    db: redis.Redis, namespace: str, at_emit: dict[str, Any], at_handler: dict[str, Any]
) -> None:
    task_manager = TaskManager(db, processor={"retry": {"delay": 0.01}}, namespace=namespace)
    runs: list[int] = []

    async def fails(job: Job[Any]) -> None:
        runs.append(job.attempt)
        raise ValueError("no")

    task_manager.register_handler(fails, event="fails", **at_handler)
    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("fails", **at_emit)
        with pytest.raises(JobFailedError):
            await ref.result(timeout=10)
        dead = await task_manager.queue("default").dead_letters()
    assert runs == [1, 2]
    assert [job.id for job in dead] == [ref.id]


@timely
async def test_repeat_at_emit_stores_a_schedule(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(db, namespace=namespace)
    ran: list[Any] = []

    @task_manager.handler("tick")
    async def _(job: Job[Any]) -> None:
        ran.append(job.data)

    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("tick", {"a": 1}, repeat={"pattern": "* * * * * *"})
        await ref.result(timeout=10)
        await eventually(lambda: len(ran) >= 2)
    assert ran[:2] == [{"a": 1}, {"a": 1}]


@timely
async def test_streamdb_is_another_way_to_the_same_data(
    db: redis.Redis, server: ServerProcess, namespace: str
) -> None:
    other = redis.Redis.from_url(server.url)  # pyright: ignore[reportUnknownMemberType]
    task_manager = TaskManager(db, streamdb=other, namespace=namespace)

    @task_manager.handler("event")
    async def _() -> str:
        return "done"

    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("event")
        assert await ref.result(timeout=10) == "done"

    # The original keeps its streams in another database; here each outcome is one atomic step.
    elsewhere = f"{server.url.split('?')[0]}?db=1"
    with pytest.raises(ConfigurationError, match="streamdb"):
        async with TaskManager(db, streamdb=elsewhere, namespace=namespace):
            pytest.fail("it was entered")


@timely
async def test_dlq_failed_jobs_are_appended_to_a_stream(db: redis.Redis, namespace: str) -> None:
    task_manager = TaskManager(
        db,
        processor={"retry": {"max_retries": 0}, "dlq": {"stream": f"{namespace}-dlq"}},
        namespace=namespace,
    )

    @task_manager.handler("fails")
    async def _() -> None:
        raise ValueError("no")

    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("fails")
        with pytest.raises(JobFailedError):
            await ref.result(timeout=10)
        await eventually(lambda: bool(db.xlen(f"{namespace}-dlq")))
        dead_letters = cast("list[tuple[bytes, dict[bytes, bytes]]]", db.xrange(f"{namespace}-dlq"))
    assert [entry[b"id"] for _, entry in dead_letters] == [ref.id.encode()]


@timely
@pytest.mark.parametrize("ignore", [False, True])
async def test_ignore_config_errors_says_what_becomes_of_a_job_without_a_handler(
    db: redis.Redis, namespace: str, ignore: bool
) -> None:
    task_manager = TaskManager(
        db,
        processor={"ignore_config_errors": ignore},
        unknown_event_grace=0.01,
        namespace=namespace,
    )
    task_manager.register_handler(lambda: None, event="known")
    async with task_manager:
        await task_manager.start()
        ref = await task_manager.emit("unknown")
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=15)
    state = JobState.SKIPPED if ignore else JobState.DEAD
    assert (caught.value.state, caught.value.reason) == (
        state,
        "no_handler",
    )


@timely
async def test_stop_waits_for_active_tasks_to_complete(
    db: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    task_manager = TaskManager(db, namespace=namespace)
    begun, go_on = anyio.Event(), anyio.Event()

    @task_manager.handler("slow")
    async def _() -> str:
        begun.set()
        await go_on.wait()
        return "to the end"

    async with task_manager, anyio.create_task_group() as tasks:
        await task_manager.start()
        ref = await task_manager.emit("slow")
        await begun.wait()
        tasks.start_soon(task_manager.stop)
        await eventually(lambda: task_manager.state == "stopping")
        go_on.set()
        assert await ref.result(timeout=10) == "to the end"
