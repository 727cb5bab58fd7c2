"""Celery: one process, its pool of threads, acknowledged after the run, no result back-end.

Late acknowledgement, so that a job that dies with its worker is run again, as with every other
system here. Without gossip, mingle and heartbeat, which speak to other workers. The rest is its
defaults. It has no event loop and no bulk interface, so jobs are emitted one by one.
"""

# The package lies in an environment of its own, which the type checker does not see:
# pyright: basic, reportMissingImports=false

import asyncio
import time

import harness
from celery import Celery

asked = harness.assignment()
app = Celery("benchmark", broker=asked.url)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,  # reports are read from there
)


@app.task(name="job")
def job(number: int, at: int) -> None:
    if asked.nap:
        time.sleep(asked.nap)
    tally.ran(number, at)


async def one(number: int, at: int) -> None:
    job.delay(number, at)


async def many(numbers) -> None:
    for number in numbers:
        job.delay(number, 0)


if asked.role == "work":
    tally = harness.Tally(asked)
    app.Worker(
        pool="threads",
        concurrency=asked.concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    ).start()
else:
    asyncio.run(harness.emit(asked, harness.ASYNCIO, one, many))
