"""The Producer, on a real server, with a manager that works in another thread."""

from __future__ import annotations

import signal
import threading
import traceback
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
import redis
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, start_server
from trio_tasks import (
    BlockingJobRef,
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    DeadLetter,
    DebouncePolicy,
    Emit,
    Handlers,
    Job,
    JobFailedError,
    JobNotFoundError,
    JobState,
    Producer,
    QueueFullError,
    Repeat,
    SerializationError,
    TaskManager,
    producer,
)
from trio_tasks.connect import VARIABLE
from trio_tasks.embedded import EmbeddedServer
from trio_tasks.environment import monotonic
from trio_tasks.redis_streams.keys import QueueKeys, queues_key


@dataclass
class Sum:
    total: int


handlers = Handlers[None](queue="producers")


@handlers.handler("add")
async def add(job: Job[list[int]]) -> Sum:
    job.logger("adding")
    return Sum(sum(job.data))


@handlers.handler("fail")
async def fail(job: Job[str]) -> None:
    raise DeadLetter(job.data)


@handlers.handler("wait")
async def wait_for_ever() -> None:
    await anyio.sleep_forever()


@handlers.handler("tick")
async def tick(job: Job[None]) -> str:
    return f"for {job.scheduled_for}"


@handlers.handler("last", debounce=DebouncePolicy(0.3, edge="trailing", key="all"))
async def last(job: Job[int]) -> int:
    return job.data


@pytest.fixture(autouse=True)
def _in_time(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """No test hangs for longer than twenty seconds, and none has an address by chance."""

    def too_late(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test has taken more than twenty seconds")

    monkeypatch.delenv(VARIABLE, raising=False)
    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def portal() -> Generator[BlockingPortal]:
    """An event loop in another thread."""
    with start_blocking_portal("trio") as portal:
        yield portal


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def manager(server: ServerProcess, namespace: str) -> TaskManager[None]:
    manager = TaskManager[None](server.url, namespace=namespace, concurrency=4, lease=1)
    manager.include(handlers)
    return manager


@pytest.fixture
def emitting(server: ServerProcess, namespace: str) -> Generator[Producer]:
    """A producer that knows the handlers; nobody works."""
    with Producer(server.url, namespace=namespace) as emitting:
        emitting.include(handlers)
        yield emitting


@pytest.fixture
def working(
    emitting: Producer, manager: TaskManager[None], portal: BlockingPortal
) -> Generator[Producer]:
    """The same, and a manager works."""
    with portal.wrap_async_context_manager(manager):
        portal.call(manager.start)
        yield emitting
        portal.call(manager.stop, 0)


# --- Emitting and results -----------------------------------------------------------------------


def test_a_job_is_emitted_runs_and_its_result_comes_back(working: Producer) -> None:
    ref = working.emit(add, [1, 2, 3])
    assert ref.created
    assert ref.queue == "producers"
    assert ref.result(timeout=10) == Sum(6)
    info = ref.info()
    assert (info.state, info.name, info.data) == (JobState.COMPLETED, "add", [1, 2, 3])
    assert [line.message for line in info.logs] == ["adding"]
    assert repr(ref) == f"<BlockingJobRef {ref.id!r} in 'producers'>"


def test_a_job_that_is_emitted_by_name_has_a_plain_result(
    server: ServerProcess, namespace: str, working: Producer
) -> None:
    with Producer(db=server.url, namespace=namespace) as knows_nothing:
        ref = knows_nothing.emit("add", [4], queue="producers")
        assert ref.result(10) == {"total": 4}


def test_a_job_that_died_says_why(working: Producer) -> None:
    ref = working.emit(fail, "no more")
    with pytest.raises(JobFailedError) as caught:
        ref.result(timeout=10)
    assert (caught.value.state, caught.value.reason) == (JobState.DEAD, "no more")


def test_a_result_that_is_late_is_a_time_out(emitting: Producer) -> None:
    ref = emitting.emit(add, [1])
    began = monotonic()
    for timeout in (0, 0.2, timedelta(milliseconds=50)):
        with pytest.raises(TimeoutError, match="has not ended within"):
            ref.result(timeout=timeout)
    assert 0.2 < monotonic() - began < 5


def test_a_waiter_is_woken_by_the_end_of_its_job_alone(
    working: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "POLL", 60)
    for number in range(30):  # the end comes before, between and after the looks
        assert working.emit(add, [number]).result() == Sum(number)
    refs = working.emit_many([Emit(add, [number]) for number in range(500)])
    assert refs[-1].result() == Sum(499)


def test_who_may_not_be_told_of_changes_looks_once_a_second(
    server: ServerProcess, namespace: str, working: Producer
) -> None:
    with Admin(server.url) as admin:
        admin.do("ACL", "SETUSER", namespace, "on", ">pw", "~*", "+@all", "-xread")
        url = f"unix://{namespace}:pw@{server.socket_path}"
        with Producer(url, namespace=namespace) as forbidden:
            forbidden.include(handlers)
            ref = forbidden.emit(add, [1], delay=0.3)
            began = monotonic()
            assert ref.result(timeout=10) == Sum(1)
            assert monotonic() - began > 0.9
        admin.do("ACL", "DELUSER", namespace)


def test_other_jobs_wake_nobody(emitting: Producer) -> None:
    ref = emitting.emit(add, [1])
    broker = emitting._broker
    assert broker is not None
    changes = broker.changes(ref.queue, ref.id)
    others = threading.Thread(
        target=lambda: [emitting.emit(add, [2], delay=60).cancel() for _ in range(50)]
    )
    others.start()
    began = monotonic()
    changes.wait(0.4)
    assert monotonic() - began > 0.39
    others.join()
    assert ref.cancel()
    began = monotonic()
    changes.wait(10)
    assert monotonic() - began < 5


def test_many_threads_share_one_producer(working: Producer) -> None:
    found: list[int] = []

    def emit(first: int) -> None:
        refs = [working.emit(add, [number]) for number in range(first, first + 10)]
        found.extend(ref.result(timeout=15).total for ref in refs)

    threads = [threading.Thread(target=emit, args=(first,)) for first in range(0, 120, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(120))


# --- Options ------------------------------------------------------------------------------------


def test_a_chosen_id_is_one_job_until_it_has_ended(emitting: Producer) -> None:
    first = emitting.emit(add, [1], id="once")
    second = emitting.emit(add, [2], id="once")
    assert (first.created, second.created) == (True, False)
    assert second.info().data == [1]
    assert first.cancel("away with it")
    third = emitting.emit(add, [3], id="once")
    assert third.created
    assert third.info().data == [3]
    with pytest.raises(JobNotFoundError, match="emitted anew"):
        first.info()
    assert not first.cancel(), "a ref cancels the life of the id that it was made for"
    assert emitting.ref(add, "once").info().data == [3]


def test_a_whole_batch_is_stored_in_order_over_several_queues(
    emitting: Producer, manager: TaskManager[None], portal: BlockingPortal
) -> None:
    emits = [Emit("add", [n], queue="even" if n % 2 == 0 else "odd") for n in range(601)]
    refs = emitting.emit_many(emits)
    assert [ref.queue for ref in refs[:3]] == ["even", "odd", "even"]
    assert all(ref.created for ref in refs)
    assert [refs[n].info().data for n in (0, 1, 599, 600)] == [[0], [1], [599], [600]]
    assert emitting.emit_many([]) == []
    with portal.wrap_async_context_manager(manager):
        assert portal.call(manager.queues) == ["even", "odd"]
        assert portal.call(manager.queue("even").stats).queued == 301


def test_a_batch_with_a_wrong_element_is_refused_whole(emitting: Producer) -> None:
    with pytest.raises(SerializationError) as caught:
        emitting.emit_many([Emit(add, [1], id="first"), Emit("other", float("nan"))])
    assert "element 1 of emit_many" in caught.value.__notes__[0]
    with pytest.raises(JobNotFoundError):
        emitting.ref(add, "first").info()


def test_data_and_options_are_checked_at_the_call(server: ServerProcess) -> None:
    with Producer(server.url, max_data_bytes=100) as small:
        small.include(handlers)
        with pytest.raises(SerializationError, match="at most 100 are allowed"):
            small.emit(add, list(range(100)))
        wrong: Any = ["no number"]
        with pytest.raises(SerializationError, match=r"data\[0\] does not fit"):
            small.emit(add, wrong)
        with pytest.raises(ConfigurationError, match="priority=10"):
            small.emit(add, [1], priority=10)

        async def stranger() -> None: ...

        with pytest.raises(ConfigurationError, match="is not registered here"):
            small.emit(stranger)
        with pytest.raises(ConfigurationError, match="is not registered here"):
            small.ref(stranger, "some-id")


def test_a_schedule_is_stored_and_its_next_job_can_be_waited_for(working: Producer) -> None:
    ref = working.emit(tick, repeat=Repeat(every=1), id="every-second")
    assert ref.created is None
    assert ref.id.startswith("every-second:")
    due = datetime.fromtimestamp(int(ref.id.partition(":")[2]) / 1000, UTC)
    assert ref.result(timeout=10) == f"for {due}"
    with pytest.raises(JobNotFoundError, match="has not appeared yet"):
        working.emit(tick, repeat="@yearly").info()


def test_a_trailing_debounce_is_decided_at_the_emit(working: Producer) -> None:
    refs = [working.emit(last, number) for number in range(3)]
    assert refs[-1].result(timeout=10) == 2
    with pytest.raises(JobFailedError) as caught:
        refs[0].result(timeout=10)
    assert caught.value.state is JobState.SKIPPED
    assert caught.value.stood_in_by == refs[1].id


# --- Cancelling ---------------------------------------------------------------------------------


def test_a_job_that_waits_is_cancelled_at_once(emitting: Producer) -> None:
    ref = emitting.emit(add, [1])
    assert ref.cancel("not needed any more")
    assert not ref.cancel()
    assert ref.info().reason == "not needed any more"
    with pytest.raises(JobFailedError, match="not needed any more"):
        ref.result()
    with pytest.raises(JobNotFoundError, match="no job 'unheard-of'"):
        emitting.ref(add, "unheard-of").cancel()
    with pytest.raises(ConfigurationError, match="reason="):
        ref.cancel("")


def test_a_job_that_runs_is_cancelled_by_its_worker(working: Producer) -> None:
    ref = working.emit(wait_for_ever)
    while ref.info().state is not JobState.RUNNING:
        pass
    assert not ref.cancel("first")
    assert ref.cancel(wait=True)
    assert ref.info().state is JobState.CANCELLED


# --- Inside and outside the block ---------------------------------------------------------------


def test_outside_its_block_a_producer_is_of_no_use(server: ServerProcess, namespace: str) -> None:
    unused = Producer(server.url, namespace=namespace)
    unused.include(handlers)
    batch: list[Emit[None]] = []

    def everything(ref: BlockingJobRef[Any]) -> list[Callable[[], object]]:
        return [
            lambda: unused.emit(add, [1]),
            lambda: unused.emit_many(batch),
            ref.info,
            ref.result,
            lambda: ref.result(0),
            ref.cancel,
        ]

    for call in everything(unused.ref(add, "some-id")):
        with pytest.raises(RuntimeError, match="with Producer"):
            call()
    with unused:
        ref = unused.emit(add, [1])
        with pytest.raises(RuntimeError, match="entered already"), unused:
            pass
        assert ref.info().state is JobState.QUEUED
    for call in everything(ref):
        with pytest.raises(RuntimeError, match="with Producer"):
            call()
    with unused:  # again
        assert ref.info().data == [1]


def test_who_waits_while_the_block_is_left_is_told(server: ServerProcess, namespace: str) -> None:
    errors: list[BaseException] = []
    waits = threading.Event()

    def wait(ref: BlockingJobRef[Any]) -> None:
        waits.set()
        try:
            ref.result()
        except RuntimeError as error:
            errors.append(error)

    with Producer(server.url, namespace=namespace) as left:
        waiter = threading.Thread(target=wait, args=(left.emit("never"),))
        waiter.start()
        waits.wait()
    waiter.join()
    assert "with Producer" in str(errors)


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("db", [None, "memory://", "memory://name", "embedded://"])
def test_an_address_whose_jobs_would_end_with_the_program_is_refused(db: str | None) -> None:
    with pytest.raises(ConfigurationError, match="a Producer needs the address of the server"):
        Producer(db)


@pytest.mark.parametrize("db", ["http://host", "embedded://path", "redis://:s3cret@host:port"])
def test_an_address_that_cannot_be_read_is_refused(db: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Producer(db)
    assert "s3cret" not in str(caught.value)


def test_a_namespace_that_is_no_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="namespace="):
        Producer("redis://host", namespace="{braces}")
    with pytest.raises(ConfigurationError, match="max_data_bytes=0"):
        Producer("redis://host", max_data_bytes=0)


def test_the_address_may_come_from_the_environment_or_from_a_client(
    server: ServerProcess, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, server.url)
    with Producer(namespace=namespace) as one:
        ref = one.emit("somewhere")
    client = redis.Redis(unix_socket_path=server.socket_path)
    with Producer(client, namespace=namespace) as other:
        assert not other.emit("somewhere", id="x" * 128).info().data
        other.include(handlers)
    assert ref.queue == "default"
    monkeypatch.setenv(VARIABLE, "memory://")
    with pytest.raises(ConfigurationError, match=r"\$TRIO_TASKS_DB: memory://"):
        Producer()


@pytest.mark.parametrize("name", ["data", "x" * 120])
def test_an_embedded_server_is_attached_to_and_never_started(
    tmp_path: Path, portal: BlockingPortal, name: str
) -> None:
    directory = tmp_path / name
    address = f"embedded://{directory}"
    with (
        pytest.raises(BrokerUnavailableError, match="no embedded server runs in"),
        Producer(address),
    ):
        pass
    assert not directory.exists()
    with running(portal, directory), Producer(address) as producer:
        assert producer.emit("anything").info().state is JobState.QUEUED
    with pytest.raises(BrokerUnavailableError, match="none is started here"), Producer(address):
        pass


def running(portal: BlockingPortal, directory: Path) -> AbstractContextManager[object]:
    @contextmanager
    def run() -> Generator[None]:
        server = EmbeddedServer(directory)
        portal.call(server.ensure)
        try:
            yield
        finally:
            portal.call(server.aclose)

    return run()


def test_a_socket_that_others_could_have_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "socket").mkdir()
    (tmp_path / "socket").chmod(0o777)
    with pytest.raises(ConfigurationError, match="0700"), Producer(f"embedded://{tmp_path}"):
        pass


# --- When the server misbehaves -----------------------------------------------------------------


@pytest.fixture
def own_server() -> Generator[ServerProcess]:
    """A server that the test may break."""
    with start_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def impatient(server: ServerProcess) -> Producer:
    """A producer whose calls end after a second."""
    return Producer(f"{server.url}?socket_timeout=1")


def test_an_unreachable_server_is_said_with_the_ids_of_the_jobs(own_server: ServerProcess) -> None:
    with impatient(own_server) as producer:
        ref = producer.emit("before")
        own_server.kill()
        with pytest.raises(BrokerUnavailableError) as one:
            producer.emit("meanwhile", [5])
        (job_id,) = one.value.ids
        with pytest.raises(BrokerUnavailableError) as many:
            producer.emit_many([Emit("a"), Emit("b", id="chosen"), Emit("c", queue="q")])
        assert len(many.value.ids) == 3
        assert many.value.ids[1] == "chosen"
        for call in (ref.info, ref.cancel, lambda: ref.result(5)):
            with pytest.raises(BrokerUnavailableError) as looked:
                call()
            assert looked.value.ids == ()
        with pytest.raises(TimeoutError):
            ref.result(timeout=0.1)
        own_server.start()
        again = producer.emit("meanwhile", [5], id=job_id)
        assert (again.id, again.created) == (job_id, True)
        assert producer.emit("meanwhile", [5], id=job_id).info().data == [5]


def test_entering_finds_out_whether_there_is_a_server_that_can_be_used(
    own_server: ServerProcess,
) -> None:
    with Admin(own_server.url) as admin:
        admin.set("maxmemory-policy", "allkeys-lru")
        unused = impatient(own_server)
        with pytest.raises(ConfigurationError, match="maxmemory-policy is 'allkeys-lru'"), unused:
            pass
        admin.set("maxmemory-policy", "noeviction")
        with unused:
            assert unused.emit("now").created
    own_server.kill()
    with pytest.raises(BrokerUnavailableError, match="cannot connect"), unused:
        pass


def test_a_result_is_waited_for_over_a_restart_of_the_server(own_server: ServerProcess) -> None:
    with Producer(own_server.url) as producer:
        ref = producer.emit("some-job", id="some-job")
        outcome: list[object] = []

        def wait() -> None:
            try:
                outcome.append(ref.result(timeout=15))
            except JobFailedError as error:
                outcome.append(error.reason)

        waiter = threading.Thread(target=wait)
        waiter.start()
        own_server.restart()
        assert ref.cancel("after the restart")
        waiter.join()
    assert outcome == ["after the restart"]


def test_a_full_memory_refuses_the_emit_and_shows_no_data(own_server: ServerProcess) -> None:
    with Admin(own_server.url) as admin, Producer(own_server.url) as producer:
        admin.set("maxmemory", 1)
        with pytest.raises(QueueFullError) as caught:
            producer.emit("some-event", "s3cret")
        assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
        with pytest.raises(QueueFullError):
            producer.emit("some-event", repeat="@daily")
        with pytest.raises(QueueFullError) as of_a_batch:
            producer.emit_many([Emit("some-event"), Emit("some-event", queue="another")])
        assert len(of_a_batch.value.ids) == 2
        admin.set("maxmemory", 0)
        assert producer.emit("some-event", "s3cret").created


SECRET = "s3cret"

MISPLACED: dict[str, tuple[str, Callable[[Producer], object]]] = {
    "s:0": ("stream", lambda producer: producer.emit("event", SECRET, queue="main")),
    "m": ("hash", lambda producer: producer.emit("event", SECRET, queue="main")),
    "w": ("list", lambda producer: producer.emit("event", SECRET, queue="main")),
    "z": ("zset", lambda producer: producer.emit("event", SECRET, queue="main", delay=60)),
    "cron": (
        "zset",
        lambda producer: producer.emit("event", SECRET, queue="main", repeat="@daily"),
    ),
    "ev": ("stream", lambda producer: producer.emit("event", SECRET, queue="main").result(5)),
}
"""What a key should be, and what needs it."""


@pytest.mark.parametrize("name", MISPLACED)
def test_a_key_of_the_wrong_type_is_named_and_no_data_are_shown(
    name: str, emitting: Producer, server: ServerProcess, namespace: str
) -> None:
    expected, use = MISPLACED[name]
    key = QueueKeys(namespace, "main").prefix + name
    with Admin(server.url) as admin:
        admin.do("SET", key, "somebody's")
        with pytest.raises(BrokerUnavailableError) as caught:
            use(emitting)
        text = f"key {key!r} is of the type 'string', and should be a {expected}"
        assert str(caught.value) == f"WRONGTYPE: {text}; rename or delete it"
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert admin.do("GET", key) == b"somebody's"
        admin.do("DEL", key)
        if name not in ("cron", "ev"):
            (job_id,) = caught.value.ids
            assert emitting.emit("event", SECRET, queue="main", id=job_id).info().id == job_id


def test_a_record_of_the_wrong_type_is_named(
    emitting: Producer, server: ServerProcess, namespace: str
) -> None:
    key = QueueKeys(namespace, "default").job("chosen")
    with Admin(server.url) as admin:
        admin.do("SET", key, "somebody's")
        with pytest.raises(BrokerError) as caught:
            emitting.emit("event", SECRET, id="chosen")
        expected = f"MISPLACED key {key} is not a hash: rename or delete it"
        assert str(caught.value).startswith(expected)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_where_the_server_does_not_say_which_key_is_of_the_wrong_type_that_is_said(
    own_server: ServerProcess,
) -> None:
    with Admin(own_server.url) as admin, Producer(own_server.url) as producer:
        admin.do("SET", QueueKeys("tt", "default").meta, "somebody's")
        admin.do("ACL", "SETUSER", "default", "-type")
        with pytest.raises(BrokerUnavailableError, match="which one it is cannot be asked now"):
            producer.emit("event")


def test_a_list_of_queues_of_the_wrong_type_is_logged_once_by_name_and_jobs_are_stored(
    emitting: Producer, server: ServerProcess, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = queues_key(namespace)
    with Admin(server.url) as admin:
        admin.do("SET", key, "somebody's")
        for _ in range(3):
            assert emitting.emit("event").created
        admin.do("DEL", key)
        emitting.emit("event")
        assert admin.do("SMEMBERS", key) in ({b"default"}, [b"default"])
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"key {key!r} is of the type 'string', and should be a set" in record.getMessage()
