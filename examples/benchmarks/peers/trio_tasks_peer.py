"""This engine, with all defaults: results kept, events written, outcomes fenced, logs available.

On Trio; with the argument `asyncio` on that, through AnyIO, which the engine stands on: everything
else is the same.
"""

import asyncio
import sys
from collections.abc import Sequence

import harness
import trio
from crowd import Crowd

from trio_tasks import Emit, Handlers, Job, TaskManager

asked = harness.assignment()
on_asyncio = "asyncio" in sys.argv[2:]
loop = harness.ASYNCIO if on_asyncio else harness.trio_loop()
handlers = Handlers[None]()


async def work() -> None:
    crowd = Crowd(asked.crowd, asked.workers, asked.last, asked.me) if asked.crowd else None
    tally = harness.Tally(asked, crowd)

    @handlers.handler("job")
    async def job(job: Job[dict[str, int]]) -> None:
        if crowd is not None and not crowd.complete:
            await crowd.gather(loop.sleep)
        if asked.nap:
            await loop.sleep(asked.nap)
        tally.ran(job.data["number"], job.data["at"])

    tasks = TaskManager(asked.url, concurrency=asked.concurrency)
    tasks.include(handlers)
    await tasks.run()


async def emit() -> None:
    async with TaskManager(asked.url) as tasks:

        async def one(number: int, at: int) -> None:
            await tasks.emit("job", {"number": number, "at": at})

        async def many(numbers: Sequence[int]) -> None:
            await tasks.emit_many([Emit("job", {"number": number, "at": 0}) for number in numbers])

        await harness.emit(asked, loop, one, many)


main = work if asked.role == "work" else emit
if on_asyncio:
    asyncio.run(main())
else:
    trio.run(main)
