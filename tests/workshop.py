"""Managers on a FaultyBroker, and a look into the engine that runs in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio

from tests.faulty_broker import FaultyBroker
from trio_tasks import Job, TaskManager
from trio_tasks.broker import RECORD_VERSION, Broker, NewJob, Record, Stored
from trio_tasks.consumer.consumer import ConsumerCore
from trio_tasks.consumer.feeder import Feed
from trio_tasks.consumer.prefetch import MOST_AHEAD
from trio_tasks.consumer.slots import Slots
from trio_tasks.engine import Engine
from trio_tasks.environment import Ids
from trio_tasks.memory import MemoryBroker

__all__ = [
    "check_slots",
    "consumer_of",
    "counting",
    "emit",
    "engine_of",
    "eventually",
    "feed_of",
    "manager_on",
    "onlooker",
    "sleeper",
    "slots_of",
    "stored",
]


def manager_on(broker: FaultyBroker, **options: Any) -> TaskManager[Any]:
    """A manager with quick retries that works on this broker."""
    options.setdefault("processor", {"retry": {"delay": 0.01, "jitter": 0}})
    manager = TaskManager("memory://", **options)
    manager._new_broker = lambda: broker
    return manager


def counting(manager: TaskManager[Any], calls: list[Any], seconds: float = 0.0) -> Any:
    """A handler of "job" that says what it was called with."""

    @manager.handler("job")
    async def handler(job: Job[Any]) -> None:
        calls.append(job.data)
        if seconds:
            await anyio.sleep(seconds)

    return handler


def sleeper(
    manager: TaskManager[Any], queue: str = "default", calls: list[Any] | None = None
) -> Any:
    """A handler of a queue's own event that sleeps as long as its data say, and then says so."""

    @manager.handler(f"sleep-{queue}", queue=queue)
    async def sleep(job: Job[float]) -> None:
        await anyio.sleep(job.data)
        if calls is not None:
            calls.append((queue, job.data))

    return sleep


def engine_of(manager: TaskManager[Any]) -> Engine:
    assert manager._engine is not None
    return manager._engine


def consumer_of(manager: TaskManager[Any]) -> ConsumerCore:
    consumer = engine_of(manager).consumer
    assert consumer is not None
    return consumer


def feed_of(manager: TaskManager[Any], queue: str = "default") -> Feed:
    return consumer_of(manager).feeds[queue]


def slots_of(manager: TaskManager[Any]) -> Slots:
    return consumer_of(manager)._slots


def check_slots(manager: TaskManager[Any]) -> None:
    """Every slot is free, reserved for a take under way, promised to a job, or runs one.

    More may be promised than there are, but no more than may be taken ahead.
    """
    slots, feeds = slots_of(manager), consumer_of(manager).feeds.values()
    known = slots.free + len(slots.ready) + slots.running
    assert slots.free >= -MOST_AHEAD
    assert slots.running <= slots.concurrency
    assert slots.running == sum(slot.held is not None for slot in slots.slots)
    if any(feed._takes for feed in feeds):
        assert known < slots.concurrency
    else:
        assert known == slots.concurrency


def onlooker(broker: FaultyBroker) -> MemoryBroker:
    """Another broker of the same store, which never fails and outlives the manager's."""
    assert broker.name is not None
    return MemoryBroker(broker.name)


async def emit(
    broker: Broker,
    event: str,
    data: object = None,
    *,
    id: str | None = None,
    queue: str = "default",
    delay_ms: int | None = None,
) -> str:
    """Emit behind the managers' backs."""
    record = Record(RECORD_VERSION, event, json.dumps(data).encode())
    job_id = Ids().job_id() if id is None else id
    number = None if id is None else Ids().emit_number()
    await broker.emit(
        [NewJob(id=job_id, queue=queue, record=record, number=number, delay_ms=delay_ms)]
    )
    return job_id


async def stored(broker: Broker, job_id: str, queue: str = "default") -> Stored:
    """A job as it lies in the broker."""
    (found,) = await broker.read(queue, [job_id])
    assert found is not None
    return found


async def eventually(
    holds: Callable[[], bool], *, within: float = 5.0, every: float = 0.001
) -> None:
    """Wait until a condition holds, on whatever clock the loop has."""
    with anyio.fail_after(within):
        while not holds():  # noqa: ASYNC110 - it looks at what others leave behind
            await anyio.sleep(every)
