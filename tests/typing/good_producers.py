"""What a program without an event loop may emit, and what a test may make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import redis

from trio_tasks import (
    BlockingJobRef,
    Context,
    Emit,
    Handlers,
    Job,
    JobInfo,
    JobRef,
    Producer,
    Repeat,
)
from trio_tasks.context import CancelReason
from trio_tasks.producer import BlockingEmitFunction
from trio_tasks.testing import FakeContext, make_job


@dataclass
class Mail:
    to: str


@dataclass
class UrgentMail(Mail):
    level: int = 1


class AppContext:
    name: str = "shop"


handlers = Handlers[AppContext](queue="mails")


@handlers.handler("send")
async def send(job: Job[Mail], ctx: Context[AppContext]) -> str:
    return ctx.app.name + job.data.to


@handlers.handler("nightly")
async def nightly(job: Job[None]) -> int:
    return job.attempt


@handlers.handler("tidy")
async def tidy() -> None: ...


@handlers.handler("resize")
def resize(job: Job[int], ctx: Context[AppContext]) -> float:
    return job.data / 2


@handlers.handler("sweep")
def sweep(job: Job[None]) -> int:
    return job.attempt


@handlers.handler("rotate")
def rotate() -> int:
    return 0


# 1. A producer, and all shapes of handlers.
def emit_all_shapes() -> None:
    with Producer(db="redis://localhost", namespace="tt", max_data_bytes=1000) as producer:
        assert_type(producer, Producer)
        producer.include(handlers, Handlers[Any]())
        ref = producer.emit(send, Mail("a@b.c"))
        assert_type(ref, BlockingJobRef[str])
        assert_type(ref.result(timeout=5), str)
        assert_type(ref.info(), JobInfo)
        assert_type(ref.cancel("not needed any more", wait=True), bool)
        assert_type(ref.created, bool | None)
        assert_type(producer.emit(send, UrgentMail("a@b.c")), BlockingJobRef[str])
        assert_type(producer.emit(nightly), BlockingJobRef[int])
        assert_type(producer.emit(tidy), BlockingJobRef[None])
        assert_type(producer.emit(resize, 5), BlockingJobRef[float])
        assert_type(producer.emit(sweep), BlockingJobRef[int])
        assert_type(producer.emit(rotate), BlockingJobRef[int])
        assert_type(producer.emit("send", {"to": "a"}, queue="mails"), BlockingJobRef[Any])


# 2. Options.
def emit_with_options(producer: Producer) -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    producer.emit(tidy, id="once", priority=9, delay=60, attempts=4, timeout=1.5, retention=0)
    producer.emit(tidy, delay_until=later, retry_delay=timedelta(seconds=1), deadline=later)
    producer.emit(tidy, repeat=Repeat(every=30)).result(timedelta(minutes=1))


# 3. A batch.
def emit_a_batch(producer: Producer) -> None:
    refs = producer.emit_many([Emit(send, Mail("a")), Emit(send, Mail("b"), delay=5)])
    assert_type(refs, list[BlockingJobRef[str]])
    mixed: list[Emit[object]] = [Emit(send, Mail("a")), Emit(tidy)]
    assert_type(producer.emit_many(mixed), list[BlockingJobRef[object]])


# 4. Refs from ids.
def refs(producer: Producer) -> None:
    assert_type(producer.ref(send, "some-id"), BlockingJobRef[str])
    assert_type(producer.ref(resize, "some-id"), BlockingJobRef[float])


# 5. A ref of something more special is a ref of something more general.
def widen(ref: BlockingJobRef[bool]) -> BlockingJobRef[int]:
    return ref


# 6. A function that emits may be passed on.
def helper(emit: BlockingEmitFunction, mails: list[Mail]) -> list[str]:
    return [emit(send, mail).result() for mail in mails]


def pass_on(producer: Producer, client: redis.Redis) -> None:
    helper(producer.emit, [Mail("a")])
    Producer(client)
    Producer()


# 7. What tests make.
async def test_the_handler() -> None:
    job = make_job(Mail("a@b.c"), attempt=2)
    plain: Job[Mail] = job
    ctx = FakeContext(AppContext(), job=job)
    handed: Context[AppContext] = ctx
    assert_type(await send(plain, handed), str)
    assert_type(await send(job, ctx), str)
    assert_type(ctx.app, AppContext)
    assert_type(ctx.emitted, list[Emit[Any]])
    assert_type(job.logs, list[object])
    assert_type(ctx.logs, list[object])
    assert_type(ctx.emit(send, Mail("a")), JobRef[str])
    assert_type(await ctx.emit_now(send, Mail("a")), JobRef[str])
    ctx.cancel_reason = CancelReason.SHUTDOWN
    ctx.cancel_reason = None
    assert_type(make_job([1, 2]).data, list[int])
    assert FakeContext({"db": 5}).db == 5
