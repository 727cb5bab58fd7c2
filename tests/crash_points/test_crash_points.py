"""Whatever request is lost, or whenever the process dies: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.contract.backdoors import MemoryBackdoor, RedisBackdoor
from tests.contract.world import Backdoor
from tests.crash_points.line import Break, BreakingLine
from tests.crash_points.scenario import QUEUES, Site, program
from tests.servers import ServerProcess
from trio_tasks import BrokerUnavailableError, JobState, TaskManager
from trio_tasks.broker import Broker
from trio_tasks.memory import MemoryBroker
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.testing.replay import replayable
from trio_tasks.testing.unreliable import UnreliableBroker

CONCURRENCY = 3

ENDS = {
    JobState.COMPLETED: (
        *("minted", "chosen", "delayed", "repeated", "batch 0", "batch 1", "waits"),
        *("flaky", "later", "late", "broken", "posted", "long"),
    ),
    JobState.SKIPPED: ("discarded",),
    JobState.CANCELLED: ("never", "endless"),
    JobState.DEAD: ("unknown", "expired"),
}
FAIL_ONCE = ("flaky", "later", "late")
PARENTS = ENDS[JobState.COMPLETED][:7]


@pytest.fixture(autouse=True)
def _no_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of enactments, each with its warnings, would bury a failure."""
    caplog.set_level("CRITICAL", logger="trio_tasks")


# -- one enactment -------------------------------------------------------------------------------


async def enact(
    server: Broker, backdoor: Backdoor, *, lease: float, line: BreakingLine, how: Break | None
) -> None:
    """Enact the scenario, with a fresh process if the first one dies, and check what it left."""
    site = Site(lease)
    stream = backdoor.stream("dead")
    await live(server, site, line, stream)
    if line.dead.is_set():
        await live(server, site, BreakingLine(remote=line.remote), stream)
    await check(server, backdoor, site, stream, died=how is not None and how.dies)


async def live(server: Broker, site: Site, line: BreakingLine, stream: str) -> None:
    """One process, until it has done its work or has died."""
    async with anyio.create_task_group() as nursery:

        async def die() -> None:
            await line.dead.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(die)
        while True:
            tasks: TaskManager[Any] = TaskManager(
                "memory://",
                concurrency=CONCURRENCY,
                lease=site.lease,
                unknown_event_grace=0.1,
                processor={"retry": {"delay": 0.01, "jitter": 0}, "dlq": {"stream": stream}},
            )
            tasks.include(*site.handlers())
            tasks._new_broker = lambda: UnreliableBroker(server, line)
            try:
                async with tasks:
                    await program(tasks, site)
                    await slots_are_free(tasks)
            except BrokerUnavailableError:
                continue  # it could not connect
            break
        nursery.cancel_scope.cancel()


async def slots_are_free(tasks: TaskManager[Any]) -> None:
    assert tasks._engine is not None
    consumer = tasks._engine.consumer
    assert consumer is not None
    with anyio.fail_after(5):
        # A take that is under way has its slots reserved.
        while consumer._slots.free < CONCURRENCY or not consumer.idle():  # noqa: ASYNC110
            await anyio.sleep(0.005)
    assert consumer._slots.free == CONCURRENCY


async def check(server: Broker, backdoor: Backdoor, site: Site, stream: str, *, died: bool) -> None:
    """The invariants, after everything has come to its end."""
    assert await backdoor.defects() == []
    for queue in QUEUES:
        counts = await server.counts(queue)
        left = (counts.queued, counts.delayed, counts.running, counts.due, counts.outgoing)
        assert left == (0, 0, 0, 0, 0), (queue, counts)
    for state, keys in ENDS.items():
        for key in keys:
            job_id, queue = site.refs[key]
            (stored,) = await server.read(queue, [job_id])
            assert stored is not None, key
            assert stored.state is state, (key, stored)
            if state is JobState.COMPLETED and not died:
                assert stored.attempt == (2 if key in FAIL_ONCE else 1), (key, stored)

    # Effects: each piece of work at least once, and no more often than it was emitted; a death
    # repeats what was being done.
    repeats = 1 if died else 0
    for key in ENDS[JobState.COMPLETED]:
        assert 1 <= site.effects[key] <= site.emits[key] + repeats, (key, site.effects, site.emits)
    for key in (*ENDS[JobState.SKIPPED], *ENDS[JobState.CANCELLED], *ENDS[JobState.DEAD]):
        assert not site.effects[key], key
    assert site.begun_while_paused == []
    assert max(site.ticks.values()) <= 1 + repeats, site.ticks

    # Children: exactly once for each parent that completed, in either queue.
    for key in PARENTS:
        for queue in QUEUES:
            ran = len(site.children[f"{key} in {queue}"])
            assert 1 <= ran <= site.emits[key], (key, queue, site.children)

    # Debounce: one of the first, and never the older of the last after the newer one.
    assert site.effects["once 1"] + site.effects["once 2"] <= 1 + repeats, site.effects
    assert site.effects["last 2"] >= 1, site.effects

    dead = {letter["id"] for letter in await backdoor.dead_letters(stream)}
    assert dead >= {site.refs["unknown"][0], site.refs["expired"][0]}


# -- in virtual time -----------------------------------------------------------------------------

ROUNDS = max(1, int(os.environ.get("EXAMPLES") or 100) // 100)
"""Each round has another order of tasks. Beyond the first, processes die at every request too."""


def enact_in_memory(
    *, remote: bool, at: int | None = None, how: Break | None = None, seed: int = 0
) -> list[str]:
    """The whole enactment on a MemoryBroker; the requests of the process that was disturbed."""
    line = BreakingLine(remote=remote, at=at, how=how)

    async def main() -> None:
        with trio.fail_after(600):  # virtual seconds
            async with MemoryBroker(starts_at_ms=0) as server:
                await enact(server, MemoryBackdoor(server.store), lease=0.6, line=line, how=how)

    with replayable(seed, lambda: 0):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return line.requests


def test_the_scenario_uses_every_request_of_a_broker() -> None:
    assert set(enact_in_memory(remote=True)) == {
        *("connect", "emit", "register", "step", "debounce", "log", "beat", "leave", "relay"),
        *("time_ms", "declare", "schedules", "remove_schedule", "due_schedules", "tick"),
        *("queues", "read", "jobs", "counts", "cancel", "requeue", "pause"),
    }


def test_the_scenario_repeats_itself() -> None:
    runs = [enact_in_memory(remote=True, seed=3, at=70, how=Break.DIES_AFTER) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("how", Break)
def test_whatever_request_is_hit_nothing_is_lost_and_nothing_doubled(how: Break) -> None:
    every_request(how, remote=True, stride=8 if how.dies and ROUNDS == 1 else 1)


@pytest.mark.parametrize("how", [Break.REQUEST_LOST, Break.ANSWER_LOST])
def test_nor_with_a_broker_that_loses_no_hints(how: Break) -> None:
    every_request(how, remote=False, stride=8 if ROUNDS == 1 else 1)


def every_request(how: Break, *, remote: bool, stride: int) -> None:
    for seed in range(ROUNDS):
        requests = enact_in_memory(remote=remote, seed=seed)
        for at in range(0, len(requests), stride):
            try:
                enact_in_memory(remote=remote, at=at, how=how, seed=seed)
            except BaseException as error:
                error.add_note(f"seed {seed}, request {at} of {len(requests)}: {how.value}")
                raise


# -- on a real server ----------------------------------------------------------------------------


@asynccontextmanager
async def real(url: str) -> AsyncGenerator[tuple[RedisBroker, RedisBackdoor]]:
    namespace = f"t{secrets.token_hex(6)}"
    backdoor = RedisBackdoor(url, namespace)
    try:
        async with RedisBroker(parse_address(url), namespace=namespace) as server:
            yield server, backdoor
    finally:
        backdoor.clear()


async def enact_for_real(url: str, *, at: int | None = None, how: Break | None = None) -> list[str]:
    line = BreakingLine(remote=True, at=at, how=how)
    try:
        async with real(url) as (server, backdoor):
            await enact(server, backdoor, lease=2, line=line, how=how)
    except BaseException as error:
        error.add_note(f"request {at}: {how}")
        raise
    return line.requests


def test_on_a_real_server_too(server: ServerProcess) -> None:
    async def main() -> None:
        with trio.fail_after(60 * ROUNDS):
            count = len(await enact_for_real(server.url))
            for number in range(ROUNDS):
                async with trio.open_nursery() as nursery:
                    for place, how in enumerate([*Break] * 2):
                        at = (29 * place + 7 * number + 5) % count
                        nursery.start_soon(
                            lambda at=at, how=how: enact_for_real(server.url, at=at, how=how)
                        )

    trio.run(main)
