"""A worker process: `run` with `Settings`.

It says "ready" when it takes jobs, and the report of its stop at the end.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import anyio
import msgspec

from tests.forks import Output
from trio_tasks import Context, Handlers, Job, Repeat, TaskManager
from trio_tasks.broker import Record
from trio_tasks.redis_streams import codec

__all__ = ["TOMORROW", "Effects", "Settings", "handlers", "manager", "run"]

TOMORROW = 2
"""The version of the records of a release that does not exist yet."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told.

    Attributes:
        effects: the file in which handlers note what they do.
        work: seconds that a job takes.
        long_work: the same for every 25th parent.
        ticks: it has a schedule, of five ticks a second.
        tomorrow: it is of the next release: it knows the records of that one, and today's.
    """

    url: str
    namespace: str
    effects: str
    name: str = "worker"
    concurrency: int = 16
    lease: float = 1.0
    grace: float = 5.0
    work: float = 0.002
    long_work: float | None = None
    consumer_id: str | None = None
    ticks: bool = False
    tomorrow: bool = False
    unknown_event_grace: float = 60.0


class Effects:
    """Notes what handlers do: one line each, in one write, from any number of processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._file = os.open(settings.effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def close(self) -> None:
        os.close(self._file)

    def note(self, job: Job[object], number: int) -> None:
        fields = (job.name, number, job.id, job.attempt, self.settings.name, time.monotonic())
        os.write(self._file, (" ".join(map(str, fields)) + "\n").encode())

    async def work(self, job: Job[int]) -> None:
        self.note(job, job.data)
        settings = self.settings
        is_long = job.name == "parent" and job.data % 25 == 0
        await anyio.sleep(settings.long_work or settings.work if is_long else settings.work)


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


@handlers.handler("exits", queue="main", attempts=1)
async def exits(job: Job[int], ctx: Context[Effects]) -> None:
    await ctx.app.work(job)
    raise SystemExit(3)


@handlers.handler("swallows", queue="main", attempts=1, timeout=0.05)
async def swallows(job: Job[int], ctx: Context[Effects]) -> str:
    ctx.app.note(job, job.data)
    with suppress(BaseException):  # what a handler must not do
        await anyio.sleep_forever()
    return "swallowed"


@handlers.handler("blocks", queue="main", attempts=10)
async def blocks(job: Job[int], ctx: Context[Effects]) -> None:
    ctx.app.note(job, job.data)
    if job.attempt == 1:
        time.sleep(2.5 * ctx.app.settings.lease)  # noqa: ASYNC251 - what a handler must not do


def manager(settings: Settings) -> TaskManager[Effects]:
    made = TaskManager(
        settings.url,
        ctx=Effects(settings),
        namespace=settings.namespace,
        concurrency=settings.concurrency,
        lease=settings.lease,
        grace=settings.grace,
        consumer_id=settings.consumer_id,
        unknown_event_grace=settings.unknown_event_grace,
    )
    made.include(handlers)
    if settings.ticks:

        @made.handler("tick", queue="ticks", repeat=Repeat(every=0.2))
        async def tick(job: Job[None], ctx: Context[Effects]) -> None:
            assert job.scheduled_for is not None
            ctx.app.note(job, round(job.scheduled_for.timestamp() * 1000))

    return made


def know_tomorrow() -> None:
    """Make this process one of the next release: it reads records of both versions."""
    codec.RECORD_VERSION = TOMORROW
    decode_any = codec._decode

    def decode(blob: bytes) -> Record:
        record = decode_any(blob)
        return msgspec.structs.replace(record, version=TOMORROW)

    codec._decode = decode


async def main(settings: Settings) -> None:
    if settings.tomorrow:
        know_tomorrow()
    tasks = manager(settings)

    async def say_ready() -> None:
        while tasks.state != "running":  # noqa: ASYNC110 - there is no event for that
            await anyio.sleep(0.005)
        print("ready", flush=True)

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(say_ready)
        print(await tasks.run(handle_signals=True), flush=True)


def run(settings: Settings, output: Output) -> None:
    """What the process does; all that it says goes to `output`."""
    said_to = output.detach()
    for standard in (1, 2):
        os.dup2(said_to, standard)
    os.close(said_to)
    anyio.run(main, settings, backend="trio")
