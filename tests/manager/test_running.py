"""Handlers run, fail, retry, die, come back."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.manager.conftest import Managers
from trio_tasks import (
    Context,
    DeadLetter,
    Discard,
    Emit,
    Job,
    JobFailedError,
    JobState,
    RetryLater,
    RetryPolicy,
    TaskManager,
)

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_a_job_runs_and_its_result_comes_back(manager: TaskManager[Any]) -> None:
    @manager.handler("double")
    async def double(job: Job[int]) -> int:
        return 2 * job.data

    async with manager:
        await manager.start()
        ref = await manager.emit(double, 21)
        assert await ref.result(timeout=5) == 42
        info = await ref.info()
    assert (info.state, info.attempt, info.result) == (JobState.COMPLETED, 1, 42)


@pytest.mark.both_loops
@pytest.mark.real_time
async def test_a_sync_handler_runs_in_a_thread_and_can_log_and_emit(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("child")
    async def child(job: Job[str]) -> None:
        calls.append(job.data)

    @manager.handler("sync")
    def sync(job: Job[str], ctx: Context[Any]) -> str:
        job.logger(f"in thread {threading.current_thread() is not threading.main_thread()}")
        ctx.emit(child, job.data + "!")
        return job.data.upper()

    async with manager:
        await manager.start()
        ref = await manager.emit(sync, "hello")
        assert await ref.result(timeout=5) == "HELLO"
        await manager.until_idle()
        info = await ref.info()
    assert calls == ["hello!"]
    assert [line.message for line in info.logs] == ["in thread True"]


@pytest.mark.both_loops
async def test_a_failing_job_is_retried_until_it_succeeds(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("flaky")
    async def flaky(job: Job[None]) -> str:
        calls.append(job.attempt)
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return "at last"

    async with manager:
        await manager.start()
        ref = await manager.emit(flaky)
        assert await ref.result(timeout=5) == "at last"
    assert calls == [1, 2, 3]


@pytest.mark.both_loops
async def test_a_job_that_always_fails_is_dead_with_its_last_error(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("hopeless", attempts=2)
    async def hopeless(job: Job[None]) -> None:
        calls.append(job.attempt)
        raise ValueError(f"attempt {job.attempt}")

    async with manager:
        await manager.start()
        ref = await manager.emit(hopeless)
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
        [dead] = await manager.queue("default").dead_letters()
    assert calls == [1, 2]
    error = caught.value
    assert (error.state, error.reason, error.attempts) == (JobState.DEAD, "exhausted", 2)
    assert dead.id == ref.id
    assert dead.error is not None
    assert (dead.error.type, dead.error.message) == ("ValueError", "attempt 2")
    assert "raise ValueError" in dead.error.traceback


async def test_a_dead_job_can_be_requeued_and_starts_over(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    broken = True

    @manager.handler("job", attempts=1)
    async def handler(job: Job[str]) -> str:
        calls.append(job.attempt)
        if broken:
            raise ValueError
        return job.data

    async with manager:
        await manager.start()
        ref = await manager.emit(handler, "data")
        with pytest.raises(JobFailedError):
            await ref.result(timeout=5)
        broken = False
        queue = manager.queue("default")
        assert await queue.requeue(ref.id) is True
        assert await ref.result(timeout=5) == "data"
        assert await queue.requeue(ref.id) is False
        assert await queue.dead_letters() == []
    assert calls == [1, 1]


@pytest.mark.parametrize(
    ("signal", "state", "reason"),
    [
        (DeadLetter("no such user"), JobState.DEAD, "no such user"),
        (Discard("outdated"), JobState.SKIPPED, "outdated"),
        (RetryLater(0), JobState.DEAD, "exhausted"),
    ],
)
async def test_a_handler_speaks_back_by_raising(
    manager: TaskManager[Any], signal: Exception, state: JobState, reason: str
) -> None:
    @manager.handler("job", attempts=2)
    async def handler(job: Job[None]) -> None:
        raise signal

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert (caught.value.state, caught.value.reason) == (state, reason)


async def test_an_exception_of_a_nursery_inside_a_handler_counts_as_itself(
    manager: TaskManager[Any],
) -> None:
    @manager.handler("job", retry=RetryPolicy(retry_on=(KeyError,), delay=0))
    async def handler(job: Job[None]) -> int:
        if job.attempt == 1:
            async with anyio.create_task_group():
                raise KeyError("inside")
        async with anyio.create_task_group():
            raise ValueError("inside")
        return 0

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert caught.value.reason == "not_retryable"
    assert caught.value.attempts == 2
    assert caught.value.error is not None
    assert caught.value.error.type == "ValueError"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_raised_by_a_handler_fails_the_job_not_the_process(
    manager: TaskManager[Any], error: BaseException
) -> None:
    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        raise error

    @manager.handler("next")
    async def after(job: Job[None]) -> str:
        return "alive"

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        with pytest.raises(JobFailedError):
            await ref.result(timeout=5)
        assert await (await manager.emit(after)).result(timeout=5) == "alive"


@pytest.mark.both_loops
async def test_children_appear_when_the_parent_completes_and_only_then(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("child", queue="children")
    async def child(job: Job[int]) -> None:
        info = await manager.queue("children").job(job.id)
        calls.append((job.data, info.parent_id))

    @manager.handler("parent", attempts=2)
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        ctx.emit(child, job.attempt)
        if job.attempt == 1:
            raise ValueError("its child goes with it")

    async with manager:
        await manager.start()
        ref = await manager.emit(parent)
        await ref.result(timeout=5)
        await manager.until_idle()
    assert calls == [(2, ref.id)]


async def test_emit_now_does_not_wait_for_the_outcome(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("child")
    async def child(job: Job[int]) -> None:
        calls.append(job.data)

    @manager.handler("parent", attempts=1)
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        ref = await ctx.emit_now(child, 7)
        await ref.result(timeout=5)
        raise ValueError("the child has run all the same")

    async with manager:
        await manager.start()
        ref = await manager.emit(parent)
        with pytest.raises(JobFailedError):
            await ref.result(timeout=5)
    assert calls == [7]


async def test_a_delayed_job_waits_for_its_instant(manager: TaskManager[Any]) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> float:
        return anyio.current_time()

    async with manager:
        await manager.start()
        began = anyio.current_time()
        soon = await manager.emit(handler, delay=0.2)
        until = datetime(2100, 1, 1, tzinfo=UTC)
        late = await manager.emit(handler, delay_until=until)
        assert 0.2 <= await soon.result(timeout=5) - began < 0.5
        info = await late.info()
    assert info.state is JobState.DELAYED
    assert info.scheduled_for == until


async def test_higher_priorities_run_first(manager: TaskManager[Any], calls: list[Any]) -> None:
    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append((job.priority, job.data))

    async with manager:
        await manager.emit_many([Emit(handler, n, priority=n % 3) for n in range(6)])
        await manager.start()
        await manager.until_idle()
    assert calls == [(2, 2), (2, 5), (1, 1), (1, 4), (0, 0), (0, 3)]


async def test_a_timeout_cancels_the_attempt_and_is_a_failure(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("slow", timeout=0.05, attempts=2)
    async def slow(job: Job[None], ctx: Context[Any]) -> None:
        try:
            await anyio.sleep(60)
        finally:
            calls.append((job.attempt, str(ctx.cancel_reason)))

    async with manager:
        await manager.start()
        ref = await manager.emit(slow)
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert calls == [(1, "timeout"), (2, "timeout")]
    assert caught.value.error is not None
    assert caught.value.error.type == "TimeoutError"


async def test_a_swallowed_cancellation_counts_as_success(manager: TaskManager[Any]) -> None:
    @manager.handler("stubborn", timeout=0.05)
    async def stubborn(job: Job[None]) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        return "done"

    async with manager:
        await manager.start()
        assert await (await manager.emit(stubborn)).result(timeout=5) == "done"


async def test_no_attempt_starts_after_the_deadline(
    manager: TaskManager[Any], calls: list[Any]
) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        calls.append(job.id)

    async with manager:
        ref = await manager.emit(handler, deadline=0.02)
        await anyio.sleep(0.05)
        await manager.start()
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
    assert caught.value.reason == "expired"
    assert calls == []


async def test_each_attempt_has_context_variables_of_its_own(managers: Managers) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    manager = managers(concurrency=1)

    @manager.handler("job")
    async def handler(job: Job[str]) -> str:
        before = variable.get()
        variable.set(job.data)
        await anyio.lowlevel.checkpoint()
        return f"{before} {variable.get()}"

    async with manager:
        await manager.start()
        for name in ("one", "two"):
            assert await (await manager.emit(handler, name)).result(timeout=5) == f"clean {name}"


async def test_jobs_run_at_most_concurrency_at_once(managers: Managers) -> None:
    manager = managers(concurrency=3)
    running = most = 0

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1

    async with manager:
        await manager.start()
        await manager.emit_many([Emit(handler) for _ in range(12)])
        await manager.until_idle()
    assert most == 3


async def test_many_queues_share_the_slots_fairly(managers: Managers, calls: list[Any]) -> None:
    manager = managers(concurrency=1)

    async def handler(job: Job[None]) -> None:
        calls.append(job.queue)
        await anyio.sleep(0.001)

    for queue in ("a", "b", "c"):
        manager.register_handler(handler, event=f"job-{queue}", queue=queue)
    async with manager:
        for queue in ("a", "b", "c"):
            await manager.emit_many([Emit(f"job-{queue}", queue=queue) for _ in range(10)])
        await manager.start()
        await manager.until_idle()
    assert len(calls) == 30
    # Nobody waits for more than a few jobs of the others.
    for queue in ("a", "b", "c"):
        places = [n for n, name in enumerate(calls) if name == queue]
        assert max(b - a for a, b in pairwise(places)) <= 6, calls
