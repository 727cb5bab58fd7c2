"""Priorities 0 to 9: at each fetch the higher level comes first."""

import trio

from trio_tasks import Emit, Job, TaskManager

tasks = TaskManager()  # one at a time, so that the order shows


@tasks.handler("work")
async def work(job: Job[str]) -> None:
    print(f"priority {job.priority}: {job.data}")


async def main() -> None:
    async with tasks:
        await tasks.emit_many(
            [
                Emit(work, "the newsletter"),
                Emit(work, "an invoice", priority=5),
                Emit(work, "a password reset", priority=9),
                Emit(work, "another invoice", priority=5),
                Emit(work, "the statistics"),
            ]
        )
        await tasks.start()
        await tasks.until_idle()


if __name__ == "__main__":
    trio.run(main)
