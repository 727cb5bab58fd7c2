"""What a well-typed program may emit, and which type comes back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, assert_type

from trio_tasks.context import AsyncEmitFunction, Context, EmitFunction
from trio_tasks.emitter import Emit
from trio_tasks.handlers import Handlers
from trio_tasks.job import Job, JobInfo
from trio_tasks.options import DebouncePolicy
from trio_tasks.processor.repeat import Repeat
from trio_tasks.refs import JobRef


@dataclass
class Mail:
    to: str


@dataclass
class UrgentMail(Mail):
    level: int = 1


@dataclass
class Receipt:
    number: int


class AppContext:
    pass


handlers = Handlers[AppContext]()


# 1. A handler with job and context.
@handlers.handler("send-email", queue="emails", attempts=4, timeout=30, retry={"delay": 2})
async def send_email(job: Job[Mail], ctx: Context[AppContext]) -> Receipt:
    return Receipt(len(job.data.to))


async def emit_by_function(emit: AsyncEmitFunction) -> None:
    ref = await emit(send_email, Mail("a@b.c"))
    assert_type(ref, JobRef[Receipt])
    assert_type(await ref.result(timeout=5), Receipt)
    assert_type(await ref.info(), JobInfo)
    assert_type(await ref.cancel("not needed any more", wait=True), bool)


# 2. A subclass of the data.
async def emit_a_subclass(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(send_email, UrgentMail("a@b.c")), JobRef[Receipt])


# 3. A handler of the job alone, without context.
@handlers.handler("count")
async def count(job: Job[list[str]]) -> int:
    return len(job.data)


async def emit_a_list(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(count, ["a", "b"]), JobRef[int])


# 4. A handler without parameters.
@handlers.handler("tidy")
async def tidy() -> None: ...


async def emit_nothing(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(tidy), JobRef[None])


# 5. A handler whose data is None, as cron jobs have it.
@handlers.handler("nightly", repeat="0 3 * * *")
async def nightly(job: Job[None]) -> str:
    return f"{job.scheduled_for}"


async def emit_a_cron_job(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(nightly), JobRef[str])


# 6. A sync handler.
@handlers.handler("resize")
def resize(job: Job[int], ctx: Context[AppContext]) -> float:
    ctx.emit(count, ["resized"])
    return job.data / 2


async def emit_a_sync_handler(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(resize, 5), JobRef[float])


# 7. A sync handler without parameters.
@handlers.handler("rotate")
def rotate() -> int:
    return 0


async def emit_a_sync_plain_handler(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(rotate), JobRef[int])


# 8. An int where a float is asked for.
@handlers.handler("scale")
async def scale(job: Job[float]) -> float:
    return job.data


async def emit_an_int(emit: AsyncEmitFunction) -> None:
    assert_type(await emit(scale, 3), JobRef[float])


# 9. Optional data.
@handlers.handler("greet")
async def greet(job: Job[str | None]) -> str:
    return job.data or "nobody"


async def emit_optional_data(emit: AsyncEmitFunction, name: str | None) -> None:
    assert_type(await emit(greet, name), JobRef[str])
    assert_type(await emit(greet), JobRef[str])


# 10. A bare Job and a bare Context (from which mypy concludes Any).
@handlers.handler("anything")
async def anything(job: Job, ctx: Context) -> str:
    return f"{job.data} {ctx.db}"


async def emit_anything(emit: AsyncEmitFunction) -> None:
    ref: JobRef[str] = await emit(anything, {"any": ["json", 1]})
    text: str = await ref.result()
    other: JobRef[str] = await emit(anything)
    print(text, other)


# 11. By name: plain data, any result.
async def emit_by_name(emit: AsyncEmitFunction) -> None:
    ref = await emit("send-email", {"to": "a@b.c"}, queue="emails")
    assert_type(ref, JobRef[Any])
    await emit(event="send-email", data={"to": "a@b.c"}, queue="emails")


# 12. All options.
async def emit_with_options(emit: AsyncEmitFunction) -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    await emit(tidy, id="once", priority=9, delay=60, attempts=4, retry_delay=timedelta(seconds=1))
    await emit(tidy, delay_until=later, retry_count=3, timeout=1.5, deadline=later, retention=0)
    await emit(tidy, repeat=Repeat(every=30), deadline=20)
    await emit(tidy, repeat={"pattern": "@daily"}, queue=None, priority=None)
    await emit(tidy, debounce=300)
    await emit(tidy, debounce="one key")
    await emit(tidy, debounce=DebouncePolicy(5, edge="trailing"))
    await emit(tidy, debounce={"window": 5, "key": "k"})


# 13. A method, a partial, a callable object.
class Mailer:
    async def send(self, job: Job[Mail], ctx: Context[AppContext]) -> Receipt:
        return Receipt(1)

    def __call__(self, job: Job[int]) -> str:
        return "called"


async def emit_methods(emit: AsyncEmitFunction, mailer: Mailer) -> None:
    handlers.register_handler(mailer.send, event="mailer-send")
    handlers.register_handler(mailer, event="mailer")
    assert_type(await emit(mailer.send, Mail("a")), JobRef[Receipt])
    assert_type(await emit(mailer, 5), JobRef[str])


async def with_prefix(job: Job[str], ctx: Context[AppContext], *, prefix: str) -> str:
    return prefix + job.data


handlers.register_handler(partial(with_prefix, prefix="> "), event="quote")


# 14. A batch keeps the common type of its results.
def make_a_batch() -> None:
    assert_type(Emit(send_email, Mail("a")), Emit[Receipt])
    assert_type(Emit(tidy, delay=5), Emit[None])
    assert_type(Emit(nightly), Emit[str])
    assert_type(Emit(resize, 5), Emit[float])
    assert_type(Emit(rotate), Emit[int])
    assert_type(Emit("report", {"day": 1}, priority=3), Emit[Any])
    mixed: list[Emit[object]] = [Emit(send_email, Mail("a")), Emit(tidy), Emit("report")]
    assert len(mixed) == 3


# 15. A ref of something more special is a ref of something more general.
def widen(ref: JobRef[bool]) -> JobRef[int]:
    return ref


# 16. A function that emits may be passed on.
async def helper(emit: AsyncEmitFunction, mails: list[Mail]) -> list[JobRef[Receipt]]:
    return [await emit(send_email, mail) for mail in mails]


def collect(emit: EmitFunction) -> JobRef[int]:
    return emit(count, ["x"])
