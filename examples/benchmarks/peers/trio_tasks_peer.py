"""This engine, with all defaults: results kept, events written, outcomes fenced, logs available."""

from collections.abc import Sequence

import harness
import trio

from trio_tasks import Emit, Handlers, Job, TaskManager

asked = harness.assignment()
handlers = Handlers[None]()


async def work() -> None:
    tally = harness.Tally(asked)

    @handlers.handler("job")
    async def job(job: Job[dict[str, int]]) -> None:
        if asked.nap:
            await trio.sleep(asked.nap)
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

        await harness.emit(asked, harness.trio_loop(), one, many)


trio.run(work if asked.role == "work" else emit)
