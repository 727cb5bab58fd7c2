"""`trio_tasks.testing`, and the whole engine in a user's test: in memory, on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from trio_tasks import (
    ConfigurationError,
    Context,
    Emit,
    Job,
    JobFailedError,
    JobState,
    Repeat,
    RetryLater,
    RetryPolicy,
    SerializationError,
    TaskManager,
)
from trio_tasks.testing import FakeContext, make_job


@dataclass
class Order:
    number: int


@dataclass
class Shop:
    stock: list[int] = field(default_factory=lambda: [7])


async def ship(job: Job[Order], ctx: Context[Shop]) -> str:
    return f"shipped {job.data.number}"


async def receive(job: Job[Order], ctx: Context[Shop]) -> int:
    """What users write: it logs, emits, and looks at job and context."""
    job.logger(f"order {job.data.number}")
    await job.logger({"attempt": job.attempt})
    if job.data.number not in ctx.app.stock:
        raise RetryLater(60)
    ctx.emit(ship, job.data, priority=2)
    await ctx.emit_now("audit", {"job": job.id}, queue="audits")
    return len(ctx.app.stock)


def resize(job: Job[int], ctx: Context[Shop]) -> int:
    job.logger("in a thread or not")
    ctx.emit(ship, Order(job.data))
    return job.data // 2


# --- make_job and FakeContext -------------------------------------------------------------------


async def call_receive() -> None:
    job = make_job(Order(7), attempt=3)
    ctx = FakeContext(Shop(), job=job)
    assert await receive(job, ctx) == 1
    assert job.logs == ["order 7", {"attempt": 3}]
    assert ctx.logs is job.logs
    assert ctx.emitted == [
        Emit(ship, Order(7), priority=2),
        Emit("audit", {"job": job.id}, queue="audits"),
    ]
    with pytest.raises(RetryLater):
        await receive(make_job(Order(8)), ctx)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_handler_is_called_with_a_job_and_a_context_of_ones_own(backend: str) -> None:
    anyio.run(call_receive, backend=backend)


def test_a_sync_handler_needs_no_event_loop() -> None:
    job, ctx = make_job(8), FakeContext(Shop())
    assert resize(job, ctx) == 4
    assert job.logs == ["in a thread or not"]
    assert ctx.emitted == [Emit(ship, Order(8))]


def test_a_job_is_what_the_test_says_and_else_like_a_first_attempt() -> None:
    job = make_job([1])
    assert (job.data, job.name, job.queue) == ([1], "test", "default")
    assert (job.attempt, job.attempts, job.priority) == (1, 4, 0)
    assert job.id != make_job([1]).id
    assert job.scheduled_for is None
    assert abs(datetime.now(UTC) - job.emitted_at) < timedelta(minutes=1)  # noqa: TID251
    at = datetime(2030, 1, 1, tzinfo=UTC)
    other = make_job(
        None,
        id="some-id",
        name="some-event",
        queue="some-queue",
        attempt=2,
        attempts=3,
        priority=9,
        emitted_at=at,
        scheduled_for=at,
    )
    assert repr(other) == "<Job 'some-id' 'some-event' in 'some-queue', attempt 2 of 3>"
    assert (other.priority, other.emitted_at, other.scheduled_for) == (9, at, at)
    with pytest.raises(ConfigurationError, match="aware datetime"):
        make_job(None, emitted_at=at.replace(tzinfo=None))


@pytest.mark.parametrize(("attempt", "attempts"), [(0, 4), (5, 4), (2, 1), (1, 0)])
def test_a_job_has_no_attempt_beyond_its_last(attempt: int, attempts: int) -> None:
    with pytest.raises(ConfigurationError, match="attempt"):
        make_job(None, attempt=attempt, attempts=attempts)


def test_lines_that_the_engine_would_refuse_are_refused() -> None:
    job = make_job(None)
    wrong: Any = 5
    with pytest.raises(SerializationError, match="a log line of type int"):
        job.logger(wrong)
    with pytest.raises(SerializationError, match="at most 65536"):
        job.logger("x" * 70_000)
    assert job.logs == []


def test_the_context_looks_like_that_of_a_handler() -> None:
    shop = Shop()
    ctx = FakeContext(shop)
    assert ctx.app is shop
    assert ctx["stock"] == [7]
    assert FakeContext({"db": 5}).db == 5
    assert FakeContext().app is None
    assert ctx.job.data is None
    ctx.job.logger("through the context")
    assert ctx.logs == ["through the context"]
    job = make_job(1)
    assert FakeContext(job=job).job is job


def test_the_test_decides_whether_the_attempt_is_being_cancelled() -> None:
    ctx = FakeContext()
    assert ctx.cancel_reason is None
    ctx.cancel_reason = "shutdown"
    seen: Context[Any] = ctx
    assert seen.cancel_reason == "shutdown"
    assert repr(seen.cancel_reason) == "<CancelReason.SHUTDOWN: 'shutdown'>"
    ctx.cancel_reason = None
    assert seen.cancel_reason is None
    with pytest.raises(ConfigurationError, match="give one of user, shutdown, timeout"):
        ctx.cancel_reason = "weather"


async def emit_wrongly() -> None:
    ctx = FakeContext()
    with pytest.raises(ConfigurationError, match="priority=10"):
        ctx.emit("event", priority=10)
    with pytest.raises(ConfigurationError, match="emit_now"):
        ctx.emit("event", repeat="@daily")
    await ctx.emit_now("event", repeat="@daily")
    assert ctx.emitted == [Emit("event", repeat="@daily")]
    nobody: Any = ctx.emit("event", id="some-id", queue="some-queue")
    with pytest.raises(TypeError, match="is not awaited"):
        await nobody


def test_emits_are_checked_as_far_as_they_can_be() -> None:
    trio.run(emit_wrongly)


async def use_refs() -> None:
    ctx = FakeContext()
    for ref in (
        ctx.emit("event", id="some-id", queue="some-queue"),
        await ctx.emit_now("event", id="some-id", queue="some-queue"),
    ):
        assert (ref.id, ref.queue) == ("some-id", "some-queue")
        for call in (ref.info, ref.result, ref.cancel):
            with pytest.raises(RuntimeError, match="a FakeContext keeps what is emitted"):
                await call()
    assert ctx.emit("event").id != ctx.emit("event").id


def test_what_was_emitted_has_an_id_but_does_not_run() -> None:
    trio.run(use_refs)


# --- The engine in memory -----------------------------------------------------------------------


def in_virtual_time(test: Any) -> None:
    trio.run(test, clock=MockClock(autojump_threshold=0))


def test_a_handler_and_its_children_run_until_nothing_is_left() -> None:
    async def main() -> None:
        shop = Shop()
        tasks = TaskManager("memory://", ctx=shop, concurrency=2)
        tasks.register_handler(receive, event="receive")
        tasks.register_handler(ship, event="ship")
        audited: list[object] = []

        @tasks.handler("audit", queue="audits")
        async def audit(job: Job[dict[str, str]]) -> None:
            audited.append(job.data)

        async with tasks:
            await tasks.start()
            ref = await tasks.emit(receive, Order(8))
            with trio.fail_after(1):
                await tasks.until_idle()  # a retry in a minute does not count
            assert (await ref.info()).state is JobState.DELAYED
            shop.stock.append(8)
            assert await ref.result() == 2
            await tasks.until_idle()
            info = await ref.info()
            stats = await tasks.queue("default").stats()
        assert info.attempt == 2
        assert [line.message for line in info.logs] == [
            "order 8",
            {"attempt": 1},
            "order 8",
            {"attempt": 2},
        ]
        assert (stats.completed, stats.queued, stats.delayed) == (2, 0, 0)
        assert audited == [{"job": ref.id}]

    in_virtual_time(main)


def test_a_month_of_a_daily_job_takes_no_time() -> None:
    async def main() -> None:
        tasks = TaskManager[None]("memory://")
        days: list[datetime] = []

        @tasks.handler("daily", repeat=Repeat(pattern="0 3 * * *"))
        async def daily(job: Job[None]) -> None:
            assert job.scheduled_for is not None
            days.append(job.scheduled_for)

        async with tasks:
            await tasks.start()
            await trio.sleep(30 * 86_400)
        assert len(days) == 30
        assert {day.hour for day in days} == {3}
        assert {later - day for day, later in pairwise(days)} == {timedelta(days=1)}

    in_virtual_time(main)


def test_retries_wait_for_as_long_as_their_policy_says() -> None:
    async def main() -> None:
        hourly = RetryPolicy(delay=3600, max_delay=7200, jitter=0)
        tasks = TaskManager[None]("memory://", processor={"retry": hourly})
        attempts: list[float] = []

        @tasks.handler("fails", attempts=3)
        async def fails() -> None:
            attempts.append(trio.current_time())
            raise ValueError("always")

        async with tasks:
            await tasks.start()
            with pytest.raises(JobFailedError, match="dead after 3 attempt"):
                await (await tasks.emit(fails)).result()
        waits = [later - at for at, later in pairwise(attempts)]
        assert waits == pytest.approx([3600, 7200], abs=0.01)

    in_virtual_time(main)
