"""Wrong programs. Each wrong line carries the ignore that it expects; see `__init__.py`."""
# mypy: ignore-errors

from __future__ import annotations

from dataclasses import dataclass

from trio_tasks.context import AsyncEmitFunction, Context
from trio_tasks.emitter import Emit
from trio_tasks.handlers import Handlers
from trio_tasks.job import Job
from trio_tasks.queues import Queue
from trio_tasks.refs import JobRef


@dataclass
class Mail:
    to: str


class AppContext:
    db: int


class OtherContext:
    cache: int


app = Handlers[AppContext]()
other = Handlers[OtherContext]()


async def send(job: Job[Mail], ctx: Context[AppContext]) -> str: ...
async def only_job(job: Job[int]) -> str: ...
async def nightly(job: Job[None]) -> str: ...
async def tidy() -> str: ...
def resize(job: Job[int], ctx: Context[AppContext]) -> float: ...
async def for_others(job: Job[int], ctx: Context[OtherContext]) -> None: ...


async def emits(emit: AsyncEmitFunction) -> None:
    await emit(send, "no mail")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(send, {"to": "a"})  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(send)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(send, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(only_job, "7")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(nightly, 5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(tidy, 5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(resize, "large")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(resize)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(send(1, 2), Mail("a"))  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit(send, Mail("a"), 5)  # pyright: ignore[reportCallIssue]
    await emit(send, Mail("a"), prioritty=5)  # pyright: ignore[reportCallIssue]
    await emit(send, Mail("a"), priority="high")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit("send", delay="soon")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await emit("send", repeat=60)  # pyright: ignore[reportArgumentType, reportCallIssue]
    emit(send, Mail("a"))  # pyright: ignore[reportUnusedCoroutine]


async def results(emit: AsyncEmitFunction) -> None:
    wrong: JobRef[int] = await emit(send, Mail("a"))  # pyright: ignore[reportAssignmentType]
    length: int = await (await emit(send, Mail("a"))).result()  # pyright: ignore[reportAssignmentType]
    (await emit(send, Mail("a"))).upper()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    text: str = (await emit(send, Mail("a"))).result()  # pyright: ignore[reportAssignmentType]
    await (await emit(tidy)).result(timeout="5")  # pyright: ignore[reportArgumentType]
    await (await emit(tidy)).cancel(5)  # pyright: ignore[reportArgumentType]
    print(wrong, length, text)


async def contexts(job: Job[Mail], ctx: Context[AppContext]) -> None:
    await ctx.emit(send, Mail("a"))  # pyright: ignore[reportGeneralTypeIssues]
    ctx.emit_now(send, Mail("a"))  # pyright: ignore[reportUnusedCoroutine]
    ctx.emti(send, Mail("a"))  # pyright: ignore[reportUnknownMemberType]
    ctx.emit(send, "no mail")  # pyright: ignore[reportArgumentType, reportCallIssue]
    print(ctx.db)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    print(ctx.app.dbb)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    print(job.data.too)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    wrong: Context[OtherContext] = ctx  # pyright: ignore[reportAssignmentType]
    print(wrong)


def registrations() -> None:
    app.register_handler(for_others, event="others")  # pyright: ignore[reportArgumentType]
    app.register_handler(send, event="send", atempts=5)  # pyright: ignore[reportCallIssue]
    app.register_handler(send)  # pyright: ignore[reportCallIssue]
    app.include(other)  # pyright: ignore[reportArgumentType]
    Handlers[AppContext](queue=5)  # pyright: ignore[reportArgumentType]
    Handlers[AppContext](concurency=5)  # pyright: ignore[reportCallIssue]
    app.handler("x", retry=5)  # pyright: ignore[reportArgumentType]
    app.handler(5)  # pyright: ignore[reportArgumentType]

    @app.handler("wrong-shape")  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    async def wrong_shape(job: int) -> None: ...

    @app.handler("wrong-context-alone")  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    async def context_alone(ctx: Context[AppContext]) -> None: ...


def batches() -> None:
    Emit(send, "no mail")  # pyright: ignore[reportArgumentType, reportCallIssue]
    Emit(tidy, 5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    Emit(send, Mail("a"), prioritty=5)  # pyright: ignore[reportCallIssue]
    wrong: Emit[int] = Emit(send, Mail("a"))  # pyright: ignore[reportAssignmentType]
    print(wrong)


async def steering(queue: Queue) -> None:
    await queue.jobs(state=5)  # pyright: ignore[reportArgumentType]
    await queue.requeue(5)  # pyright: ignore[reportArgumentType]
    queue.stats()  # pyright: ignore[reportUnusedCoroutine]


def widened(ref: JobRef[object], job: Job[object]) -> None:
    wrong_ref: JobRef[int] = ref  # pyright: ignore[reportAssignmentType]
    wrong_job: Job[int] = job  # pyright: ignore[reportAssignmentType]
    print(wrong_ref, wrong_job)
