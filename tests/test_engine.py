"""Between entering and leaving a manager: whatever happens in it, it ends in good order."""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from tests.faulty_broker import Fault, FaultyBroker
from tests.servers import timed
from tests.workshop import consumer_of, emit, engine_of, eventually, manager_on, onlooker, stored
from trio_tasks import BrokerUnavailableError, Job, JobRef, JobState, StopReport, TaskManager
from trio_tasks.broker import Counts, NewJob, Outcome, Record, Registration, Stored
from trio_tasks.consumer.held import Held
from trio_tasks.environment import Ids
from trio_tasks.processor.decisions import Complete

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if request.param == "asyncio":
        return "asyncio", {}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker(uuid.uuid4().hex)


Lifespan = Callable[[], AbstractAsyncContextManager[str]]


class Diary:
    """A lifespan that notes when it is entered and left."""

    def __init__(self, *, opens_in: float = 0.0) -> None:
        self.notes: list[str] = []
        self._opens_in = opens_in

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[str]:
        self.notes.append("opening")
        try:
            await anyio.sleep(self._opens_in)
            self.notes.append("open")
            yield "app"
        finally:
            self.notes.append("closed")


def _sleeper(manager: TaskManager[Any], queue: str = "default") -> Any:
    @manager.handler(f"job-{queue}", queue=queue)
    async def handler(job: Job[float]) -> None:
        await anyio.sleep(job.data)

    return handler


# -- starting --------------------------------------------------------------------------------------


@timed(5)
async def test_leaving_the_block_while_it_is_starting_ends_the_start(broker: FaultyBroker) -> None:
    diary = Diary(opens_in=60)
    manager = manager_on(broker, lifespan=diary.lifespan)
    _sleeper(manager)
    errors: list[Exception] = []

    async def start() -> None:
        try:
            await manager.start()
        except RuntimeError as error:
            errors.append(error)

    async with anyio.create_task_group() as nursery, manager:
        nursery.start_soon(start)
        await eventually(lambda: diary.notes == ["opening"])
    assert [str(error) for error in errors] == [
        "start(): the TaskManager was stopped or left meanwhile"
    ]
    assert diary.notes == ["opening", "closed"]
    assert manager.state == "closed"


@timed(5)
@pytest.mark.parametrize("step", ["time_ms", "declare", "register"])
async def test_a_stop_while_it_is_starting_ends_the_start_at_whatever_point(
    step: str, broker: FaultyBroker
) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan)
    _sleeper(manager, "a")
    _sleeper(manager, "b")

    @manager.handler("tick", queue="a", repeat="0 0 * * *")
    async def tick(job: Job[None]) -> None: ...

    broker.deadline = 1000
    broker.break_later(step, 1 if step == "register" else 0, Fault.SILENCE)
    async with onlooker(broker) as aside, manager:
        async with anyio.create_task_group() as nursery:
            started = _expect_stopped(manager)
            nursery.start_soon(started)
            await eventually(lambda: broker.calls[step] == (2 if step == "register" else 1))
            assert await manager.stop() == StopReport()
        assert manager.state == "connected"
        assert diary.notes == ["opening", "open", "closed"]
        assert aside.store.queue("a").members == {}
        # And it can be started again.
        await manager.start()
        ref = await manager.emit("job-a", 0, queue="a")
        await ref.result(timeout=2)


def _expect_stopped(manager: TaskManager[Any]) -> Callable[[], Any]:
    async def start() -> None:
        with pytest.raises(RuntimeError, match="stopped or left"):
            await manager.start()

    return start


@timed(5)
async def test_starting_twice_at_the_same_time_is_an_error(broker: FaultyBroker) -> None:
    diary = Diary(opens_in=0.05)
    manager = manager_on(broker, lifespan=diary.lifespan)
    handler = _sleeper(manager)
    async with manager, anyio.create_task_group() as nursery:
        nursery.start_soon(manager.start)
        await eventually(lambda: diary.notes == ["opening"])
        with pytest.raises(RuntimeError, match="starting already"):
            await manager.start()
        await eventually(lambda: manager.state == "running")
        await (await manager.emit(handler, 0)).result(timeout=2)
    assert diary.notes == ["opening", "open", "closed"]


@timed(5)
async def test_a_start_that_is_cancelled_leaves_nothing_behind(broker: FaultyBroker) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan)
    handler = _sleeper(manager, "a")
    _sleeper(manager, "b")
    broker.deadline = 1000
    broker.break_later("register", 1, Fault.SILENCE)
    async with onlooker(broker) as aside, manager:
        with anyio.move_on_after(0.1) as scope:
            await manager.start()
        assert scope.cancelled_caught
        assert manager.state == "connected"
        assert diary.notes == ["opening", "open", "closed"]
        assert aside.store.queue("a").members == {}
        assert await manager.stop() == StopReport()
        await manager.start()
        await (await manager.emit(handler, 0)).result(timeout=2)


@timed(5)
@pytest.mark.parametrize("step", ["time_ms", "declare", "register"])
async def test_a_start_that_cannot_reach_the_broker_raises_just_that(
    step: str, broker: FaultyBroker
) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan)

    @manager.handler("tick", queue="a", repeat="0 0 * * *")
    async def tick(job: Job[None]) -> None: ...

    _sleeper(manager, "b")
    broker.break_later(step, 1 if step == "register" else 0, Fault.BEFORE)
    async with onlooker(broker) as aside, manager:
        with pytest.raises(BrokerUnavailableError, match=step):
            await manager.start()
        assert manager.state == "connected"
        assert diary.notes == ["opening", "open", "closed"]
        assert aside.store.queue("a").members == {}
        assert aside.store.queue("b").members == {}
        await manager.start()
        assert manager.state == "running"


# -- leaving ---------------------------------------------------------------------------------------


@timed(5)
@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt("mine"), SystemExit("mine")]
)
async def test_an_exception_of_the_block_comes_out_as_it_is(
    error: BaseException, broker: FaultyBroker
) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan)
    handler = _sleeper(manager)
    async with onlooker(broker) as aside:
        ref = None
        with pytest.raises(type(error), match="mine") as caught:  # noqa: PT012 - it is the test
            async with manager:
                await manager.start()
                ref = await manager.emit(handler, 60)
                await eventually(lambda: manager.statistics().queues["default"].started == 1)
                raise error
        assert caught.value is error
        assert ref is not None
        assert (await stored(aside, ref.id)).state is JobState.QUEUED
    assert diary.notes == ["opening", "open", "closed"]
    assert manager.state == "closed"


@timed(10)
async def test_a_host_that_is_cancelled_ends_everything_soon_and_gives_jobs_back(
    broker: FaultyBroker,
) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan, concurrency=4)
    handler = _sleeper(manager)
    began: list[float] = []
    refs: list[JobRef[Any]] = []

    async def host() -> None:
        async with manager:
            await manager.start()
            await anyio.sleep(60)

    async with onlooker(broker) as aside:
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(host)
            await eventually(lambda: manager.state == "running")
            refs += [await manager.emit(handler, 60) for _ in range(3)]
            await eventually(lambda: manager.statistics().queues["default"].started == 3)
            began.append(anyio.current_time())
            nursery.cancel_scope.cancel()
        assert anyio.current_time() - began[0] <= 2.1
        for ref in refs:
            job = await stored(aside, ref.id)
            assert (job.state, job.attempt) == (JobState.QUEUED, 0)
        assert aside.store.queue("default").members == {}
    assert diary.notes == ["opening", "open", "closed"]
    assert manager.state == "closed"


@timed(10)
async def test_a_cancel_while_the_block_is_left_in_peace_ends_the_peace(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker, grace=60)
    handler = _sleeper(manager)
    began: list[float] = []

    async def host() -> None:
        async with manager:
            await manager.start()
            await manager.emit(handler, 50)
            await eventually(lambda: manager.statistics().queues["default"].started == 1)

    async with onlooker(broker):
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(host)
            await eventually(lambda: manager.state == "stopping")
            began.append(anyio.current_time())
            nursery.cancel_scope.cancel()
        assert anyio.current_time() - began[0] <= 2.1
    assert manager.state == "closed"


@timed(5)
async def test_a_lifespan_that_cannot_be_opened_makes_the_start_fail_and_no_more(
    broker: FaultyBroker,
) -> None:
    attempts: list[int] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise OSError("no database")
        yield "app"

    manager = manager_on(broker, lifespan=lifespan)
    handler = _sleeper(manager)
    async with manager:
        with pytest.raises(OSError, match="no database"):
            await manager.start()
        assert manager.state == "connected"
        await manager.start()
        await (await manager.emit(handler, 0)).result(timeout=2)


@timed(5)
async def test_a_lifespan_that_cannot_be_closed_comes_out_of_the_block_after_the_jobs_were_saved(
    broker: FaultyBroker,
) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        yield "app"
        raise OSError("cannot close")

    manager = manager_on(broker, lifespan=lifespan)
    handler = _sleeper(manager)
    async with onlooker(broker) as aside:
        ref = None
        with pytest.RaisesGroup(
            pytest.RaisesExc(OSError, match="cannot close"), flatten_subgroups=True
        ):
            async with manager:
                await manager.start()
                ref = await manager.emit(handler, 0.05)
                await eventually(lambda: manager.statistics().queues["default"].started == 1)
        assert ref is not None
        assert (await stored(aside, ref.id)).state is JobState.COMPLETED
    assert manager.state == "crashed"


# -- crashing --------------------------------------------------------------------------------------


def _plant_a_bug(manager: TaskManager[Any]) -> None:
    """The next job that ends hits it, in one of the engine's own tasks."""

    def bug(held: Held, outcome: Outcome) -> None:
        raise ZeroDivisionError("bug")

    consumer_of(manager).feeds["default"].end = bug


@timed(5)
async def test_a_bug_in_a_task_of_the_engine_reaches_the_block_and_ends_it(
    broker: FaultyBroker,
) -> None:
    diary = Diary()
    manager = manager_on(broker, lifespan=diary.lifespan, concurrency=2)
    handler = _sleeper(manager)
    states: list[str] = []
    with pytest.RaisesGroup(
        pytest.RaisesExc(ZeroDivisionError, match="bug"), flatten_subgroups=True
    ):
        async with manager:
            await manager.start()

            _plant_a_bug(manager)
            await manager.emit(handler, 0)
            try:
                await anyio.sleep(60)
            finally:
                states.append(manager.state)
    assert states == ["crashed"]
    assert manager.state == "crashed"
    assert diary.notes == ["opening", "open", "closed"]
    with pytest.raises(RuntimeError, match="crashed"):
        await manager.emit(handler, 0)


@timed(5)
async def test_a_manager_that_has_crashed_can_be_entered_again(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    handler = _sleeper(manager)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with manager:
            await manager.start()

            _plant_a_bug(manager)
            await manager.emit(handler, 0)
            await anyio.sleep(60)
    async with manager:
        await manager.start()
        await manager.until_idle()


# -- being idle ------------------------------------------------------------------------------------


class SlowCount(FaultyBroker):
    """Something happens while the queues are counted one after another."""

    before_count: Callable[[str], Any] | None = None

    async def counts(self, queue: str) -> Counts:
        if self.before_count is not None:
            await self.before_count(queue)
        return await super().counts(queue)


@timed(5)
async def test_a_child_that_slips_past_a_count_is_waited_for(loop_name: str) -> None:
    broker = SlowCount(uuid.uuid4().hex)
    manager = manager_on(broker)
    _sleeper(manager, "first")
    _sleeper(manager, "second")
    record = Record(1, "job-first", b"0")
    child = NewJob(id="child@1", queue="first", record=record)
    async with onlooker(broker) as aside, manager:
        # Another process has a job in the second queue, which has a child in the first.
        await emit(aside, "parent", queue="second")
        member = await aside.register(
            Registration(
                queue="second",
                incarnation=Ids().incarnation("w"),
                consumer_id="w",
                host="h",
                events=(),
                lease_ms=60_000,
            ),
            have=list,
            lost=lambda tokens: None,
        )
        taken = (await member.step([], 1)).taken
        assert taken is not None

        async def just_now(queue: str) -> None:
            if queue == "second" and not done:
                done.append("the parent ended")
                outcome = Outcome(
                    token=taken.deliveries[0].token,
                    event="parent",
                    attempt=1,
                    verdict=Complete(),
                    children=(child,),
                )
                await member.step([outcome], 0)
                await aside.relay("second")

        done: list[str] = []
        broker.before_count = just_now
        with anyio.move_on_after(1) as scope:
            await manager.until_idle(["first", "second"])
        assert done
        assert scope.cancelled_caught, "the child still waits"
        await manager.start()
        await manager.until_idle(["first", "second"])
        assert (await aside.counts("first")).completed == 1


@pytest.fixture
def loop_name(anyio_backend: tuple[str, object]) -> str:
    return anyio_backend[0]


@timed(10)
async def test_running_until_idle_goes_on_when_the_broker_was_away_for_a_moment(
    broker: FaultyBroker,
) -> None:
    manager = manager_on(broker)
    _sleeper(manager)
    async with onlooker(broker) as aside:
        job_id = await emit(aside, "job-default", 0.05)
        broker.break_next("counts", Fault.BEFORE, Fault.BEFORE)
        report = await manager.run(until_idle=True, handle_signals=False)
        assert report.completed == 1
        assert (await stored(aside, job_id)).state is JobState.COMPLETED


# -- posts -----------------------------------------------------------------------------------------


@timed(5)
async def test_posts_wait_for_the_broker_and_arrive_in_order(broker: FaultyBroker) -> None:
    manager = manager_on(broker)
    handler = _sleeper(manager)
    async with onlooker(broker) as aside:
        async with manager:
            broker.break_next("emit", Fault.BEFORE, Fault.AFTER)
            refs = [manager.get_context().emit(handler, n) for n in range(5)]
        jobs = await aside.jobs("default", JobState.QUEUED, limit=10)
        assert [job.id for job in jobs] == [ref.id for ref in refs]


@timed(5)
async def test_posts_that_cannot_be_sent_are_named_in_the_log_when_the_block_is_left(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)
    handler = _sleeper(manager)
    async with manager:
        broker.always["emit"] = Fault.BEFORE
        ref = manager.get_context().emit(handler, 1)
        await anyio.lowlevel.checkpoint()
        began = anyio.current_time()
    assert anyio.current_time() - began <= 1.2
    assert any(ref.id in record.getMessage() for record in caplog.records)


class SlowToClose(FaultyBroker):
    """Takes a while to be closed, as one does that has to stop a server."""

    async def __aexit__(self, *exc_info: object) -> None:
        await anyio.sleep(0.05)  # noqa: ASYNC102 - nobody cancels it
        await super().__aexit__(*exc_info)  # noqa: ASYNC102


@timed(5)
@pytest.mark.parametrize("away", [False, True])
async def test_what_is_posted_while_the_block_is_left_is_sent_named_in_the_log_or_refused(
    away: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = SlowToClose(uuid.uuid4().hex)
    manager = manager_on(broker)
    handler = _sleeper(manager)
    accepted: list[str] = []
    refusals: list[str] = []
    jobs: list[Stored] = []

    async def post() -> None:
        while not refusals:
            try:
                accepted.append(manager.get_context().emit(handler, 1).id)
            except RuntimeError as refusal:
                refusals.append(str(refusal))
            await anyio.sleep(0.01)

    async with onlooker(broker) as aside, anyio.create_task_group() as nursery:
        async with manager:
            if away:
                broker.always["emit"] = Fault.BEFORE
            nursery.start_soon(post)
            await eventually(lambda: len(accepted) == 3)
        jobs.extend(await aside.jobs("default", JobState.QUEUED, limit=9999))
    assert "is being left" in refusals[0]
    lost = set(accepted) - {job.id for job in jobs}
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == bool(lost)
    assert all(repr(job_id) in lines[0] for job_id in lost)
    assert bool(lost) == away


# -- leaks -----------------------------------------------------------------------------------------


@timed(10)
async def test_nothing_runs_on_after_the_block_was_left(broker: FaultyBroker) -> None:
    manager = manager_on(broker, concurrency=8)
    handler = _sleeper(manager)
    before = _tasks()
    threads = threading.active_count()
    for _ in range(3):
        async with manager:
            await manager.start()
            for _ in range(20):
                await manager.emit(handler, 0)
            await manager.until_idle()
            await manager.stop()
            assert _tasks() <= before + 4  # the nursery's keeper of the broker, the postbox
            await manager.start()
        assert _tasks() == before
    assert threading.active_count() == threads
    assert engine_of(manager).state == "closed"


def _tasks() -> int:
    import sniffio

    if sniffio.current_async_library() == "asyncio":
        import asyncio

        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living
