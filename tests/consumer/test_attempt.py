"""One attempt: whatever a handler does, its job comes to one outcome and the worker lives on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from tests.contract.backdoors import MemoryBackdoor
from tests.contract.world import World
from tests.faulty_broker import Fault, FaultyBroker
from tests.workshop import (
    check_slots,
    consumer_of,
    emit,
    eventually,
    feed_of,
    manager_on,
    onlooker,
    slots_of,
    stored,
)
from trio_tasks import (
    Context,
    DeadLetter,
    DebouncePolicy,
    Discard,
    Emit,
    Job,
    JobState,
    RetryLater,
    RetryPolicy,
    TaskManager,
)
from trio_tasks.broker import DebounceAsk, Stored
from trio_tasks.consumer import feeder, lease_keeper
from trio_tasks.consumer.held import Held
from trio_tasks.context import CancelReason
from trio_tasks.environment import loop_time
from trio_tasks.options import Edge

pytestmark = pytest.mark.anyio


def _error(job: Stored) -> dict[str, str]:
    assert job.error is not None
    return json.loads(job.error)


async def _outcome(
    manager: TaskManager[Any], broker: FaultyBroker, event: str, data: object = None
) -> Stored:
    """Run one job to its end."""
    ref = await manager.emit(event, data)
    await manager.until_idle()
    check_slots(manager)
    return await stored(broker, ref.id)


# -- what handlers raise ---------------------------------------------------------------------------


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class WorseError(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


def _nested(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", list(errors))])


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("raised", "state", "reason", "kind"),
    [
        (lambda: StopIteration("x"), JobState.DEAD, "exhausted", "RuntimeError"),
        (lambda: StopAsyncIteration("x"), JobState.DEAD, "exhausted", "StopAsyncIteration"),
        (lambda: SystemExit(1), JobState.DEAD, "exhausted", "SystemExit"),
        (KeyboardInterrupt, JobState.DEAD, "exhausted", "KeyboardInterrupt"),
        (UnspeakableError, JobState.DEAD, "exhausted", "UnspeakableError"),
        (WorseError, JobState.DEAD, "exhausted", None),
        (lambda: _nested(ValueError("one")), JobState.DEAD, "exhausted", "ValueError"),
        (lambda: _nested(SystemExit(1)), JobState.DEAD, "exhausted", "SystemExit"),
        (lambda: _nested(Discard("old")), JobState.SKIPPED, "old", None),
        (lambda: _nested(Discard("a"), DeadLetter("b")), JobState.DEAD, "b", None),
        (lambda: _nested(SystemExit(1), DeadLetter("b")), JobState.DEAD, "b", None),
        (lambda: _nested(Discard("a"), RetryLater(0)), JobState.DEAD, "exhausted", None),
        (
            lambda: _nested(ValueError("one"), Discard("two")),
            JobState.DEAD,
            "exhausted",
            "ExceptionGroup",
        ),
    ],
)
@pytest.mark.parametrize("suspends", [False, True])
async def test_whatever_a_handler_raises_ends_its_job_and_nothing_else(
    suspends: bool,
    raised: Callable[[], BaseException],
    state: JobState,
    reason: str,
    kind: str | None,
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        if suspends:
            await anyio.lowlevel.checkpoint()
        raise raised()

    @manager.handler("next")
    async def after(job: Job[None]) -> str:
        return "alive"

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
        assert (job.state, job.why, job.attempt) == (state, reason, 1)
        if kind is not None:
            assert _error(job)["type"].rpartition(".")[2] == kind
        assert (await _outcome(manager, broker, "next")).result == b'"alive"'


@pytest.mark.both_loops
@pytest.mark.real_time
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (lambda: SystemExit(1), "SystemExit"),
        (KeyboardInterrupt, "KeyboardInterrupt"),
        (lambda: StopIteration("x"), "RuntimeError"),
        (lambda: ValueError("x"), "ValueError"),
        (lambda: _nested(ValueError("x")), "ValueError"),
    ],
)
async def test_whatever_a_sync_handler_raises_in_its_thread_fails_its_job(
    raised: Callable[[], BaseException], kind: str, broker: FaultyBroker
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=1)
    def handler(job: Job[None]) -> None:
        raise raised()

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
        assert (job.state, _error(job)["type"]) == (JobState.DEAD, kind)
        assert manager.state == "running"


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["async", "sync", "nursery", "group"])
async def test_a_traceback_begins_in_the_handler(how: str, broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    def fail() -> None:
        raise ValueError("here")

    @manager.handler("async", attempts=1)
    async def asynchronous(job: Job[None]) -> None:
        await anyio.lowlevel.checkpoint()
        fail()

    @manager.handler("sync", attempts=1)
    def synchronous(job: Job[None]) -> None:
        fail()

    @manager.handler("nursery", attempts=1)
    async def nursery(job: Job[None]) -> None:
        async def child(error: Exception) -> None:
            raise error

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(child, KeyError("one"))
            nursery.start_soon(child, KeyError("two"))

    @manager.handler("group", attempts=1)
    async def group(job: Job[None]) -> None:
        async with anyio.create_task_group():
            fail()

    async with manager:
        await manager.start()
        text = _error(await _outcome(manager, broker, how))["traceback"]
    first = next(line for line in text.splitlines() if "File " in line)
    assert __file__ in first, text


async def test_a_result_that_cannot_be_encoded_ends_the_job_dead_without_a_retry(
    broker: FaultyBroker, calls: list[int]
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=3)
    async def handler(job: Job[None]) -> object:
        calls.append(job.attempt)
        return object()

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
        assert (job.state, job.why) == (JobState.DEAD, "invalid_result")
    assert calls == [1]


async def test_a_result_whose_own_code_fails_ends_the_job_dead(broker: FaultyBroker) -> None:
    class Hostile(dict[str, object]):
        def items(self) -> Any:
            raise KeyError("no items")

        def __iter__(self) -> Any:
            raise KeyError("no keys")

        def __eq__(self, other: object) -> bool:
            raise KeyError("not comparable")

        __hash__ = None

    manager = manager_on(broker)

    @manager.handler("job", attempts=3)
    async def handler(job: Job[None]) -> object:
        return Hostile(a=1)

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
        assert job.state in (JobState.DEAD, JobState.COMPLETED)


async def test_a_should_retry_that_raises_counts_as_no(broker: FaultyBroker) -> None:
    def should_retry(error: BaseException, attempt: int) -> bool:
        raise KeyError("undecided")

    manager = manager_on(broker)

    @manager.handler("job", retry=RetryPolicy(should_retry=should_retry))
    async def handler(job: Job[None]) -> None:
        raise ValueError

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
        assert (job.state, job.attempt) == (JobState.DEAD, 1)


async def test_what_a_handler_raises_while_it_is_broken_off_is_no_failure(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)
    begun = anyio.Event()

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        begun.set()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            raise ConnectionError("translated") from None  # noqa: ASYNC104 - as some libraries do

    async with onlooker(broker) as aside, manager:
        await manager.start()
        ref = await manager.emit(handler)
        await begun.wait()
        report = await manager.stop(grace=0)
        assert (report.interrupted, report.released) == (1, 1)
        job = await stored(aside, ref.id)
        assert (job.state, job.attempt) == (JobState.QUEUED, 0)


async def test_what_a_handler_asks_for_while_it_is_broken_off_counts(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)
    begun = anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        begun.set()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            raise Discard("half done, do not repeat") from None  # noqa: ASYNC104 - the test is about that

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await begun.wait()
        await manager.stop(grace=0)
        assert (await stored(broker, ref.id)).state is JobState.SKIPPED


# -- cancelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [CancelReason.USER, CancelReason.LEASE_LOST])
async def test_a_job_that_is_cancelled_before_its_handler_began_never_begins(
    cause: CancelReason, broker: FaultyBroker, calls: list[str]
) -> None:
    manager = manager_on(broker, concurrency=1)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        calls.append(job.id)

    async with manager:
        await manager.start()
        fill = slots_of(manager).fill

        def cancelled_on_arrival(jobs: Sequence[Held]) -> None:
            slots_of(manager).fill = fill
            for held in jobs:
                held.cancel(cause, "not needed")
            fill(jobs)

        slots_of(manager).fill = cancelled_on_arrival
        ref = await manager.emit(handler)
        await anyio.sleep(0.1)
        await manager.until_idle()
        job = await stored(broker, ref.id)
        if cause is CancelReason.USER:
            assert (job.state, job.why, job.attempt) == (JobState.CANCELLED, "not needed", 0)
            assert calls == []
        else:
            assert (job.state, job.attempt) == (JobState.COMPLETED, 1)
            assert calls == [ref.id]
        check_slots(manager)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_cancel_while_the_debounce_key_is_asked_for_leaves_the_window_open(
    answered: bool, broker: FaultyBroker, calls: list[int]
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", debounce=DebouncePolicy(60, key="same"))
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with manager:
        await manager.start()
        broker.break_next("debounce", Fault.NO_ANSWER if answered else Fault.SILENCE)
        ref = await manager.emit(handler, 1)
        await eventually(lambda: broker.calls["debounce"] == 1)
        await ref.cancel("changed my mind", wait=True)
        job = await stored(broker, ref.id)
        assert (job.state, job.attempt) == (JobState.CANCELLED, 0)
        await (await manager.emit(handler, 2)).result(timeout=20)
    assert calls == [2]


@pytest.mark.parametrize("edge", ["leading", "trailing"])
async def test_a_start_that_is_superseded_while_it_asks_for_its_key_does_not_begin(
    edge: Edge, broker: FaultyBroker, calls: list[int]
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", debounce=DebouncePolicy(60, key="same", edge=edge))
    async def handler(job: Job[int]) -> None:
        calls.append(job.data)

    async with onlooker(broker) as aside, manager:
        await manager.start()
        world = World(aside, MemoryBackdoor(aside.store))
        heir = await world.worker("heir")
        membership = broker.memberships[-1]
        ask = membership.debounce

        async def superseded(asks: Sequence[DebounceAsk]) -> list[str | None]:
            membership.debounce = ask
            await anyio.wait_all_tasks_blocked()  # until it has beaten, as it holds a job now
            await world.backdoor.end_lease("default", membership.incarnation)
            delivery = await heir.take_one()
            answers = await ask(asks)
            await heir.end(delivery)
            return answers

        membership.debounce = superseded
        ref = await manager.emit(handler, 1)
        assert await ref.result(timeout=100) is None
        await manager.until_idle()
    assert calls == []


async def test_a_start_whose_key_is_granted_to_a_process_that_was_frozen_does_not_begin(
    remote: FaultyBroker, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_on(remote)

    @manager.handler("job", debounce=DebouncePolicy(60, key="same"))
    async def handler(job: Job[int]) -> None:
        calls.append(feed_of(manager).stale())

    async with manager:
        await manager.start()
        membership = remote.memberships[-1]
        ask = membership.debounce

        async def frozen(asks: Sequence[DebounceAsk]) -> list[str | None]:
            membership.debounce = ask
            answers = await ask(asks)
            for module in (feeder, lease_keeper):  # the loop's clock stood still meanwhile
                monkeypatch.setattr(module, "monotonic", lambda: loop_time() + 3600)
            return answers

        membership.debounce = frozen
        await (await manager.emit(handler, 1)).result(timeout=100)
    assert calls == [False]


async def test_a_debounce_key_that_the_broker_refuses_to_give_fails_the_job(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=4)

    @manager.handler("job", debounce=DebouncePolicy(60), attempts=1)
    async def handler(job: Job[int]) -> None: ...

    async with manager:
        await manager.start()
        broker.always["debounce"] = Fault.REFUSED
        refs = await manager.emit_many([Emit(handler, n) for n in range(4)])
        await manager.until_idle()
        for ref in refs:
            assert (await stored(broker, ref.id)).state is JobState.DEAD


# -- what its own code does wrong ------------------------------------------------------------------


async def _awaits_an_emit(job: Job[Any], ctx: Context[Any]) -> None:
    await cast(Any, ctx.emit("other"))


async def _emits_a_set(job: Job[Any], ctx: Context[Any]) -> None:
    ctx.emit("other", {1, 2})


async def _emits_a_set_now(job: Job[Any], ctx: Context[Any]) -> None:
    await ctx.emit_now("other", {1, 2})


async def _misspells_an_option(job: Job[Any], ctx: Context[Any]) -> None:
    ctx.emit("other", **cast(Any, {"prioritty": 3}))


async def _logs_a_number(job: Job[Any], ctx: Context[Any]) -> None:
    job.logger(cast(Any, 3))


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (_awaits_an_emit, "trio_tasks.refs.AwaitedEmitError"),
        (_emits_a_set, "trio_tasks.errors.SerializationError"),
        (_emits_a_set_now, "trio_tasks.errors.SerializationError"),
        (_misspells_an_option, "trio_tasks.errors.ConfigurationError"),
        (_logs_a_number, "trio_tasks.errors.SerializationError"),
    ],
)
async def test_what_the_engine_refuses_to_a_handler_is_not_tried_again(
    handler: Any, kind: str, broker: FaultyBroker
) -> None:
    manager = manager_on(broker)
    manager.register_handler(handler, event="job", attempts=4)
    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
    assert (job.state, job.why, job.attempt) == (JobState.DEAD, "invalid_call", 1)
    assert _error(job)["type"] == kind
    assert handler.__name__ in _error(job)["traceback"]


async def test_an_error_that_the_handler_meets_and_handles_is_its_own_affair(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> str:
        try:
            await cast(Any, ctx.emit("other"))
        except TypeError as error:
            return str(error)
        return "it was awaited"

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
    assert job.state is JobState.COMPLETED
    assert b"Leave out the await" in (job.result or b"")


@pytest.mark.real_time
@pytest.mark.both_loops
async def test_a_sync_handler_that_returns_a_coroutine_is_told_to_be_async(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)

    async def work(job: Job[Any]) -> str:
        return "never"

    @manager.handler("job", attempts=4)
    def handler(job: Job[Any]) -> object:
        return work(job)

    async with manager:
        await manager.start()
        job = await _outcome(manager, broker, "job")
    assert (job.state, job.why, job.attempt) == (JobState.DEAD, "invalid_call", 1)
    message = _error(job)["message"]
    assert "handler returned a coroutine but is not an async function" in message
    assert "register the async function itself" in message


# -- time-outs -------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_sync_handler_that_outlasts_its_timeout_completes_all_the_same(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)
    reasons: list[str] = []

    @manager.handler("job", timeout=0.02, attempts=1)
    def handler(job: Job[None], ctx: Context[Any]) -> str:
        released.wait(5)
        reasons.append(str(ctx.cancel_reason))
        return "late"

    released = threading.Event()
    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await eventually(lambda: any(h.cause for h in feed_of(manager).held))
        released.set()
        assert await ref.result(timeout=5) == "late"
    assert reasons == ["timeout"]
    [warning] = caplog.messages
    assert warning.startswith(f"job {ref.id!r} in queue 'default': its sync handler is running")
    assert warning.endswith("and goes on, for a thread cannot be cancelled")


async def test_a_timeout_says_how_long_it_was(broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=1, timeout=10)
    async def handler(job: Job[None]) -> None:
        await anyio.sleep(60)

    async with manager:
        await manager.start()
        ref = await manager.emit(handler, timeout=0.25)
        await manager.until_idle()
        error = _error(await stored(broker, ref.id))
    assert error["type"] == "TimeoutError"
    assert "0.25 s" in error["message"]


async def test_children_of_a_broken_off_attempt_are_dropped_with_it(
    broker: FaultyBroker, calls: list[int]
) -> None:
    manager = manager_on(broker, concurrency=2)

    @manager.handler("child")
    async def child(job: Job[int]) -> None:
        calls.append(job.data)

    @manager.handler("parent", timeout=0.05, attempts=2)
    async def parent(job: Job[None], ctx: Context[Any]) -> None:
        ctx.emit(child, job.attempt)
        if job.attempt == 1:
            await anyio.sleep(60)

    async with manager:
        await manager.start()
        await manager.emit(parent)
        await anyio.sleep(1)
        await manager.until_idle()
    assert calls == [2]


# -- what becomes of outcomes ----------------------------------------------------------------------


async def test_an_outcome_that_the_broker_refuses_becomes_a_dead_job_without_payload(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, concurrency=8)

    @manager.handler("job")
    async def handler(job: Job[int], ctx: Context[Any]) -> str:
        await anyio.sleep(0.01)
        if job.data == 3:
            broker.refused_ids.add(job.id)
            ctx.emit(handler, 7)
        return "value"

    async with manager:
        await manager.start()
        refs = await manager.emit_many([Emit(handler, n) for n in range(6)])
        await manager.until_idle()
        for number, ref in enumerate(refs):
            job = await stored(broker, ref.id)
            if number == 3:
                assert (job.state, job.why, job.result) == (JobState.DEAD, "internal", None)
                assert _error(job)["type"].endswith("InternalError")
            else:
                assert (job.state, job.result) == (JobState.COMPLETED, b'"value"')
        check_slots(manager)
        assert consumer_of(manager).idle()


async def test_a_refused_outcome_of_a_cancelled_job_is_kept_like_any_other(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)
    begun = anyio.Event()

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        broker.refused_ids.add(job.id)
        begun.set()
        await anyio.sleep(60)

    async with manager:
        await manager.start()
        ref = await manager.emit(handler)
        await begun.wait()
        await ref.cancel()
        await manager.until_idle()
        assert (await stored(broker, ref.id)).state is JobState.CANCELLED


async def test_a_job_of_an_unknown_event_is_not_touched(broker: FaultyBroker) -> None:
    manager = manager_on(broker)

    @manager.handler("known")
    async def known(job: Job[None]) -> None: ...

    async with manager:
        await manager.start()
        job_id = await emit(broker, "unknown", {"a": 1})
        await anyio.sleep(30)
        parked = await stored(broker, job_id)
        assert (parked.state, parked.why, parked.attempt) == (JobState.DELAYED, "parked", 0)
        await anyio.sleep(60)
        assert (await stored(broker, job_id)).why == "no_handler"
