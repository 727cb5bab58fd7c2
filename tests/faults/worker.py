"""A worker process: `python -m tests.faults.worker '{"url": …}'`, see `Settings`.

It says "ready" when it takes jobs, and the report of its stop at the end.
"""

from __future__ import annotations

import os
import sys

import anyio
import msgspec

from trio_tasks import Context, Handlers, Job, Repeat, TaskManager

__all__ = ["Effects", "Settings", "handlers", "manager"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told.

    Attributes:
        effects: the file in which handlers note what they do.
        work: seconds that a job takes.
    """

    url: str
    namespace: str
    effects: str
    name: str = "worker"
    concurrency: int = 16
    lease: float = 1.0
    grace: float = 5.0
    work: float = 0.002
    consumer_id: str | None = None
    ticks: bool = False


class Effects:
    """Notes what handlers do: one line each, in one write, from any number of processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._file = os.open(settings.effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def work(self, job: Job[int]) -> None:
        os.write(
            self._file,
            f"{job.name} {job.data} {job.id} {job.attempt} {self.settings.name}\n".encode(),
        )
        await anyio.sleep(self.settings.work)


handlers = Handlers[Effects]()


@handlers.handler("parent", queue="main", attempts=10)
async def parent(job: Job[int], ctx: Context[Effects]) -> int:
    ctx.emit(sibling, job.data)
    ctx.emit(child, job.data)
    await ctx.app.work(job)
    return job.data


@handlers.handler("sibling", queue="main", attempts=10)
async def sibling(job: Job[int], ctx: Context[Effects]) -> None:
    await ctx.app.work(job)


@handlers.handler("child", queue="other", attempts=10)
async def child(job: Job[int], ctx: Context[Effects]) -> None:
    await ctx.app.work(job)


def manager(settings: Settings) -> TaskManager[Effects]:
    made = TaskManager(
        settings.url,
        ctx=Effects(settings),
        namespace=settings.namespace,
        concurrency=settings.concurrency,
        lease=settings.lease,
        grace=settings.grace,
        consumer_id=settings.consumer_id,
    )
    made.include(handlers)
    if settings.ticks:

        @made.handler("tick", queue="main", repeat=Repeat(every=0.2))
        async def tick(job: Job[None], ctx: Context[Effects]) -> None:
            assert job.scheduled_for is not None
            at_ms = round(job.scheduled_for.timestamp() * 1000)
            os.write(ctx.app._file, f"tick {at_ms} {job.id} 1 {settings.name}\n".encode())

    return made


async def main(settings: Settings) -> None:
    tasks = manager(settings)

    async def say_ready() -> None:
        while tasks.state != "running":  # noqa: ASYNC110 - there is no event for that
            await anyio.sleep(0.005)
        print("ready", flush=True)

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(say_ready)
        print(await tasks.run(handle_signals=True), flush=True)


if __name__ == "__main__":
    anyio.run(main, msgspec.json.decode(sys.argv[1], type=Settings), backend="trio")
