"""huey: one process, as many threads as handlers run at once, the blocking Redis list, as advised.

Its defaults: results are stored (a task that returns `None` has none). It has no event loop and no
bulk interface, so jobs are emitted one by one.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio
import time

import harness
from huey import RedisHuey

asked = harness.assignment()
huey = RedisHuey(url=asked.url)


@huey.task(name="job")
def job(number: int, at: int) -> None:
    if asked.nap:
        time.sleep(asked.nap)
    tally.ran(number, at)


async def one(number: int, at: int) -> None:
    job(number, at)


async def many(numbers) -> None:
    for number in numbers:
        job(number, 0)


if asked.role == "work":
    tally = harness.Tally(asked)
    huey.create_consumer(workers=asked.concurrency, worker_type="thread").run()
else:
    asyncio.run(harness.emit(asked, harness.ASYNCIO, one, many))
