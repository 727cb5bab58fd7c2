"""RedisBroker beyond the contract: lost connections and answers, shared round trips, wake-ups."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import hiredis
import pytest
from msgspec.structs import replace

from tests.contract.backdoors import RedisBackdoor
from tests.contract.world import World
from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, start_server, timed
from trio_tasks.broker import BATCH, STEP_BYTES, Applied, NewJob, TakeStatus
from trio_tasks.environment import loop_time
from trio_tasks.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueFullError,
)
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.keys import QueueKeys

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"], scope="module"),
]

timely = timed(20)

AT_ONCE = 4.0  # seconds; without being woken they would wait for longer
"""Seconds: far more than a wake-up takes, and less than the second of the poll."""


@pytest.fixture(scope="module")
def shared() -> Generator[ServerProcess]:
    """A server for tests that leave it as it was."""
    with start_server() as server:
        yield server


@pytest.fixture
def server() -> Generator[ServerProcess]:
    """A server that the test may kill, freeze or fill; what it was told is on its disk."""
    with start_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@asynccontextmanager
async def world_on(
    server: ServerProcess, *, namespace: str = "tt", timeout: float = 5.0
) -> AsyncGenerator[World]:
    """A broker of its own; two of them are two processes."""
    broker = RedisBroker(parse_address(server.url), namespace=namespace, request_timeout=timeout)
    async with broker:
        yield World(broker, RedisBackdoor(server.url, namespace))


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(6)}"


def jobs(world: World, count: int) -> list[NewJob]:
    return [world.job() for _ in range(count)]


# --- Entering and leaving ---------------------------------------------------------------------


@timely
async def test_entering_fails_when_the_server_cannot_be_reached_in_time() -> None:
    broker = RedisBroker(parse_address("unix:///nowhere/s"), request_timeout=0.2)
    began = loop_time()
    with pytest.raises(BrokerUnavailableError, match="No such file"):
        await broker.__aenter__()
    assert loop_time() - began < 4  # not the five seconds of the default
    assert not broker.connected


@timely
async def test_a_broker_that_was_left_may_be_entered_again(shared: ServerProcess) -> None:
    broker = RedisBroker(parse_address(shared.url))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="async with"):
            await broker.queues()
        async with broker:
            assert broker.connected
            await broker.queues()
            with pytest.raises(RuntimeError, match="already"):
                await broker.__aenter__()


@timely
async def test_the_blocks_own_error_leaves_unwrapped(shared: ServerProcess) -> None:
    class OwnError(Exception):
        pass

    with pytest.raises(OwnError):
        async with RedisBroker(parse_address(shared.url)):
            raise OwnError


@timely
async def test_leaving_does_not_wait_for_a_frozen_server(server: ServerProcess) -> None:
    async with world_on(server) as world:
        worker = await world.worker()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.membership.wait, 60)
            tasks.start_soon(world.broker.counts, "default")
            await anyio.wait_all_tasks_blocked()
            server.freeze()
            tasks.cancel_scope.cancel()
        began = loop_time()
    assert loop_time() - began < 4  # not the five seconds that requests may take


@timely
async def test_a_server_that_evicts_keys_is_refused(server: ServerProcess) -> None:
    with Admin(server.url) as admin:
        admin.set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigurationError, match=r"'allkeys-lru'.*'noeviction'"):
        async with world_on(server):
            pass


@timely
async def test_a_server_that_does_not_tell_its_policy_is_accepted_with_a_line_in_the_log(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with Admin(server.url) as admin:
        admin.do("ACL", "SETUSER", "default", "-@dangerous")
    async with world_on(server) as world:
        await world.emit()
        worker = await world.worker()
        assert await worker.end(await worker.take_one()) is Applied.APPLIED
    assert "noeviction" in caplog.text


@timely
async def test_a_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    info = b"redis_version:6.2.7\r\nmaxmemory_policy:noeviction\r\n"

    async def serve(stream: anyio.abc.SocketStream) -> None:
        reader = hiredis.Reader()
        async with stream:
            async for request in stream:
                reader.feed(request)
                while command := reader.gets():
                    answer = b"$%d\r\n%s\r\n" % (len(info), info)
                    await stream.send(answer if b"INFO" in command else b"+OK\r\n")

    path = f"{tmp_path}/s"
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as t:
        t.start_soon(listener.serve, serve)
        with pytest.raises(ConfigurationError, match=r"redis 6\.2\.7.*at least redis 7\.0"):
            async with RedisBroker(parse_address(f"unix://{path}")):
                pass
        t.cancel_scope.cancel()


@timely
async def test_streamdb_must_reach_the_same_keyspace(shared: ServerProcess) -> None:
    address = parse_address(shared.url)
    other = parse_address(f"{shared.url}?db=3")
    async with RedisBroker(address, wake_address=address):
        pass
    with pytest.raises(ConfigurationError, match="one atomic step"):
        async with RedisBroker(address, wake_address=other):
            pass
    with Admin(shared.url) as admin:
        assert admin.do("KEYS", "tt:{broker*") == []


# --- Emitting ---------------------------------------------------------------------------------


async def emit_together(world: World, *, emitters: int, times: int) -> None:
    """Tasks that each emit one job after the other."""

    async def emitter() -> None:
        for _ in range(times):
            await world.emit()

    async with anyio.create_task_group() as tasks:
        for _ in range(emitters):
            tasks.start_soon(emitter)


@timely
async def test_emits_at_the_same_time_share_round_trips(server: ServerProcess) -> None:
    async with world_on(server) as world:
        with Admin(server.url) as admin:
            admin.do("CONFIG", "RESETSTAT")

            await emit_together(world, emitters=6, times=40)
            assert (await world.counts()).queued == 240
            # Who has been answered and emits again finds the others in the step that gathers.
            assert admin.calls("evalsha") + admin.calls("eval") <= 240 / 6 + 6


@timely
async def test_many_who_emit_share_two_steps_by_halves(server: ServerProcess) -> None:
    async with world_on(server) as world:
        broker: Any = world.broker
        emits = broker._session.emits
        carry = emits._carry_once
        halves: list[int] = []

        async def watched(queue: str, step: Any) -> None:
            halves.append(len(step.callers))
            await carry(queue, step)

        emits._carry_once = watched

        await emit_together(world, emitters=32, times=20)
        assert (await world.counts()).queued == 640
    # They drift apart by chance, but neither is ever smaller than what is worth a round trip.
    assert sum(8 <= half <= 24 for half in halves) >= len(halves) * 3 / 4
    assert len(halves) <= 640 / 16 + 8


@timely
async def test_those_who_emit_return_though_the_other_half_of_their_step_has_given_up(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        await world.emit()
        patience = anyio.CancelScope()

        async def impatient() -> None:
            with anyio.CancelScope() as scope:
                impatience.append(scope)
                await world.emit()

        impatience: list[anyio.CancelScope] = []
        server.freeze()
        with patience:
            async with anyio.create_task_group() as tasks:
                for emit, emitters in ((world.emit, 1), (world.emit, 8), (impatient, 8)):
                    for _ in range(emitters):
                        tasks.start_soon(emit)
                    await anyio.wait_all_tasks_blocked()
                for _ in range(8):
                    tasks.start_soon(world.emit)
                await anyio.wait_all_tasks_blocked()
                for scope in impatience:
                    scope.cancel()
                await anyio.wait_all_tasks_blocked()
                server.thaw()
                patience.deadline = anyio.current_time() + 10
        assert not patience.cancelled_caught
        assert (await world.counts()).queued == 18


@timely
async def test_a_second_step_of_emits_goes_out_beside_the_first_if_it_carries_many_and_no_third(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        await world.emit()
        broker: Any = world.broker
        connection = broker._session.cmd._cmd._connection
        server.freeze()
        async with anyio.create_task_group() as tasks:
            for emitters, under_way in ((1, 1), (7, 1), (1, 2), (2 * BATCH, 2)):
                for _ in range(emitters):
                    tasks.start_soon(world.emit)
                await anyio.wait_all_tasks_blocked()
                assert len(connection._unanswered) == under_way
            server.thaw()
        assert (await world.counts()).queued == 10 + 2 * BATCH


@timely
async def test_one_callers_emits_keep_their_order_among_those_of_others(
    shared: ServerProcess, namespace: str
) -> None:
    async with world_on(shared, namespace=namespace) as world:
        emitted: dict[int, list[str]] = {}

        async def emitter(number: int) -> None:
            emitted[number] = [await world.emit() for _ in range(20)]

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(emitter, number)
        order = await world.listed(JobState.QUEUED, limit=1000)
        assert len(order) == 160
        for mine in emitted.values():
            assert sorted(mine, key=order.index) == mine


@timely
async def test_many_jobs_of_one_call_keep_their_order_and_let_others_pass(
    shared: ServerProcess, namespace: str
) -> None:
    async with world_on(shared, namespace=namespace) as world:
        many = jobs(world, 20 * BATCH + 1)
        ended: list[str] = []

        async def bulk() -> None:
            answers = await world.broker.emit(many)
            assert [answer.id for answer in answers] == [job.id for job in many]
            assert all(answer.created for answer in answers)
            ended.append("many")

        async def one() -> None:
            await world.emit()
            ended.append("one")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bulk)
            tasks.start_soon(one)
        assert ended == ["one", "many"]
        listed = await world.listed(JobState.QUEUED, limit=2 * len(many))
        order = {job_id: place for place, job_id in enumerate(listed)}
        places = [order[job.id] for job in many]
        assert places == sorted(places)


@timely
async def test_many_jobs_of_one_call_keep_their_order_when_the_connection_breaks(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        many = jobs(world, 80 * BATCH)
        stream = QueueKeys("tt", "default").stream(0)
        with Admin(server.url) as admin:

            async def bulk() -> None:
                answers = await world.broker.emit(many)
                assert [answer.id for answer in answers] == [job.id for job in many]

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bulk)
                for stored in range(8 * BATCH, 80 * BATCH, 8 * BATCH):
                    while admin.length(stream) < stored:  # noqa: ASYNC110 - Redis counts them
                        await anyio.lowlevel.checkpoint()
                    admin.kill("trio_tasks:cmd")
        listed = await world.listed(JobState.QUEUED, limit=100 * BATCH)
        assert listed == [job.id for job in many]


@timely
async def test_much_data_goes_out_in_many_steps(server: ServerProcess) -> None:
    async with world_on(server) as world:
        admin = Admin(server.url)
        large = [world.job(data=b'"%s"' % (b"x" * (STEP_BYTES // 4))) for _ in range(40)]
        await world.broker.emit(large)
        assert admin.calls("evalsha") + admin.calls("eval") >= 10
        async with anyio.create_task_group() as tasks:
            for job in large:
                tasks.start_soon(world.broker.emit, [replace(job, id=world.ids.job_id())])
        assert admin.calls("evalsha") + admin.calls("eval") >= 20
        assert (await world.counts()).queued == 80


@timely
async def test_jobs_of_several_queues_are_answered_in_the_order_of_the_call(
    shared: ServerProcess, namespace: str
) -> None:
    async with world_on(shared, namespace=namespace) as world:
        mixed = [world.job(queue=queue) for queue in ("a", "b", "a", "c", "b")]
        answers = await world.broker.emit(mixed)
        assert [answer.id for answer in answers] == [job.id for job in mixed]
        assert await world.broker.queues() == ["a", "b", "c"]
        assert (await world.counts("b")).queued == 2
        assert await world.broker.emit([]) == []


@timely
async def test_a_cancelled_caller_takes_only_its_own_jobs_back(server: ServerProcess) -> None:
    async with world_on(server) as world:
        await world.emit()
        server.freeze()
        stored: list[str] = []
        leaving = anyio.CancelScope()
        left = world.job()

        async def stay() -> None:
            stored.append(await world.emit())

        async def leave() -> None:
            with leaving:
                await world.send(left)

        async with anyio.create_task_group() as tasks:
            for task in (stay, stay, leave, stay):
                tasks.start_soon(task)
                await anyio.wait_all_tasks_blocked()
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            server.thaw()
        assert len(await world.broker.read("default", stored)) == 3
        assert await world.is_gone(left.id)


@timely
async def test_the_first_caller_may_leave_while_others_wait_for_its_step(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        await world.emit()
        server.freeze()
        stored: list[str] = []
        leaving = anyio.CancelScope()

        async def leave() -> None:
            with leaving:
                await world.emit()

        async def stay() -> None:
            stored.append(await world.emit())

        async with anyio.create_task_group() as tasks:
            for task in (leave, stay, stay):
                tasks.start_soon(task)
                await anyio.wait_all_tasks_blocked()
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            server.thaw()
        assert None not in await world.broker.read("default", stored)


@timely
async def test_each_caller_is_told_the_ids_of_its_own_jobs(server: ServerProcess) -> None:
    async with world_on(server, timeout=1.0) as world:
        await world.emit()
        server.freeze()
        began = loop_time()

        async def emitter(count: int) -> None:
            mine = jobs(world, count)
            with pytest.raises(BrokerUnavailableError) as caught:
                await world.broker.emit(mine)
            assert caught.value.ids == tuple(job.id for job in mine)

        async with anyio.create_task_group() as tasks:
            for count in (1, 3, 2, BATCH + 5):
                tasks.start_soon(emitter, count)
                await anyio.wait_all_tasks_blocked()
        assert loop_time() - began < 6  # not a time-out for each of them, one after the other
        server.thaw()


@timely
async def test_emits_outlive_a_server_restart_with_aof_and_are_stored_once(
    server: ServerProcess,
) -> None:
    async with world_on(server, timeout=15) as world:
        stored: list[str] = []
        some = anyio.Event()

        async def emitter() -> None:
            for _ in range(25):
                job_id = await world.emit()
                stored.append(job_id)
                if len(stored) == 40:
                    some.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(emitter)
            await some.wait()
            await anyio.to_thread.run_sync(server.restart)
        assert len(stored) == 200
        assert sorted(await world.listed(JobState.QUEUED, limit=1000)) == sorted(stored)
        assert (await world.counts()).emitted == 200


@timely
async def test_emits_of_a_forgetful_server_arrive(server: ServerProcess) -> None:
    async with world_on(server) as world:
        with Admin(server.url) as admin:
            await world.emit()
            admin.do("SCRIPT", "FLUSH")
            await world.emit()
            admin.do("SCRIPT", "FLUSH")
            await world.broker.emit(jobs(world, 3 * BATCH))
        assert (await world.counts()).queued == 2 + 3 * BATCH


@timely
async def test_oom_refuses_emits_at_once_and_lets_jobs_finish(server: ServerProcess) -> None:
    async with world_on(server) as world:
        await world.emit()
        worker = await world.worker()
        delivery = await worker.take_one()
        with Admin(server.url) as admin:
            admin.set("maxmemory", 1)
            with pytest.raises(QueueFullError, match="memory is full"):
                await world.emit()
            refused = [*jobs(world, BATCH + 1), world.job(queue="another")]
            with pytest.raises(QueueFullError) as caught:
                await world.broker.emit(refused)
            assert caught.value.ids == tuple(job.id for job in refused)
            assert await worker.end(delivery) is Applied.APPLIED
            assert await worker.take(1) == []


# --- Steps whose answer is lost ---------------------------------------------------------------


@timely
async def test_what_a_cancelled_step_took_is_given_back_uncounted(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        job_id = await world.emit(attempts=1)
        worker = await world.worker()
        server.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.take, 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        server.thaw()
        delivery = await worker.take_one()
        assert (delivery.token.job_id, delivery.attempt) == (job_id, 1)
        assert delivery.token.deliveries == 2  # it had been taken
        assert delivery.interruptions == 0


@timely
async def test_a_step_beside_a_cancelled_one_starts_nothing_that_was_given_back(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        await world.broker.emit(jobs(world, 2))
        worker = await world.worker()
        held = await worker.take_one()
        server.freeze()
        statuses: list[TakeStatus] = []
        leaving = anyio.CancelScope()

        async def leave() -> None:
            with leaving:
                await worker.step([], 1)

        async def stay() -> None:
            _, taken = await worker.step([], 1)
            statuses.append(taken.status)
            assert not taken.deliveries

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(stay)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            server.thaw()
        assert statuses == [TakeStatus.OLD]
        assert worker.lost == []
        assert await worker.end(held) is Applied.APPLIED
        await worker.take_one()


@timely
async def test_a_step_that_met_its_deadline_is_not_repeated_and_given_back(
    server: ServerProcess,
) -> None:
    async with world_on(server, timeout=1.0) as world:
        job_id = await world.emit(attempts=1)
        worker = await world.worker()
        server.freeze()
        with pytest.raises(BrokerUnavailableError):
            await worker.step([], 1)
        server.thaw()  # and now it does what it was asked

        async def taken_again() -> bool:
            try:
                _, taken = await worker.step([], 1)
            except BrokerUnavailableError:
                return False
            return [each.token.job_id for each in taken.deliveries] == [job_id]

        await world.until(taken_again)
        stored = await world.read(job_id)
        assert (stored.state, stored.attempt) == (JobState.RUNNING, 1)


@timely
async def test_a_new_connection_gives_back_what_is_in_nobodys_memory(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        kept, forgotten = await world.emit(), await world.emit()
        worker = await world.worker()
        for delivery in await worker.take(2):
            if delivery.token.job_id == forgotten:
                worker.held.remove(delivery.token)
        with Admin(server.url) as admin:
            assert admin.kill("trio_tasks:cmd") == 1
        assert await world.state(kept) is JobState.RUNNING
        assert await world.state(forgotten) is JobState.QUEUED
        again = await worker.take_one()
        assert (again.token.job_id, again.attempt) == (forgotten, 1)
        assert worker.lost == []


@timely
async def test_a_new_connection_tells_which_starts_were_lost(server: ServerProcess) -> None:
    async with world_on(server) as world:
        await world.emit()
        worker = await world.worker()
        token = (await worker.take_one()).token
        stream = QueueKeys("tt", "default").stream(token.level)
        with Admin(server.url) as admin:
            admin.do("XCLAIM", stream, "g", "somebody:else", 0, token.entry)
            admin.kill("trio_tasks:cmd")
        await world.counts()
        assert worker.lost == [token]
        assert await worker.take() == []


@timely
async def test_a_worker_whose_start_the_server_forgot_takes_nothing_more_under_its_name(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        await world.emit()
        worker = await world.worker()
        delivery = await worker.take_one()
        stream = QueueKeys("tt", "default").stream(delivery.token.level)
        with Admin(server.url) as admin:  # as a restart does that loses the last write
            admin.do("XACK", stream, "g", delivery.token.entry)
            admin.do("XGROUP", "SETID", stream, "g", 0)
            admin.kill("trio_tasks:cmd")
        await world.counts()
        assert worker.lost == [delivery.token]

        applied, taken = await worker.step([worker.outcome(delivery)], 1)

        assert (applied, taken.status) == ([Applied.STALE], TakeStatus.DEAD)
        assert not (await worker.beat()).alive
        again = await (await world.worker()).take_one()
        assert again.token != delivery.token


@timely
async def test_a_worker_of_a_server_that_lost_its_data_is_told_that_it_is_dead(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        worker = await world.worker()
        with Admin(server.url) as admin:
            admin.do("FLUSHALL")
            admin.kill("trio_tasks:cmd")
        await world.now_ms()
        _, taken = await worker.step([], 1)
        assert taken.status is TakeStatus.DEAD
        assert not (await worker.beat()).alive
        await world.emit()
        assert await world.broker.queues() == ["default"]
        await (await world.worker()).take_one()


@timely
async def test_outcomes_outlive_a_server_restart_with_aof_and_are_applied_once(
    server: ServerProcess,
) -> None:
    async with world_on(server, timeout=15) as world:
        await world.broker.emit(jobs(world, 100))
        worker = await world.worker()
        deliveries = await worker.take(100)
        answers: list[Applied] = []
        some = anyio.Event()

        async def commit(indices: Sequence[int]) -> None:
            for index in indices:
                applied = await worker.end(deliveries[index])
                answers.append(applied)
                if len(answers) == 20:
                    some.set()

        async with anyio.create_task_group() as tasks:
            for first in range(5):
                tasks.start_soon(commit, range(first, 100, 5))
            await some.wait()
            await anyio.to_thread.run_sync(server.restart)
        assert set(answers) <= {Applied.APPLIED, Applied.REPEATED}
        assert (await world.counts()).completed == 100


# --- Waking -----------------------------------------------------------------------------------


class Waiting:
    """A worker that waits for work, in a task of its own."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.woken = anyio.Event()
        self.answer: bool | None = None

    async def run(self, world: World, queue: str = "default", timeout: float = 10.0) -> None:
        membership = (await world.worker(queue=queue)).membership
        with self.scope:
            self.answer = await membership.wait(timeout)
            self.woken.set()

    async def is_woken(self) -> None:
        with anyio.fail_after(AT_ONCE):
            await self.woken.wait()
        assert self.answer is True


async def one_is_woken(*waiters: Waiting) -> None:
    """Return as soon as the first of them is woken."""
    with anyio.fail_after(AT_ONCE):
        while not any(waiter.woken.is_set() for waiter in waiters):  # noqa: ASYNC110 - any of many
            await anyio.lowlevel.checkpoint()


async def asleep() -> None:
    """Return when everybody's requests have been answered, or block on the server.

    The wire's tasks always wait, so quiet must be seen twice with time for a reply in between.
    """
    for _ in range(5):
        await anyio.sleep(0.02)
        await anyio.wait_all_tasks_blocked()


@timely
async def test_an_emit_wakes_one_waiter_at_once(shared: ServerProcess, namespace: str) -> None:
    first, second = Waiting(), Waiting()
    async with (
        world_on(shared, namespace=namespace) as world,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(first.run, world)
        tasks.start_soon(second.run, world)
        await asleep()
        await world.emit()
        await one_is_woken(first, second)
        await asleep()
        assert first.woken.is_set() is not second.woken.is_set()
        tasks.cancel_scope.cancel()


@timely
async def test_a_queue_that_joins_later_is_heard_too(shared: ServerProcess, namespace: str) -> None:
    first, second = Waiting(), Waiting()
    async with (
        world_on(shared, namespace=namespace) as world,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(first.run, world, "first")
        await asleep()
        tasks.start_soon(second.run, world, "second")
        await asleep()
        await world.emit(queue="second")
        await second.is_woken()
        await world.emit(queue="first")
        await first.is_woken()


@timely
async def test_a_cancelled_waiter_takes_no_wake_up_with_it(
    shared: ServerProcess, namespace: str
) -> None:
    gone, other = Waiting(), Waiting()
    async with (
        world_on(shared, namespace=namespace) as here,
        world_on(shared, namespace=namespace) as there,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(gone.run, here)
        await asleep()
        tasks.start_soon(other.run, there)
        await asleep()
        gone.scope.cancel()
        await here.emit()  # the server gives the token to the one who asked first: to nobody
        await other.is_woken()
        assert gone.answer is None


@timely
async def test_a_wake_up_for_somebody_who_is_being_cancelled_goes_to_the_next(
    shared: ServerProcess, namespace: str
) -> None:
    waiters = [Waiting() for _ in range(20)]
    async with (
        world_on(shared, namespace=namespace) as world,
        anyio.create_task_group() as tasks,
    ):
        for waiter in waiters:
            tasks.start_soon(waiter.run, world)
        await asleep()
        async with anyio.create_task_group() as racing:
            racing.start_soon(world.emit)
            for waiter in waiters[:-1]:
                await anyio.lowlevel.checkpoint()
                waiter.scope.cancel()
        await one_is_woken(*waiters)
        tasks.cancel_scope.cancel()


@timely
async def test_an_unused_wake_up_stays_for_the_next_who_waits(
    shared: ServerProcess, namespace: str
) -> None:
    gone, later = Waiting(), Waiting()
    async with (
        world_on(shared, namespace=namespace) as world,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(gone.run, world)
        await asleep()
        gone.scope.cancel()
        await asleep()
        await world.emit()
        await asleep()
        tasks.start_soon(later.run, world)
        await later.is_woken()


@timely
async def test_waiting_goes_on_after_its_connection_was_lost(server: ServerProcess) -> None:
    waiting = Waiting()
    async with world_on(server) as world, anyio.create_task_group() as tasks:
        tasks.start_soon(waiting.run, world)
        await asleep()
        with Admin(server.url) as admin:
            assert admin.kill("trio_tasks:wake") == 1
        await asleep()
        await world.emit()
        await waiting.is_woken()


@timely
async def test_a_waiter_outlasts_an_outage_and_then_looks(server: ServerProcess) -> None:
    async with world_on(server, timeout=1.0) as world, anyio.create_task_group() as tasks:
        membership = (await world.worker()).membership
        await anyio.to_thread.run_sync(server.kill)
        with pytest.raises(BrokerUnavailableError):
            await world.emit()
        looks: list[bool] = []
        looked = anyio.Event()

        async def wait() -> None:
            looks.append(await membership.wait(0.01))
            looked.set()

        tasks.start_soon(wait)
        with pytest.raises(BrokerUnavailableError):
            await world.emit()  # that takes longer than the waiter's own time
        assert looks == []
        await anyio.to_thread.run_sync(server.start)
        await looked.wait()
        assert looks == [True]


@timely
async def test_waiting_leaves_nothing_behind(shared: ServerProcess, namespace: str) -> None:
    first, second = Waiting(), Waiting()
    async with (
        world_on(shared, namespace=namespace) as world,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(first.run, world, "first")
        await asleep()
        tasks.start_soon(second.run, world, "second")
        await asleep()
        tasks.cancel_scope.cancel()
    with Admin(shared.url) as admin:
        assert admin.do("KEYS", f"{namespace}:{{broker*") == []


# --- Watching ---------------------------------------------------------------------------------


@timely
async def test_a_watch_that_begins_while_another_blocks_misses_nothing(
    shared: ServerProcess, namespace: str
) -> None:
    async with world_on(shared, namespace=namespace) as world, world.broker.watch("first"):
        await asleep()
        job_id = await world.emit(queue="second")
        worker = await world.worker(queue="second")
        async with world.broker.watch("second", job_id) as watch:
            await asleep()
            await worker.end(await worker.take_one())
            began = loop_time()
            await watch.wait(5)
            assert loop_time() - began < AT_ONCE


@timely
async def test_a_watch_goes_on_after_its_connection_was_lost(server: ServerProcess) -> None:
    async with world_on(server) as world:
        job_id = await world.emit()
        worker = await world.worker()
        delivery = await worker.take_one()
        async with world.broker.watch("default", job_id) as watch:
            await asleep()
            with Admin(server.url) as admin:
                assert admin.kill("trio_tasks:ev") == 1
            await worker.end(delivery)
            began = loop_time()
            await watch.wait(5)
            assert loop_time() - began < AT_ONCE


@timely
async def test_the_watching_connection_exists_only_while_it_is_needed(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_tasks.redis_streams.watches._LINGERS", 0.0)
    monkeypatch.setattr("trio_tasks.redis_streams.watches._BLOCKS", 0.05)
    async with world_on(server) as world:
        with Admin(server.url) as admin:
            assert admin.kill("trio_tasks:ev") == 0
            async with world.broker.watch("default"):
                await asleep()
                assert "trio_tasks:ev" in str(admin.do("CLIENT LIST"))

            async def is_closed() -> bool:
                return "trio_tasks:ev" not in str(admin.do("CLIENT LIST"))

            await world.until(is_closed)


# --- Living together --------------------------------------------------------------------------


@timely
async def test_namesakes_work_side_by_side_and_are_mentioned_once(
    shared: ServerProcess, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.broker")
    async with world_on(shared, namespace=namespace) as world:
        await world.broker.emit(jobs(world, 2))
        for worker in [await world.worker("twin") for _ in range(3)][:2]:
            await worker.take_one()
    assert caplog.text.count("'twin'") == 1


@timely
async def test_entries_without_a_job_are_mentioned_once_by_each_who_works_there(
    shared: ServerProcess, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = QueueKeys(namespace, "default").stream(0)

    def told() -> list[str]:
        return [text for text in caplog.messages if "was dropped" in text]

    with Admin(shared.url) as admin:
        async with world_on(shared, namespace=namespace) as world:
            worker = await world.worker()
            job_id = await world.emit()
            for _ in range(3):
                admin.do("XADD", stream, "*", "i", "nobody@0")
            assert await worker.take_ids(10) == [job_id]
            for _ in range(3):
                await worker.beat()
            (text,) = told()
            assert text.startswith("queue 'default': 3 times since this worker joined")
            newcomer = await world.worker()
            await newcomer.beat()
            for _ in range(2):
                admin.do("XADD", stream, "*", "i", "nobody@0")
            assert await worker.take_ids(10) == []
            await worker.beat()
            assert told() == [text], "not again before there are twice as many"
            await newcomer.beat()
            assert "default': 2 times" in told()[1]


@timely
async def test_dead_letters_that_nobody_takes_do_not_hold_up_children(
    server: ServerProcess,
) -> None:
    async with world_on(server) as world:
        stream = world.backdoor.stream("graveyard")
        Admin(server.url).do("SET", stream, "not a stream")
        worker = await world.worker()
        for _ in range(300):
            await world.emit()
        for delivery in [d for _ in range(3) for d in await worker.take(100)]:
            await worker.end(delivery, Die("x"), dead_letter_stream=stream)
        await world.emit()
        (parent,) = await worker.take(1)
        await worker.end(parent, children=[world.job(queue="other")])

        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await world.broker.relay("default")
        assert (await world.counts("other")).queued == 1
        assert (await world.counts()).outgoing == 300
        Admin(server.url).do("DEL", stream)
        assert await world.broker.relay("default") == 300
        assert len(await world.backdoor.dead_letters(stream)) == 300
