"""What a worker says of itself: when it has started, when it stops, and how that ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.manager.conftest import Managers
from tests.manager.waiting import begun, eventually
from trio_tasks import Job, StopReport, TaskManager

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.task_manager")


def _said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "trio_tasks.task_manager"
    ]


def _sleepy(managers: Managers) -> TaskManager[Any]:
    manager = managers(concurrency=3, consumer_id="w1")

    @manager.handler("sleep", queue="a")
    async def sleep(job: Job[float]) -> None:
        await anyio.sleep(job.data)

    return manager


STARTED = ("INFO", "worker 'w1' has started: concurrency 3, queue 'a' ('sleep')")


@pytest.mark.both_loops
async def test_a_worker_has_a_line_for_its_start_its_stop_and_its_end(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _sleepy(managers)
    for number in range(7):
        manager.register_handler(_nothing, event=f"event-{number}", queue="b")
    async with manager:
        await manager.start()
        await (await manager.emit("sleep", 0, queue="a")).result()
        await manager.stop()
        await manager.start(queues=["a"])
    assert _said(caplog) == [
        (STARTED[0], STARTED[1] + "; queue 'b' (7 events)"),
        ("INFO", "worker 'w1' stops, with a grace of 25 s"),
        ("INFO", f"worker 'w1' has stopped: {StopReport(completed=1)!r}"),
        STARTED,
        ("INFO", "worker 'w1' stops, with a grace of 25 s"),
        ("INFO", f"worker 'w1' has stopped: {StopReport()!r}"),
    ]


async def test_a_stop_that_interrupts_handlers_ends_with_a_warning(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _sleepy(managers)
    async with manager:
        await manager.start()
        await manager.emit("sleep", 60, queue="a")
        await begun(manager)
        report = await manager.stop(grace=0.01)
    assert _said(caplog) == [
        STARTED,
        ("INFO", "worker 'w1' stops, with a grace of 0.01 s"),
        ("WARNING", f"worker 'w1' has stopped: {report!r}"),
    ]
    assert report.interrupted == 1


async def test_a_worker_that_is_cancelled_says_so(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _sleepy(managers)
    async with anyio.create_task_group() as nursery:
        await nursery.start(manager.run)
        nursery.cancel_scope.cancel()
    assert _said(caplog) == [
        STARTED,
        ("INFO", "worker 'w1' stops, without grace"),
        ("INFO", f"worker 'w1' has stopped: {StopReport()!r}"),
    ]


@pytest.mark.real_time
async def test_a_thread_that_is_left_behind_is_a_warning(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    manager = managers(consumer_id="w1")
    done = threading.Event()

    @manager.handler("stuck")
    def stuck() -> None:
        done.wait(20)

    try:
        async with manager:
            await manager.start()
            await manager.emit(stuck)
            await begun(manager)
            report = await manager.stop(grace=0)
    finally:
        done.set()
    assert _said(caplog)[-1] == ("WARNING", f"worker 'w1' has stopped: {report!r}")
    assert report.abandoned == 1


async def _nothing() -> None: ...


class _Calls(logging.Handler):
    """Does something in the moment in which a worker says that it has started."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        if "has started" in record.getMessage():
            self._call()


@pytest.mark.both_loops
async def test_a_stop_that_comes_before_start_has_returned_is_not_lost(
    managers: Managers,
) -> None:
    # `start()` and the stop run in either order: a stop was lost every second time.
    log = logging.getLogger("trio_tasks.task_manager")
    for _ in range(12):
        await _stopped_while_starting(_sleepy(managers), log)


async def _stopped_while_starting(manager: TaskManager[Any], log: logging.Logger) -> None:
    async with manager, anyio.create_task_group() as nursery:
        stops = _Calls(lambda: nursery.start_soon(manager.stop))
        log.addHandler(stops)
        try:
            await manager.start()
            await eventually(lambda: manager.state == "connected")
        finally:
            log.removeHandler(stops)
