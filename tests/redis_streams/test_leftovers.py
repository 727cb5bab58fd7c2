"""Work leaves nothing behind: once ended jobs have expired, the keys are those from before."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest
import redis

from tests.servers import ServerProcess
from tests.workshop import eventually
from trio_tasks import Context, DebouncePolicy, Emit, Job, JobState, TaskManager
from trio_tasks.connect import broker_for

pytestmark = pytest.mark.anyio

TOMBSTONE_MS = 100


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def a_manager_with_everything(url: str, namespace: str, asleep: list[str]) -> TaskManager[Any]:
    """Handlers that fail, retry, wait, log, have children here and elsewhere, and repeat."""
    tasks: TaskManager[Any] = TaskManager(
        url,
        namespace=namespace,
        concurrency=20,
        retention=1,
        processor={"retry": {"delay": 0.01, "jitter": 0}},
    )
    tasks._new_broker = broker_for(url, namespace=namespace, tombstone_ms=TOMBSTONE_MS)

    @tasks.handler("parent", attempts=2)
    async def parent(job: Job[int], ctx: Context[Any]) -> str:
        job.logger(f"attempt {job.attempt}")
        ctx.emit("child", job.data)
        ctx.emit("distant", job.data, queue="other", delay=0.02)
        if job.attempt == 1:
            raise ValueError("the first one fails")
        return "a result"

    @tasks.handler("child")
    async def child(job: Job[int]) -> None: ...

    @tasks.handler("distant", queue="other")
    async def distant(job: Job[int]) -> None: ...

    died = set[str]()

    @tasks.handler("mortal", attempts=1)
    async def mortal(job: Job[int]) -> None:
        if job.id not in died:
            died.add(job.id)
            raise ValueError("dead until it is requeued")

    @tasks.handler("leading", debounce=DebouncePolicy(window=0.05))
    async def leading(job: Job[int]) -> None: ...

    @tasks.handler("trailing", debounce=DebouncePolicy(window=0.05, edge="trailing"))
    async def trailing(job: Job[int]) -> None: ...

    @tasks.handler("sleeper")
    async def sleeper(job: Job[int]) -> None:
        asleep.append(job.id)
        await anyio.sleep_forever()

    return tasks


async def a_working_day(tasks: TaskManager[Any], asleep: list[str], jobs: int) -> None:
    """All kinds of jobs, until none is left."""
    numbers = range(jobs)
    await tasks.emit_many(Emit("parent", n, priority=n % 3) for n in numbers)
    await tasks.emit_many(Emit("parent", n, id=f"named-{n}") for n in numbers)
    await tasks.emit_many(Emit("leading", n) for n in numbers)
    await tasks.emit_many(Emit("trailing", n) for n in numbers)
    cancelled = await tasks.emit_many(Emit("child", n, delay=3600) for n in numbers)
    for ref in cancelled:
        await ref.cancel("not today")
    sleeper = await tasks.emit("sleeper", 0)
    await eventually(lambda: sleeper.id in asleep)
    await sleeper.cancel()
    await tasks.emit("child", 0, id="often", repeat="0 0 1 1 *")
    await tasks.schedules().trigger("often")
    await tasks.schedules().remove("often")
    await tasks.emit_many(Emit("mortal", n) for n in numbers)
    await tasks.queue("default").pause()
    await tasks.queue("default").resume()
    await tasks.until_idle()
    dead = await tasks.queue("default").dead_letters(limit=2 * jobs)
    assert len(dead) == jobs
    for info in dead:
        assert await tasks.queue("default").requeue(info.id)
    await tasks.until_idle()
    assert await tasks.queue("default").jobs(JobState.DEAD) == []


async def test_after_retention_and_tombstones_the_keys_are_those_from_before(
    server: ServerProcess,
) -> None:
    namespace = f"t{secrets.token_hex(6)}"
    asleep: list[str] = []
    tasks = a_manager_with_everything(server.url, namespace, asleep)
    client: Any = redis.Redis.from_url(server.url)  # pyright: ignore[reportUnknownMemberType]

    def keys() -> set[str]:
        return {key.decode() for key in client.scan_iter(f"{namespace}*", count=10_000)}

    def of_jobs() -> set[str]:
        return {key for key in keys() if key.partition("}:")[2].startswith(("j:", "l:", "d:"))}

    with anyio.fail_after(60), client:
        async with tasks:
            await tasks.start()
            await a_working_day(tasks, asleep, 5)
            await eventually(lambda: not of_jobs(), within=10)
            before = keys()
            await a_working_day(tasks, asleep, 100)
            assert len(of_jobs()) > 100, "they are kept for a moment"
            await eventually(lambda: not of_jobs(), within=10)
            assert keys() <= before
            for key in before:
                if ":s:" in key or key.endswith(":out"):
                    assert client.xlen(key) == 0, key
                elif key.endswith((":z", ":x", ":dlq", ":cron")):
                    pytest.fail(f"{key} should have gone with its last member")
            meta = client.hlen(f"{namespace}:{{default}}:m")
        members = [client.zcard(f"{namespace}:{{{queue}}}:c") for queue in ("default", "other")]
        assert members == [0, 0]
        assert meta < 30
