"""Who waits in a manager that was never started is told so, once."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from tests.manager.conftest import Managers
from tests.manager.waiting import eventually
from trio_tasks import Job, TaskManager

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.task_manager")


def _said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if "never started" in record.getMessage()
    ]


def _says(what: str, ending: str) -> tuple[str, str]:
    text = (
        f"{what} waits for jobs, but this TaskManager has handlers and was never started: nothing"
        f" is processed here before `await tasks.start()`{ending}"
    )
    return ("INFO" if ending == SHARED else "WARNING", text)


SHARED = "; this is meant where other processes do it"


def _with_handler(manager: TaskManager[Any]) -> TaskManager[Any]:
    @manager.handler("job")
    async def handler(job: Job[None]) -> str:
        return "done"

    return manager


@pytest.mark.both_loops
async def test_waiting_for_idleness_before_the_start_is_said_once(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    idler, worker = _with_handler(managers()), _with_handler(managers())
    async with idler, worker:
        await idler.until_idle()
        assert _said(caplog) == []  # there was nothing to wait for
        ref = await idler.emit("job")
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(idler.until_idle)
            await eventually(lambda: bool(_said(caplog)))
            nursery.start_soon(idler.until_idle)
            nursery.start_soon(ref.result)
            await worker.start()
    assert _said(caplog) == [_says("until_idle()", SHARED)]


async def test_waiting_for_a_result_before_the_start_is_said_once(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    waiter, worker = _with_handler(managers()), _with_handler(managers())
    async with waiter, worker:
        ref = await waiter.emit("job")
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(ref.result)
            await eventually(lambda: bool(_said(caplog)))
            assert _said(caplog) == [_says("result()", SHARED)]
            await worker.start()
        assert await ref.result() == "done"
        await waiter.until_idle()
    assert len(_said(caplog)) == 1


async def test_whoever_has_no_handler_or_has_started_is_told_nothing(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    producer, worker = managers(), _with_handler(managers())
    async with producer, worker:
        ref = await producer.emit("job")
        other = await worker.emit("job", queue="other")
        with pytest.raises(TimeoutError):
            await ref.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            await other.result(timeout=0.05)  # of a queue that others serve
        await worker.start()
        assert await ref.result() == "done"
        await worker.until_idle()
        await worker.stop()
        late = await worker.emit("job")
        with pytest.raises(TimeoutError):
            await late.result(timeout=0.05)
    assert _said(caplog) == []


async def test_where_nobody_else_can_do_it_the_warning_says_so(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _with_handler(TaskManager("memory://" if kind == "memory" else "embedded://"))
    async with manager, anyio.create_task_group() as nursery:
        await manager.emit("job")
        nursery.start_soon(manager.until_idle)
        await eventually(lambda: bool(_said(caplog)))
        await manager.start()
    assert _said(caplog) == [_says("until_idle()", ", and nobody else can reach its jobs")]


async def test_waiting_for_idleness_inside_a_handler_is_refused_at_once(
    manager: TaskManager[Any],
) -> None:
    @manager.handler("job")
    async def handler(job: Job[None]) -> str:
        with pytest.raises(RuntimeError, match=r"until_idle\(\) inside a handler would wait for"):
            await manager.until_idle()
        return "done"

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        assert await ref.result(timeout=5) == "done"
        await manager.until_idle()
