"""What `db=` and `streamdb=` may be, and what is said of wrong values before anything is opened."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest
import redis
import redis.asyncio
from anyio.abc import TaskStatus

from tests.servers import ServerProcess, timed
from trio_tasks import Emit, TaskManager
from trio_tasks.broker import Broker, NewJob, Record
from trio_tasks.connect import VARIABLE, Database, broker_for
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.memory import MemoryBroker

_Test = Callable[..., Awaitable[None]]


def on_both_loops(test: _Test) -> _Test:
    """A test on Trio and on asyncio, with a time-out."""
    loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])
    return pytest.mark.anyio(loops(timed(20)(test)))


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(6)}"


@asynccontextmanager
async def opened(
    db: Database, *, streamdb: Database = None, namespace: str = "tt"
) -> AsyncGenerator[Broker]:
    async with broker_for(db, streamdb=streamdb, namespace=namespace)() as broker:
        yield broker


async def emit(broker: Broker, job_id: str = "a@1") -> None:
    await broker.emit([NewJob(id=job_id, queue="mail", record=Record(1, "send", b"null"))])


# --- Where jobs are kept ----------------------------------------------------------------------


@on_both_loops
async def test_a_url_names_a_server(server: ServerProcess, namespace: str) -> None:
    async with opened(server.url, namespace=namespace) as broker:
        await emit(broker)
        async with opened(server.url, namespace=namespace) as other:
            assert await other.queues() == ["mail"]


@on_both_loops
@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_a_clients_settings_are_borrowed(
    server: ServerProcess, namespace: str, kind: type[redis.Redis | redis.asyncio.Redis]
) -> None:
    client = kind(unix_socket_path=server.socket_path, db=5)
    async with opened(client, namespace=namespace) as broker:
        await emit(broker)
        assert await broker.queues() == ["mail"]
    async with opened(f"{server.url}?db=5", namespace=namespace) as broker:
        assert await broker.queues() == ["mail"]


@on_both_loops
async def test_streamdb_is_a_second_way_to_the_same_server(
    server: ServerProcess, namespace: str
) -> None:
    async with opened(server.url, streamdb=server.url, namespace=namespace) as broker:
        await emit(broker)
    with pytest.raises(ConfigurationError, match="streamdb does not reach the same keyspace"):
        async with opened(server.url, streamdb=f"{server.url}?db=1", namespace=namespace):
            pass


@on_both_loops
async def test_memory_without_a_name_is_for_one_manager_however_often_it_is_entered() -> None:
    new_broker = broker_for("memory://")
    async with new_broker() as broker:
        await emit(broker)
    async with new_broker() as broker:
        assert await broker.queues() == ["mail"]
    async with opened("memory://") as other:
        assert await other.queues() == []


@on_both_loops
async def test_memory_with_a_name_is_shared_by_those_who_name_it(namespace: str) -> None:
    async with opened(f"memory://{namespace}") as broker:
        assert isinstance(broker, MemoryBroker)
        await emit(broker)
        async with opened(f"memory://{namespace}") as other:
            assert await other.queues() == ["mail"]
        async with opened(f"memory://{namespace}", namespace="elsewhere") as stranger:
            assert await stranger.queues() == []


@on_both_loops
async def test_an_embedded_server_keeps_what_it_was_told_in_its_directory(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "with space"
    url = f"embedded://{str(directory).replace(' ', '%20')}"
    async with opened(url) as broker:
        await emit(broker)
        async with opened(url) as attached:
            assert await attached.queues() == ["mail"]
    assert directory.is_dir()
    async with opened(url) as broker:
        assert [job and job.id for job in await broker.read("mail", ["a@1"])] == ["a@1"]


@on_both_loops
async def test_when_the_owner_of_an_embedded_server_leaves_the_others_start_it_again(
    tmp_path: Path,
) -> None:
    url = f"embedded://{tmp_path}"
    may_leave = anyio.Event()

    async def own(*, task_status: TaskStatus[None]) -> None:
        async with opened(url):
            task_status.started()
            await may_leave.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(own)
        async with opened(url) as attached:
            await emit(attached)
            may_leave.set()
            await emit(attached, "b@1")
            found = await attached.read("mail", ["a@1", "b@1"])
            assert [job and job.id for job in found] == ["a@1", "b@1"]


@on_both_loops
async def test_two_private_embedded_servers_know_nothing_of_each_other() -> None:
    async with opened("embedded://") as broker, opened("embedded://") as other:
        await emit(broker)
        assert await other.queues() == []


# --- Without an address -----------------------------------------------------------------------


@on_both_loops
async def test_the_variable_stands_in_for_db(
    server: ServerProcess, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, server.url)
    async with opened(None, namespace=namespace) as broker:
        await emit(broker)
    async with opened(server.url, namespace=namespace) as broker:
        assert await broker.queues() == ["mail"]


@on_both_loops
async def test_without_any_address_a_private_server_is_started_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    monkeypatch.setenv(VARIABLE, "")
    async with opened(None) as broker:
        await emit(broker)
    notices = [text for text in caplog.messages if "private embedded server" in text]
    assert len(notices) == 1
    assert VARIABLE in notices[0]
    assert "embedded:///" in notices[0]


@on_both_loops
async def test_an_embedded_server_that_was_asked_for_is_not_remarked_upon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    async with opened("embedded://"):
        pass
    assert VARIABLE not in caplog.text


def _what_ended(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelname) == ("trio_tasks.broker", "WARNING")
    ]


@on_both_loops
async def test_jobs_that_end_with_a_private_server_are_counted_in_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = TaskManager("embedded://", processor={"retry": {"max_retries": 0}})

    @tasks.handler("fails")
    async def fails() -> None:
        raise ValueError

    async with tasks:
        await tasks.start()
        await tasks.emit_many([Emit(fails) for _ in range(3)])
        await tasks.until_idle()
        await tasks.stop()
        await tasks.emit(fails)
        await tasks.emit("elsewhere", "s3cret", queue="other", delay=60)
        await tasks.emit("elsewhere", "s3cret", queue="other")
    [text] = _what_ended(caplog)
    assert text == (
        "the embedded server ends with this manager, and with it these jobs: 2 queued, 1 delayed,"
        " 3 dead; to keep jobs, give db='embedded:///some/directory'"
    )


@on_both_loops
async def test_jobs_that_a_cancelled_program_leaves_behind_are_counted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.CancelScope() as scope:
        async with TaskManager("embedded://") as tasks:
            await tasks.emit("event")
            scope.cancel()
            await anyio.sleep_forever()
    assert [text.count("1 queued;") for text in _what_ended(caplog)] == [1]


@on_both_loops
async def test_a_server_that_keeps_its_jobs_and_one_that_has_none_end_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with TaskManager(f"embedded://{tmp_path}") as tasks:
        await tasks.emit("event")
    tasks = TaskManager("embedded://")

    @tasks.handler("succeeds")
    async def succeeds() -> None: ...

    async with tasks:
        await tasks.start()
        await tasks.emit(succeeds)
        await tasks.until_idle()
    assert _what_ended(caplog) == []


# --- Wrong values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "message"),
    [
        ("http://localhost", r"^db: .*redis://.*'http://'.*memory://"),
        ("localhost:6379", r"^db: .*must begin with"),
        ("", r"^db: .*must begin with"),
        ("redis+cluster://a/jobs", r"^db: .*number of a database"),
        ("redis+sentinel://a:1", r"^db: .*name of the server that the Sentinels watch"),
        ("redis://a/first", r"^db: .*number of a database"),
        ("embedded://jobs", r"^db: embedded://jobs .*embedded:///path"),
        ("embedded:///", r"^db: .*names no directory"),
        ("embedded:///jobs?sync=1", r"^db: .*no arguments"),
        ("memory://a b", r"^db: memory://name='a b'"),
        (6379, r"^db: .*'int'.*redis\.Redis"),
        (True, r"^db: .*'bool'"),
    ],
)
def test_a_wrong_db_is_refused_before_anything_is_opened(db: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        broker_for(cast("Database", db))


@pytest.mark.parametrize(
    ("db", "streamdb", "message"),
    [
        ("redis://a", "embedded://", r"^streamdb: .*must begin with redis://"),
        ("redis://a", "memory://", r"^streamdb: "),
        ("redis://a", "redis://a/x", r"^streamdb: .*number of a database"),
        ("memory://", "redis://a", r"streamdb .*memory:// has only one"),
        ("embedded://", "redis://a", r"streamdb .*embedded:// has only one"),
        (None, "redis://a", r"streamdb .*embedded:// has only one"),
    ],
)
def test_a_wrong_streamdb_is_refused_before_anything_is_opened(
    db: Database, streamdb: Database, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        broker_for(db, streamdb=streamdb)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "http://localhost")
    with pytest.raises(ConfigurationError, match=rf"^\${VARIABLE}: .*'http://'"):
        broker_for()


def test_a_wrong_namespace_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"namespace='a\{b\}'"):
        broker_for("memory://", namespace="a{b}")


@on_both_loops
async def test_no_error_shows_a_password() -> None:
    for url in ("redis://user:s3cret@host:port", "redis://user:s3cret@host/one"):
        with pytest.raises(ConfigurationError) as refused:
            broker_for(url)
        assert "s3cret" not in str(refused.value)
    broker = broker_for("redis://user:s3cret@localhost:1?socket_timeout=0.1")()
    with pytest.raises(BrokerUnavailableError) as unavailable:
        await broker.__aenter__()
    assert "s3cret" not in f"{unavailable.value!r} {unavailable.value.__cause__!r} {broker!r}"
