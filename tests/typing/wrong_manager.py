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
    TaskManager(concurency=4)
    TaskManager(concurrency="4")
    TaskManager.init("memory://", lifespan=AppContext)
    TaskManager("memory://", 4)
    wrong: TaskManager[OtherContext] = tasks
    print(wrong)


def registering() -> None:
    tasks.register_handler(for_others, event="others")
    tasks.include(other)
    tasks.handler("x", atempts=4)


async def emitting() -> None:
    await tasks.emit(send, "no mail")
    await tasks.emit(send, Mail("a"), prioritty=3)
    tasks.emit(send, Mail("a"))
    wrong: JobRef[int] = await tasks.emit(send, Mail("a"))
    await tasks.emit_many([send])
    wrongs: list[JobRef[int]] = await tasks.emit_many([Emit(send, Mail("a"))])
    also_wrong: JobRef[int] = tasks.ref(send, "some-id")
    tasks.ref("send", "some-id")
    await tasks.emti(send, Mail("a"))
    print(wrong, wrongs, also_wrong)


async def running() -> None:
    await tasks.start(queue="emails")
    await tasks.stop(grace="5")
    tasks.start()
    print(tasks.get_context().app.cache)
