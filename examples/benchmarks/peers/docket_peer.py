"""docket (pydocket), tuned: its worker looks for new and due jobs every 5 ms, not every 250.

The price is an idle worker that asks more. It uses a connection for each handler that begins, so at
100 handlers redis-py's pool of 100 is too small: jobs then fail to start, and it may grow here. Its
other settings are its defaults; bulk is its `add_many`, a thousand jobs in a round trip.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio
from datetime import timedelta

import harness
from docket import Docket, Worker

CHECK = timedelta(milliseconds=5)
asked = harness.assignment()
URL = f"{asked.url}?max_connections=1000"


async def job(number: int, at: int) -> None:
    if asked.nap:
        await asyncio.sleep(asked.nap)
    tally.ran(number, at)


async def emit() -> None:
    async with Docket(url=URL) as docket:
        docket.register(job)

        async def one(number: int, at: int) -> None:
            await docket.add(job)(number, at)  # an own key for each

        async def many(numbers) -> None:
            await docket.add_many(docket.call(job)(number, 0) for number in numbers)

        await harness.emit(asked, harness.ASYNCIO, one, many)


async def work() -> None:
    async with Docket(url=URL) as docket:
        docket.register(job)
        async with Worker(
            docket,
            concurrency=asked.concurrency,
            minimum_check_interval=CHECK,
            scheduling_resolution=CHECK,
        ) as worker:
            await worker.run_forever()


if asked.role == "work":
    tally = harness.Tally(asked)
    asyncio.run(work())
else:
    asyncio.run(emit())
