"""Wrong programs. Each wrong line carries the ignore that it expects; see `__init__.py`."""
# mypy: ignore-errors

from __future__ import annotations

from dataclasses import dataclass

from trio_tasks import BlockingJobRef, Context, Emit, Job, Producer
from trio_tasks.testing import FakeContext, make_job


@dataclass
class Mail:
    to: str


class AppContext:
    db: int


class OtherContext:
    cache: int


async def send(job: Job[Mail], ctx: Context[AppContext]) -> str: ...
async def nightly(job: Job[None]) -> str: ...
async def tidy() -> str: ...
def resize(job: Job[int], ctx: Context[AppContext]) -> float: ...


def emits(producer: Producer) -> None:
    producer.emit(send, "no mail")  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(send, {"to": "a"})  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(send)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(send, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(nightly, 5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(tidy, 5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(resize, "large")  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(resize)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit(send, Mail("a"), 5)  # pyright: ignore[reportCallIssue]
    producer.emit(send, Mail("a"), prioritty=5)  # pyright: ignore[reportCallIssue]
    producer.emit("send", delay="soon")  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.emit_many([send])  # pyright: ignore[reportArgumentType]
    producer.include(send)  # pyright: ignore[reportArgumentType]
    producer.ref("send", "some-id")  # pyright: ignore[reportArgumentType, reportCallIssue]


async def results(producer: Producer, general: BlockingJobRef[object]) -> None:
    wrong: BlockingJobRef[int] = producer.emit(send, Mail("a"))  # pyright: ignore[reportAssignmentType]
    length: int = producer.emit(send, Mail("a")).result()  # pyright: ignore[reportAssignmentType]
    batch: list[BlockingJobRef[int]] = producer.emit_many([Emit(send, Mail("a"))])  # pyright: ignore[reportAssignmentType]
    special: BlockingJobRef[int] = general  # pyright: ignore[reportAssignmentType]
    await producer.emit(tidy)  # pyright: ignore[reportGeneralTypeIssues]
    producer.emit(tidy).result(timeout="5")  # pyright: ignore[reportArgumentType]
    producer.emit(tidy).cancel(5)  # pyright: ignore[reportArgumentType]
    print(wrong, length, batch, special)


def producers() -> None:
    Producer("redis://localhost", "tt")  # pyright: ignore[reportCallIssue]
    Producer(db=5)  # pyright: ignore[reportArgumentType]
    Producer("redis://localhost", concurrency=4)  # pyright: ignore[reportArgumentType]


async def doubles() -> None:
    await send(make_job("no mail"), FakeContext(AppContext()))  # pyright: ignore[reportArgumentType]
    await send(make_job(Mail("a")), FakeContext(OtherContext()))  # pyright: ignore[reportArgumentType]
    make_job(Mail("a"), attemptt=2)  # pyright: ignore[reportCallIssue]
    FakeContext(AppContext()).cancel_reason = 5  # pyright: ignore[reportAttributeAccessIssue]
    FakeContext(AppContext()).emti(tidy)  # pyright: ignore[reportUnknownMemberType]
