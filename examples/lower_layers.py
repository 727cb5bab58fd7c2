"""Without a TaskManager: the pure Processor alone, then a Consumer on a broker of one's own."""

from typing import Any

import trio

from trio_tasks import Consumer, Job, Processor
from trio_tasks.broker import NewJob, Record
from trio_tasks.memory.broker import MemoryBroker
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import Failed


async def handle(job: Job[Any]) -> str:
    if job.attempt == 1:
        raise ValueError("once")
    return f"{job.name} with {job.data}"


async def main() -> None:
    processor = Processor({"retry": {"delay": 0.1, "max_retries": 2, "jitter": 0}})
    for attempt in (1, 2, 3):
        job = JobFacts(id="job", attempt=attempt)
        print(attempt, processor.decide(job, Failed(ValueError()), now_ms=0, jitter=0.5))

    async with MemoryBroker() as broker, trio.open_nursery() as nursery:
        consumer = Consumer(broker, ["default"], handle, processor)
        await nursery.start(consumer.run)
        events = consumer.events.listen()
        record = Record(version=1, event="greet", data=b'{"name": "Ada"}')
        await broker.emit([NewJob(id="first", number="1", queue="default", record=record)])
        async for event in events:
            print(event.kind, event.id, event.state)
            if event.kind == "succeeded":
                break
        [stored] = await broker.read("default", ["first"])
        print(stored and stored.result)
        await consumer.stop(grace=1)


if __name__ == "__main__":
    trio.run(main)
