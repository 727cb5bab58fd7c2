"""What a well-typed program may do with a manager: making one, emitting, running, looking."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, assert_type

import trio

from trio_tasks.context import Context
from trio_tasks.emitter import Emit
from trio_tasks.handlers import Handlers
from trio_tasks.job import Job, JobEvent
from trio_tasks.options import DebouncePolicy, ProcessorOptions, RetryPolicy
from trio_tasks.processor.repeat import Repeat
from trio_tasks.queues import Queue, Schedules, Statistics, StopReport
from trio_tasks.refs import JobRef
from trio_tasks.task_manager import TaskManager


class Database: ...


@dataclass
class AppContext:
    db: Database


class HasDb(Protocol):
    @property
    def db(self) -> Database: ...


@dataclass
class Mail:
    to: str


# 1. Making a manager: the type of `ctx.app` follows.
@asynccontextmanager
async def open_app() -> AsyncGenerator[AppContext]:
    yield AppContext(Database())


def make_managers() -> None:
    assert_type(TaskManager("memory://", ctx=AppContext(Database())), TaskManager[AppContext])
    assert_type(TaskManager("memory://", lifespan=open_app), TaskManager[AppContext])
    assert_type(TaskManager.init("memory://", ctx=AppContext(Database())), TaskManager[AppContext])
    assert_type(TaskManager.init("memory://", lifespan=open_app), TaskManager[AppContext])
    assert_type(TaskManager.init(), TaskManager[Any])
    assert_type(TaskManager.init("memory://", concurrency=4), TaskManager[Any])
    assert_type(TaskManager.instance(), TaskManager[Any])


# 2. All its options.
def configure() -> TaskManager:
    return TaskManager(
        "memory://",
        concurrency=4,
        streamdb=None,
        processor=ProcessorOptions(
            retry=RetryPolicy(max_retries=3, retry_on=OSError, give_up_on=(KeyError, ValueError)),
            debounce=DebouncePolicy(300, key=lambda job: job.data["user"]),
        ),
        namespace="tt",
        consumer_id="worker-1",
        lease=30,
        grace=math.inf,
        retention=300,
        unknown_event_grace=60,
        max_data_bytes=1_000_000,
    )


def configure_from_a_file(options: Mapping[str, object]) -> TaskManager:
    return TaskManager(processor=options)


tasks = TaskManager("memory://", ctx=AppContext(Database()))


# 3. Handlers, in the manager and in a group that asks for less.
@tasks.handler("send-email", queue="emails", attempts=4)
async def send_email(job: Job[Mail], ctx: Context[AppContext]) -> str:
    return job.data.to


@tasks.handler("resize")
def resize(job: Job[int]) -> float:
    return job.data / 2


async def report(job: Job[None], ctx: Context[AppContext]) -> None: ...


tasks.register_handler(
    report, event="daily-report", repeat=Repeat(pattern="@daily", timezone="Europe/Berlin")
)
group = Handlers[HasDb](queue="group")


@group.handler("archive")
async def archive(job: Job[Mail], ctx: Context[HasDb]) -> int:
    return 1


tasks.include(group)


# 4. Emitting.
async def emit_all() -> None:
    assert_type(await tasks.emit(send_email, Mail("a")), JobRef[str])
    assert_type(await tasks.emit(resize, 4), JobRef[float])
    assert_type(await tasks.emit(report), JobRef[None])
    assert_type(await tasks.emit("send-email", {"to": "a"}, queue="emails"), JobRef[Any])
    refs = await tasks.emit_many([Emit(send_email, Mail("a")), Emit(send_email, Mail("b"))])
    assert_type(refs, list[JobRef[str]])
    mixed = await tasks.emit_many([Emit("a"), Emit(resize, 4)])
    print(mixed[0].id)


# 5. A ref from an id.
async def refs_from_ids() -> None:
    assert_type(tasks.ref(send_email, "some-id"), JobRef[str])
    assert_type(tasks.ref(resize, "some-id"), JobRef[float])
    assert_type(tasks.ref(archive, "some-id"), JobRef[int])
    assert_type(tasks.queue("emails").ref("some-id"), JobRef[Any])


# 6. Its life.
async def serve() -> None:
    async with tasks:
        await tasks.start(queues=["emails"])
        await tasks.until_idle()
        assert_type(await tasks.stop(grace=5), StopReport)


def main() -> None:
    assert_type(trio.run(tasks.run), StopReport)


async def inside_a_host() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(tasks.run)
        await tasks.emit(resize, 4)


# 7. Looking and steering.
async def look() -> None:
    assert_type(tasks.get_context(), Context[AppContext])
    tasks.get_context().emit(resize, 4)
    assert_type(tasks.queue("emails"), Queue)
    assert_type(await tasks.queues(), list[str])
    assert_type(tasks.schedules(), Schedules)
    assert_type(tasks.statistics(), Statistics)
    async for event in tasks.events():
        assert_type(event, JobEvent)


# 8. The decorator gives the function back.
async def call_directly(job: Job[Mail], ctx: Context[AppContext]) -> str:
    return await send_email(job, ctx)
