"""Entering, starting, stopping, leaving, crashing; the process-wide manager."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.manager.conftest import Managers
from tests.manager.waiting import begun
from trio_tasks import (
    ConfigurationError,
    Context,
    Emit,
    Job,
    JobState,
    StopReport,
    TaskManager,
)

pytestmark = pytest.mark.anyio


def _register(manager: TaskManager[Any]) -> Any:
    @manager.handler("job")
    async def handler(job: Job[float]) -> None:
        await anyio.sleep(job.data)

    return handler


@pytest.mark.both_loops
async def test_the_state_tells_where_the_manager_is(manager: TaskManager[Any]) -> None:
    _register(manager)
    states = [manager.state]
    async with manager:
        states.append(manager.state)
        await manager.start()
        states.append(manager.state)
        await manager.stop()
        states.append(manager.state)
        await manager.start()
        states.append(manager.state)
    states.append(manager.state)
    assert states == ["new", "connected", "running", "connected", "running", "closed"]


async def test_too_many_arguments_of_an_emit_are_an_error_that_names_emit(
    manager: TaskManager[Any],
) -> None:
    handler = _register(manager)
    async with manager:
        with pytest.raises(TypeError, match=r"^TaskManager\.emit\(\) takes"):
            await manager.emit(handler, 1, 2)  # pyright: ignore[reportCallIssue]
        context: Any = manager.get_context()
        with pytest.raises(TypeError, match=r"^Context\.emit\(\) takes"):
            context.emit(handler, 1, 2)
        with pytest.raises(TypeError, match=r"^Context\.emit_now\(\) takes"):
            await context.emit_now(handler, 1, 2)


async def test_emit_works_in_an_open_block_before_start_and_after_stop(
    manager: TaskManager[Any],
) -> None:
    handler = _register(manager)
    async with manager:
        before = await manager.emit(handler, 0)
        await manager.start()
        await before.result(timeout=5)
        await manager.stop()
        after = await manager.emit(handler, 0)
        assert (await after.info()).state is JobState.QUEUED


async def test_using_a_manager_that_is_not_open_is_an_error_at_once(
    manager: TaskManager[Any],
) -> None:
    handler = _register(manager)
    for use in (
        lambda: manager.emit(handler, 0),
        lambda: manager.emit_many([Emit(handler, 0)]),
        manager.start,
        manager.stop,
        manager.until_idle,
        manager.queues,
        lambda: manager.queue("default").stats(),
    ):
        with pytest.raises(RuntimeError, match="async with"):
            await use()
    with pytest.raises(RuntimeError, match="async with"):
        manager.get_context().emit(handler, 0.0)
    ref = manager.ref(handler, "some-id")
    with pytest.raises(
        RuntimeError, match=r"this call needs a TaskManager .* and this one is not:"
    ):
        await ref.info()
    async with manager:
        pass
    with pytest.raises(RuntimeError, match=r"emit\(\) needs a TaskManager .* this one was left:"):
        await manager.emit(handler, 0)


async def test_a_manager_can_be_entered_again_and_keeps_its_handlers(
    manager: TaskManager[Any],
) -> None:
    handler = _register(manager)
    for _ in range(2):
        async with manager:
            await manager.start()
            await (await manager.emit(handler, 0)).result(timeout=5)


async def test_entering_twice_at_once_is_an_error(manager: TaskManager[Any]) -> None:
    async with manager:
        with pytest.raises(RuntimeError, match="entered already"):
            async with manager:
                pass
        assert manager.state == "connected"


async def test_an_exception_in_the_block_comes_out_as_it_is(manager: TaskManager[Any]) -> None:
    _register(manager)
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012 - the block is the test
        async with manager:
            await manager.start()
            raise ValueError("mine")
    assert manager.state == "closed"


async def test_a_group_that_the_block_raises_comes_out_as_it_is(manager: TaskManager[Any]) -> None:
    _register(manager)
    group = ExceptionGroup("mine", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])
    with pytest.RaisesGroup(ValueError, pytest.RaisesGroup(KeyError)) as caught:
        async with manager:
            await manager.start()
            raise group
    assert caught.value is group


async def test_start_serves_a_subset_of_the_queues(
    manager: TaskManager[Any], calls: list[str]
) -> None:
    async def handler(job: Job[None]) -> None:
        calls.append(job.queue)

    manager.register_handler(handler, event="a", queue="a")
    manager.register_handler(handler, event="b", queue="b")
    async with manager:
        await manager.start(queues=["a"])
        await manager.emit("a", queue="a")
        await manager.emit("b", queue="b")
        await manager.until_idle(queues=["a"])
        assert calls == ["a"]
        with pytest.raises(RuntimeError, match="running already"):
            await manager.start()


@pytest.mark.parametrize("queues", [["nope"], "default", []])
async def test_start_refuses_queues_without_a_handler(
    manager: TaskManager[Any], queues: Any
) -> None:
    _register(manager)
    async with manager:
        with pytest.raises(ConfigurationError, match="queues="):
            await manager.start(queues=queues)


async def test_a_misspelt_queue_is_met_with_the_name_that_was_meant(
    manager: TaskManager[Any],
) -> None:
    manager.handler("job", queue="mails")(_nothing)
    async with manager:
        with pytest.raises(ConfigurationError, match=r"'mials'; did you mean 'mails'\?"):
            await manager.start(queues=["mials"])


async def _nothing() -> None: ...


async def test_registering_after_start_is_an_error(manager: TaskManager[Any]) -> None:
    _register(manager)
    async with manager:
        await manager.start()
        with pytest.raises(RuntimeError, match="before start"):
            manager.register_handler(lambda: None, event="late")


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_stop_lets_handlers_finish_within_the_grace(manager: TaskManager[Any]) -> None:
    handler = _register(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 0.05)
        await begun(manager)
        assert await manager.stop(grace=5) == StopReport(completed=1)
        assert (await ref.info()).state is JobState.COMPLETED


@pytest.mark.both_loops
async def test_stop_cancels_what_outlasts_the_grace_and_gives_it_back_uncounted(
    manager: TaskManager[Any],
) -> None:
    handler = _register(manager)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 60)
        await begun(manager)
        assert await manager.stop(grace=0.02) == StopReport(interrupted=1, released=1)
        info = await ref.info()
    assert (info.state, info.attempt) == (JobState.QUEUED, 0)


async def test_an_infinite_grace_waits_for_all(manager: TaskManager[Any]) -> None:
    handler = _register(manager)
    async with manager:
        await manager.start()
        await manager.emit(handler, 0.3)
        await begun(manager)
        assert (await manager.stop(grace=math.inf)).completed == 1


async def test_a_second_stop_waits_for_the_first(manager: TaskManager[Any]) -> None:
    handler = _register(manager)
    reports: list[StopReport] = []

    async def stop(grace: float) -> None:
        reports.append(await manager.stop(grace))

    async with manager:
        await manager.start()
        await manager.emit(handler, 0.05)
        await begun(manager)
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(stop, 5)
            nursery.start_soon(stop, 5)
    assert reports == [StopReport(completed=1)] * 2


async def test_stop_inside_a_handler_is_an_error(manager: TaskManager[Any]) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> str:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await manager.stop()
        return "refused"

    async with manager:
        await manager.start()
        assert await (await manager.emit(handler)).result(timeout=5) == "refused"


@pytest.mark.both_loops
async def test_what_a_handler_has_started_may_stop_the_manager_once_the_handler_has_ended(
    manager: TaskManager[Any],
) -> None:
    refused, has_ended = anyio.Event(), anyio.Event()
    reports: list[StopReport] = []

    async def stop() -> None:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await manager.stop()
        refused.set()
        await has_ended.wait()
        reports.append(await manager.stop())

    async with manager, anyio.create_task_group() as nursery:

        @manager.handler("quit")
        async def leave(job: Job[None]) -> None:
            nursery.start_soon(stop)
            await refused.wait()

        @manager.handler("other")
        async def other(job: Job[None]) -> None:
            has_ended.set()
            await anyio.sleep(0.1)

        await manager.start()
        await (await manager.emit(leave)).result(timeout=5)
        await manager.emit(other)  # it is a handler that runs, but not the one that asks
    assert reports == [StopReport(completed=2)]


async def test_cancelling_the_block_cancels_handlers_and_gives_their_jobs_back(
    managers: Managers, calls: list[str]
) -> None:
    first, second = managers(), managers()

    @first.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> None:
        try:
            await anyio.sleep(60)
        finally:
            calls.append(str(ctx.cancel_reason))

    async with second:
        ref = await second.emit("job")
        with anyio.CancelScope() as scope:
            async with first:
                await first.start()
                await begun(first)
                scope.cancel()
                await anyio.sleep(60)
        assert scope.cancelled_caught
        info = await second.queue("default").job(ref.id)
    assert calls == ["shutdown"]
    assert (info.state, info.attempt) == (JobState.QUEUED, 0)


@pytest.mark.real_time
async def test_a_sync_handler_that_outlasts_the_stop_is_left_behind_and_reported(
    managers: Managers,
) -> None:
    manager = managers()
    release = threading.Event()

    @manager.handler("job")
    def handler(job: Job[None]) -> None:
        release.wait(10)

    try:
        async with manager:
            await manager.start()
            ref = await manager.emit(handler)
            await begun(manager)
            report = await manager.stop(grace=0)
            assert report.abandoned == 1
            assert (await ref.info()).state is JobState.RUNNING
    finally:
        release.set()


async def test_jobs_that_had_not_begun_are_startable_elsewhere_at_once(
    managers: Managers, calls: list[int]
) -> None:
    first, second = managers(concurrency=1), managers(concurrency=4)

    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async def slow(job: Job[int]) -> None:
        await anyio.sleep(60)

    first.register_handler(slow, event="job")
    second.register_handler(handler, event="job")
    async with first, second:
        await first.start()
        await first.emit_many([Emit("job", n) for n in range(4)])
        await second.start()
        await first.stop(grace=0)
        await second.until_idle()
    assert sorted(calls) == [0, 1, 2, 3]


# -- lifespan, context -----------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_the_lifespan_is_entered_by_start_and_left_after_the_last_handler(
    managers: Managers, calls: list[str]
) -> None:
    @asynccontextmanager
    async def open_app() -> AsyncGenerator[dict[str, str]]:
        calls.append("open")
        yield {"db": "pool"}
        calls.append("close")

    manager = managers(lifespan=open_app)

    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[dict[str, str]]) -> str:
        await anyio.sleep(0.05)
        calls.append("handler")
        return f"{ctx.db} {ctx['db']} {ctx.app['db']}"

    async with manager:
        assert calls == []
        await manager.start()
        ref = await manager.emit(handler)
        await begun(manager)
        await manager.stop(grace=5)
        assert await ref.result(timeout=5) == "pool pool pool"
    assert calls == ["open", "handler", "close"]


async def test_a_lifespan_that_fails_to_open_makes_start_fail(managers: Managers) -> None:
    @asynccontextmanager
    async def open_app() -> AsyncGenerator[None]:
        raise ValueError("no database")
        yield

    manager = managers(lifespan=open_app)
    _register(manager)
    async with manager:
        with pytest.raises(ValueError, match="no database"):
            await manager.start()
        assert manager.state == "connected"


async def test_a_lifespan_that_fails_to_close_comes_out_of_the_block(managers: Managers) -> None:
    @asynccontextmanager
    async def open_app() -> AsyncGenerator[None]:
        yield
        raise ValueError("cannot close")

    manager = managers(lifespan=open_app)
    _register(manager)
    with pytest.RaisesGroup(
        pytest.RaisesExc(ValueError, match="cannot close"), flatten_subgroups=True
    ):
        async with manager:
            await manager.start()
    assert manager.state == "crashed"


async def test_posts_outside_handlers_are_sent_and_flushed(
    manager: TaskManager[Any], managers: Managers
) -> None:
    handler = _register(manager)
    reader = managers()
    async with reader:
        async with manager:
            ref = manager.get_context().emit(handler, 0.0)
        assert (await reader.queue("default").job(ref.id)).state is JobState.QUEUED


# -- run ------------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_run_until_idle_ends_by_itself(manager: TaskManager[Any]) -> None:
    handler = _register(manager)
    async with manager:
        await manager.emit(handler, 0)
    report = await manager.run(until_idle=True, handle_signals=False)
    assert manager.state == "closed"
    assert report in (StopReport(completed=1), StopReport(completed=0))


@pytest.mark.both_loops
async def test_run_serves_until_it_is_stopped(manager: TaskManager[Any]) -> None:
    handler = _register(manager)
    reports: list[StopReport] = []

    async def run(*, task_status: Any) -> None:
        reports.append(await manager.run(task_status=task_status))

    async with anyio.create_task_group() as nursery:
        started = await nursery.start(run)
        assert started is manager
        assert manager.state == "running"
        await (await manager.emit(handler, 0)).result(timeout=5)
        await manager.stop()
    assert reports == [StopReport(completed=1)]
    assert manager.state == "closed"


async def test_running_without_a_handler_is_an_error(manager: TaskManager[Any]) -> None:
    with pytest.raises(ConfigurationError, match="no handler"):
        await manager.run(handle_signals=False)
