"""What a job costs the worker: counted, so that nobody makes it dearer unawares.

Counts and not seconds: they are the same on a busy machine. Where one grows on purpose, its bound
here grows with it, and the commit says why.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import anyio.lowlevel
import pytest
import trio

import trio_tasks
from tests.faulty_broker import FaultyBroker
from tests.workshop import eventually, manager_on
from trio_tasks import Emit, Job

pytestmark = pytest.mark.anyio

JOBS = 2000
PACKAGE = Path(trio_tasks.__file__).parent
ENGINE = tuple(str(PACKAGE / part) for part in ("consumer", "processor", "running.py", "payloads"))


class Ledger(trio.abc.Instrument):
    """Counts what the engine does while it is switched on.

    Attributes:
        calls: of each of the engine's functions; each resumption of a coroutine is one.
        resumed: how often a task was resumed.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.resumed = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.resumed += 1

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ENGINE):
            self.calls[f"{Path(code.co_filename).name}:{code.co_name}"] += 1

    @contextmanager
    def switched_on(self) -> Generator[None]:
        trio.lowlevel.add_instrument(self)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            trio.lowlevel.remove_instrument(self)


async def drained(broker: FaultyBroker, concurrency: int, *, suspends: bool = False) -> Ledger:
    """What it took to run `JOBS` jobs, after as many to warm up."""
    ran, ledger = 0, Ledger()
    manager = manager_on(broker, concurrency=concurrency)

    @manager.handler("job")
    async def job(job: Job[int]) -> None:
        nonlocal ran
        del job
        if suspends:
            await anyio.lowlevel.checkpoint()
        ran += 1

    async with manager:
        await manager.emit_many([Emit("job", n) for n in range(JOBS)])
        await manager.start()
        await eventually(lambda: ran == JOBS)
        await manager.until_idle()
        broker.calls.clear()
        with ledger.switched_on():
            await manager.emit_many([Emit("job", n) for n in range(JOBS)])
            await eventually(lambda: ran == 2 * JOBS)
        await manager.until_idle()
    return ledger


@pytest.mark.parametrize("concurrency", [1, 4, 32, 100])
async def test_a_round_trip_carries_many_jobs_however_few_run_at_once(
    broker: FaultyBroker, concurrency: int
) -> None:
    await drained(broker, concurrency)
    assert broker.calls["step"] <= JOBS / 64


@pytest.mark.parametrize("concurrency", [1, 100])
async def test_a_job_that_does_nothing_costs_few_calls_and_hardly_a_change_of_tasks(
    broker: FaultyBroker, concurrency: int
) -> None:
    ledger = await drained(broker, concurrency)
    # 24.5 to 26.8, by the order in which Trio runs tasks: it is random.
    assert ledger.calls.total() / JOBS <= 28, ledger.calls.most_common(40)
    assert ledger.resumed / JOBS <= 0.05


async def test_a_handler_that_suspends_costs_little_more(broker: FaultyBroker) -> None:
    ledger = await drained(broker, 32, suspends=True)
    assert ledger.calls.total() / JOBS <= 33, ledger.calls.most_common(40)
    assert ledger.resumed / JOBS <= 2.5
