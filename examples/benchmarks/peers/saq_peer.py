"""SAQ, with its defaults, hiredis installed as its documentation advises."""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio

import harness
from saq import Queue, Worker

asked = harness.assignment()


async def job(context, *, number: int, at: int) -> None:
    if asked.nap:
        await asyncio.sleep(asked.nap)
    tally.ran(number, at)


async def emit() -> None:
    queue = Queue.from_url(asked.url)

    async def one(number: int, at: int) -> None:
        await queue.enqueue("job", number=number, at=at)

    await harness.emit(asked, harness.ASYNCIO, one)
    await queue.disconnect()


async def work() -> None:
    await Worker(Queue.from_url(asked.url), [job], concurrency=asked.concurrency).start()


if asked.role == "work":
    tally = harness.Tally(asked)
    asyncio.run(work())
else:
    asyncio.run(emit())
