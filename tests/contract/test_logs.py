"""Logs: the lines that a handler leaves with its job."""

from __future__ import annotations

import pytest

from tests.contract.world import World
from trio_tasks.processor.decisions import Die, Release, Retry

pytestmark = pytest.mark.anyio


@pytest.mark.both_loops
async def test_log_lines_are_kept_with_their_instants_in_order(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    token = (await worker.take_one()).token
    before_ms = await world.now_ms()

    await worker.membership.log(token, [b'"one"', b'{"two":2}'], 100)
    await worker.membership.log(token, [b'"three"'], 100)

    logs = (await world.read(job_id, logs=True)).logs
    assert [line for _, line in logs] == [b'"one"', b'{"two":2}', b'"three"']
    now_ms = await world.now_ms()
    assert all(before_ms <= at_ms <= now_ms for at_ms, _ in logs)


async def test_logs_are_read_only_when_asked_for(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    await worker.membership.log((await worker.take_one()).token, [b"1"], 100)

    assert list((await world.read(job_id)).logs) == []


async def test_the_oldest_lines_are_dropped(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    token = (await worker.take_one()).token

    for number in range(5):
        await worker.membership.log(token, [b"%d" % number], 3)

    logs = (await world.read(job_id, logs=True)).logs
    assert [line for _, line in logs] == [b"2", b"3", b"4"]


async def test_log_lines_stay_through_retries_death_and_requeue(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    for number, verdict in enumerate([Retry(delay_ms=0), Die("x")]):
        delivery = await worker.take_one()
        await worker.membership.log(delivery.token, [b"%d" % number], 100)
        await worker.end(delivery, verdict, logged=True)
    await world.broker.requeue("default", job_id)

    logs = (await world.read(job_id, logs=True)).logs

    assert [line for _, line in logs] == [b"0", b"1"]


async def test_a_new_life_has_no_log_lines(world: World) -> None:
    await world.emit("nightly")
    worker = await world.worker()
    delivery = await worker.take_one()
    await worker.membership.log(delivery.token, [b"1"], 100)
    await worker.end(delivery, logged=True)

    await world.emit("nightly")

    assert list((await world.read("nightly", logs=True)).logs) == []


async def test_a_superseded_start_logs_nothing(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    stale = await worker.take_one()
    await worker.end(stale, Release(counted=False, began=True))
    await worker.take_one()

    await worker.membership.log(stale.token, [b"1"], 100)

    assert list((await world.read(job_id, logs=True)).logs) == []


async def test_an_ended_start_logs_nothing(world: World) -> None:
    job_id = await world.emit()
    worker = await world.worker()
    delivery = await worker.take_one()
    await worker.end(delivery)

    await worker.membership.log(delivery.token, [b"1"], 100)

    assert list((await world.read(job_id, logs=True)).logs) == []
