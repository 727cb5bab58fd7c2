"""The connection, on both event loops and a real server, in good and in bad times."""

from __future__ import annotations

import os
import random
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.tls import TLSListener

from tests.redis_streams.certificates import Authority
from tests.servers import ServerProcess, start_server, timed
from trio_tasks.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address, TlsOptions, parse_address
from trio_tasks.redis_streams.transport import SocketTransport
from trio_tasks.redis_streams.wire import (
    Connection,
    RedisReplyError,
    Reply,
    open_connection,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"], scope="module"),
]

timely = timed(20)


@pytest.fixture(scope="module")
def server() -> Generator[ServerProcess]:
    with start_server(tcp=True) as server:
        yield server


@pytest.fixture
def address(server: ServerProcess) -> Address:
    return parse_address(server.url)


@pytest.fixture
def own_server() -> Generator[ServerProcess]:
    """A server that the test may kill or freeze."""
    with start_server() as server:
        yield server


async def in_flight(connection: Connection, count: int) -> None:
    """Return when all other tasks wait, `count` of them for replies."""
    await anyio.wait_all_tasks_blocked()
    assert f"{count} in flight" in repr(connection)


# --- Asking and answering ---------------------------------------------------------------------


@timely
async def test_replies_come_as_python_values_and_text_stays_bytes(address: Address) -> None:
    async with open_connection(address) as connection:
        script = "return {1, 'two', {3, false}, redis.status_reply('FOUR')}"
        assert await connection.request(("EVAL", script, 0)) == [1, b"two", [3, None], b"FOUR"]
        assert await connection.request(("SET", "text", "é", "EX", 60)) == b"OK"
        assert await connection.request(("GET", b"text")) == "é".encode()
        assert await connection.request(("GET", "missing")) is None
        assert await connection.request(("HSET", "map", "a", 1, "b", 2.5)) in (0, 2)
        assert await connection.request(("HGETALL", "map")) == {b"a": b"1", b"b": b"2.5"}


@timely
async def test_a_word_of_another_type_is_refused_before_anything_is_sent(address: Address) -> None:
    async with open_connection(address) as connection:
        with pytest.raises(TypeError):
            await connection.request(("SET", "key", None))  # pyright: ignore[reportArgumentType]
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_a_pipeline_returns_all_replies_in_order_and_errors_as_values(
    address: Address,
) -> None:
    async with open_connection(address) as connection:
        commands = [("SET", "n", "x"), ("INCR", "n"), ("GET", "n"), ("DEL", "n")]
        done, error, value, deleted = await connection.pipeline(commands)
        assert (done, value, deleted) == (b"OK", b"x", 1)
        assert isinstance(error, RedisReplyError)
        assert error.code == "ERR"
        assert await connection.pipeline([]) == []


@timely
async def test_an_error_reply_is_raised_with_its_code_and_without_arguments(
    address: Address,
) -> None:
    async with open_connection(address) as connection:
        with pytest.raises(RedisReplyError, match="ERR unknown command …") as caught:
            await connection.request(("FROBNICATE", "s3cret", "data"))
        assert caught.value.code == "ERR"
        with pytest.raises(RedisReplyError, match="WRONGTYPE Operation against a key") as caught:
            await connection.request(
                ("EVAL", "redis.call('SADD', 's', 1) return redis.call('GET', 's')", 0)
            )
        assert caught.value.code == "WRONGTYPE"
        with pytest.raises(RedisReplyError) as caught:
            await connection.request(("EVALSHA", "0" * 40, 0))
        assert caught.value.code == "NOSCRIPT"
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_a_thousand_tasks_share_a_connection_and_each_gets_its_own_reply(
    address: Address,
) -> None:
    replies: dict[int, list[Reply]] = {}

    async def ask(number: int) -> None:
        single = await connection.request(("ECHO", f"one {number}"))
        replies[number] = [
            single,
            *await connection.pipeline([("ECHO", f"two {number}"), ("ECHO", f"three {number}")]),
        ]

    async with (
        open_connection(address, max_in_flight=100) as connection,
        anyio.create_task_group() as tasks,
    ):
        for number in range(1000):
            tasks.start_soon(ask, number)
    assert replies == {
        number: [f"{word} {number}".encode() for word in ("one", "two", "three")]
        for number in range(1000)
    }


@timely
async def test_whoever_asked_first_goes_on_first_though_replies_come_together(
    address: Address,
) -> None:
    asked: list[int] = []
    went_on: list[int] = []

    async def ask(connection: Connection, number: int) -> None:
        asked.append(number)
        assert await connection.answer(("PING",), line="here") == b"PONG"
        went_on.append(number)

    async with open_connection(address) as connection, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(ask, connection, number)
    assert went_on == asked


@timely
@pytest.mark.parametrize("releases", [("zeroth first second",), ("zeroth first", "second")])
async def test_whoever_asked_first_goes_on_first_though_who_asked_later_reads(
    address: Address, releases: tuple[str, ...]
) -> None:
    went_on: list[str] = []

    async def ask(connection: Connection, name: str) -> None:
        assert await connection.answer(("BLPOP", name, 0), line="here")
        went_on.append(name)

    async def give_up_and_ask(connection: Connection, scope: anyio.CancelScope) -> None:
        with scope:
            await ask(connection, "zeroth")  # reads, until it is given up
        await ask(connection, "second")  # finds nobody who reads: the reader has not come yet

    async with open_connection(address) as connection, open_connection(address) as other:
        for _ in range(10):
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_up_and_ask, connection, scope)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(ask, connection, "first")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
                for names in releases:
                    await other.pipeline([("RPUSH", name, 1) for name in names.split()])
        assert went_on == ["first", "second"] * 10


@timely
async def test_many_replies_that_come_together_do_not_wait_for_a_busy_loop(
    address: Address,
) -> None:
    async def toil() -> None:
        while True:
            time.sleep(0.01)  # noqa: ASYNC251 - a handler that computes
            await anyio.lowlevel.checkpoint()

    async with open_connection(address) as connection, anyio.create_task_group() as busy:
        busy.start_soon(toil)
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(connection.request, ("PING",))
        assert time.monotonic() - began < 3
        busy.cancel_scope.cancel()


@timely
async def test_replies_that_have_been_read_are_not_overdue_however_long_each_turn_takes(
    address: Address,
) -> None:
    async def take() -> None:
        for _ in range(2):
            assert await connection.answer(("PING",), timeout=0.1, line="here") == b"PONG"
            time.sleep(0.02)  # noqa: ASYNC251 - a handler that computes

    async with open_connection(address) as connection, anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(take)


@timely
async def test_concurrent_requests_are_written_together(address: Address) -> None:
    async def reads() -> int:
        stats = await connection.request(("INFO", "stats"))
        assert isinstance(stats, bytes)
        return int(stats.partition(b"total_reads_processed:")[2].split()[0])

    async with open_connection(address) as connection:
        before = await reads()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(connection.request, ("PING",))
        assert await reads() - before <= 10


@timely
async def test_big_requests_and_replies_pass_among_small_ones(address: Address) -> None:
    big = os.urandom(4_000_000)  # no buffer on the way takes that at once
    answers: list[Reply] = []

    async def ask_small(number: int) -> None:
        answers.append(await connection.request(("ECHO", number)))

    async with open_connection(address) as connection:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask_small, number)
                tasks.start_soon(connection.request, ("SET", f"big{number % 3}", big))
        assert sorted(map(str, answers)) == sorted(str(b"%d" % number) for number in range(20))
        assert await connection.pipeline([("GET", "big0"), ("GET", "big1")]) == [big, big]
        await connection.request(("DEL", "big0", "big1", "big2"))


@timely
async def test_messages_that_nobody_asked_for_are_passed_over(address: Address) -> None:
    async with open_connection(address) as watcher, open_connection(address) as writer:
        await watcher.request(("CLIENT", "TRACKING", "ON"))
        for number in range(3):
            await watcher.request(("GET", "watched"))
            await writer.request(("SET", "watched", number))
            assert await watcher.request(("ECHO", "mine")) == b"mine"
            assert await watcher.request(("GET", "watched")) == b"%d" % number


# --- Letting go: cancellation -----------------------------------------------------------------


@timely
async def test_the_reply_of_a_cancelled_request_is_thrown_away(address: Address) -> None:
    async with open_connection(address) as connection, open_connection(address) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.request, ("BLPOP", "wake", 0))
            await in_flight(connection, 1)
            tasks.cancel_scope.cancel()
        await other.request(("RPUSH", "wake", "for the cancelled one"))
        assert await connection.request(("ECHO", "mine")) == b"mine"
        assert await other.request(("LLEN", "wake")) == 0
        assert not connection.closed.is_set()


@timely
async def test_whoever_is_not_cancelled_gets_the_right_reply(address: Address) -> None:
    luck = random.Random(1)
    answers: dict[int, Reply] = {}

    async def ask(number: int) -> None:
        with anyio.move_on_after(luck.choice([0, 0.001, 0.01, 5])):
            answers[number] = await connection.request(("ECHO", f"{number}"))
            answers[number] = (await connection.pipeline([("PING",), ("ECHO", f"{number}")]))[1]

    async with open_connection(address, max_in_flight=50) as connection:
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(400):
                    tasks.start_soon(ask, number)
        assert answers == {number: str(number).encode() for number in answers}
        assert len(answers) > 50
        assert not connection.closed.is_set()
        # Every place in flight was given back.
        assert len(await connection.pipeline([("PING",)] * 50)) == 50
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(connection.request, ("PING",))


async def until_sent(connection: Connection, requests: int) -> None:
    for _ in range(10):
        if repr(connection).endswith(f"{requests} in flight>"):
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError(connection)


@timely
async def test_whoever_reads_for_others_and_is_cancelled_leaves_them_their_replies(
    address: Address,
) -> None:
    replies: list[Reply] = []

    async def ask(word: str) -> None:
        replies.append(await connection.request(("ECHO", word)))

    async with open_connection(address) as connection:
        async with anyio.create_task_group() as others:
            async with anyio.create_task_group() as reading:
                reading.start_soon(connection.request, ("BLPOP", "nothing", "0.2"))
                await until_sent(connection, 1)
                others.start_soon(ask, "one")
                others.start_soon(ask, "two")
                await until_sent(connection, 3)
                reading.cancel_scope.cancel()
            assert replies == []
        assert sorted(map(str, replies)) == ["b'one'", "b'two'"]
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_whoever_reads_and_has_its_reply_does_not_keep_the_others_waiting(
    address: Address,
) -> None:
    async with open_connection(address) as connection, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(connection.request, ("BLPOP", "nothing", "0.02"))
            assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_a_loss_is_noticed_though_nobody_asks_any_more(own_server: ServerProcess) -> None:
    async with open_connection(parse_address(own_server.url)) as connection:
        await connection.request(("PING",))
        own_server.kill()
        await connection.closed.wait()


@timely
async def test_a_caller_who_reads_for_long_is_not_disturbed(address: Address) -> None:
    woken = 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal woken
        woken += event == "call" and frame.f_code is Connection._step_back.__code__

    async with open_connection(address) as connection:
        await connection.request(("PING",))
        sys.setprofile(profile)
        try:
            await connection.request(("BLPOP", "nothing", "1"))
        finally:
            sys.setprofile(None)
        assert woken <= 3


@timely
async def test_a_request_in_a_scope_that_was_cancelled_before_sends_nothing(
    address: Address,
) -> None:
    async with open_connection(address) as connection:
        await connection.request(("SET", "untouched", "yes"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.request(("DEL", "untouched"))
        assert scope.cancelled_caught
        assert await connection.request(("GET", "untouched")) == b"yes"


@timely
async def test_a_cancel_in_the_middle_of_a_send_does_not_cut_the_command(
    own_server: ServerProcess,
) -> None:
    async with open_connection(parse_address(own_server.url)) as connection:
        own_server.freeze()  # so that no more than the kernel's buffers can be sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.request, ("SET", "big", b"x" * 20_000_000))
            tasks.start_soon(connection.request, ("SET", "bigger", b"x" * 30_000_000))
            await in_flight(connection, 2)
            tasks.cancel_scope.cancel()
        own_server.thaw()
        assert await connection.request(("STRLEN", "big")) == 20_000_000
        assert await connection.request(("STRLEN", "bigger")) == 30_000_000


# --- Losing the server ------------------------------------------------------------------------


@timely
async def test_a_killed_server_fails_every_waiting_and_every_later_call_but_not_the_block(
    own_server: ServerProcess,
) -> None:
    failures: list[BrokerUnavailableError] = []

    async def wait_for_ever() -> None:
        with pytest.raises(BrokerUnavailableError) as caught:
            await connection.request(("BLPOP", "nothing", 0), timeout=60)
        failures.append(caught.value)

    async with open_connection(parse_address(own_server.url)) as connection:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait_for_ever)
            await in_flight(connection, 3)
            own_server.kill()
        assert len(failures) == 3
        await connection.closed.wait()
        lost = "the server closed the connection|the connection broke"
        with pytest.raises(BrokerUnavailableError, match=lost):
            await connection.request(("PING",))
        with pytest.raises(BrokerUnavailableError, match=lost):
            await connection.pipeline([("PING",)] * 2)
        assert "closed: the " in repr(connection)
    own_server.start()
    async with open_connection(parse_address(own_server.url)) as connection:
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_a_deadline_passes_and_the_connection_is_given_up(own_server: ServerProcess) -> None:
    failures: list[str] = []

    async def ask(seconds: float) -> None:
        with pytest.raises(BrokerUnavailableError, match="no reply within the time") as caught:
            await connection.request(("PING",), timeout=seconds)
        failures.append(type(caught.value.__cause__).__name__)

    async with open_connection(parse_address(own_server.url)) as connection:
        own_server.freeze()
        started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 60.0)
            await in_flight(connection, 1)
            tasks.start_soon(ask, 0.2)  # the earliest counts, whoever came first
            tasks.start_soon(ask, 30.0)
        assert 0.19 <= anyio.current_time() - started < 5
        assert failures == ["TimeoutError"] * 3
        assert connection.closed.is_set()


@timely
async def test_the_address_says_when_an_answer_is_overdue(own_server: ServerProcess) -> None:
    address = replace(parse_address(own_server.url), request_timeout=0.1)
    async with open_connection(address) as connection:
        own_server.freeze()
        with pytest.raises(BrokerUnavailableError, match="no reply within the time"):
            await connection.request(("PING",))


@timely
async def test_deadlines_that_were_met_are_forgotten(address: Address) -> None:
    async with open_connection(replace(address, request_timeout=1.0)) as connection:
        ends_at = anyio.current_time() + 1.5
        while anyio.current_time() < ends_at:
            assert await connection.request(("PING",)) == b"PONG"
            await connection.request(("BLPOP", "nothing", 0.05), timeout=10)


@timely
async def test_a_program_that_held_up_its_own_loop_does_not_blame_the_server(
    own_server: ServerProcess,
) -> None:
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await connection.request(("PING",), timeout=1.0))

    async with (
        open_connection(parse_address(own_server.url)) as connection,
        anyio.create_task_group() as tasks,
    ):
        own_server.freeze()
        tasks.start_soon(ask)
        await in_flight(connection, 1)
        own_server.thaw()
        time.sleep(1.2)  # noqa: ASYNC251 - what a careless handler does; the answer comes meanwhile
    assert replies == [b"PONG"]


@timely
async def test_the_server_has_its_time_though_the_loop_was_held_up_before_the_sending(
    address: Address,
) -> None:
    async def wait_in_vain(seconds: float, timeout: float) -> None:
        assert await connection.request(("BLPOP", "nothing", seconds), timeout=timeout) is None

    async with open_connection(address) as connection:
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_in_vain, 0.1, 10)
                await in_flight(connection, 1)
                tasks.start_soon(wait_in_vain, 0.05, 0.3)
                while "2 in flight" not in repr(connection):  # noqa: ASYNC110 - not a pass later
                    await anyio.lowlevel.checkpoint()
                time.sleep(0.4)  # noqa: ASYNC251 - a handler that computes


@timely
async def test_leaving_the_block_ends_the_requests_that_others_have_under_way(
    address: Address,
) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait_for_ever() -> None:
            with pytest.raises(BrokerUnavailableError, match="closed by this side"):
                await connection.request(("BLPOP", "nothing", 0), timeout=60)

        async with open_connection(address) as connection:
            tasks.start_soon(wait_for_ever)
            await in_flight(connection, 1)
        with pytest.raises(BrokerUnavailableError, match="closed by this side"):
            await connection.request(("PING",))


@timely
async def test_what_the_block_raises_leaves_it_unwrapped(address: Address) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_connection(address):
            _ = 1 / 0
    with anyio.CancelScope() as scope:
        async with open_connection(address) as connection:
            scope.cancel()
            await connection.request(("PING",))
    assert scope.cancelled_caught


@timely
async def test_a_closed_connection_leaves_no_file_open(address: Address) -> None:
    async with open_connection(address) as connection:
        await connection.request(("PING",))
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        async with open_connection(address) as connection:
            await connection.request(("PING",))
    assert len(os.listdir("/dev/fd")) == before


# --- Being too many ---------------------------------------------------------------------------


@timely
async def test_callers_beyond_the_limit_wait_for_their_turn(address: Address) -> None:
    turns: dict[int, Reply] = {}

    async def ask(number: int) -> None:
        turns[number] = await connection.request(("INCR", "counter"))

    async with (
        open_connection(address, max_in_flight=1) as connection,
        open_connection(address) as other,
        anyio.create_task_group() as tasks,
    ):
        await other.request(("DEL", "counter"))
        tasks.start_soon(connection.request, ("BLPOP", "turn", 0))
        await in_flight(connection, 1)
        for number in range(5):
            tasks.start_soon(ask, number)
            await in_flight(connection, 1)
        assert await other.request(("EXISTS", "counter")) == 0
        await other.request(("RPUSH", "turn", "the first one's"))
    assert turns == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}


@timely
async def test_a_caller_waits_no_longer_for_its_turn_than_for_its_answer(address: Address) -> None:
    async with (
        open_connection(address, max_in_flight=1) as connection,
        open_connection(address) as other,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(connection.request, ("BLPOP", "turn", 0))
        await in_flight(connection, 1)
        with pytest.raises(BrokerUnavailableError, match="too many requests in flight"):
            await connection.request(("PING",), timeout=0.05)
        with anyio.move_on_after(0.05):
            await connection.request(("PING",))
        assert not connection.closed.is_set()
        await other.request(("RPUSH", "turn", 1))
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_callers_waiting_for_their_turn_learn_that_the_connection_is_lost(
    own_server: ServerProcess,
) -> None:
    failures: list[BrokerUnavailableError] = []

    async def ask() -> None:
        with pytest.raises(BrokerUnavailableError) as caught:
            await connection.request(("BLPOP", "nothing", 0), timeout=60)
        failures.append(caught.value)

    async with (
        open_connection(parse_address(own_server.url), max_in_flight=2) as connection,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(10):
            tasks.start_soon(ask)
        await in_flight(connection, 2)
        own_server.kill()
    assert len(failures) == 10


# --- Getting in -------------------------------------------------------------------------------


@timely
async def test_a_connection_has_a_name_and_a_database(address: Address) -> None:
    async with open_connection(replace(address, db=3), name="tt:test") as connection:
        info = await connection.request(("CLIENT", "INFO"))
        assert isinstance(info, bytes)
        assert b"name=tt:test" in info
        assert b"db=3" in info
        assert b"resp=3" in info


@timely
async def test_a_database_that_is_not_there_is_your_fault(address: Address) -> None:
    with pytest.raises(ConfigurationError, match=r"\?db=1000: the server has no database 1000"):
        async with open_connection(replace(address, db=1_000)):
            pass


@timely
async def test_passwords_open_the_door_and_wrong_ones_are_never_shown() -> None:
    ann = ("--user", "ann", "on", ">k3y", "~*", "+@all")
    with start_server("--requirepass", "s3cret", *ann) as server:
        address = parse_address(server.url)
        for login in (("s3cret", None), ("s3cret", "default"), ("k3y", "ann")):
            password, username = login
            async with open_connection(
                replace(address, password=password, username=username)
            ) as connection:
                assert await connection.request(("PING",)) == b"PONG"
        for username in (None, "ann", "nobody"):
            with pytest.raises(ConfigurationError, match=r"WRONGPASS.*percent-encoded") as caught:
                async with open_connection(replace(address, password="wr0ng", username=username)):
                    pass
            assert "wr0ng" not in repr(caught.value)
            assert isinstance(caught.value.__cause__, RedisReplyError)
        with pytest.raises(ConfigurationError, match=r"asks for a password.*user:password@/path"):
            async with open_connection(address):
                pass


@timely
async def test_a_server_that_refuses_hello_is_spoken_to_in_the_old_protocol() -> None:
    with start_server("--rename-command", "HELLO", "", "--requirepass", "s3cret") as server:
        address = replace(parse_address(server.url), password="s3cret", db=1)
        async with open_connection(address, name="old") as connection:
            info = await connection.request(("CLIENT", "INFO"))
            assert isinstance(info, bytes)
            assert b"name=old" in info
            assert b"db=1" in info
            assert b"resp=2" in info
            assert await connection.request(("GET", "missing")) is None
        with pytest.raises(ConfigurationError, match="WRONGPASS") as caught:
            async with open_connection(replace(address, password="wr0ng")):
                pass
        assert "wr0ng" not in repr(caught.value)


@timely
async def test_a_server_that_has_too_many_clients_may_have_room_later() -> None:
    with start_server("--maxclients", "1") as server:
        address = parse_address(server.url)
        async with open_connection(address):
            with pytest.raises(BrokerError) as caught:  # the refusal may come before the question
                async with open_connection(address):
                    pass
        assert not isinstance(caught.value, ConfigurationError)


@timely
async def test_tcp_works_and_does_not_wait_to_fill_packets(server: ServerProcess) -> None:
    async with open_connection(parse_address(server.tcp_url)) as connection:
        assert await connection.request(("PING",)) == b"PONG"
        transport = connection._transport
        assert isinstance(transport, SocketTransport)
        assert transport._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@timely
async def test_the_other_address_of_a_host_is_tried(server: ServerProcess) -> None:
    address = replace(parse_address(server.tcp_url), host="localhost")
    async with open_connection(address) as connection:  # the server listens on IPv4 only
        assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for address in (
            Address(path=str(tmp_path / "missing")),
            Address(host="127.0.0.1", port=unused.getsockname()[1], password="s3cret"),
            Address(host="name.invalid"),
        ):
            with pytest.raises(BrokerUnavailableError, match="cannot connect") as caught:
                async with open_connection(address):
                    pass
            assert isinstance(caught.value.__cause__, OSError)
            assert "s3cret" not in str(caught.value)


@timely
async def test_a_server_that_does_not_answer_is_unavailable_within_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        address = Address(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout=0.5)
        with pytest.raises(BrokerUnavailableError, match="no reply within the time"):
            async with open_connection(address):
                pass


@timely
async def test_a_connect_that_hangs_is_unavailable_within_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = Address(host="127.0.0.1", port=full.getsockname()[1], connect_timeout=0.2)
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            with pytest.raises(BrokerUnavailableError, match="cannot connect") as caught:
                async with open_connection(address):
                    pass
        finally:
            for filler in fillers:
                filler.close()
        assert isinstance(caught.value.__cause__, TimeoutError)


# --- A peer that is no Redis server -----------------------------------------------------------


@asynccontextmanager
async def peer(
    talk: Callable[[anyio.abc.SocketStream], Awaitable[None]], path: Path
) -> AsyncGenerator[Address]:
    """Something that listens on a unix socket and speaks as `talk` says."""
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, talk)
        yield Address(path=str(path))
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak the Redis protocol"),
        (b"+PONG\r\n+PONG\r\n", "a reply that nobody asked for"),
        (b"$100\r\nhalf a reply", "the server closed the connection"),
        (b"", "the server closed the connection"),
    ],
)
@timely
async def test_a_peer_that_breaks_the_protocol_is_hung_up_on(
    answer: bytes, reason: str, tmp_path: Path
) -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"+OK\r\n")  # to HELLO
            await stream.receive()
            await stream.send(answer)

    async with peer(talk, tmp_path / "s") as address, open_connection(address) as connection:
        if reason.startswith("a reply"):
            assert await connection.request(("PING",)) == b"PONG"
        else:
            with pytest.raises(BrokerUnavailableError, match=reason):
                await connection.request(("PING",))
        await connection.closed.wait()
        assert reason in str(connection.unavailable())


@timely
async def test_replies_may_come_in_pieces(tmp_path: Path) -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            for byte in b"%1\r\n+proto\r\n:3\r\n":
                await stream.send(bytes([byte]))
            await stream.receive()
            for byte in b"*2\r\n$3\r\na\r\n\r\n:-1\r\n>1\r\n+push\r\n_\r\n":
                await stream.send(bytes([byte]))
                await anyio.lowlevel.checkpoint()

    async with peer(talk, tmp_path / "s") as address, open_connection(address) as connection:
        assert await connection.pipeline([("A",), ("B",)]) == [[b"a\r\n", -1], None]


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whoever trusts this one trusts the proxy below."""
    return Authority(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_proxy(server: ServerProcess, authority: Authority) -> AsyncGenerator[Address]:
    """TLS in front of the server, as the embedded one speaks none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    localhost = authority.issue("localhost")
    context.load_cert_chain(localhost.cert, localhost.key)

    async def copy(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        try:
            async for chunk in source:
                await target.send(chunk)
            await target.aclose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    async def serve(outside: anyio.abc.ByteStream) -> None:
        async with (
            outside,
            await anyio.connect_unix(server.socket_path) as inside,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(copy, outside, inside)
            tasks.start_soon(copy, inside, outside)

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = plain.extra(anyio.abc.SocketAttribute.local_port)
    async with (
        TLSListener(plain, context, standard_compatible=False) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield Address(host="localhost", port=port, tls=TlsOptions(ca_file=str(authority.cert)))
        tasks.cancel_scope.cancel()


@timely
async def test_tls_carries_many_requests_at_once(
    server: ServerProcess, authority: Authority
) -> None:
    big = b"x" * 3_000_000
    async with (
        tls_proxy(server, authority) as address,
        open_connection(address, name="tls") as connection,
    ):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(connection.request, ("SET", f"tls{number}", big))
        assert await connection.pipeline([("GET", f"tls{n}") for n in range(20)]) == [big] * 20
        await connection.request(("DEL", *(f"tls{n}" for n in range(20))))


@timely
async def test_tls_refuses_strangers(server: ServerProcess, authority: Authority) -> None:
    async with tls_proxy(server, authority) as address:
        assert address.tls is not None
        strangers = (
            replace(address, tls=TlsOptions()),  # signed by nobody we trust
            replace(address, host="127.0.0.1"),  # trusted, but for another name
        )
        for stranger in strangers:
            with pytest.raises(BrokerUnavailableError) as caught:
                async with open_connection(stranger):
                    pass
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        unchecked = (
            replace(strangers[1], tls=replace(address.tls, check_hostname=False)),
            replace(address, tls=TlsOptions(verify=False)),
        )
        for allowed in unchecked:
            async with open_connection(allowed) as connection:
                assert await connection.request(("PING",)) == b"PONG"


@timely
async def test_tls_settings_that_cannot_be_used_are_your_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address(host="127.0.0.1", port=listening.getsockname()[1])
        for options in (
            TlsOptions(ca_file=str(tmp_path / "missing")),
            TlsOptions(ca_data="no certificate", key_password="s3cret"),
            TlsOptions(cert_file=str(tmp_path / "missing"), key_password="s3cret"),
        ):
            with pytest.raises(ConfigurationError, match="cannot be used") as caught:
                async with open_connection(replace(address, tls=options)):
                    pass
            assert "s3cret" not in str(caught.value)
