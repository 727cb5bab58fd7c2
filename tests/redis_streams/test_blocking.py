"""The link for threads: deadlines, what is sent again, what is thrown away, and what errors say."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import cast

import pytest
import redis
from anyio.from_thread import start_blocking_portal

from tests.redis_streams.admin import Admin
from tests.redis_streams.certificates import Authority
from tests.redis_streams.test_wire import authority, tls_proxy
from tests.servers import ServerProcess, start_server
from trio_tasks.broker import RECORD_VERSION, Emitted, NewJob, Record
from trio_tasks.environment import monotonic
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    InternalError,
    QueueFullError,
)
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.address import Address, TlsOptions, parse_address
from trio_tasks.redis_streams.blocking import BlockingLink
from trio_tasks.redis_streams.blocking_broker import BlockingBroker
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import RedisReplyError
from trio_tasks.redis_streams.scripts import Call

__all__ = ["authority"]  # a fixture

NAME = "trio_tasks:producer"
SECRET = "s3cret-data"

TIME = calls.time(QueueKeys("tt", "blocking"))


@pytest.fixture(autouse=True)
def _in_time() -> Generator[None]:
    """No test hangs for longer than twenty seconds."""

    def too_late(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test has taken more than twenty seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def own_server() -> Generator[ServerProcess]:
    """A server that the test may break."""
    with start_server() as server:
        yield server


@contextmanager
def linked(url: str, *, timeout: float = 5.0) -> Generator[BlockingLink]:
    link = BlockingLink(replace(parse_address(url), request_timeout=timeout))
    try:
        yield link
    finally:
        link.close()


def everything_said_of(error: BaseException) -> str:
    """What a program that logs it may print, the errors behind it included."""
    said = [*traceback.format_exception(error)]
    behind: BaseException | None = error
    while behind is not None:
        said += [repr(behind), str(behind)]
        behind = behind.__cause__ or behind.__context__
    return "\n".join(said)


class Relay:
    """Stands between a client and the server, counts scripts and cuts off some answers."""

    def __init__(self, server: ServerProcess, path: str) -> None:
        self.scripts = 0
        self.cuts = 0
        self._server = server.socket_path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as upstream:
            upstream.connect(self._server)
            while asked := client.recv(1_000_000):
                upstream.sendall(asked)
                answer = upstream.recv(1_000_000)
                if b"EVAL" in asked:
                    self.scripts += 1
                    if self.cuts:
                        self.cuts -= 1
                        return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def relay(server: ServerProcess) -> Generator[tuple[str, Relay]]:
    with tempfile.TemporaryDirectory(prefix="tt-") as directory:
        path = str(Path(directory, "s"))
        relay = Relay(server, path)
        yield f"unix://{path}", relay
        relay.close()


# --- Answers ------------------------------------------------------------------------------------


def test_a_script_runs_and_its_answer_is_read(server: ServerProcess) -> None:
    with linked(server.url) as link:
        assert link.call(TIME) == pytest.approx(link.call(TIME), abs=1000)


def test_a_script_that_the_server_has_forgotten_is_sent_in_full(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        link.call(TIME)
        admin.do("SCRIPT", "FLUSH")
        before = admin.calls("eval")
        link.call(TIME)
        link.call(TIME)
        assert admin.calls("eval") == before + 1


def test_one_connection_serves_a_thread_that_calls_again_and_again(
    own_server: ServerProcess,
) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        for _ in range(5):
            link.call(TIME)
        assert admin.kill(NAME) == 1


def test_threads_do_not_get_each_others_answers(server: ServerProcess) -> None:
    wrong: list[object] = []

    def echo(link: BlockingLink, word: bytes) -> None:
        for _ in range(50):
            answer = link.request(("ECHO", word))
            if answer != word:
                wrong.append(answer)

    with linked(server.url) as link:
        threads = [
            threading.Thread(target=echo, args=(link, b"word %d" % number)) for number in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(link._idle) <= 16, "more connections are kept than will be used"
    assert wrong == []


def test_after_an_answer_of_an_unknown_shape_the_connection_is_still_in_step(
    server: ServerProcess,
) -> None:
    def refuse(_reply: object) -> int:
        raise InternalError("an unknown shape")

    with linked(server.url) as link:
        link.call(TIME)
        with pytest.raises(InternalError):
            link.call(Call(TIME.script, TIME.keys, TIME.args, refuse))
        assert link.request(("ECHO", "here")) == b"here"
        assert len(link._idle) == 1


def test_closing_leaves_no_connection_behind(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin:
        with linked(own_server.url) as link:
            link.call(TIME)
        assert admin.kill(NAME) == 0


# --- What goes wrong ----------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_tried_until_the_deadline(own_server: ServerProcess) -> None:
    own_server.kill()
    with linked(own_server.url, timeout=0.5) as link:
        began = monotonic()
        with pytest.raises(
            BrokerUnavailableError, match=r"cannot connect \(.*No such file|refused"
        ):
            link.call(TIME)
        assert 0.1 < monotonic() - began < 10


def test_a_server_that_comes_back_in_time_answers_the_same_call(own_server: ServerProcess) -> None:
    own_server.kill()
    with linked(own_server.url) as link:
        timer = threading.Timer(0.2, own_server.start)
        timer.start()
        assert link.call(TIME) > 0
        timer.join()


def test_connections_that_died_unseen_are_replaced_without_an_error(
    own_server: ServerProcess,
) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        link.call(TIME)
        assert admin.kill(NAME) == 1
        assert link.call(TIME, repeat=False) > 0


def test_a_frozen_server_is_given_up_at_the_deadline(own_server: ServerProcess) -> None:
    with linked(own_server.url, timeout=0.5) as link:
        link.call(TIME)
        own_server.freeze()
        began = monotonic()
        with pytest.raises(BrokerUnavailableError, match="no reply within the time"):
            link.call(TIME, repeat=True)
        assert 0.4 < monotonic() - began < 10
        began = monotonic()
        with pytest.raises(BrokerUnavailableError):
            link.call(TIME, deadline=began + 0.1, repeat=True)
        own_server.thaw()
        assert link.call(TIME) > 0


def test_an_answer_that_was_lost_is_asked_for_again_if_that_is_harmless(
    relay: tuple[str, Relay],
) -> None:
    url, between = relay
    with linked(url) as link:
        link.call(TIME)
        between.scripts, between.cuts = 0, 2
        assert link.call(TIME, repeat=True) > 0
        assert between.scripts == 3


def test_an_emit_whose_answer_was_lost_has_made_one_job(relay: tuple[str, Relay]) -> None:
    url, between = relay
    broker = BlockingBroker(BlockingLink(parse_address(url)), namespace=f"t{uuid.uuid4().hex[:12]}")
    jobs = [
        NewJob(id="prefix@1", queue="q", record=Record(RECORD_VERSION, "event", b"1")),
        NewJob(id="chosen", queue="q", record=Record(RECORD_VERSION, "event", b"2"), number="n1"),
    ]
    between.cuts = 2
    assert broker.emit(jobs) == [Emitted(job.id, created=True) for job in jobs]
    assert between.cuts == 0
    for job in jobs:
        stored = broker.read("q", job.id)
        assert stored is not None
        assert stored.record == job.record
    broker.close()


def test_nothing_else_is_ever_sent_twice(relay: tuple[str, Relay]) -> None:
    url, between = relay
    with linked(url) as link:
        link.call(TIME)
        between.scripts, between.cuts = 0, 1
        with pytest.raises(BrokerUnavailableError, match="the connection broke"):
            link.call(TIME)
        assert between.scripts == 1


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next_one(
    own_server: ServerProcess,
) -> None:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    with linked(own_server.url) as link:
        link.call(TIME)
        own_server.freeze()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            link.request(("ECHO", "interrupted"))
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 20)
        own_server.thaw()
        assert link.request(("ECHO", "next")) == b"next"


def test_a_server_that_is_busy_is_asked_again(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        link.call(TIME)
        admin.set("busy-reply-threshold", 1)
        endless = threading.Thread(target=_run_endless_script, args=(own_server.url,))
        endless.start()
        while not _is_busy(admin):
            pass
        killer = threading.Timer(0.3, lambda: admin.do("SCRIPT", "KILL"))
        killer.start()
        assert link.call(TIME, repeat=True) > 0
        killer.join()
        endless.join()


def _is_busy(admin: Admin) -> bool:
    try:
        admin.do("PING")
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def _run_endless_script(url: str) -> None:
    with Admin(url) as admin, pytest.raises(Exception, match="killed"):
        admin.do("EVAL", "while true do end", 0)


def test_a_full_memory_is_said_and_nothing_more(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        link.call(TIME)
        admin.set("maxmemory", 1)
        with pytest.raises(QueueFullError, match="memory is full") as caught:
            link.request(("SET", "key", SECRET), repeat=True)
        assert SECRET not in everything_said_of(caught.value)
        admin.set("maxmemory", 0)
        assert len(link._idle) == 1, "a refusal is an answer: the connection is good"


@pytest.mark.parametrize(
    "command",
    [
        ("NO-SUCH-COMMAND", SECRET),
        ("INCRBY", "tt:blocking:text", SECRET),
    ],
)
def test_a_refusal_does_not_show_what_was_sent(
    server: ServerProcess, command: tuple[str | int, ...]
) -> None:
    with linked(server.url) as link:
        with pytest.raises(RedisReplyError) as caught:
            link.request(command)
        assert SECRET not in everything_said_of(caught.value)
        assert not isinstance(caught.value, BrokerUnavailableError)
        assert caught.value.code == "ERR"
        assert link.request(("ECHO", "here")) == b"here"


def test_a_refusal_of_any_kind_keeps_its_code(server: ServerProcess) -> None:
    codes = ["NOSCRIPT", "READONLY", "MOVED", "WRONGTYPE", "NOPERM", "TRYAGAIN"]
    outages = {"READONLY", "TRYAGAIN"}
    with linked(server.url, timeout=0.5) as link:
        for code in codes:
            text = f"{code} 1 127.0.0.1:1"
            with pytest.raises(BrokerError) as caught:
                link.request(("EVAL", f"return redis.error_reply('{text}')", 0))
            assert isinstance(caught.value, BrokerUnavailableError) == (code in outages)
            refusal = caught.value.__cause__ if code in outages else caught.value
            assert isinstance(refusal, RedisReplyError)
            assert refusal.code == code


def test_a_wrong_password_is_said_at_once_and_not_shown() -> None:
    with start_server("--requirepass", "right") as server:
        url = f"unix://:{SECRET}@{server.socket_path}"
        with linked(url, timeout=60) as link:
            with pytest.raises(ConfigurationError, match="WRONGPASS") as caught:
                link.call(TIME)
            assert SECRET not in everything_said_of(caught.value) + repr(link)
        with (
            linked(server.url, timeout=60) as link,
            pytest.raises(ConfigurationError, match="asks for a password"),
        ):
            link.call(TIME)
        with linked(f"unix://:right@{server.socket_path}?db=3") as link:
            assert link.call(TIME) > 0
            info = link.request(("CLIENT", "INFO"))
            assert b" db=3 " in cast("bytes", info)


def test_a_database_that_is_not_there_is_said_at_once(server: ServerProcess) -> None:
    with (
        linked(f"{server.url}?db=99", timeout=60) as link,
        pytest.raises(ConfigurationError, match="no database 99"),
    ):
        link.call(TIME)


def test_a_password_that_is_changed_later_is_an_outage(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin:
        admin.do("ACL", "SETUSER", "ann", "on", ">old", "~*", "+@all")
        with linked(f"unix://ann:old@{own_server.socket_path}", timeout=0.3) as link:
            assert link.call(TIME) > 0
            admin.do("ACL", "SETUSER", "ann", "resetpass", ">new")
            admin.kill(NAME)
            with pytest.raises(BrokerUnavailableError, match="WRONGPASS"):
                link.call(TIME, repeat=True)
            admin.do("ACL", "SETUSER", "ann", ">old")
            assert link.call(TIME, repeat=True) > 0


def test_a_user_who_may_run_scripts_only_can_connect(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin:
        admin.do("ACL", "SETUSER", "ann", "on", ">pw", "~tt:*", "+evalsha", "+eval", "+time")
    with linked(f"unix://ann:pw@{own_server.socket_path}") as link:
        assert link.call(TIME) > 0
        with pytest.raises(RedisReplyError) as caught:
            link.request(("INFO",))
        assert caught.value.code == "NOPERM"


# --- Waiting ------------------------------------------------------------------------------------


def test_a_command_that_blocks_has_time_to_and_a_little_more(server: ServerProcess) -> None:
    with linked(server.url, timeout=0.2) as link:
        command = ("XREAD", "BLOCK", 400, "STREAMS", "tt:blocking:none", "0-0")
        assert link.wait(command, 0.4) is None
        assert len(link._idle) == 1


# --- Forked children ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it forks with threads
def test_a_forked_child_makes_connections_of_its_own(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin, linked(own_server.url) as link:
        connection = link.request(("CLIENT", "ID"))
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = link.request(("CLIENT", "ID")) != connection
                link.close()
            finally:
                os._exit(0 if good else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert link.request(("CLIENT", "ID")) == connection, "the child has closed it"
        assert admin.kill(NAME) == 1


# --- TLS ----------------------------------------------------------------------------------------


@contextmanager
def encrypted(server: ServerProcess, authority: Authority) -> Generator[Address]:
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(tls_proxy(server, authority)) as address,
    ):
        yield address


def test_tls_is_spoken_with_the_servers_whom_we_trust(
    server: ServerProcess, authority: Authority
) -> None:
    with encrypted(server, authority) as address:
        for allowed in (
            address,
            replace(address, host="127.0.0.1", tls=_changed(address, check_hostname=False)),
            replace(address, tls=TlsOptions(verify=False)),
        ):
            link = BlockingLink(allowed)
            big = b"x" * 300_000
            assert link.request(("ECHO", big)) == big
            link.close()


def test_tls_refuses_strangers(server: ServerProcess, authority: Authority) -> None:
    with encrypted(server, authority) as address:
        for stranger in (
            replace(address, tls=TlsOptions()),  # signed by nobody we trust
            replace(address, host="127.0.0.1"),  # not the name in the certificate
        ):
            link = BlockingLink(replace(stranger, request_timeout=0.5))
            with pytest.raises(BrokerUnavailableError, match="certificate verify failed"):
                link.call(TIME)


def test_tls_settings_that_cannot_be_used_are_your_fault(tmp_path: Path) -> None:
    for options in (
        TlsOptions(ca_file=str(tmp_path / "missing")),
        TlsOptions(cert_file=str(tmp_path / "missing"), key_password=SECRET),
    ):
        with pytest.raises(ConfigurationError) as caught:
            BlockingLink(Address(tls=options))
        assert SECRET not in everything_said_of(caught.value)


def _changed(address: Address, **changes: bool) -> TlsOptions:
    assert address.tls is not None
    change = cast("Callable[..., TlsOptions]", replace)
    return change(address.tls, **changes)
