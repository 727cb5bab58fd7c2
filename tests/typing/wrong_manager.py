"""Wrong programs about managers. Each wrong line carries the ignore that it expects."""
# mypy: ignore-errors

from __future__ import annotations

from dataclasses import dataclass

from trio_tasks.context import Context
from trio_tasks.emitter import Emit
from trio_tasks.handlers import Handlers
from trio_tasks.job import Job
from trio_tasks.refs import JobRef
from trio_tasks.task_manager import TaskManager


@dataclass
class Mail:
    to: str


class AppContext:
    db: int


class OtherContext:
    cache: int


tasks = TaskManager("memory://", ctx=AppContext())
other = Handlers[OtherContext]()


async def send(job: Job[Mail], ctx: Context[AppContext]) -> str: ...
async def for_others(job: Job[int], ctx: Context[OtherContext]) -> None: ...


def making() -> None:
    TaskManager(concurency=4)  # pyright: ignore[reportArgumentType]
    TaskManager(concurrency="4")  # pyright: ignore[reportArgumentType]
    TaskManager.init("memory://", lifespan=AppContext)  # pyright: ignore[reportArgumentType]
    TaskManager("memory://", 4)  # pyright: ignore[reportCallIssue]
    wrong: TaskManager[OtherContext] = tasks  # pyright: ignore[reportAssignmentType]
    print(wrong)


def registering() -> None:
    tasks.register_handler(for_others, event="others")  # pyright: ignore[reportArgumentType]
    tasks.include(other)  # pyright: ignore[reportArgumentType]
    tasks.handler("x", atempts=4)  # pyright: ignore[reportCallIssue]


async def emitting() -> None:
    await tasks.emit(send, "no mail")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await tasks.emit(send, Mail("a"), prioritty=3)  # pyright: ignore[reportCallIssue]
    tasks.emit(send, Mail("a"))  # pyright: ignore[reportUnusedCoroutine]
    wrong: JobRef[int] = await tasks.emit(send, Mail("a"))  # pyright: ignore[reportAssignmentType]
    await tasks.emit_many([send])  # pyright: ignore[reportArgumentType]
    wrongs: list[JobRef[int]] = await tasks.emit_many([Emit(send, Mail("a"))])  # pyright: ignore[reportAssignmentType]
    also_wrong: JobRef[int] = tasks.ref(send, "some-id")  # pyright: ignore[reportAssignmentType]
    tasks.ref("send", "some-id")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await tasks.emti(send, Mail("a"))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    print(wrong, wrongs, also_wrong)


async def running() -> None:
    await tasks.start(queue="emails")  # pyright: ignore[reportCallIssue]
    await tasks.stop(grace="5")  # pyright: ignore[reportArgumentType]
    tasks.start()  # pyright: ignore[reportUnusedCoroutine]
    print(tasks.get_context().app.cache)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
