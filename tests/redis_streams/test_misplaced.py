"""Keys of another type than ours: a queue waits for people, by name; no job is lost or dies of it.

What is of a single job is told in `tests/lua/test_damage.py`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest

from tests.contract.backdoors import RedisBackdoor
from tests.contract.world import World
from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, start_server, timed
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
from trio_tasks.processor.decisions import Die
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.keys import LEVELS, QueueKeys, queues_key, types_beside

pytestmark = pytest.mark.anyio

SHARED = ("m", "c", "ci", "z", "w", "x", "cron", "out", "ev", "dlq", "s:0")


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def world_on(server: ServerProcess, namespace: str) -> AsyncGenerator[World]:
    broker = RedisBroker(parse_address(server.url), namespace=namespace)
    async with broker:
        yield World(broker, RedisBackdoor(server.url, namespace))


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


def nameless(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of a wrong type without a name."""
    said = [record.getMessage() for record in caplog.records]
    return [text for text in said if "wrong kind" in text or "WRONGTYPE" in text]


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
    assert not nameless(caplog)
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


# --- What is not known --------------------------------------------------------------------------


@timed(20)
async def test_a_key_is_out_of_the_way_only_when_the_server_says_so(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    key = QueueKeys(namespace, "main").dlq
    with start_server() as server, Admin(server.url) as admin:
        async with world_on(server, namespace) as world:

            def levels() -> list[str]:
                return [level for level, _ in told(caplog, key)]

            async def refused(how: str) -> None:
                with pytest.raises(BrokerUnavailableError, match=how) as caught:
                    await world.counts("main")
                assert "WRONGTYPE" in str(caught.value.__cause__)

            admin.do("SET", key, "somebody's")
            await refused(f"key '{key}' is of the type 'string', and should be a zset")
            assert levels() == ["ERROR"]
            admin.do("ACL", "SETUSER", "default", "-type")
            for _ in range(2):
                await refused("which one it is cannot be asked now .NOPERM")
                await world.emit(queue="main")  # needs no such key, and so proves nothing
            assert levels() == ["ERROR"]
            admin.do("ACL", "SETUSER", "default", "+type")
            await world.emit(queue="main")
            assert levels() == ["ERROR"]
            admin.do("DEL", key)
            await world.emit(queue="main")
            assert levels() == ["ERROR", "INFO"]
    assert caplog.text.count("the server refuses to say") == 1


@timed(20)
async def test_a_server_that_never_says_which_key_it_is_stops_the_queue_and_no_job_is_given_up(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = QueueKeys(namespace, "default").dlq
    with start_server() as server, Admin(server.url) as admin:
        admin.do("ACL", "SETUSER", "default", "-type")
        async with world_on(server, namespace) as world:
            worker = await world.worker()
            job_id = await world.emit()
            delivery = await worker.take_one()
            admin.do("SET", key, "somebody's")
            with pytest.raises(BrokerUnavailableError, match="cannot be asked now"):
                await worker.end(delivery, Die("x"))
            admin.do("DEL", key)
            await worker.end(delivery, Die("x"))
            assert await world.state(job_id) is JobState.DEAD
    (record,) = [record for record in caplog.records if "refuses to say" in record.getMessage()]
    assert repr(QueueKeys(namespace, "default").meta) in record.getMessage()


@timed(20)
async def test_a_new_connection_that_meets_a_key_of_the_wrong_type_leaves_it_to_be_named(
    server: ServerProcess, namespace: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    key = QueueKeys(namespace, "default").incarnations
    async with world_on(server, namespace) as world:
        worker = await world.worker()
        admin.do("SET", key, "somebody's")
        assert admin.kill("trio_tasks:cmd") == 1
        await world.counts()  # asked again, on the new connection
        with pytest.raises(BrokerUnavailableError, match=f"key '{key}' is of the type 'string'"):
            await worker.take()
    assert [level for level, _ in told(caplog, key)] == ["ERROR"]
    assert not nameless(caplog)


# --- Who waits for work or changes --------------------------------------------------------------


@timed(20)
async def test_a_wake_up_list_of_the_wrong_type_is_named_and_other_queues_are_woken_at_once(
    server: ServerProcess, namespace: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    key = QueueKeys(namespace, "spoilt").wake
    woken = {"spoilt": anyio.Event(), "sound": anyio.Event()}

    async def wait(queue: str) -> None:
        membership = (await world.worker(queue=queue)).membership
        while not await membership.wait(10):
            pass
        woken[queue].set()

    async with world_on(server, namespace) as world, anyio.create_task_group() as tasks:
        admin.do("SET", key, "somebody's")
        for queue in woken:
            tasks.start_soon(wait, queue)
        await eventually(lambda: bool(told(caplog, key)))
        await world.emit(queue="sound")
        with anyio.fail_after(4):
            await woken["sound"].wait()
        admin.do("DEL", key)
        await world.emit(queue="spoilt")
        with anyio.fail_after(4):
            await woken["spoilt"].wait()
    assert [level for level, _ in told(caplog, key)] == ["ERROR", "INFO"]
    assert "its queue waits" in told(caplog, key)[0][1]
    assert not nameless(caplog)


@timed(20)
async def test_a_stream_of_changes_of_the_wrong_type_is_named_and_other_queues_are_watched(
    server: ServerProcess, namespace: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    key = QueueKeys(namespace, "spoilt").events
    async with world_on(server, namespace) as world, world.broker.watch("spoilt") as spoilt:
        admin.do("SET", key, "somebody's")
        await eventually(lambda: bool(told(caplog, key)))
        job_id = await world.emit(queue="sound")
        async with world.broker.watch("sound", job_id) as sound:
            worker = await world.worker(queue="sound")
            await worker.end(await worker.take_one())
            with anyio.fail_after(4):
                await sound.wait(10)
        with pytest.raises(BrokerUnavailableError, match=f"key '{key}' is of the type 'string'"):
            async with RedisBroker(parse_address(server.url), namespace=namespace) as other:
                await other.watch("spoilt").__aenter__()
        admin.do("DEL", key)
        job_id = await world.emit(queue="spoilt")
        worker = await world.worker(queue="spoilt")
        await worker.end(await worker.take_one())
        with anyio.fail_after(4):
            await spoilt.wait(10)
    # Once by each of the two brokers; one of them sees it go.
    assert [level for level, _ in told(caplog, key)] == ["ERROR", "ERROR", "INFO"]
    assert not nameless(caplog)


# --- The list of queues -------------------------------------------------------------------------


@timed(20)
async def test_a_list_of_queues_of_the_wrong_type_is_named_and_holds_up_nobody(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    key = queues_key(namespace)
    with start_server() as server, Admin(server.url) as admin:
        admin.do("SET", key, "somebody's")
        async with TaskManager(server.url, namespace=namespace) as tasks:
            for number in range(50):
                await tasks.emit("work", number, queue="main")
            assert admin.calls("sadd") < 25, "not again with each emit"
            with pytest.raises(BrokerUnavailableError, match=f"key '{key}' is of .* be a set"):
                await tasks.queues()
            ((level, text),) = told(caplog, key)
            assert level == "ERROR"
            assert "queues are not listed until that key is renamed or deleted" in text
            admin.do("DEL", key)
            while await tasks.queues() != ["main"]:
                await tasks.emit("work", 50, queue="main", id="again")
            assert [level for level, _ in told(caplog, key)] == ["ERROR", "INFO"]
            assert (await tasks.queue("main").stats()).queued == 51
    assert not nameless(caplog)


# --- Which keys these are -----------------------------------------------------------------------


def test_each_shared_key_is_named_with_its_type(namespace: str) -> None:
    keys = QueueKeys(namespace, "main", whole=True)

    types = types_beside(keys.meta)

    assert set(types) == {*keys.fixed[:-1], *map(keys.stream, LEVELS), keys.aside}
    assert types_beside("graveyard") == {"graveyard": "stream"}


async def test_the_types_are_those_that_the_server_says(site: Site, admin: Admin) -> None:
    site.may_end.set()
    with anyio.fail_after(10):
        for how in ("end", "child", "die"):
            await ended(await site.begin(how))
        await site.tasks.emit("work", "end", queue="main", delay=3600)
        for name, expected in types_beside(site.keys.events).items():
            assert admin.do("TYPE", name) in (b"none", expected.encode(), expected)
    assert admin.do("TYPE", queues_key(site.keys.namespace)) in (b"set", "set")
