"""Every operation, cancelled at every step of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.cancellation.canceller import Canceller, Moment
from tests.cancellation.leaks import Belongings
from tests.cancellation.operations import (
    OPERATIONS,
    Operation,
    Site,
    a_thread,
    entering,
    leaving,
)
from tests.contract.backdoors import MemoryBackdoor, RedisBackdoor
from tests.contract.world import Backdoor
from tests.servers import ServerProcess
from trio_tasks import JobState, TaskManager
from trio_tasks.broker import Broker
from trio_tasks.memory import MemoryBroker
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.testing.replay import replayable

ROUNDS = max(1, int(os.environ.get("EXAMPLES") or 100) // 100)

QUEUES = ("main", "other")
CONCURRENCY = 2


@pytest.fixture(autouse=True)
def _no_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="trio_tasks")


Manager = Callable[[Site], TaskManager[Any]]


async def audit(
    operation: Operation,
    canceller: Canceller,
    *,
    manager: Manager,
    server: Broker,
    backdoor: Backdoor,
) -> None:
    """Run an operation, cancelled at one step, and look for what it has left behind."""
    site = Site()
    await backdoor.defects()  # opens the connection that it keeps
    before = Belongings()
    await operation(manager(site), site, canceller)
    assert Belongings() == before
    assert site.lifespans == 0

    # Nothing waits for a lease: whatever was handed out has been given back.
    assert [(await server.counts(queue)).running for queue in QUEUES] == [0, 0]
    await finish(manager(site), server)
    await check(site, server, backdoor)
    assert Belongings() == before


async def finish(fresh: TaskManager[Any], server: Broker) -> None:
    """Let a fresh manager do what is left."""
    async with fresh:
        await fresh.start()
        while not await is_at_rest(server):  # noqa: ASYNC110 - looked at from outside
            await trio.sleep(0.005)
        assert fresh._engine is not None
        consumer = fresh._engine.consumer
        assert consumer is not None
        while consumer._slots.free < CONCURRENCY:  # noqa: ASYNC110 - a take is under way
            await trio.sleep(0.001)


async def is_at_rest(server: Broker) -> bool:
    """Whether nothing is left to do in any queue; looked at twice, as jobs have children."""
    emitted: list[int] = []
    for queue in (*QUEUES, *QUEUES):
        counts = await server.counts(queue)
        if counts.queued or counts.delayed or counts.running or counts.outgoing:
            return False
        emitted.append(counts.emitted)
    return emitted[: len(QUEUES)] == emitted[len(QUEUES) :]


async def check(site: Site, server: Broker, backdoor: Backdoor) -> None:
    """The invariants, now that everything has come to its end."""
    assert await backdoor.defects() == []
    for queue in QUEUES:
        counts = await server.counts(queue)
        left = (counts.queued, counts.delayed, counts.running, counts.dead, counts.outgoing)
        assert left == (0, 0, 0, 0, 0), (queue, counts)
        ended = counts.completed + counts.skipped + counts.cancelled
        assert counts.emitted == ended, (queue, counts)
    for queue, job_id in site.acknowledged:
        (stored,) = await server.read(queue, [job_id])
        assert stored is not None, job_id
        if stored.state is JobState.CANCELLED:
            assert job_id in site.may_be_cancelled
        else:
            assert stored.state is JobState.COMPLETED, stored
            assert site.effects[job_id] >= 1
    for job_id, children in site.children.items():
        assert len(children) == 2, (job_id, children)
        assert site.effects[job_id] >= 1
    assert (await server.counts("other")).emitted == len(site.children)


async def _sleep() -> None:
    await trio.sleep_forever()


def test_what_is_left_behind_is_seen() -> None:
    """The audit itself: a task, a thread, a socket and a child process each make a difference."""

    async def main() -> None:
        before = Belongings()
        assert Belongings() == before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_sleep)
            assert Belongings() != before
            nursery.cancel_scope.cancel()
        assert Belongings() == before

        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        assert Belongings() != before
        over.set()
        thread.join()
        assert Belongings() == before

        with socket.socket():
            assert Belongings() != before
        assert Belongings() == before

        with subprocess.Popen(["sleep", "60"]) as child:  # noqa: ASYNC220 - one that leaks
            assert Belongings() != before
            child.kill()
        assert Belongings() == before

    trio.run(main)


# -- in virtual time -----------------------------------------------------------------------------


def a_manager(site: Site, db: str, **options: Any) -> TaskManager[Any]:
    tasks: TaskManager[Any] = TaskManager(
        db,
        lifespan=site.lifespan,
        concurrency=CONCURRENCY,
        processor={"retry": {"delay": 0.01, "jitter": 0}},
        **options,
    )
    tasks.include(*site.handlers())
    return tasks


def audit_in_memory(
    operation: Operation, at: int, moment: Moment, *, virtual: bool = True, seed: int = 0
) -> bool:
    """Cancel at one step; whether there is such a step."""
    name = f"m{secrets.token_hex(6)}"
    canceller = Canceller(at, moment)

    async def main() -> None:
        with trio.fail_after(600 if virtual else 20):
            async with MemoryBroker(f"tt:{name}", starts_at_ms=0) as server:
                await audit(
                    operation,
                    canceller,
                    manager=lambda site: a_manager(site, f"memory://{name}"),
                    server=server,
                    backdoor=MemoryBackdoor(server.store),
                )

    clock = MockClock(autojump_threshold=0) if virtual else None
    try:
        with replayable(seed, lambda: 0):
            trio.run(main, clock=clock, instruments=[canceller])
    except BaseException as error:
        error.add_note(f"{operation.__name__} cancelled {moment.value} step {at}, seed {seed}")
        raise
    return canceller.fired


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_cancelled_at_any_step(operation: Operation, moment: Moment) -> None:
    stride = 3 if moment is Moment.BEFORE and ROUNDS == 1 else 1
    for seed in range(ROUNDS):
        at = 0
        while audit_in_memory(operation, at, moment, seed=seed):
            at += stride
        assert at > 0


def test_cancelled_while_handlers_run_in_threads() -> None:
    at = 0
    while audit_in_memory(a_thread, at, Moment.AFTER, virtual=False):
        at += max(1, 7 // ROUNDS)
    assert at > 0


# -- on a real server ----------------------------------------------------------------------------


def steps(operation: Operation) -> list[int]:
    """Some steps, others for each operation; or, in a thorough run, many."""
    if ROUNDS > 1:
        return [*range(30), *range(30, 400, 9)]
    if operation is entering:
        return [*range(16)]
    place = OPERATIONS.index(operation)
    # An emit or a look has few on a fast server, and handlers may have taken many uncounted.
    return [0, (1, 4, 11)[place % 3], (3, 19, 33)[place // 3 % 3], 60]


def audit_for_real(operation: Operation, at: int, url: str) -> bool:
    namespace = f"t{secrets.token_hex(6)}"
    canceller = Canceller(at, Moment.AFTER)

    async def main() -> None:
        with trio.fail_after(20):
            async with RedisBroker(parse_address(url), namespace=namespace) as server:
                await audit(
                    operation,
                    canceller,
                    manager=lambda site: a_manager(site, url, namespace=namespace),
                    server=server,
                    backdoor=backdoor,
                )

    backdoor = RedisBackdoor(url, namespace)
    try:
        trio.run(main, instruments=[canceller])
    except BaseException as error:
        error.add_note(f"{operation.__name__} cancelled after step {at}")
        raise
    finally:
        backdoor.clear()
    return canceller.fired


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_cancelled_on_a_real_server(operation: Operation, server: ServerProcess) -> None:
    fired = [audit_for_real(operation, at, server.url) for at in steps(operation)]
    assert fired[0]


@pytest.mark.parametrize("operation", [entering, leaving], ids=["entering", "leaving"])
def test_cancelled_with_an_embedded_server_no_child_process_is_left(operation: Operation) -> None:
    async def main(canceller: Canceller) -> None:
        site = Site()
        before = Belongings()
        with trio.fail_after(20):
            await operation(a_manager(site, "embedded://"), site, canceller)
        assert Belongings() == before
        assert site.lifespans == 0

    for at in range(0, 60, max(1, 12 // ROUNDS)):
        canceller = Canceller(at, Moment.AFTER)
        trio.run(main, canceller, instruments=[canceller])
