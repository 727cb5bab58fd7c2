"""The feed's steps: nothing is lost or done twice, whatever the broker does; nobody runs hot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import (
    check_slots,
    consumer_of,
    counting,
    emit,
    eventually,
    feed_of,
    manager_on,
    onlooker,
    slots_of,
    stored,
)
from trio_tasks import Context, Emit, Job, JobState
from trio_tasks.broker import Applied, Outcome, StepReply, Taken, TakeStatus
from trio_tasks.consumer import feeder, lease_keeper
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError
from trio_tasks.processor.decisions import Complete

pytestmark = pytest.mark.anyio


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast_before", [0, 2000])
async def test_never_more_than_two_steps_are_under_way_and_a_second_one_carries_a_quarter(
    broker: FaultyBroker, calls: list[Any], fast_before: int
) -> None:
    """Also of handlers that have become slow: then a quarter is one of fewer jobs again."""
    manager = manager_on(broker, concurrency=16)
    seconds: list[int] = []

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)
        if job.data >= 0:
            await anyio.sleep(0.005 * (job.data % 8))

    async with manager:
        await manager.start()
        await manager.emit_many([Emit(handler, -1) for _ in range(fast_before)])
        await manager.until_idle()
        calls.clear()
        broker.delay = 0.02
        await manager.emit_many([Emit(handler, n) for n in range(300)])
        feed = feed_of(manager)
        step = feed._step

        async def watched(membership: Any, entries: list[Any], want: int) -> None:
            assert feed._steps < 2
            if feed._steps:
                seconds.append(max(len(entries), want))
            await step(membership, entries, want)

        feed._step = watched
        await manager.until_idle()
        check_slots(manager)
    assert sorted(calls) == list(range(300))
    assert seconds
    assert min(seconds) >= 4
    assert len(seconds) > 30


async def test_outcomes_that_accumulate_go_out_together(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=64)
    handler = counting(manager, calls, 0.01)
    async with manager:
        await manager.start()
        await manager.emit_many([Emit(handler, n) for n in range(640)])
        await manager.until_idle()
    assert len(calls) == 640
    assert broker.calls["step"] < 64


# -- a broker that fails ---------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.parametrize("failing", range(6))
async def test_no_outcome_is_lost_or_doubled_whichever_step_fails(
    failing: int, fault: Fault, broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=2)

    @manager.handler("parent")
    async def parent(job: Job[int], ctx: Context[Any]) -> None:
        ctx.emit("child", job.data)
        ctx.emit("child", job.data, queue="elsewhere")
        await anyio.sleep(0.001)

    @manager.handler("child")
    async def child(job: Job[int]) -> None:
        calls.append((job.queue, job.data))

    manager.register_handler(child, event="child", queue="elsewhere")
    async with manager:
        await manager.start()
        broker.break_later("step", failing, fault, fault)
        await manager.emit_many([Emit(parent, n) for n in range(5)])
        began = anyio.current_time()
        await manager.until_idle()
        assert anyio.current_time() - began < 9, "children are carried at once"
        assert not broker.faults["step"]
        check_slots(manager)
        assert consumer_of(manager).idle()
        counts = [await broker.counts(queue) for queue in ("default", "elsewhere")]
    wanted = sorted((queue, n) for queue in ("default", "elsewhere") for n in range(5))
    assert sorted(set(calls)) == wanted
    # A start whose answer was lost is given back, and its job runs once all the same.
    assert sorted(calls) == wanted
    assert [count.completed for count in counts] == [10, 5]
    assert [count.emitted for count in counts] == [10, 5]


async def test_children_are_carried_at_once_though_the_answer_that_told_of_them_was_lost(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker)

    @manager.handler("parent")
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        ctx.emit("child", queue="elsewhere")
        broker.break_next("step", Fault.AFTER)

    @manager.handler("child", queue="elsewhere")
    async def child(job: Job[None]) -> None:
        calls.append(job.id)

    async with manager:
        await manager.start()
        await manager.emit(parent)
        await eventually(lambda: bool(calls), within=3)


async def test_a_broker_that_is_away_is_asked_seldom_and_all_is_well_when_it_is_back(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, concurrency=4, lease=600)
    handler = counting(manager, calls, 0.5)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        await manager.emit_many([Emit(handler, n) for n in range(8)])
        await anyio.sleep(0.1)
        remote.go_away()
        remote.calls.clear()
        await anyio.sleep(60)
        assert remote.calls["step"] <= 2 * 60 / 0.4 + 10
        assert remote.calls["beat"] + remote.calls["due_schedules"] + remote.calls["relay"] <= 200
        remote.come_back()
        back = anyio.current_time()
        await eventually(lambda: aside.store.queue("default").completed == 8)
        assert anyio.current_time() - back < 2.5
        check_slots(manager)
    assert sorted(calls) == list(range(8))


async def test_a_broker_that_refuses_every_step_is_asked_seldom_and_said_once(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)
    counting(manager, calls)
    async with manager:
        await manager.start()
        broker.always["step"] = Fault.REFUSED
        broker.calls.clear()
        await emit(broker, "job")
        await anyio.sleep(60)
        assert broker.calls["step"] <= 2 * 60 / 0.4 + 10
        assert sum("refused" in record.message for record in caplog.records) == 1
        assert manager.statistics().queues["default"].last_error == "step was refused"
        broker.come_back()
        await manager.until_idle()
    assert len(calls) == 1


async def test_an_outcome_that_is_refused_for_ever_does_not_run_hot(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=2)
    handler = counting(manager, calls, 0.01)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 1)
        await eventually(lambda: bool(calls))
        membership = broker.memberships[0]
        step = membership.step

        async def refuse(outcomes: Sequence[Outcome], want: int) -> StepReply:
            broker.calls["seen"] += 1
            reply = await step([], want)
            return StepReply([Applied.REFUSED for _ in outcomes], reply.taken)

        membership.step = refuse
        await anyio.sleep(60)
        assert broker.calls["seen"] <= 2 * 60 / 0.4 + 10
        membership.step = step
        await manager.until_idle()
        assert (await stored(broker, ref.id)).state is JobState.DEAD


async def test_a_step_that_fails_with_many_outcomes_is_halved_until_the_one_is_found(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=64)
    gate = anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)
        if job.data in (7, 40):
            broker.refused_ids.add(job.id)
        if len(calls) == 64:
            gate.set()
        await gate.wait()

    async with manager:
        await manager.start()
        refs = await manager.emit_many([Emit(handler, n) for n in range(64)])
        await manager.until_idle()
        states = [(await stored(broker, ref.id)).state for ref in refs]
        check_slots(manager)
    assert [n for n, state in enumerate(states) if state is JobState.DEAD] == [7, 40]
    assert states.count(JobState.COMPLETED) == 62


# -- what a take may answer ------------------------------------------------------------------------


def _answer_next(broker: FaultyBroker, answer: Callable[[Taken], Taken]) -> None:
    """The next take is answered otherwise."""
    membership = broker.memberships[-1]
    step = membership.step

    async def other(outcomes: Sequence[Outcome], want: int) -> StepReply:
        reply = await step(outcomes, want)
        if reply.taken is None:
            return reply
        membership.step = step
        return StepReply(reply.applied, answer(reply.taken), reply.relay)

    membership.step = other


async def test_a_take_of_an_old_connection_is_repeated(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        await anyio.sleep(0.1)
        _answer_next(broker, lambda taken: Taken(TakeStatus.OLD, taken.now_ms))
        await emit(broker, "other")  # that job is lost with the answer
        await anyio.sleep(0.1)
        await manager.emit(handler, 1)
        await anyio.sleep(0.1)
        check_slots(manager)
    assert calls == [1]


async def test_a_worker_that_is_told_that_it_is_dead_joins_anew_and_goes_on(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=2)
    handler = counting(manager, calls)
    async with manager:
        await manager.start()
        await anyio.sleep(0.1)
        first = broker.memberships[-1].incarnation
        broker._memberships[0].vanish()
        await manager.emit(handler, 1)
        await anyio.sleep(1)
        assert broker.memberships[-1].incarnation != first
        check_slots(manager)
    assert calls == [1]


async def test_handlers_of_a_dead_incarnation_are_cancelled_and_their_jobs_run_again(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=2, lease=30)

    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> None:
        calls.append("begun")
        if calls.count("begun") == 2:
            return
        try:
            await anyio.sleep(600)
        finally:
            calls.append(str(ctx.cancel_reason))

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: calls == ["begun"])
        broker._memberships[0].vanish()
        await anyio.sleep(20)  # the next beat hears of it
        await manager.until_idle()
        assert (await stored(broker, ref.id)).state is JobState.COMPLETED
        check_slots(manager)
    assert calls == ["begun", "lease_lost", "begun"]


async def test_an_outcome_that_was_applied_already_does_no_harm(
    broker: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(broker, concurrency=1)
    handler = counting(manager, calls, 1)
    async with manager:
        await manager.start()
        ref = await manager.emit(handler, 1)
        await eventually(lambda: bool(calls))
        (held,) = feed_of(manager).held
        ahead = Outcome(
            token=held.delivery.token,
            event="job",
            attempt=1,
            verdict=Complete(),
            result=b'"first"',
            retention_ms=60_000,
        )
        await broker.memberships[0].inner.step([ahead], 0)
        await manager.until_idle()
        await eventually(lambda: not feed_of(manager).held)
        assert (await stored(broker, ref.id)).result == b'"first"'
        assert (await broker.counts("default")).completed == 1
        check_slots(manager)


async def test_the_outcome_of_a_job_that_is_gone_or_somebody_elses_is_dropped(
    broker: FaultyBroker, calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker, concurrency=2)
    handler = counting(manager, calls, 1)
    async with manager:
        await manager.start()
        refs = [await manager.emit(handler, n) for n in range(2)]
        await eventually(lambda: len(calls) == 2)
        queue = broker.store.queue("default")
        for job_id in (refs[0].id, refs[1].id):
            entry = queue.jobs[job_id].entry
            assert entry is not None
            entry.deliveries += 1  # as if somebody else had been handed it
        await anyio.sleep(2)
        assert feed_of(manager).counters.stale == 2
        check_slots(manager)
        assert not feed_of(manager).held
    assert sum("came too late" in record.message for record in caplog.records) == 2


async def test_a_worker_whose_last_renewal_is_too_old_does_not_even_ask(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, lease=3)
    counting(manager, calls)
    async with onlooker(remote) as aside, manager:
        await manager.start()
        feed = feed_of(manager)
        await anyio.sleep(0.5)
        remote.always["beat"] = Fault.BEFORE
        feed._stale_after = -1.0  # as after a freeze: real time has passed, the loop's has not
        remote.calls.clear()
        job_id = await emit(aside, "job", 1)
        await anyio.sleep(0.5)
        assert remote.calls["take"] == 0  # it does not even ask
        remote.come_back()
        await eventually(lambda: calls == [1])
        assert (await stored(aside, job_id)).attempt == 1
        assert slots_of(manager).free == 1


async def test_takes_that_get_no_answer_in_time_ask_for_less_then_for_more_again(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote, concurrency=100, lease=600)
    handler = counting(manager, calls, 0.0)
    async with manager:
        await manager.start()
        await anyio.sleep(1)
        feed, wanted = feed_of(manager), list[int]()
        step = feed._step

        async def noted(membership: Any, entries: list[Any], want: int) -> None:
            if want:
                wanted.append(want)
            await step(membership, entries, want)

        feed._step = noted
        remote.break_next("step", *[Fault.NO_ANSWER] * 3)
        await manager.emit_many([Emit(handler, n) for n in range(1000)])
        await manager.until_idle()
    assert sorted(calls) == list(range(1000))
    assert wanted[0] == 100
    assert min(wanted[1:6]) <= 6
    assert max(wanted[6:]) >= 100


async def test_an_answer_of_take_read_after_the_lease_was_lost_is_released_by_token(
    remote: FaultyBroker, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_on(remote)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[int]) -> None:
        calls.append(feed_of(manager).stale())

    async with manager:
        await manager.start()
        membership = remote.memberships[-1]
        step = membership.step

        async def stopped(outcomes: Sequence[Outcome], want: int) -> StepReply:
            reply = await step(outcomes, want)
            if reply.taken is not None and reply.taken.deliveries:
                membership.step = step
                for module in (feeder, lease_keeper):  # SIGSTOP: the loop's clock stands still
                    monkeypatch.setattr(module, "monotonic", lambda: loop_time() + 3600)
            return reply

        membership.step = stopped
        ref = await manager.emit(handler, 1)
        await ref.result(timeout=100)
        check_slots(manager)
        job = await stored(remote, ref.id)
        assert (job.attempt, job.interruptions) == (1, 0)
    assert calls == [False]
    assert membership.step == step


async def test_a_step_that_fails_in_its_take_does_not_cost_the_outcome_that_it_carries(
    remote: FaultyBroker, calls: list[Any]
) -> None:
    manager = manager_on(remote)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        await manager.start()
        membership = remote.memberships[-1]
        step = membership.step

        async def cannot_take(outcomes: Sequence[Outcome], want: int) -> StepReply:
            if outcomes and want:
                raise BrokerError("refused")
            return await step(outcomes, want)

        membership.step = cannot_take
        ref = await manager.emit(handler, 1)
        await ref.result(timeout=100)
    assert calls == [1]
