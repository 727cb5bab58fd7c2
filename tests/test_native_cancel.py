"""asyncio's own `task.cancel()`, which knows nothing of scopes, wherever it strikes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.faulty_broker import FaultyBroker
from tests.workshop import check_slots, eventually, manager_on, onlooker, stored
from trio_tasks import Emit, InternalError, Job, JobFailedError, JobState, RetryPolicy

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker(uuid.uuid4().hex)


async def _nothing(job: Job[None]) -> None: ...


def _own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- the program's own task ------------------------------------------------------------------------


@pytest.mark.parametrize("starting", [False, True])
async def test_a_program_ends_in_whatever_turn_of_the_loop_its_task_is_cancelled(
    starting: bool, broker: FaultyBroker
) -> None:
    others = asyncio.all_tasks()
    entered = asyncio.Event()

    async def program(manager: Any) -> None:
        async with manager:
            if starting:
                await manager.start()
            entered.set()
            await asyncio.sleep(60)

    turns = 0
    while not entered.is_set():
        manager = manager_on(broker)
        manager.register_handler(_nothing, event="job")
        task = asyncio.create_task(program(manager))
        await _turns(turns)
        turns += 1
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert manager.state in ("new", "closed")
        assert asyncio.all_tasks() == others
    assert turns > 3  # there were several


# -- a task that a handler took for its own --------------------------------------------------------


async def test_a_handlers_task_that_is_cancelled_after_its_end_is_a_slot_that_goes_on(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=1)
    tasks: list[asyncio.Task[Any]] = []

    @manager.handler("late")
    async def late(job: Job[None]) -> None:
        tasks.append(_own_task())

    async with manager, asyncio.timeout(5):
        await manager.start()
        for _ in range(3):
            await (await manager.emit(late)).result()
            await _turns(5)  # the slot is idle
            tasks[-1].cancel()
        await (await manager.emit(late)).result()
        assert len(tasks) == 4
        assert {task.cancelling() for task in tasks} == {0}
        check_slots(manager)
        assert manager.state == "running"


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_handler_that_cancels_its_own_task_and_returns_leaves_nothing_to_the_next_job(
    swallows: bool, broker: FaultyBroker
) -> None:
    manager = manager_on(broker, concurrency=1)
    timed_out: list[bool] = []

    @manager.handler("own")
    async def own(job: Job[None]) -> None:
        _own_task().cancel()
        if swallows:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    @manager.handler("next", attempts=1)
    async def following(job: Job[None]) -> None:
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:  # and no CancelledError, which it is while cancels are counted
            timed_out.append(True)

    async with manager, asyncio.timeout(5):
        await manager.emit_many([Emit(own), Emit(following)])
        await manager.start()
        await manager.until_idle()
        assert timed_out == [True]
        assert manager.statistics().queues["default"].completed == 2


@pytest.mark.parametrize("in_a_group", [False, True])
async def test_a_job_that_a_stray_cancel_strikes_is_tried_again(
    in_a_group: bool, broker: FaultyBroker
) -> None:
    manager = manager_on(broker, concurrency=1)

    @manager.handler("job")
    async def job(job: Job[None]) -> str:
        if job.attempt == 1:
            asyncio.get_running_loop().call_soon(_own_task().cancel)
            if in_a_group:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError as error:
                    raise BaseExceptionGroup("a nursery's", [error]) from None  # noqa: ASYNC104
        await asyncio.sleep(0.001)
        return f"attempt {job.attempt}"

    async with manager, asyncio.timeout(5):
        await manager.start()
        ref = await manager.emit(job)
        assert await ref.result() == "attempt 2"
        check_slots(manager)


async def test_a_stray_cancel_fails_its_job_with_an_ordinary_error(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=1)
    asked: list[BaseException] = []

    def should_retry(error: BaseException, attempt: int) -> bool:
        asked.append(error)
        return False

    @manager.handler("job", retry=RetryPolicy(should_retry=should_retry))
    async def job(job: Job[None]) -> None:
        _own_task().cancel()
        await asyncio.sleep(60)

    async with manager, asyncio.timeout(5):
        await manager.start()
        ref = await manager.emit(job)
        with pytest.raises(JobFailedError):
            await ref.result()
        info = await ref.info()
    [error] = asked
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert (info.state, info.reason) == (JobState.DEAD, "not_retryable")
    assert info.error is not None
    assert info.error.type == "RuntimeError"
    assert "task.cancel()" in info.error.message


# -- tasks of the engine ---------------------------------------------------------------------------


async def test_whichever_task_of_ours_is_cancelled_the_manager_works_on_or_crashes_loudly(
    broker: FaultyBroker,
) -> None:
    ends: set[str] = set()
    number = 0
    while True:
        manager = manager_on(broker, concurrency=2)
        manager.register_handler(_nothing, event="job")
        others = asyncio.all_tasks()
        try:
            async with manager, asyncio.timeout(5):
                await manager.start()
                await _turns(10)
                ours = sorted(asyncio.all_tasks() - others, key=lambda task: task.get_name())
                if number == len(ours):
                    break
                ours[number].cancel()
                number += 1
                await _turns(10)
                if ours[number - 1].done():
                    await asyncio.sleep(60)  # it is cut short
                for _ in range(4):
                    await (await manager.emit("job")).result()
                manager.get_context().emit("job")
            ends.add("works")
        except BaseExceptionGroup as group:
            errors, rest = group.split(InternalError)
            assert errors is not None
            assert rest is None
            assert manager.state == "crashed"
            ends.add("crashes")
        async with onlooker(broker) as aside:
            assert (await aside.counts("default")).running == 0
    assert ends == {"works", "crashes"}
    assert number > 10


async def test_a_lifespan_may_be_cancelled_by_its_own_task_group(broker: FaultyBroker) -> None:
    fails = asyncio.Event()

    async def background() -> None:
        await fails.wait()
        raise ConnectionError("the pool is gone")

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(background())
            yield

    manager = manager_on(broker, lifespan=lifespan)
    manager.register_handler(_nothing, event="job")

    async def program() -> None:
        async with manager, asyncio.timeout(5):
            await manager.start()
            fails.set()
            await asyncio.sleep(60)

    with pytest.RaisesGroup(pytest.RaisesGroup(ConnectionError)):
        await program()
    assert manager.state == "crashed"


async def test_all_tasks_may_be_cancelled_at_once_as_asyncio_run_does_at_its_end(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=2)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        await asyncio.sleep(60)

    others = asyncio.all_tasks()
    task = asyncio.create_task(manager.run())
    await eventually(lambda: manager.state == "running")
    ref = await manager.emit(handler)
    await eventually(lambda: manager.statistics().started == 1)
    for other in asyncio.all_tasks() - others:
        other.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert manager.state == "closed"
    assert asyncio.all_tasks() == others
    async with onlooker(broker) as aside:
        assert (await stored(aside, ref.id)).state is not JobState.RUNNING
