"""TLS end to end, on a server that speaks it: who is believed, and who is not."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from tests.redis_streams.certificates import Authority, Certificate
from tests.redis_streams.work import Work
from tests.servers import free_port, start_sentinel, start_server, timed
from trio_tasks import Producer
from trio_tasks.connect import broker_for
from trio_tasks.errors import BrokerUnavailableError

pytestmark = pytest.mark.anyio

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
on_both_loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])

REDIS = Path(shutil.which("redis-server") or "")

if not REDIS.name:
    pytest.skip(
        "needs redis-server on PATH: the embedded server speaks no TLS", allow_module_level=True
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def speaking_tls(port: int, authority: Authority, certificate: Certificate) -> dict[str, str]:
    """Settings of a server."""
    return {
        "tls-port": str(port),
        "tls-ca-cert-file": str(authority.cert),
        "tls-cert-file": str(certificate.cert),
        "tls-key-file": str(certificate.key),
    }


@contextmanager
def tls_server(
    authority: Authority, certificate: Certificate, *, ask_clients: bool = False
) -> Generator[int]:
    """Run a server; the port on which it speaks TLS and nothing else."""
    port = free_port()
    settings = speaking_tls(port, authority, certificate)
    settings["tls-auth-clients"] = "yes" if ask_clients else "no"
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with start_server(*words, binary=REDIS):
        yield port


@pytest.fixture(scope="module")
def port(authority: Authority) -> Generator[int]:
    """Of a server that is certified to be `localhost`, and asks nobody else for a certificate."""
    certificate = authority.issue("localhost")
    with tls_server(authority, certificate) as port:
        yield port


@on_both_loops
@timed(20)
async def test_jobs_run_over_tls(authority: Authority, port: int) -> None:
    work = Work(f"rediss://localhost:{port}?ssl_ca_certs={authority.cert}")
    async with work.tasks as tasks:
        await tasks.start()
        ref = await tasks.emit("parent", 0)
        assert await ref.result(timeout=10) == "done"
        for number in range(1, 50):
            await work.emit(number)
        await work.until_ran(range(50))
        assert await work.left() == [0, 0]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rediss://127.0.0.1:{port}?ssl_ca_certs={ca}", "IP address mismatch"),
        ("rediss://localhost:{port}", "certificate verify failed"),
        ("rediss://127.0.0.1:{port}?ssl_check_hostname=false", "certificate verify failed"),
        ("redis://localhost:{port}", "this port speaks TLS, its address begins"),
    ],
    ids=["wrong name", "unknown authority", "unknown authority, any name", "no TLS"],
)
@on_both_loops
@timed(20)
async def test_a_server_that_is_not_the_one_we_mean_is_refused(
    authority: Authority, port: int, url: str, reason: str
) -> None:
    url = url.format(port=port, ca=authority.cert)
    joint = "&" if "?" in url else "?"
    broker = broker_for(f"{url}{joint}socket_timeout=1")()
    with pytest.raises(BrokerUnavailableError, match=reason):
        await broker.__aenter__()


@on_trio
@timed(20)
async def test_a_producer_that_speaks_no_tls_is_told_that_the_port_does(port: int) -> None:
    def enter() -> None:
        with Producer(f"redis://localhost:{port}?socket_timeout=1"):
            pytest.fail("it was let in")

    with pytest.raises(BrokerUnavailableError, match="this port speaks TLS, its address begins"):
        await anyio.to_thread.run_sync(enter)


@pytest.mark.parametrize(
    "arguments",
    ["ssl_ca_certs={ca}&ssl_check_hostname=false", "ssl_cert_reqs=none"],
    ids=["any name", "anybody"],
)
@on_trio
@timed(20)
async def test_checks_can_be_switched_off_by_name(
    authority: Authority, port: int, arguments: str
) -> None:
    url = f"rediss://127.0.0.1:{port}?{arguments.format(ca=authority.cert)}"
    async with broker_for(url)() as broker:
        assert broker.connected


@on_trio
@timed(20)
async def test_a_server_may_ask_for_our_certificate(authority: Authority) -> None:
    certificate = authority.issue("localhost")
    ours = authority.issue("worker")
    with tls_server(authority, certificate, ask_clients=True) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={authority.cert}"
        async with broker_for(f"{url}&ssl_certfile={ours.cert}&ssl_keyfile={ours.key}")() as broker:
            assert broker.connected
        with pytest.raises(BrokerUnavailableError):
            await broker_for(f"{url}&socket_timeout=1")().__aenter__()


@on_trio
@timed(20)
async def test_sentinel_and_server_are_both_checked(authority: Authority) -> None:
    by_address = authority.issue("127.0.0.1")
    by_name = authority.issue("localhost")
    sentinel_port = free_port()
    settings = speaking_tls(sentinel_port, authority, by_name)
    settings |= {"tls-auth-clients": "no", "tls-replication": "yes"}
    lines = [f"{name} {value}" for name, value in settings.items()]
    url = f"rediss+sentinel://localhost:{sentinel_port}/jobs?ssl_ca_certs={authority.cert}"
    with (
        tls_server(authority, by_address) as port,
        start_sentinel(port, "jobs", *lines, replicas=0, binary=REDIS),
    ):
        async with broker_for(url)() as broker:
            assert broker.connected
        wrong = url.replace("localhost", "127.0.0.1")  # the Sentinel has no certificate for that
        with pytest.raises(BrokerUnavailableError, match="told where 'jobs' is"):
            await broker_for(f"{wrong}&socket_timeout=1")().__aenter__()
