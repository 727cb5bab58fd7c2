"""This engine with something beside the work that is measured: loads that only it is asked for.

All of it with the defaults, on Trio. Every job carries 200 bytes of data. By role and load:

- "emit" and "work" do what every peer does, on the queue that is named. With the load "queues" the
  worker serves `size` more queues, in which there is nothing; with "schedules" it also serves, and
  ticks, the schedules.
- "load" makes the load and ends. "held": `size` jobs, that holders will take; "delayed": jobs that
  are due in an hour; "schedules": each once a day, at minutes of their own, so that hardly one is
  due while we measure.
- "hold" takes `size` jobs, and never ends one: as many handlers that wait, in a worker that renews
  what it holds and has no room for more.
"""

from collections.abc import Sequence

import harness
import trio

from trio_tasks import Emit, Handlers, Job, Repeat, TaskManager

HOUR = 3600.0  # seconds
DATA_BYTES = 200

asked = harness.assignment()
handlers = Handlers[None]()


def data(number: int, at: int) -> dict[str, int | str]:
    """So that it is 200 bytes of JSON."""
    bare = f'{{"number":{number},"at":{at},"text":""}}'
    return {"number": number, "at": at, "text": "x" * (DATA_BYTES - len(bare))}


async def work() -> None:
    tally = harness.Tally(asked)

    async def job(job: Job[dict[str, int | str]]) -> None:
        tally.ran(int(job.data["number"]), int(job.data["at"]))

    async def scheduled() -> None: ...

    handlers.register_handler(job, event="job", queue=asked.queue)
    match asked.load:
        case "queues":
            for number in range(asked.size):
                handlers.register_handler(job, event="job", queue=f"quiet-{number}")
        case "schedules":
            handlers.register_handler(scheduled, event="scheduled", queue=asked.queue)
        case _:
            pass
    tasks = TaskManager(asked.url, concurrency=asked.concurrency)
    tasks.include(handlers)
    await tasks.run()


async def emit() -> None:
    async with TaskManager(asked.url) as tasks:

        async def one(number: int, at: int) -> None:
            await tasks.emit("job", data(number, at), queue=asked.queue)

        async def many(numbers: Sequence[int]) -> None:
            for start in range(0, len(numbers), harness.CHUNK):
                part = numbers[start : start + harness.CHUNK]
                await tasks.emit_many(
                    [Emit("job", data(number, 0), queue=asked.queue) for number in part]
                )

        await harness.emit(asked, harness.trio_loop(), one, many)


async def load() -> None:
    async with TaskManager(asked.url) as tasks:
        match asked.load:
            case "held" | "delayed":
                delay = HOUR if asked.load == "delayed" else None
                for start in range(0, asked.size, harness.CHUNK):
                    part = range(start, min(start + harness.CHUNK, asked.size))
                    await tasks.emit_many(
                        [Emit("job", data(number, 0), delay=delay) for number in part]
                    )
            case "schedules":
                for number in range(asked.size):
                    repeat = Repeat(f"{number % 60} {number // 60 % 24} * * *")
                    await tasks.emit("scheduled", id=f"schedule-{number}", repeat=repeat)
            case what:
                raise ValueError(f"load={what!r} is not made beforehand")
    harness.report(seconds=0.0)


async def hold() -> None:
    held = 0

    @handlers.handler("job")
    async def job() -> None:
        nonlocal held
        held += 1
        if held == asked.size:
            harness.report(seconds=0.0)
        await trio.sleep_forever()

    tasks = TaskManager(asked.url, concurrency=asked.size)
    tasks.include(handlers)
    await tasks.run()


trio.run({"work": work, "emit": emit, "load": load, "hold": hold}[asked.role])
