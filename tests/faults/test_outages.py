"""A minute without a server, under load: when callers are told, and what is held meanwhile.

The minute is a virtual one. While a server is away no reply can be on its way, so the loop's clock
may jump to the next deadline whenever all tasks wait: each emit's time is measured to the instant.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from trio.lowlevel import current_statistics
from trio.testing import MockClock

from tests.servers import ServerProcess, start_server, timed
from tests.workshop import engine_of, eventually, feed_of
from trio_tasks import BrokerUnavailableError, Emit, Job, TaskManager
from trio_tasks.consumer.prefetch import MOST_AHEAD
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.session import ServerSession

pytestmark = pytest.mark.anyio

AOF = ("--appendonly", "yes", "--appendfsync", "always")
DEADLINE_S = 5.0
CONCURRENCY = 8
MOST_IN_FLIGHT = 1024


@pytest.fixture
def clock() -> MockClock:
    return MockClock(rate=1)


@pytest.fixture
def anyio_backend(clock: MockClock) -> tuple[str, dict[str, object]]:
    return "trio", {"clock": clock}


@contextmanager
def virtual_time(clock: MockClock) -> Generator[None]:
    """No time passes but that for which all tasks wait; for as long as no server can answer."""
    clock.rate, clock.autojump_threshold = 0, 0
    try:
        yield
    finally:
        clock.rate, clock.autojump_threshold = 1, math.inf


def kill(server: ServerProcess) -> None:
    server.kill()


def freeze(server: ServerProcess) -> None:
    server.freeze()


def bring_back(server: ServerProcess) -> None:
    server.thaw() if server.runs else server.start()


away = pytest.mark.parametrize("vanish", [kill, freeze])


@dataclass
class Emitting:
    """Emits that all fail.

    Attributes:
        failed: how many did.
        quickest_s, slowest_s: how long it took them.
        most_in_flight: requests on the connection, each time when all emits of a wave waited.
        objects: how many were in memory when those of the last wave did.
    """

    tasks: TaskManager[Any]
    failed: int = 0
    quickest_s: float = math.inf
    slowest_s: float = 0.0
    most_in_flight: int = 0
    objects: int = 0

    async def emit(self, number: int, queue: str) -> None:
        began = anyio.current_time()
        with pytest.raises(BrokerUnavailableError) as caught:
            await self.tasks.emit("job", number, queue=queue)
        took_s = anyio.current_time() - began
        self.quickest_s = min(self.quickest_s, took_s)
        self.slowest_s = max(self.slowest_s, took_s)
        self.failed += len(caught.value.ids)

    async def wave(self, numbers: range, queue: Callable[[int], str]) -> None:
        """Emit all of these at once, and wait for all."""
        async with anyio.create_task_group() as nursery:
            for number in numbers:
                nursery.start_soon(self.emit, number, queue(number))
            await anyio.sleep(DEADLINE_S / 2)
            self.most_in_flight = max(self.most_in_flight, requests_in_flight(self.tasks))
            self.objects = objects()


@dataclass
class Range:
    """The least and the most of some numbers."""

    least: float = math.inf
    most: float = -math.inf

    def note(self, number: int) -> None:
        self.least = min(self.least, number)
        self.most = max(self.most, number)

    @property
    def width(self) -> float:
        return self.most - self.least


def requests_in_flight(tasks: TaskManager[Any]) -> int:
    broker = engine_of(tasks).broker
    assert isinstance(broker, RedisBroker)
    session = broker._session
    assert isinstance(session, ServerSession)
    link = session._cmd
    return 0 if link._connection is None else len(link._connection._unanswered)


def objects() -> int:
    """How many there are in memory, but for those that nobody can reach."""
    gc.collect()
    return sys.getallocatedblocks()


@away
@timed(200)
async def test_ten_thousand_emits_in_a_minute_without_a_server_fail_in_time_and_leave_nothing(
    vanish: Callable[[ServerProcess], None], clock: MockClock
) -> None:
    waves, wave_s, size, jobs = 10, 6, 1000, 500
    ran: list[int] = []
    with start_server(*AOF) as server:
        tasks = TaskManager(server.url, concurrency=CONCURRENCY)

        @tasks.handler("job")
        async def job(job: Job[int]) -> None:
            ran.append(job.data)

        async with tasks:
            await tasks.start()
            await tasks.emit_many(Emit(job, number) for number in range(jobs))
            await eventually(lambda: len(ran) > jobs // 10, every=0)
            vanish(server)
            emitting = Emitting(tasks)
            waiting, after, living = Range(), Range(), Range()
            with virtual_time(clock):
                gone_at = anyio.current_time()
                for wave in range(waves):
                    first = jobs + wave * size
                    await emitting.wave(range(first, first + size), lambda _: "default")
                    await anyio.sleep_until(gone_at + (wave + 1) * wave_s)
                    assert len(feed_of(tasks).held) <= CONCURRENCY + MOST_AHEAD
                    if wave:  # in the first much is made that stays
                        waiting.note(emitting.objects)
                        after.note(objects())
                        living.note(current_statistics().tasks_living)
            bring_back(server)
            with anyio.fail_after(2):  # work goes on
                before = len(ran)
                await eventually(lambda: len(ran) > before)
            await tasks.until_idle()
    assert emitting.failed == waves * size
    assert emitting.quickest_s == emitting.slowest_s == pytest.approx(DEADLINE_S)
    assert emitting.most_in_flight <= MOST_IN_FLIGHT
    # One object, or task, of each emit of a wave that stayed would be a thousand.
    assert max(waiting.width, after.width, living.width) < size / 2
    # Of the emits that failed those that were under way at first may have been stored after all.
    assert set(range(jobs)) <= set(ran)


@timed(200)
async def test_emits_to_more_queues_than_requests_may_be_in_flight_fail_in_time(
    clock: MockClock,
) -> None:
    size = 2 * MOST_IN_FLIGHT
    with start_server() as server:
        tasks = TaskManager(server.url)
        async with tasks:
            server.freeze()
            emitting = Emitting(tasks)
            with virtual_time(clock):
                await emitting.wave(range(size), lambda number: f"queue-{number}")
            server.thaw()
    assert emitting.failed == size
    assert emitting.quickest_s == emitting.slowest_s == pytest.approx(DEADLINE_S)
    assert emitting.most_in_flight == MOST_IN_FLIGHT
