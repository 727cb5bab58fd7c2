"""Inside a program that has a nursery of its own: `nursery.start` returns when it is ready."""

import trio

from trio_tasks import Job, TaskManager

tasks = TaskManager(concurrency=2)


@tasks.handler("resize")
async def resize(job: Job[str]) -> str:
    await trio.sleep(0.05)
    return f"{job.data} is resized"


async def serve_requests() -> None:
    """The program's own work."""
    for picture in ("cat.png", "dog.png"):
        ref = await tasks.emit(resize, picture)
        print(await ref.result(timeout=5))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(tasks.run)  # leaves signals to the program
        print("state:", tasks.state)
        await serve_requests()
        nursery.cancel_scope.cancel()  # handlers are cancelled, their jobs given back
    print("state:", tasks.state)


if __name__ == "__main__":
    trio.run(main)
