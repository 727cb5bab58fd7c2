"""Later: after a delay, at an instant, and not after a deadline."""

import time
from datetime import UTC, datetime, timedelta

import trio

from trio_tasks import Job, JobFailedError, TaskManager

tasks = TaskManager(concurrency=2)


@tasks.handler("say")
async def say(job: Job[str]) -> float:
    print("  ", job.data)
    return time.monotonic()


async def main() -> None:
    async with tasks:
        began = time.monotonic()
        too_late = await tasks.emit(say, "never", deadline=0.05)
        await trio.sleep(0.1)  # nothing is processed before start()
        await tasks.start()
        soon = await tasks.emit(say, "after a moment", delay=0.3)
        later = await tasks.emit(
            say, "at an instant", delay_until=datetime.now(UTC) + timedelta(seconds=0.6)
        )
        print("state:", (await soon.info()).state, "until", (await soon.info()).due_at)
        for ref in (soon, later):
            print(f"ran {await ref.result(timeout=5) - began:.1f} s after the beginning")
        try:
            await too_late.result(timeout=5)
        except JobFailedError as error:
            print("the job with the deadline is", error.state, "because it is", error.reason)


if __name__ == "__main__":
    trio.run(main)
