"""Armed waits: what an idle worker's first job costs, and what is left when they end badly."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest
import redis

from tests.contract.backdoors import redis_world
from tests.contract.world import Worker
from tests.servers import ServerProcess, start_server
from trio_tasks import Job, TaskManager

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def reads(client: Any) -> int:
    return client.info("stats")["total_reads_processed"]


def blocked(client: Any) -> int:
    return client.info("clients")["blocked_clients"]


async def until_armed(client: Any, armed: bool) -> None:
    with anyio.fail_after(10):
        while bool(blocked(client)) is not armed:  # noqa: ASYNC110 - a server's state
            await anyio.sleep(0.0001)


async def test_an_idle_worker_begins_a_job_without_asking_for_it() -> None:
    with start_server() as own_server:
        await begin_a_job(own_server.url)


async def begin_a_job(url: str) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    # With one slot it does not wait for a second job meanwhile.
    worker: TaskManager[Any] = TaskManager(url, concurrency=1)

    @worker.handler("job")
    async def job(job: Job[int]) -> None:
        begun.set()
        await go_on.wait()

    client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    with anyio.fail_after(20), client:
        async with TaskManager(url) as emitter, worker:
            await emitter.emit("job", 0, delay=3600)  # connected, and the queue is named
            await worker.start()
            for _ in range(3):  # waits end by themselves; one began just now
                await until_armed(client, False)
                await until_armed(client, True)
            asked = reads(client)
            await emitter.emit("job", 1)
            await begun.wait()
            assert reads(client) - asked == 2, "the emit, and the question"
            go_on.set()
            await worker.until_idle()


async def test_a_worker_that_stops_while_it_is_armed_is_no_member_any_more(
    server: ServerProcess,
) -> None:
    namespace = f"t{secrets.token_hex(6)}"
    worker: TaskManager[Any] = TaskManager(server.url, namespace=namespace)
    ran: list[int] = []

    @worker.handler("job")
    async def job(job: Job[int]) -> None:
        ran.append(job.data)

    client: Any = redis.Redis.from_url(server.url)  # pyright: ignore[reportUnknownMemberType]
    with anyio.fail_after(20), client:
        async with worker:
            await worker.start()
            await worker.emit("job", 1)
            await worker.until_idle()
            await worker.stop()
            assert client.zcard(f"{namespace}:{{default}}:c") == 0
            ref = await worker.emit("job", 2)
            await anyio.sleep(1.1)  # the armed wait is over on the server, too
            assert (await ref.info()).state == "queued"
    assert ran == [1]


@pytest.mark.parametrize("connection_breaks", [False, True])
async def test_a_member_leaves_whose_armed_take_was_answered_when_it_was_cancelled(
    server: ServerProcess, connection_breaks: bool
) -> None:
    client: Any = redis.Redis.from_url(server.url)  # pyright: ignore[reportUnknownMemberType]
    with client:
        async with redis_world(server.url, patience=20) as world:
            worker, other = await world.worker(), await world.worker("other")
            await world.emit()
            assert await world.backdoor.take_hint("default")
            members = members_with(client, worker.membership.incarnation)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.wait_and_take, 5)
                await anyio.sleep(0.05)
                # The loop does not run until the answer is in its socket.
                client.rpush(members.removesuffix(":c") + ":w", "1")
                assert client.ping()
                if connection_breaks:  # that of all requests, before it can be said
                    kill_connection(client, "trio_tasks:cmd")
                tasks.cancel_scope.cancel()

            await worker.leave()

            assert client.zrange(members, 0, -1) == [other.membership.incarnation.encode()]
            assert (await other.take_one()).attempt == 1


async def test_two_queues_of_one_broker_do_not_wake_each_other_all_the_time(
    server: ServerProcess,
) -> None:
    waits: list[str] = []

    async def idle(worker: Worker) -> None:
        while True:
            waits.append(worker.membership.queue)
            await worker.wait_and_take(1)

    async with redis_world(server.url, patience=20) as world, anyio.create_task_group() as tasks:
        tasks.start_soon(idle, await world.worker())
        tasks.start_soon(idle, await world.worker("other", queue="other"))
        await anyio.sleep(1.5)
        assert len(waits) <= 10
        tasks.cancel_scope.cancel()


def kill_connection(client: Any, name: str) -> None:
    """Kill the youngest connection of this name."""
    ids = [int(each["id"]) for each in client.client_list() if each["name"] == name]
    assert client.client_kill_filter(_id=str(max(ids))) == 1


def members_with(client: Any, incarnation: str) -> str:
    """The name of the set of members that has this one."""
    names = client.scan_iter("*:{default}:c", count=10_000)
    (found,) = [name for name in names if client.zscore(name, incarnation) is not None]
    return found.decode()
