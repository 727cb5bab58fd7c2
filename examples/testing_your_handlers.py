"""Testing: call a handler directly; or run the whole engine through a month in no time."""

import time
from datetime import UTC, datetime
from typing import Any

import trio
import trio.testing

from trio_tasks import Context, Emit, Job, TaskManager
from trio_tasks.testing import FakeContext, make_job

tasks = TaskManager("memory://", concurrency=2)
reports: list[str] = []


@tasks.handler("daily", repeat="0 0 * * *")
async def daily(job: Job[None], ctx: Context[Any]) -> None:
    ctx.emit(send, f"report of {job.scheduled_for:%d %B}")


@tasks.handler("send")
async def send(job: Job[str]) -> None:
    if job.attempt == 1:
        raise ConnectionError("each mail fails once, and is retried a second later")
    reports.append(job.data)


async def test_daily_emits_a_mail() -> None:
    ctx = FakeContext(None)
    await daily(make_job(None, scheduled_for=datetime(2026, 5, 4, tzinfo=UTC)), ctx)
    assert ctx.emitted == [Emit(send, "report of 04 May")]


async def test_a_month() -> None:
    async with tasks:
        await tasks.start()
        await trio.sleep(30 * 86_400)
    assert len(reports) == 30


if __name__ == "__main__":
    trio.run(test_daily_emits_a_mail)
    began = time.perf_counter()
    trio.run(test_a_month, clock=trio.testing.MockClock(autojump_threshold=0))
    print(f"30 days took {time.perf_counter() - began:.3f} s; the last: {reports[-1]}")
