"""From a program without an event loop: a blocking producer, and a worker that serves it."""

import tempfile

import trio

from trio_tasks import Handlers, Job, Producer, TaskManager

jobs = Handlers()


@jobs.handler("add")
async def add(job: Job[list[int]]) -> int:
    return sum(job.data)


def produce(db: str) -> None:
    with Producer(db=db) as producer:
        producer.include(jobs)
        ref = producer.emit(add, [1, 2, 3])  # by function: checked, typed
        print("sum:", ref.result(timeout=5))
        refs = [producer.emit("add", [n, n]) for n in range(3)]  # by name
        print("sums:", [ref.result(timeout=5) for ref in refs])


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        db = f"embedded://{directory}"  # both find the same server by its path
        tasks = TaskManager(db)
        tasks.include(jobs)
        async with tasks:
            await tasks.start()
            await trio.to_thread.run_sync(produce, db)


if __name__ == "__main__":
    trio.run(main)
