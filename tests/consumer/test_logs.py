"""`job.logger`: every line is there when the job has ended, unless the server refuses it."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import consumer_of, eventually, manager_on
from trio_tasks import Emit, Job, JobState, SerializationError
from trio_tasks.broker import Stored

pytestmark = pytest.mark.anyio


async def _read(broker: FaultyBroker, job_id: str) -> tuple[Stored, list[object]]:
    (job,) = await broker.read("default", [job_id], logs=True)
    assert job is not None
    return job, [json.loads(line) for _, line in job.logs]


@pytest.mark.both_loops
async def test_lines_are_there_in_order_before_the_job_has_ended(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=4)

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        for n in range(job.data):
            job.logger(f"line {n}")
            if n % 3 == 0:
                await anyio.lowlevel.checkpoint()
        await job.logger({"last": True})

    async with manager:
        await manager.start()
        refs = await manager.emit_many([Emit(handler, n) for n in range(10)])
        for n, ref in enumerate(refs):
            await ref.result(timeout=5)
            _, lines = await _read(broker, ref.id)
            assert lines == [*(f"line {m}" for m in range(n)), {"last": True}]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.NO_ANSWER])
async def test_lines_wait_for_a_broker_that_is_away_and_the_outcome_for_the_lines(
    fault: Fault, broker: FaultyBroker
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        job.logger("kept")

    async with manager:
        await manager.start()
        broker.break_next("log", fault, fault)
        ref = await manager.emit(handler)
        await ref.result(timeout=30)
        _, lines = await _read(broker, ref.id)
        # A line whose answer was lost is sent again: better twice than never.
        assert set(map(str, lines)) == {"kept"}


async def test_a_job_ends_though_the_server_refuses_its_lines(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> str:
        job.logger("a secret line")
        await job.logger("another one")
        return "done"

    async with manager:
        await manager.start()
        broker.always["log"] = Fault.REFUSED  # as when its memory is full
        ref = await manager.emit(handler)
        assert await ref.result(timeout=5) == "done"
        job, lines = await _read(broker, ref.id)
        assert (job.state, lines) == (JobState.COMPLETED, [])
    assert any("refused" in record.message for record in caplog.records)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_the_last_lines_are_kept_and_no_more(most: int, broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    @manager.handler("job", max_logs=most)
    async def handler(job: Job[None]) -> None:
        for n in range(5):
            job.logger(str(n))
        await job.logger("5")
        for n in range(6, 10):
            job.logger(str(n))

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await ref.result(timeout=5)
        _, lines = await _read(broker, ref.id)
    assert lines == [str(n) for n in range(10 - most, 10)]


async def test_what_is_no_line_is_refused_at_the_call(broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        for wrong in (7, None, {"nan": float("nan")}, "x" * 70_000):
            with pytest.raises(SerializationError):
                job.logger(wrong)  # type: ignore[arg-type]

    async with manager:
        await manager.start()
        await (await manager.emit(handler)).result(timeout=5)


async def test_logging_after_the_handler_has_returned_is_an_error(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    jobs: list[Job[Any]] = []

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        jobs.append(job)

    async with manager:
        await manager.start()
        await (await manager.emit(handler)).result(timeout=5)
        with pytest.raises(RuntimeError, match="returned"):
            jobs[0].logger("late")


async def test_lines_that_pile_up_while_the_broker_is_away_are_bounded(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)
    gate = anyio.Event()

    @manager.handler("job", max_logs=10)
    async def handler(job: Job[None]) -> None:
        for n in range(10_000):
            job.logger(str(n))
            if n % 100 == 0:
                await anyio.sleep(0.001)
        gate.set()
        await anyio.sleep(1)

    async with manager:
        await manager.start()
        broker.always["log"] = Fault.BEFORE
        ref = await manager.emit(handler)
        await gate.wait()
        (held,) = consumer_of(manager).feeds["default"].held
        assert len(held.lines or ()) <= 10
        broker.come_back()
        await ref.result(timeout=5)
        _, lines = await _read(broker, ref.id)
        assert lines[-1] == "9999"
        assert len(lines) == 10


async def test_a_stop_does_not_wait_for_lines_for_ever(broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        job.logger("lost")

    async with manager:
        await manager.start()
        broker.go_away()
        broker.always.pop("emit")
        broker.always.pop("step")
        await manager.emit(handler)
        await eventually(lambda: bool(consumer_of(manager).feeds["default"].held))
        began = anyio.current_time()
        await manager.stop(grace=5)
        assert anyio.current_time() - began <= 2.1
