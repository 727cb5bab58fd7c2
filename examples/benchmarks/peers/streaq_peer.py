"""streaQ, on Trio, which it supports through AnyIO; its other settings are its defaults."""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import anyio
import harness
from streaq import Worker

asked = harness.assignment()
worker = Worker(redis_url=asked.url, concurrency=asked.concurrency, anyio_backend="trio")


@worker.task(name="job")
async def job(number: int, at: int) -> None:
    if asked.nap:
        await anyio.sleep(asked.nap)
    tally.ran(number, at)


async def emit() -> None:
    async with worker:

        async def one(number: int, at: int) -> None:
            await job.enqueue(number, at)

        async def many(numbers) -> None:
            for at in range(0, len(numbers), harness.CHUNK):
                part = numbers[at : at + harness.CHUNK]
                await worker.enqueue_many([job.enqueue(number, 0) for number in part])

        await harness.emit(asked, harness.trio_loop(), one, many)


if asked.role == "work":
    tally = harness.Tally(asked)
    worker.run_sync()
else:
    anyio.run(emit, backend="trio")
