"""dramatiq: one process, as many threads as handlers run at once, its default middleware.

It has no event loop, so jobs are emitted one by one.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio
import threading
import time

import dramatiq
import harness
from dramatiq.brokers.redis import RedisBroker

asked = harness.assignment()
broker = RedisBroker(url=asked.url)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="job")
def job(number: int, at: int) -> None:
    if asked.nap:
        time.sleep(asked.nap)
    tally.ran(number, at)


async def one(number: int, at: int) -> None:
    job.send(number, at)


async def many(numbers) -> None:
    for number in numbers:
        job.send(number, 0)


if asked.role == "work":
    tally = harness.Tally(asked)
    dramatiq.Worker(broker, worker_threads=asked.concurrency).start()
    threading.Event().wait()
else:
    asyncio.run(harness.emit(asked, harness.ASYNCIO, one, many))
