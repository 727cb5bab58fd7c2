"""ardiq, whose worker loop and Redis client are in Rust, with its defaults."""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio

import harness
from ardiq import Ardiq

asked = harness.assignment()
app = Ardiq(redis_url=asked.url, concurrency=asked.concurrency)


@app.task(name="job")
async def job(number: int, at: int) -> None:
    if asked.nap:
        await asyncio.sleep(asked.nap)
    tally.ran(number, at)


async def many(numbers) -> None:
    await app.enqueue_many([job.prepare(number, 0) for number in numbers])


async def emit() -> None:
    await harness.emit(asked, harness.ASYNCIO, job.enqueue, many)


if asked.role == "work":
    tally = harness.Tally(asked)
    asyncio.run(app.run())
else:
    asyncio.run(emit())
