"""taskiq with taskiq-redis: the stream broker, which acknowledges, and no result back-end.

The receiver is the one that `taskiq worker` runs in each of its processes, without its log lines.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio

import harness
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

asked = harness.assignment()
broker = RedisStreamBroker(url=asked.url)


@broker.task(task_name="job")
async def job(number: int, at: int) -> None:
    if asked.nap:
        await asyncio.sleep(asked.nap)
    tally.ran(number, at)


async def emit() -> None:
    await broker.startup()
    await harness.emit(asked, harness.ASYNCIO, job.kiq)
    await broker.shutdown()


async def work() -> None:
    await run_receiver_task(broker, max_async_tasks=asked.concurrency, run_startup=True)


if asked.role == "work":
    tally = harness.Tally(asked)
    asyncio.run(work())
else:
    asyncio.run(emit())
