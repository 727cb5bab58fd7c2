"""What a well-typed handler may do with its context, and how groups of handlers fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, assert_type

from trio_tasks.context import AsyncEmitFunction, CancelReason, Context, EmitFunction
from trio_tasks.handlers import Handlers
from trio_tasks.job import Job
from trio_tasks.options import RetryPolicy
from trio_tasks.queues import Queue, QueueStats, Schedule, Schedules
from trio_tasks.refs import JobRef


class Database:
    def save(self, text: str) -> int:
        return len(text)


@dataclass
class AppContext:
    db: Database
    name: str


class HasDb(Protocol):
    @property
    def db(self) -> Database: ...


# 1. The user's own context, typed.
app = Handlers[AppContext](queue="app", attempts=8)


@app.handler("save")
async def save(job: Job[str], ctx: Context[AppContext]) -> int:
    assert_type(ctx.app, AppContext)
    assert_type(ctx.app.db, Database)
    return ctx.app.db.save(job.data)


# 2. Children, in the outcome or at once.
@app.handler("fan-out")
async def fan_out(job: Job[list[str]], ctx: Context[AppContext]) -> None:
    for text in job.data:
        assert_type(ctx.emit(save, text), JobRef[int])
    assert_type(await ctx.emit_now(save, "now"), JobRef[int])
    ctx.emit("save", "by name", queue="app", priority=2)
    assert_type(ctx.emit, EmitFunction)
    assert_type(ctx.emit_now, AsyncEmitFunction)


# 3. A mapping as context: its keys are attributes.
plain = Handlers[Mapping[str, Any]]()


@plain.handler("lookup")
async def lookup(job: Job[str], ctx: Context[Mapping[str, Any]]) -> None:
    ctx.db.save(job.data)
    ctx["db"].save(job.data)


# 4. A bare context.
@plain.handler("bare")
def bare(job: Job, ctx: Context) -> None:
    ctx.db.save(job.data)


# 5. A module that asks for less fits into an application that has more.
mails = Handlers[HasDb](queue="mails")


@mails.handler("archive")
async def archive(job: Job[str], ctx: Context[HasDb]) -> int:
    return ctx.app.db.save(job.data)


app.include(mails)
app.register_handler(archive, event="archive-too", retry=RetryPolicy(max_retries=2))


# 6. A context of more is a context of less.
def narrow(ctx: Context[AppContext]) -> Context[HasDb]:
    return ctx


# 7. A job of something more special is a job of something more general.
def widen(job: Job[bool]) -> Job[int]:
    return job


# 8. The decorator gives the function back: a test calls it.
async def call_directly(job: Job[str], ctx: Context[AppContext]) -> None:
    assert_type(await save(job, ctx), int)


# 9. Why an attempt is cancelled, and log lines, awaited or not.
@app.handler("patient", max_logs=10, retention=0)
async def patient(job: Job[str], ctx: Context[AppContext]) -> None:
    job.logger("a line")
    await job.logger({"a": 1})
    assert_type(ctx.cancel_reason, CancelReason | None)
    assert_type(ctx.job, Job[Any])


# 10. Looking and steering.
async def look(queue: Queue, schedules: Schedules) -> None:
    assert_type(await queue.stats(), QueueStats)
    for dead in await queue.jobs(state="dead", limit=10):
        assert_type(await queue.requeue(dead.id), bool)
    assert_type(queue.ref("some-id"), JobRef[Any])
    assert_type(await schedules.list(), list[Schedule])
    await (await schedules.trigger("nightly")).result()
