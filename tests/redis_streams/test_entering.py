"""What a manager and a producer say of a server that does not let them in, or goes away later."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, free_port, start_server, timed
from trio_tasks import (
    BrokerUnavailableError,
    ConfigurationError,
    Handlers,
    Producer,
    TaskManager,
)
from trio_tasks.connect import VARIABLE
from trio_tasks.environment import loop_time

pytestmark = pytest.mark.anyio

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
on_both_loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])

FOR_EVER = "socket_timeout=1000"  # whoever waited for it would meet the test's own time-out


@pytest.fixture(scope="module")
def guarded() -> Generator[ServerProcess]:
    """A server with a password, and a user who may do next to nothing."""
    with start_server("--requirepass", "s3cret", "--databases", "4", tcp=True) as server:
        with Admin(f"unix://:s3cret@{server.socket_path}") as admin:
            admin.do("ACL", "SETUSER", "guest", "on", ">s3cret", "~*", "+evalsha")
        yield server


@pytest.fixture
def own_server() -> Generator[ServerProcess]:
    with start_server(tcp=True) as server:
        yield server


def one_traceback(error: BaseException) -> str:
    """What Python shows of an error that nobody catches; without a chain of causes."""
    shown = "".join(traceback.format_exception(error))
    assert shown.count("Traceback (most recent call last)") == 1
    return shown


async def enter_manager(url: str, **options: Any) -> None:
    async with TaskManager(url, **options):
        pytest.fail("it was let in")


async def enter_producer(url: str) -> None:
    def enter() -> None:
        with Producer(url):
            pytest.fail("it was let in")

    await anyio.to_thread.run_sync(enter)


both_kinds = pytest.mark.parametrize("enter", [enter_manager, enter_producer])
Enter = Callable[[str], Awaitable[None]]

# --- Refusals -----------------------------------------------------------------------------------

REFUSALS = {
    "no password": ("", "", r"asks for a password.*\(NOAUTH\).*redis://user:password@host"),
    "a wrong password": (":wr0ng-s3cret@", "", r"no such user with this password.*WRONGPASS"),
    "a wrong user": ("nobody:s3cret@", "", r"no such user with this password.*WRONGPASS"),
    "no right": ("guest:s3cret@", "/1", r"\(NOPERM\).*docs/deploying\.md"),
    "no database": (":s3cret@", "/4", r"no database 4.*'databases'"),
}


@pytest.mark.parametrize(("login", "path", "said"), REFUSALS.values(), ids=list(REFUSALS))
@both_kinds
@on_both_loops
@timed(20)
async def test_what_the_server_refuses_for_good_is_said_at_once(
    guarded: ServerProcess, enter: Enter, login: str, path: str, said: str
) -> None:
    host = f"127.0.0.1:{guarded.tcp_port}"
    said = rf"^db: redis://{host}{path or '/0'}: .*{said}"
    with pytest.raises(ConfigurationError, match=said) as e:
        await enter(f"redis://{login}{host}{path}?{FOR_EVER}")
    assert "s3cret" not in one_traceback(e.value)


@on_trio
@timed(20)
async def test_a_refusal_is_said_of_the_argument_that_is_wrong(
    guarded: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = f"{guarded.tcp_url}?{FOR_EVER}".replace("//", "//:s3cret@")
    with pytest.raises(ConfigurationError, match=r"^streamdb: redis://127.*NOAUTH"):
        await enter_manager(right, streamdb=f"{guarded.tcp_url}?{FOR_EVER}")
    monkeypatch.setenv(VARIABLE, f"{guarded.tcp_url}?{FOR_EVER}")
    with pytest.raises(ConfigurationError, match=rf"^\${VARIABLE}: redis://127.*NOAUTH"):
        async with TaskManager():
            pass
    with (
        pytest.raises(ConfigurationError, match=rf"^\${VARIABLE}: redis://127.*NOAUTH"),
        Producer(),
    ):
        pass


@both_kinds
@on_both_loops
@timed(20)
async def test_a_server_without_tls_is_told_from_one_that_is_away(
    own_server: ServerProcess, enter: Enter
) -> None:
    url = own_server.tcp_url.replace("redis://", "rediss://")
    with pytest.raises(BrokerUnavailableError, match=r"rediss://127\.0\.0\.1.*speaks no TLS") as e:
        await enter(f"{url}?socket_timeout=0.5")
    own_server.kill()
    with pytest.raises(BrokerUnavailableError, match=r"rediss://.*cannot connect \(") as e:
        await enter(f"{url}?socket_timeout=0.5")
    assert "TLS" not in str(e.value)


# --- A server that is away ----------------------------------------------------------------------


@both_kinds
@on_both_loops
@timed(20)
async def test_entering_gives_up_on_a_server_that_is_away_and_names_it(
    enter: Enter, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    began = loop_time()
    url = f"redis://ann:s3cret@127.0.0.1:{port}/1?socket_timeout=0.3"
    with pytest.raises(BrokerUnavailableError, match=f"redis://127.0.0.1:{port}/1: .*refused") as e:
        await enter(url)
    assert loop_time() - began >= 0.3
    assert "s3cret" not in str(e.value)
    assert one_traceback(e.value).endswith(f": {e.value}\n")
    assert caplog.messages == []  # the error says it all


@pytest.mark.parametrize(
    ("enter", "address"),
    [
        (enter_manager, "redis+sentinel://{}/mymaster"),
        (enter_producer, "redis+sentinel://{}/mymaster"),
        (enter_manager, "redis+cluster://{}"),
    ],
)
@on_both_loops
@timed(20)
async def test_what_keeps_us_from_a_cluster_or_from_all_sentinels_is_said_in_one_traceback(
    address: str, enter: Enter
) -> None:
    url = address.format(f"127.0.0.1:{free_port()}") + "?socket_timeout=0.3"
    with pytest.raises(BrokerUnavailableError, match=r"refused") as caught:
        await enter(url)
    assert one_traceback(caught.value).endswith(f": {caught.value}\n")


@on_both_loops
@timed(20)
async def test_running_gives_up_on_a_server_that_is_away_when_it_begins() -> None:
    tasks = TaskManager(f"redis://127.0.0.1:{free_port()}?socket_timeout=0.2")

    @tasks.handler("never")
    async def never() -> None: ...

    with pytest.raises(BrokerUnavailableError, match=r"no connection in time: redis://127"):
        await tasks.run()
    assert tasks.state == "closed"


@on_both_loops
@timed(30)
async def test_an_outage_is_one_line_when_it_begins_and_one_when_it_is_over(
    own_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    url = f"{own_server.url}?socket_timeout=1"
    tasks = TaskManager(url, streamdb=url)

    @tasks.handler("echo")
    async def echo() -> str:
        return "echo"

    async with tasks:
        await tasks.start()
        assert await (await tasks.emit(echo)).result(timeout=10) == "echo"  # all connections
        assert (tasks.statistics().connected, tasks.statistics().last_error) == (True, None)
        own_server.kill()
        with pytest.raises(BrokerUnavailableError, match=re.escape(own_server.socket_path)):
            await tasks.emit(echo)
        lost = tasks.statistics()
        assert not lost.connected
        assert own_server.socket_path in (lost.last_error or "")
        own_server.start()
        ref = None
        while ref is None:
            with suppress(BrokerUnavailableError):
                ref = await tasks.emit(echo)
        assert await ref.result(timeout=10) == "echo"
        while tasks.statistics().last_error:  # the connection that waits may come last
            await ref.info()
        assert tasks.statistics().connected
    said = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if "connect" in record.getMessage()
    ]
    assert [level for level, _ in said] == ["INFO", "WARNING", "INFO"]
    assert all(own_server.socket_path in text for _, text in said)
    assert not re.search(r"\b(cmd|wake|ev)\b", " ".join(text for _, text in said))


@on_both_loops
@timed(60)
async def test_ten_thousand_emits_in_an_outage_fail_in_time_each_with_its_own_id(
    own_server: ServerProcess,
) -> None:
    async with TaskManager(f"{own_server.url}?socket_timeout=1") as tasks:
        own_server.kill()
        failed: list[tuple[str, ...]] = []
        began = loop_time()

        async def emit() -> None:
            with pytest.raises(BrokerUnavailableError) as caught:
                await tasks.emit("mail")
            failed.append(caught.value.ids)

        async with anyio.create_task_group() as emitting:
            for _ in range(10_000):
                emitting.start_soon(emit)
        assert loop_time() - began < 20  # not a second for each step of 250
        assert {len(ids) for ids in failed} == {1}
        assert len(set(failed)) == 10_000
        own_server.start()
        ref = None
        while ref is None:
            with suppress(BrokerUnavailableError):
                ref = await tasks.emit("mail", id=failed[0][0])
        assert (await tasks.queue("default").stats()).queued == 1  # nothing was kept for later


# --- What is no server --------------------------------------------------------------------------


Talk = Callable[[anyio.abc.SocketStream], Awaitable[None]]


async def never_answer(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        await anyio.sleep_forever()


async def speak_http(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while True:  # to close on what was not read would be a reset, and take the answer back
            await stream.receive()


async def hang_up(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        await stream.receive()


async def stop_in_the_middle(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"%7\r\n$6\r\nserver\r\n$6")
        await anyio.sleep_forever()


def forgiving(talk: Talk) -> Talk:
    """The client may be the first to hang up."""

    async def talk_to(stream: anyio.abc.SocketStream) -> None:
        try:
            await talk(stream)
        except* (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    return talk_to


STRANGERS: dict[str, tuple[Talk, str]] = {
    "never answers": (never_answer, "no reply within the time|Timeout reading"),
    "speaks HTTP": (speak_http, "does not speak the Redis protocol|Protocol error"),
    "hangs up": (hang_up, "closed|broke|reset by peer|Broken pipe"),
    "stops in the middle": (stop_in_the_middle, "no reply within the time|Timeout reading"),
}


@pytest.mark.parametrize(("talk", "said"), STRANGERS.values(), ids=list(STRANGERS))
@both_kinds
@on_both_loops
@timed(20)
async def test_a_stranger_on_the_port_is_given_up_in_time_and_named(
    talk: Talk, said: str, enter: Enter
) -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(
            await anyio.create_tcp_listener(local_host="127.0.0.1")
        )
        strangers = await stack.enter_async_context(anyio.create_task_group())
        strangers.start_soon(listener.serve, forgiving(talk))
        port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(
            BrokerUnavailableError, match=rf"redis://127.0.0.1:{port}/0: .*({said})"
        ):
            await enter(f"redis://127.0.0.1:{port}?socket_timeout=0.5")
        strangers.cancel_scope.cancel()


@both_kinds
@on_both_loops
@timed(20)
async def test_a_path_or_a_name_that_is_none_of_a_server_is_unavailable(
    tmp_path: Path, enter: Enter
) -> None:
    for url in (f"unix://{tmp_path}", "redis://name.invalid"):
        with pytest.raises(BrokerUnavailableError, match=rf"{url}.*cannot connect"):
            await enter(f"{url}?socket_timeout=0.2")


@on_both_loops
@timed(30)
async def test_a_way_that_breaks_after_each_answer_costs_time_and_no_job(
    own_server: ServerProcess, tmp_path: Path
) -> None:
    """As a proxy does that is misconfigured: each connection lives for one answer of a script."""
    handlers = Handlers[Any]()
    ids: list[str] = []

    @handlers.handler("mail")
    async def mail() -> None: ...

    async def pass_one_script(stream: anyio.abc.SocketStream) -> None:
        asked = anyio.Event()

        async def answer() -> None:
            while not asked.is_set():
                await stream.send(await server.receive())
            passing.cancel_scope.cancel()

        async with (
            stream,
            await anyio.connect_unix(own_server.socket_path) as server,
            anyio.create_task_group() as passing,
        ):
            passing.start_soon(answer)
            while True:
                data = await stream.receive()
                if b"EVALSHA" in data:
                    asked.set()
                await server.send(data)

    async with (
        await anyio.create_unix_listener(tmp_path / "s") as listener,
        anyio.create_task_group() as strangers,
    ):
        strangers.start_soon(listener.serve, forgiving(pass_one_script))
        tasks = TaskManager(f"unix://{tmp_path / 's'}?socket_timeout=10")
        async with tasks:
            ids += [(await tasks.emit("mail")).id for _ in range(3)]
        strangers.cancel_scope.cancel()
    with Producer(own_server.url) as producer:
        producer.include(handlers)
        assert [producer.ref(mail, job_id).info().id for job_id in ids] == ids
