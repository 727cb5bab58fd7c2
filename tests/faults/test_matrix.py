"""Rows of the fault matrix (docs/invariants.md) that need no process of their own, one by one.

The engine runs here in this process, on a real server. Rows in which processes are killed, frozen
or stopped, or servers lose what they had, are in the modules beside this one.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import anyio
import pytest
import redis

from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, free_port, start_server, timed
from tests.workshop import eventually
from trio_tasks import (
    Context,
    Job,
    JobState,
    Repeat,
    SerializationError,
    TaskManager,
)
from trio_tasks.broker import RECORD_VERSION, NewJob, Record
from trio_tasks.environment import Ids
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.keys import QueueKeys

pytestmark = pytest.mark.anyio

DAY_S = 86_400
QUEUE = "default"


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
def namespace() -> str:
    return f"m{secrets.token_hex(6)}"


def manager(url: str, namespace: str, **options: Any) -> TaskManager[Any]:
    options.setdefault("processor", {"retry": {"delay": 0.05, "jitter": 0}})
    return TaskManager(url, namespace=namespace, **options)


# --- The server ---------------------------------------------------------------------------------


@timed(20)
async def test_with_a_frozen_server_own_handlers_are_cancelled_before_their_lease_ends(
    namespace: str,
) -> None:
    lease = 1.2
    ended: list[tuple[str, float]] = []
    with start_server() as server:
        tasks = manager(server.url, namespace, lease=lease)

        @tasks.handler("job")
        async def job(_: Job[None], ctx: Context[Any]) -> str:
            if ended:
                return "again"
            try:
                await anyio.sleep(60)
            finally:
                ended.append((str(ctx.cancel_reason), time.monotonic()))
            return "not cancelled"

        async with tasks:
            await tasks.start()
            ref = await tasks.emit(job)
            await eventually(lambda: tasks.statistics().started == 1)
            server.freeze()
            frozen_at = time.monotonic()
            await eventually(lambda: bool(ended))
            server.thaw()
            ((reason, at),) = ended
            assert (reason, at - frozen_at < lease) == ("lease_lost", True)
            assert await ref.result(timeout=5) == "again"
            assert (await ref.info()).attempt == 1, "it was given back uncounted"


@contextmanager
def busy(server: ServerProcess) -> Generator[None]:
    """A script of somebody else's runs on, and the server answers nothing but BUSY."""
    with Admin(server.url) as admin:
        admin.set("busy-reply-threshold", 1)
        with Admin(server.url, timeout=0.05) as other, pytest.raises(redis.TimeoutError):
            other.do("EVAL", "while true do end", 0)
        with pytest.raises(redis.RedisError, match="busy"):
            admin.do("PING")
        yield
        admin.do("SCRIPT", "KILL")


@contextmanager
def read_only(server: ServerProcess) -> Generator[None]:
    """It is made a replica, as in a failover that goes wrong, and made a primary again."""
    with Admin(server.url) as admin:
        admin.do("REPLICAOF", "127.0.0.1", free_port())
        yield
        admin.do("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("trouble", [busy, read_only], ids=["BUSY", "READONLY"])
@timed(20)
async def test_nobody_loses_an_attempt_to_a_server_that_answers_for_longer_than_a_lease(
    trouble: Callable[[ServerProcess], Any], namespace: str
) -> None:
    lease, jobs = 0.5, 40
    runs: list[tuple[int, int]] = []
    with start_server() as server:
        tasks = manager(server.url, namespace, lease=lease, concurrency=4)

        @tasks.handler("job", attempts=1)
        async def job(job: Job[int]) -> None:
            runs.append((job.data, job.attempt))
            await anyio.sleep(0.02)

        async with tasks:
            await tasks.start()
            for number in range(jobs):
                await tasks.emit(job, number)
            await eventually(lambda: len(runs) > 8)
            with trouble(server):
                before = len(runs)
                await anyio.sleep(1.5 * lease)
                assert len(runs) <= before + 4, "nothing is handed out meanwhile"
            await tasks.until_idle()
            stats = await tasks.queue(QUEUE).stats()
            assert (stats.completed, stats.dead) == (jobs, 0)
    assert {number for number, _ in runs} == set(range(jobs))
    assert {attempt for _, attempt in runs} == {1}


# --- Clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-1, 1])
@timed(20)
async def test_a_clock_jump_on_the_client_changes_nothing(
    days: int, server: ServerProcess, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, list[float]] = {"delayed": [], "failing": [], "tick": [], "long": []}
    tasks = manager(server.url, namespace, lease=0.6, concurrency=4)

    def note(job: Job[Any]) -> None:
        runs[job.name].append(time.monotonic())

    @tasks.handler("delayed")
    async def delayed(job: Job[None]) -> None:
        note(job)

    @tasks.handler("failing", attempts=2)
    async def failing(job: Job[None]) -> None:
        note(job)
        if job.attempt == 1:
            raise ValueError("the first one fails")

    @tasks.handler("long")
    async def long(job: Job[None]) -> None:
        note(job)
        await anyio.sleep(1)

    @tasks.handler("tick", repeat=Repeat(every=0.2))
    async def tick(job: Job[None]) -> None:
        note(job)

    ns = time.time_ns
    async with tasks:
        await tasks.start()
        refs = [await tasks.emit(long), await tasks.emit(delayed, delay=0.3)]
        refs.append(await tasks.emit(delayed, deadline=60))
        await eventually(lambda: len(runs["tick"]) >= 2)
        monkeypatch.setattr(time, "time_ns", lambda: ns() + days * DAY_S * 10**9)
        monkeypatch.setattr(time, "time", lambda: ns() / 10**9 + days * DAY_S)
        jumped_at = time.monotonic()
        refs += [await tasks.emit(failing), await tasks.emit(delayed, delay=0.3, deadline=60)]
        for ref in refs:
            await ref.result(timeout=5)
        await eventually(lambda: len([at for at in runs["tick"] if at > jumped_at]) >= 3)
        # Five a second: neither a gap of a day nor a burst.
        went_on_s = time.monotonic() - jumped_at
        assert len([at for at in runs["tick"] if at > jumped_at]) <= went_on_s / 0.2 + 2
        assert [(await ref.info()).attempt for ref in refs] == [1, 1, 1, 2, 1]
    assert [len(runs[name]) for name in ("long", "delayed", "failing")] == [1, 3, 2]
    assert runs["delayed"][-1] - jumped_at >= 0.3


# --- Data ---------------------------------------------------------------------------------------


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


DATA: dict[str, tuple[type, object, bytes]] = {
    "undecodable": (object, object(), b'\xc1"'),
    "NaN": (float, math.nan, b"NaN"),
    "1e400": (float, 1e400, b"1e400"),
    "deeply nested": (object, nested(100_000), b"[" * 100_000 + b"]" * 100_000),
    "5000-digit": (int, 10**5000, b"1" + b"0" * 5000),
    "lone-surrogate": (str, "\ud800", b'"\\ud800"'),
    "wrong shape": (int, "five", b'"five"'),
}
"""The type that a handler wants, a value to emit, the bytes that somebody else wrote."""


@pytest.mark.parametrize("kind", DATA)
@timed(20)
async def test_bad_data_are_refused_at_emit(
    kind: str, server: ServerProcess, namespace: str
) -> None:
    wanted, value, _ = DATA[kind]
    tasks = manager(server.url, namespace)
    handler = taking(tasks, wanted, [])
    async with tasks:
        with pytest.raises(SerializationError):
            await tasks.emit(handler, value)
        assert (await tasks.queue(QUEUE).stats()).queued == 0


@pytest.mark.parametrize("kind", DATA)
@timed(20)
async def test_bad_data_in_the_stream_already_are_dead_with_their_raw_bytes(
    kind: str, server: ServerProcess, namespace: str
) -> None:
    wanted, _, raw = DATA[kind]
    began: list[object] = []
    tasks = manager(server.url, namespace, concurrency=1)
    taking(tasks, wanted, began)

    @tasks.handler("next")
    async def following(_: Job[None]) -> str:
        return "done"

    async with (
        RedisBroker(parse_address(server.url), namespace=namespace) as behind,
        tasks,
    ):
        poison = NewJob(
            id=Ids().job_id(), queue=QUEUE, record=Record(RECORD_VERSION, "job", raw, attempts=5)
        )
        await behind.emit([poison])
        ref = await tasks.emit(following)
        await tasks.start()
        assert await ref.result(timeout=5) == "done", "it stops nobody behind it"
        await tasks.until_idle()
        (dead,) = await tasks.queue(QUEUE).dead_letters()
    assert (dead.id, dead.reason, dead.raw) == (poison.id, "invalid_data", raw)
    assert dead.error is not None
    assert not began


@timed(20)
async def test_an_undecodable_record_in_the_stream_already_is_dead_with_its_raw_bytes(
    server: ServerProcess, namespace: str
) -> None:
    blob = b"\xc1 no record"
    tasks = manager(server.url, namespace)
    taking(tasks, object, [])
    async with tasks:
        ref = await tasks.emit("job", 1)
        with Admin(server.url) as admin:
            admin.do("HSET", QueueKeys(namespace, QUEUE).job(ref.id), "b", cast(Any, blob))
        await tasks.start()
        await tasks.until_idle()
        dead = await ref.info()
    assert (dead.state, dead.reason, dead.raw) == (JobState.DEAD, "undecodable", blob)


def taking(tasks: TaskManager[Any], wanted: type, began: list[object]) -> Callable[..., Any]:
    """Register a handler for data of this type."""

    async def job(job: Job[Any]) -> None:
        began.append(job.data)

    job.__annotations__["job"] = Job[wanted]
    tasks.handler("job")(job)
    return job


@timed(20)
async def test_huge_data_are_refused_at_emit(server: ServerProcess, namespace: str) -> None:
    most = 512 * 1024
    tasks = manager(server.url, namespace)
    handler = taking(tasks, str, [])
    async with tasks:
        await tasks.emit(handler, "x" * (most - 2))  # and two quotes
        with pytest.raises(SerializationError, match=f"{most + 1} bytes.*{most}"):
            await tasks.emit(handler, "x" * (most - 1))
        assert (await tasks.queue(QUEUE).stats()).queued == 1


# --- Waking -------------------------------------------------------------------------------------


@timed(20)
async def test_a_lost_wake_up_is_covered_by_the_poll(server: ServerProcess, namespace: str) -> None:
    keys, ids, ran = QueueKeys(namespace, QUEUE), Ids(), list[int]()
    tasks = manager(server.url, namespace)

    @tasks.handler("job")
    async def job(job: Job[int]) -> None:
        ran.append(job.data)

    async with tasks:
        await tasks.start()
        await (await tasks.emit(job, 0)).result(timeout=5)
        made = NewJob(id=ids.job_id(), queue=QUEUE, record=Record(RECORD_VERSION, "job", b"1"))
        call = calls.enqueue(keys, [made])
        with Admin(server.url) as admin:
            # The job is stored, and its token vanishes in the same moment: nobody hears of it.
            admin.do("MULTI")
            admin.do(
                "EVAL", call.script.source, len(call.keys), *cast(Any, [*call.keys, *call.args])
            )
            admin.do("DEL", keys.wake)
            stored_at = time.monotonic()
            assert cast(Any, admin.do("EXEC"))[1] == 1, "there was a token"
        await eventually(lambda: ran == [0, 1])
        assert time.monotonic() - stored_at < 1 + 1
