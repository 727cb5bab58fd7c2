"""Stopping: handlers finish within the grace, what is left is cancelled and given back."""

import trio

from trio_tasks import Context, Job, TaskManager

tasks = TaskManager(concurrency=2)
both_run = trio.Event()


@tasks.handler("work")
async def work(job: Job[float], ctx: Context[object]) -> None:
    if job.data > 1:
        both_run.set()
    try:
        await trio.sleep(job.data)
        print(f"the job of {job.data} s has finished")
    except trio.Cancelled:
        print(f"the job of {job.data} s is cancelled because of: {ctx.cancel_reason}")
        raise


async def main() -> None:
    async with tasks:
        await tasks.start()
        for seconds in (0.2, 30.0):
            await tasks.emit(work, seconds)
        await both_run.wait()
        print("stopping, with a grace of half a second")
        print(await tasks.stop(grace=0.5))
        [left] = await tasks.queue("default").jobs(state="queued")
        print(f"the job of {left.data} s is {left.state} again, attempts used: {left.attempt}")


if __name__ == "__main__":
    trio.run(main)
