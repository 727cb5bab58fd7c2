"""Keys of another type than ours: a queue waits for people, by name; no job is lost or dies of it.

What is of a single job is told in `tests/lua/test_damage.py`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest

from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess
from tests.workshop import eventually
from trio_tasks import (
    BrokerUnavailableError,
    Context,
    DeadLetter,
    Job,
    JobInfo,
    JobRef,
    JobState,
    TaskManager,
)
from trio_tasks.redis_streams.keys import LEVELS, QueueKeys, queues_key, types_of_shared

pytestmark = pytest.mark.anyio

SHARED = ("m", "c", "ci", "z", "w", "x", "cron", "out", "ev", "dlq", "s:0")


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def admin(server: ServerProcess, namespace: str) -> Generator[Admin]:
    with Admin(server.url) as admin:
        yield admin
        for key in cast("list[bytes]", admin.do("KEYS", f"{namespace}:*")):
            admin.do("DEL", key.decode())


@dataclass
class Site:
    """A worker for two queues; the jobs of `main` wait until they may end."""

    tasks: TaskManager[Any]
    keys: QueueKeys
    begun: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    may_end: anyio.Event = field(default_factory=anyio.Event)

    async def begin(self, how: str) -> JobRef[Any]:
        """A job of `main` that has begun."""
        ref = await self.tasks.emit("work", how, queue="main")
        await eventually(lambda: ref.id in {job_id for job_id, _ in self.begun})
        return ref


@pytest.fixture
async def site(server: ServerProcess, namespace: str, admin: Admin) -> AsyncGenerator[Site]:
    tasks: TaskManager[Any] = TaskManager(server.url, namespace=namespace, concurrency=4)
    site = Site(tasks, QueueKeys(namespace, "main"))

    @tasks.handler("work", queue="main")
    async def work(job: Job[str], ctx: Context[Any]) -> str:
        site.begun.append((job.id, job.attempt))
        await site.may_end.wait()
        if job.data == "die":
            raise DeadLetter("asked")
        if job.data == "child":
            ctx.emit("other", queue="other")
        return "done"

    @tasks.handler("other", queue="other")
    async def other() -> None: ...

    async with tasks:
        await tasks.start()
        yield site
        with anyio.fail_after(5):
            await tasks.stop(grace=1)


def told(caplog: pytest.LogCaptureFixture, key: str) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "trio_tasks.broker" and repr(key) in record.getMessage()
    ]


async def emitted(site: Site) -> JobRef[Any] | None:
    try:
        return await site.tasks.emit("work", "end", queue="main")
    except BrokerUnavailableError as error:
        return site.tasks.queue("main").ref(error.ids[0])


@pytest.mark.parametrize("name", SHARED)
async def test_a_queue_waits_for_a_misplaced_key_to_go_and_then_goes_on(
    name: str, site: Site, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    key = site.keys.prefix + name
    with anyio.fail_after(15):
        ref = await site.begin({"dlq": "die", "out": "child"}.get(name, "end"))
        kept = name in ("c", "ci", "m", "s:0") and bool(admin.do("RENAME", key, f"{key}-kept"))
        admin.do("SET", key, "somebody's")
        site.may_end.set()
        late = None if name == "s:0" else await emitted(site)
        if name == "s:0":
            with pytest.raises(BrokerUnavailableError, match=f"'{key}' is of the type 'string'"):
                await site.tasks.emit("work", "end", queue="main")
        await eventually(lambda: bool(told(caplog, key)))
        for _ in range(3):  # the other queue goes on
            await (await site.tasks.emit("other", queue="other")).result(timeout=3)
        assert admin.do("GET", key) == b"somebody's"
        admin.do("DEL", key)
        if kept:
            admin.do("RENAME", f"{key}-kept", key)

        info = await ended(ref)
        if late is not None and await exists(late):
            assert (await ended(late)).state is JobState.COMPLETED
        assert await (await site.tasks.emit("work", "end", queue="main")).result() == "done"
        await eventually(lambda: len(told(caplog, key)) == 2)

    assert info.state is (JobState.DEAD if name == "dlq" else JobState.COMPLETED)
    assert info.reason == ("asked" if name == "dlq" else None)
    assert {attempt for _, attempt in site.begun} == {1}
    (error, message), (again, _) = told(caplog, key)
    assert (error, again) == ("ERROR", "INFO")
    assert "renamed or deleted" in message
    assert not [record for record in caplog.records if "refused" in record.getMessage()]


async def ended(ref: JobRef[Any]) -> JobInfo:
    while not (info := await ref.info()).state.is_final:  # noqa: ASYNC110 - as a user looks
        await anyio.sleep(0.01)
    return info


async def exists(ref: JobRef[Any]) -> bool:
    try:
        await ref.info()
    except LookupError:
        return False
    return True


def test_each_shared_key_is_named_with_its_type(namespace: str) -> None:
    keys = QueueKeys(namespace, "main", whole=True)

    types = types_of_shared(keys.fixed)

    assert set(types) == {*keys.fixed[:-1], *map(keys.stream, LEVELS), keys.aside}
    assert types_of_shared(["graveyard"]) == {"graveyard": "stream"}


async def test_the_types_are_those_that_the_server_says(site: Site, admin: Admin) -> None:
    site.may_end.set()
    with anyio.fail_after(10):
        for how in ("end", "child", "die"):
            await ended(await site.begin(how))
        await site.tasks.emit("work", "end", queue="main", delay=3600)
        for name, expected in types_of_shared(site.keys.fixed).items():
            assert admin.do("TYPE", name) in (b"none", expected.encode(), expected)
    assert admin.do("TYPE", queues_key(site.keys.namespace)) in (b"set", "set")
