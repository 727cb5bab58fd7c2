"""Two workers, one of them killed with SIGKILL under load: what becomes of its jobs?

Each order has one child, a mail. Handlers note what they do in a file; at the end we count.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from trio_tasks import Context, Handlers, Job, TaskManager

ORDERS = 300
jobs = Handlers[Path]()


@jobs.handler("order", queue="orders")
async def order(job: Job[int], ctx: Context[Path]) -> str:
    ctx.emit(mail, job.data)
    return await work(job, ctx.app)


@jobs.handler("mail", queue="mails")
async def mail(job: Job[int], ctx: Context[Path]) -> str:
    return await work(job, ctx.app)


async def work(job: Job[int], effects: Path) -> str:
    me = sys.argv[1]
    if job.attempt > 1:
        print(f"  {me} takes over {job.name} {job.data}: attempt {job.attempt}", flush=True)
    with effects.open("a") as file:
        file.write(f"{job.name} {job.data} {job.id}\n")
    await trio.sleep(0.015)
    return me


def manager(directory: str) -> TaskManager[Path]:
    effects = Path(directory, "effects")
    # The jobs of a worker that was silent for a second go to others; the default is 30.
    tasks = TaskManager(f"embedded://{directory}", ctx=effects, concurrency=4, lease=1)
    tasks.include(jobs)
    return tasks


async def session(directory: str) -> None:
    async with manager(directory) as tasks, trio.open_nursery() as nursery:
        refs = [await tasks.emit(order, number) for number in range(ORDERS)]
        print(f"{ORDERS} orders are emitted; the workers A and B start")
        workers: dict[str, trio.Process] = {}
        for name in "AB":
            run = partial(trio.run_process, [sys.executable, __file__, name, directory])
            workers[name] = await nursery.start(partial(run, check=False))
        seen = set[str]()
        while len(seen) < 2:
            seen.add(await refs.pop(0).result(timeout=10))
        print("both have completed some; kill -9 A", flush=True)
        workers["A"].kill()
        await tasks.until_idle()
        for name in ("orders", "mails"):
            stats = await tasks.queue(name).stats()
            print(f"{name}: {stats.completed} completed, {stats.dead} dead", flush=True)
        workers["B"].terminate()  # SIGTERM: it stops gracefully


def count(directory: str) -> None:
    runs = Path(directory, "effects").read_text().splitlines()
    mails = {tuple(run.split()[1:]) for run in runs if run.startswith("mail")}
    print("orders without a mail:", ORDERS - len({number for number, _id in mails}))
    print("mails too many:", len(mails) - ORDERS)
    print(f"handlers ran {len(runs)} times for {2 * ORDERS} jobs")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(f"  {sys.argv[1]} has stopped:", trio.run(manager(sys.argv[2]).run))
    else:
        with tempfile.TemporaryDirectory() as directory:
            trio.run(session, directory)
            count(directory)
