"""arq, tuned: it looks for jobs every 5 ms, not every 500; its other settings are its defaults.

So many jobs at once as it is told (`max_jobs`), results kept.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio

import harness
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

asked = harness.assignment()
settings = RedisSettings.from_dsn(asked.url)


async def job(context, number: int, at: int) -> None:
    if asked.nap:
        await asyncio.sleep(asked.nap)
    tally.ran(number, at)


async def emit() -> None:
    pool = await create_pool(settings)

    async def one(number: int, at: int) -> None:
        await pool.enqueue_job("job", number, at)

    await harness.emit(asked, harness.ASYNCIO, one)
    await pool.aclose()


async def work() -> None:
    await Worker(
        [func(job, name="job")],
        redis_settings=settings,
        max_jobs=asked.concurrency,
        poll_delay=0.005,
    ).async_run()


if asked.role == "work":
    tally = harness.Tally(asked)
    asyncio.run(work())
else:
    asyncio.run(emit())
