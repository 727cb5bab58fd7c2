"""Sentinel: the primary is found, found again after a failover, and never taken from hearsay."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
import pytest

from tests.redis_streams.work import Work
from tests.servers import (
    SentinelProcess,
    ServerProcess,
    free_port,
    in_step,
    start_replica,
    start_sentinel,
    start_server,
    timed,
)
from trio_tasks import JobState, Producer
from trio_tasks.connect import broker_for
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address, TlsOptions, parse_address
from trio_tasks.redis_streams.blocking_connection import BlockingConnection
from trio_tasks.redis_streams.sentinel import Sentinels
from trio_tasks.redis_streams.sentinel_address import parse_sentinel_address
from trio_tasks.redis_streams.wire import open_connection

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
on_both_loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])


# --- Addresses --------------------------------------------------------------------------------


def test_a_sentinel_address_names_sentinels_service_and_database() -> None:
    address = parse_sentinel_address(
        "redis+sentinel://ann:p%40w@one,[::1]:7000/jobs.main/3"
        "?sentinel_username=bob&sentinel_password=q%26w&socket_timeout=2"
    )
    sentinel = Address(host="one", port=26_379, username="bob", password="q&w", request_timeout=2)
    assert address.sentinels == (sentinel, replace(sentinel, host="::1", port=7000))
    assert address.service == "jobs.main"
    assert (address.server.username, address.server.password) == ("ann", "p@w")
    assert (address.server.db, address.server.must_be_primary) == (3, True)
    assert address.label == "redis+sentinel://one:26379,[::1]:7000/jobs.main/3"


def test_the_servers_credentials_are_not_shown_to_sentinels() -> None:
    (sentinel,) = parse_sentinel_address("redis+sentinel://ann:pw@h/jobs").sentinels
    assert (sentinel.username, sentinel.password) == (None, None)


def test_tls_is_for_sentinels_and_server() -> None:
    address = parse_sentinel_address("rediss+sentinel://h/jobs?ssl_ca_certs=/ca")
    tls = TlsOptions(ca_file="/ca")
    assert (address.server.tls, address.sentinels[0].tls) == (tls, tls)
    assert address.label.startswith("rediss+sentinel://")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis+sentinel://:s3cret@h", "name of the server that the Sentinels watch"),
        ("redis+sentinel://:s3cret@h/", "name of the server that the Sentinels watch"),
        ("redis+sentinel://:s3cret@h/a b", "name of the server that the Sentinels watch"),
        ("redis+sentinel://:s3cret@h/jobs/one", "number of a database"),
        ("redis+sentinel://:s3cret@h/jobs/1/2", "number of a database"),
        ("redis+sentinel://:s3cret@a,,b/jobs", "empty name between its commas"),
        ("redis+sentinel://:s3cret@h:99999/jobs", "redis\\+sentinel:// .*percent-encoded"),
        ("redis+sentinel://:s3#cret@h/jobs", "redis\\+sentinel:// .*percent-encoded|%23"),
        ("redis+sentinel://:s3cret@h/jobs?socket_timout=1", "did you mean 'socket_timeout'"),
    ],
)
def test_a_wrong_sentinel_address_is_refused_without_its_password(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint) as refused:
        broker_for(url)
    assert "cret" not in str(refused.value)


def test_streamdb_is_refused_where_sentinels_tell_the_way() -> None:
    with pytest.raises(ConfigurationError, match="leave streamdb out"):
        broker_for("redis+sentinel://h/jobs", streamdb="redis://h")


# --- Asking -----------------------------------------------------------------------------------


@dataclass
class Trio:
    """A primary, its replica, and the Sentinel that watches both."""

    primary: ServerProcess
    replica: ServerProcess
    sentinel: SentinelProcess
    url: str

    @property
    def address(self) -> Address:
        return parse_address(self.primary.tcp_url)

    def named_primary(self) -> str:
        """Whom the Sentinel names."""
        return self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "jobs")


@contextmanager
def watched(*settings: str) -> Generator[Trio]:
    with (
        start_server(*settings, tcp=True) as primary,
        start_replica(primary, *settings) as replica,
        start_sentinel(primary.tcp_port, "jobs") as sentinel,
    ):
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.tcp_port}"
        arguments = "socket_timeout=1&socket_connect_timeout=2"
        yield Trio(primary, replica, sentinel, f"redis+sentinel://{hosts}/jobs?{arguments}")


@pytest.fixture(scope="module")
def steady() -> Generator[Trio]:
    """A set-up in which no failover happens."""
    with watched() as trio:
        yield trio


@pytest.mark.anyio
@on_both_loops
@timed(10)
async def test_a_sentinel_that_is_dead_is_passed_over(steady: Trio) -> None:
    locate = Sentinels(parse_sentinel_address(steady.url))
    for _ in range(3):  # another one is asked first each time
        found = await locate()
        assert (found.host, found.port) == ("127.0.0.1", steady.primary.tcp_port)


@pytest.mark.anyio
@on_trio
@timed(10)
async def test_a_silent_sentinel_does_not_take_all_the_time(steady: Trio) -> None:
    with start_server(tcp=True) as silent:
        silent.freeze()
        one = f"127.0.0.1:{silent.tcp_port}"
        url = steady.url.replace("://", f"://{one},", 1).replace(
            "connect_timeout=2", "connect_timeout=1"
        )
        found = await Sentinels(parse_sentinel_address(url))()
    assert found.port == steady.primary.tcp_port


@pytest.mark.anyio
@on_both_loops
@timed(10)
async def test_a_name_that_no_sentinel_knows_is_said_at_once(steady: Trio) -> None:
    one = f"redis+sentinel://127.0.0.1:{steady.sentinel.tcp_port}/mymaster"
    began = anyio.current_time()
    with pytest.raises(ConfigurationError, match="knows a server named 'mymaster'"):
        await broker_for(one)().__aenter__()
    assert anyio.current_time() - began < 4  # not the five seconds of an outage


@pytest.mark.anyio
@on_both_loops
@timed(10)
async def test_without_any_sentinel_entering_fails_in_time_and_shows_no_password() -> None:
    port = free_port()
    url = f"redis+sentinel://ann:s3cret@127.0.0.1:{port}/jobs?sentinel_password=s3cret"
    broker = broker_for(f"{url}&socket_timeout=0.3&socket_connect_timeout=0.3")()
    with pytest.raises(BrokerUnavailableError, match=rf"told where 'jobs' is.*:{port}") as caught:
        await broker.__aenter__()
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {broker!r}"


@pytest.mark.anyio
@on_both_loops
@timed(10)
async def test_a_replica_is_refused_where_the_primary_is_meant(steady: Trio) -> None:
    address = replace(parse_address(steady.replica.tcp_url), must_be_primary=True)
    with pytest.raises(BrokerUnavailableError, match="is a replica"):
        async with open_connection(address):
            pass
    async with open_connection(replace(address, port=steady.primary.tcp_port)) as connection:
        assert await connection.request(("PING",)) == b"PONG"


@pytest.mark.anyio
@on_trio
@timed(10)
async def test_server_and_sentinel_each_have_their_own_credentials(steady: Trio) -> None:
    steady.primary.ask("ACL", "SETUSER", "ann", "on", ">pw1", "~*", "&*", "+@all")
    with start_sentinel(steady.primary.tcp_port, "guarded") as sentinel:
        sentinel.ask("ACL", "SETUSER", "bob", "on", ">pw2", "+@all")
        sentinel.ask("ACL", "SETUSER", "default", "off")
        host = f"127.0.0.1:{sentinel.tcp_port}/guarded"
        right = f"redis+sentinel://ann:pw1@{host}?sentinel_username=bob&sentinel_password=pw2"
        async with broker_for(right, namespace="own")() as broker:
            assert await broker.queues() == []
            assert "user=ann" in steady.primary.ask("CLIENT", "LIST")
        wrong = right.replace("password=pw2", "password=pw1&socket_timeout=0.2")
        with pytest.raises(ConfigurationError, match=r"^db: .*WRONGPASS.*sentinel_password"):
            await broker_for(wrong)().__aenter__()


# --- Failover ---------------------------------------------------------------------------------


@pytest.mark.anyio
@on_trio
@timed(30)
async def test_after_a_failover_every_stored_job_runs() -> None:
    with watched() as trio:
        work = Work(trio.url)
        async with work.tasks as tasks:
            for number in range(100):
                await work.emit(number)
            await tasks.start()
            await work.until_ran(range(10))
            for number in range(100, 200):
                await work.emit(number)
            await anyio.to_thread.run_sync(in_step, trio.primary, trio.replica)
            trio.primary.kill()
            async with anyio.create_task_group() as emitting:
                for number in range(200, 300):
                    emitting.start_soon(work.emit, number)
            await work.until_ran(range(300))
            assert tasks.statistics().connected
            assert await work.left() == [0, 0]
        assert str(trio.replica.tcp_port) in trio.named_primary()


@pytest.mark.anyio
@on_trio
@timed(30)
async def test_a_frozen_primary_that_wakes_up_and_thinks_it_is_one_is_left_alone() -> None:
    with watched() as trio:
        work = Work(trio.url)
        async with work.tasks as tasks:
            await tasks.start()
            await work.emit(0)
            await work.until_ran([0])
            await anyio.to_thread.run_sync(in_step, trio.primary, trio.replica)
            trio.primary.freeze()
            await work.emit(1)
            await work.until_ran([1])
            trio.primary.thaw()
            assert "role:master" in trio.primary.ask("INFO", "replication")  # it has missed all
            await work.emit(2)
            await work.until_ran([2])
            assert await work.left() == [0, 0]
            assert "trio_tasks:cmd" not in trio.primary.ask("CLIENT", "LIST")


# --- A producer ---------------------------------------------------------------------------------


def test_a_producer_asks_the_sentinels_and_follows_a_failover() -> None:
    with watched() as trio:
        with Producer(trio.url) as producer:
            ref = producer.emit("mail")
            in_step(trio.primary, trio.replica)
            trio.primary.kill()
            found = None
            while found is None:
                with suppress(BrokerUnavailableError):
                    found = ref.info()
            assert found.state is JobState.QUEUED
            assert producer.emit("mail").created
        assert str(trio.replica.tcp_port) in trio.named_primary()


def test_a_producer_is_told_what_the_sentinels_refuse(steady: Trio) -> None:
    host = f"127.0.0.1:{steady.sentinel.tcp_port}"
    for url, said in (
        (f"redis+sentinel://{host}/mymaster", r"^db: .*knows a server named 'mymaster'"),
        (
            f"redis+sentinel://{host}/jobs?sentinel_username=bob&sentinel_password=wr0ng",
            r"^db: .*sentinel_password",
        ),
        (f"redis+sentinel://:wr0ng@{host}/jobs/99", r"^db: .*no database 99"),
    ):
        with pytest.raises(ConfigurationError, match=said) as refused, Producer(url):
            pass
        assert "wr0ng" not in str(refused.value)
    nobody = f"redis+sentinel://127.0.0.1:{free_port()}/jobs?socket_timeout=0.2"
    with pytest.raises(BrokerUnavailableError, match=r"told where 'jobs' is"), Producer(nobody):
        pass


def test_a_producer_refuses_a_replica_where_the_primary_is_meant(steady: Trio) -> None:
    address = replace(parse_address(steady.replica.tcp_url), must_be_primary=True)
    with pytest.raises(BrokerUnavailableError, match="is a replica"):
        BlockingConnection(address, 5.0)
    BlockingConnection(replace(address, port=steady.primary.tcp_port), 5.0).close()
