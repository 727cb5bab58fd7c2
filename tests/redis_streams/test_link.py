"""The supervised connection: what its callers see when the server or the way to it fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from hashlib import sha1
from math import inf
from typing import cast

import anyio
import anyio.to_thread
import pytest
import redis

from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, start_server, timed
from trio_tasks.environment import loop_time
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueFullError,
)
from trio_tasks.redis_streams.address import Address, parse_address
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.outage_log import OutageLog
from trio_tasks.redis_streams.scripts import Call, Script
from trio_tasks.redis_streams.wire import Connection, RedisReplyError, Reply

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"], scope="module"),
]

timely = timed(20)

APPEND = "#!lua\nredis.call('RPUSH', KEYS[1], ARGV[1])\nreturn redis.call('LRANGE', KEYS[1], 0, -1)"
"""Appends to a list and answers all of it: shows how often, and in which order, it was run."""


@pytest.fixture
def server() -> Generator[ServerProcess]:
    with start_server() as server:
        yield server


@pytest.fixture
def admin(server: ServerProcess) -> Generator[Admin]:
    with Admin(server.url) as admin:
        yield admin


@asynccontextmanager
async def linked(
    server: ServerProcess,
    *,
    timeout: float = 5.0,
    on_connect: Callable[[Connection], Awaitable[None]] | None = None,
    url: str | None = None,
) -> AsyncGenerator[Link]:
    """A link that has just been set going."""
    address = parse_address(url or server.url)

    async def locate() -> Address:
        return address

    link = Link(
        locate,
        name="test",
        label=address.label,
        timeout=timeout,
        on_connect=on_connect,
        outage_log=OutageLog(),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        yield link
        tasks.cancel_scope.cancel()


def script(source: str) -> Script:
    """A script of the tests' own."""
    return Script("test", source, sha1(source.encode()).hexdigest())


def append(word: str, key: str = "list") -> Call[list[bytes]]:
    def parse(reply: Reply) -> list[bytes]:
        return cast("list[bytes]", reply)

    return Call(script(APPEND), (key,), (word,), parse)


# --- Connecting -------------------------------------------------------------------------------


@timely
async def test_a_call_waits_for_the_first_connection(server: ServerProcess) -> None:
    async with linked(server) as link:
        assert not link.connected
        assert await link.call(append("a")) == [b"a"]
        assert link.connected
        assert link.last_error is None


@timely
async def test_without_a_server_a_call_fails_when_its_time_is_over(
    server: ServerProcess,
) -> None:
    server.stop()
    async with linked(server, timeout=0.3) as link:
        began = loop_time()
        with pytest.raises(BrokerUnavailableError, match="no connection in time") as caught:
            await link.call(append("a"), repeat=True)
        assert 0.3 <= loop_time() - began < 10
        assert isinstance(caught.value.__cause__, BrokerUnavailableError)
        assert link.last_error is not None
        assert server.socket_path in link.last_error


@timely
async def test_the_hook_prepares_a_connection_before_anybody_else_uses_it(
    server: ServerProcess, admin: Admin
) -> None:
    async def prepare(connection: Connection) -> None:
        await connection.request(("RPUSH", "list", "prepared"))

    async with linked(server, on_connect=prepare) as link:
        assert await link.call(append("a")) == [b"prepared", b"a"]
        admin.kill("trio_tasks:test")
        assert await link.call(append("b"), repeat=True) == [b"prepared", b"a", b"prepared", b"b"]


@timely
async def test_a_hook_that_fails_makes_the_link_try_again(server: ServerProcess) -> None:
    failures = iter([BrokerError("not yet"), BrokerUnavailableError("nor now")])

    async def prepare(_connection: Connection) -> None:
        for failure in failures:
            raise failure

    async with linked(server, on_connect=prepare) as link:
        assert await link.call(append("a")) == [b"a"]


@timely
async def test_what_no_patience_mends_is_said_at_once_to_whoever_opens_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with start_server("--requirepass", "right-secret") as locked:
        url = f"unix://:wrong-secret@{locked.socket_path}"
        async with linked(locked, url=url) as link:
            with pytest.raises(ConfigurationError, match="WRONGPASS") as caught:
                await link.opened_by(inf)
            assert "secret" not in str(caught.value) + repr(link)
    assert not caplog.records  # the error says it all


@timely
async def test_a_password_that_is_changed_is_an_outage_and_its_reason_is_logged_once(
    server: ServerProcess, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    admin.set("requirepass", "first-secret")
    async with linked(
        server, timeout=0.5, url=f"unix://:first-secret@{server.socket_path}"
    ) as link:
        await link.opened_by(inf)
        with Admin(f"unix://:first-secret@{server.socket_path}") as rotating:
            rotating.set("requirepass", "second-secret")
            rotating.kill("trio_tasks:test")
            while True:  # the loss of the old connection may be met first
                with pytest.raises(BrokerUnavailableError) as caught:
                    await link.request(("PING",))
                if "WRONGPASS" in str(caught.value):
                    break
            rotating.set("requirepass", "first-secret")
        assert await link.call(append("a"), deadline=loop_time() + 15) == [b"a"]
    assert "secret" not in str(caught.value) + caplog.text
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert ["WRONGPASS" in text for text in warnings] in ([False, True], [True])


# --- Losing the connection --------------------------------------------------------------------


@timely
async def test_changes_of_state_are_logged_once_each(
    server: ServerProcess, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    async with linked(server, timeout=1.0) as link:
        await link.call(append("a"), deadline=loop_time() + 10)
        admin.close()
        server.kill()
        with pytest.raises(BrokerUnavailableError):
            await link.call(append("b"), repeat=True)
        server.start()
        # The pause between two attempts may be as long as the time-out of this link.
        await link.call(append("c"), deadline=loop_time() + 15, repeat=True)
    # The server hung up; then it could not be reached, often.
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["INFO", "WARNING", "INFO"]
    assert all(server.socket_path in text for _, text in said)
    assert said[2][1].endswith("again")


@timely
async def test_a_write_with_an_unknown_outcome_is_not_sent_again(
    server: ServerProcess, admin: Admin
) -> None:
    async with linked(server) as link:
        await link.call(append("a"))
        server.freeze()
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                with pytest.raises(BrokerUnavailableError):
                    await link.call(append("b"), deadline=loop_time() + 0.1)

            tasks.start_soon(write)
        server.thaw()
        await link.call(append("c"), repeat=True)
        assert admin.items("list").count(b"b") <= 1


@timely
async def test_an_idempotent_call_outlives_the_server(server: ServerProcess, admin: Admin) -> None:
    async with linked(server) as link:
        await link.call(append("a"))
        admin.close()
        server.freeze()
        answers: list[list[bytes]] = []

        async def write() -> None:
            answers.append(await link.call(append("b"), repeat=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(server.restart)
        (answer,) = answers
        assert answer[-1] == b"b"  # alone, or with the "a" of a server that still did it


@timely
async def test_a_slow_server_costs_the_connection_after_the_deadline(
    server: ServerProcess, admin: Admin
) -> None:
    async with linked(server, timeout=0.2) as link:
        await link.call(append("a"), deadline=loop_time() + 10)
        with Admin(server.url, timeout=0.05) as hasty, pytest.raises(redis.TimeoutError):
            hasty.do("DEBUG", "SLEEP", "10")
        began = loop_time()
        with pytest.raises(BrokerUnavailableError, match="no reply within the time"):
            await link.call(append("b"))
        assert loop_time() - began < 5
        assert not link.connected


@timely
async def test_only_requests_that_wait_on_purpose_may_outlast_the_deadline(
    server: ServerProcess,
) -> None:
    async with linked(server, timeout=0.6) as link:
        await link.connected_by(inf)
        assert await link.request(("BLPOP", "nothing", 0.8), blocks=0.8) == [None]
        assert link.connected


@timely
async def test_a_renewed_connection_is_there_at_once_and_not_reported(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(server) as link:
        (first,) = await link.request(("CLIENT", "ID"))
        link.renew()
        (second,) = await link.request(("CLIENT", "ID"))
        assert first != second
        assert link.last_error is None
    assert "no connection" not in caplog.text


@timely
async def test_when_the_link_has_ended_nobody_waits_for_it(server: ServerProcess) -> None:
    errors: list[BrokerUnavailableError] = []

    async def write(link: Link) -> None:
        with pytest.raises(BrokerUnavailableError, match="closed") as caught:
            await link.call(append("a"), repeat=True)
        errors.append(caught.value)

    async with anyio.create_task_group() as outside, linked(server) as link:
        await link.call(append("a"))
        server.freeze()
        outside.start_soon(write, link)  # noqa: ASYNC111 - it outlives the link on purpose
        await anyio.wait_all_tasks_blocked()
    server.thaw()
    await write(link)
    assert len(errors) == 2


# --- What the server answers ------------------------------------------------------------------


@timely
async def test_after_script_flush_scripts_are_sent_in_full(
    server: ServerProcess, admin: Admin
) -> None:
    async with linked(server) as link:
        assert await link.call(append("a")) == [b"a"]
        assert await link.call(append("b")) == [b"a", b"b"]
        assert (admin.calls("eval"), admin.calls("evalsha")) == (1, 2)
        admin.do("SCRIPT", "FLUSH")
        assert await link.call(append("c")) == [b"a", b"b", b"c"]


@timely
async def test_script_flush_inside_a_batch_keeps_its_order(
    server: ServerProcess, admin: Admin
) -> None:
    words = [str(number) for number in range(20)]
    async with linked(server) as link:
        await link.call(append("0"))
        admin.do("SCRIPT", "FLUSH")
        answers = await link.calls([append(word) for word in words[1:]])
        assert answers[-1] == [word.encode() for word in words]


@timely
async def test_an_error_concerns_its_own_call_alone(server: ServerProcess, admin: Admin) -> None:
    admin.do("SET", "text", "x")
    async with linked(server) as link:
        first, refused, last = await link.calls([append("a"), append("b", "text"), append("c")])
        assert first == [b"a"]
        assert isinstance(refused, RedisReplyError)
        assert refused.code == "WRONGTYPE"
        assert last == [b"a", b"c"]
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await link.call(append("d", "text"))
        assert link.connected


@timely
async def test_full_memory_is_a_full_queue(server: ServerProcess, admin: Admin) -> None:
    async with linked(server) as link:
        await link.call(append("a"))
        admin.set("maxmemory", 1)
        with pytest.raises(QueueFullError):
            await link.call(append("b"))
        assert link.connected
        admin.set("maxmemory", 0)
        assert await link.call(append("c")) == [b"a", b"c"]


@timely
async def test_a_server_that_became_a_replica_is_left_until_it_takes_writes_again(
    server: ServerProcess, admin: Admin
) -> None:
    async with linked(server) as link:
        await link.call(append("a"))
        admin.do("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BrokerUnavailableError, match="READONLY"):
            await link.call(append("b"))
        assert not link.connected
        answers: list[list[bytes]] = []
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                answers.append(await link.call(append("c"), repeat=True))

            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            admin.do("REPLICAOF", "NO", "ONE")
        assert answers == [[b"a", b"c"]]


@timely
async def test_a_busy_server_is_waited_for(server: ServerProcess, admin: Admin) -> None:
    admin.set("busy-reply-threshold", 1)

    def loop() -> None:
        with Admin(server.url) as looping, pytest.raises(redis.RedisError):
            looping.do("EVAL", "while true do end", 0)

    def kill_when_busy() -> None:
        while True:
            try:
                admin.do("PING")
            except redis.RedisError:
                admin.do("SCRIPT", "KILL")
                return

    answers: list[list[bytes]] = []

    async def write() -> None:
        answers.append(await link.call(append("b"), repeat=True))

    async with linked(server) as link:
        await link.call(append("a"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, loop)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(write)
            tasks.start_soon(anyio.to_thread.run_sync, kill_when_busy)
        assert answers == [[b"a", b"b"]]


# --- Cancelling -------------------------------------------------------------------------------


@timely
async def test_a_cancelled_call_disturbs_nobody(server: ServerProcess) -> None:
    async with linked(server) as link:
        await link.call(append("a"))
        server.freeze()
        answers: list[list[bytes]] = []
        async with anyio.create_task_group() as tasks:

            async def write(word: str) -> None:
                answers.append(await link.call(append(word)))

            scope = anyio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await write("given up")

            tasks.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(write, "b")
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            server.thaw()
        assert answers == [[b"a", b"given up", b"b"]]
