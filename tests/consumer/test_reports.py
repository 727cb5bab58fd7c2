"""What the log says of attempts and jobs: enough to find the bug, and no data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.contract.backdoors import MemoryBackdoor
from tests.contract.world import World
from tests.faulty_broker import FaultyBroker
from tests.workshop import emit, manager_on, onlooker
from trio_tasks import (
    DeadLetter,
    Discard,
    Job,
    JobFailedError,
    RetryLater,
    TaskManager,
)
from trio_tasks.broker import RECORD_VERSION, NewJob, Record
from trio_tasks.environment import Ids

pytestmark = pytest.mark.anyio

LOGGER = "trio_tasks.consumer"


def _said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == LOGGER]


async def _failing(manager: TaskManager[Any], *, queue: str = "default") -> str:
    """Run the job of event "job" to its bad end; its id."""
    async with manager:
        await manager.start()
        ref = await manager.emit("job", queue=queue)
        with pytest.raises(JobFailedError):
            await ref.result()
        return ref.id


def _misspelt() -> None:
    print(undefined_name)  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownArgumentType]


def _line_of(function: Callable[..., object]) -> int:
    return function.__code__.co_firstlineno + 1


# -- failed attempts -------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_bug_in_a_handler_is_seen_with_the_default_logging_and_says_where_it_is(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", queue="mails", attempts=2)
    async def handler(job: Job[None]) -> None:
        await anyio.lowlevel.checkpoint()
        _misspelt()

    job = await _failing(manager, queue="mails")
    what = f"failed with NameError at test_reports.py:{_line_of(_misspelt)} in _misspelt"
    look = f"its text and traceback: (await tasks.queue('mails').job({job!r})).error.traceback"
    start = f"job {job!r} ('job' in queue 'mails'): attempt"
    assert _said(caplog) == [
        ("WARNING", f"{start} 1 of 2 {what}, again in 0.010 s; {look}"),
        ("WARNING", f"{start} 2 of 2 {what}, dead: exhausted; {look}"),
    ]


async def test_the_place_that_the_log_names_shows_the_text_and_the_traceback(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = manager_on(broker)

    @tasks.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        raise ValueError(text)  # a literal would be in the code, which the frames show

    text = "s3cret"
    caplog.set_level(logging.DEBUG)
    async with tasks:
        await tasks.start()
        ref = await tasks.emit(handler)
        with pytest.raises(JobFailedError) as failed:
            await ref.result()
        [line] = [text for level, text in _said(caplog) if level == "WARNING"]
        place = line.rpartition("traceback: ")[2]
        assert place == f"(await tasks.queue('default').job({ref.id!r})).error.traceback"
        error = (await tasks.queue("default").job(ref.id)).error
    assert error is not None
    assert "s3cret" in error.traceback
    assert str(failed.value).endswith("; see error.message and error.traceback of this exception")
    assert failed.value.error is not None
    assert failed.value.error.traceback == error.traceback
    assert "s3cret" not in caplog.text + str(failed.value)


async def test_at_debug_the_frames_of_the_traceback_follow_without_the_text(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        text = "s3cret"
        async with anyio.create_task_group():
            raise ValueError(text)

    caplog.set_level(logging.DEBUG, LOGGER)
    job = await _failing(manager)
    [frames] = [text for level, text in _said(caplog) if level == "DEBUG"]
    assert frames.startswith(f"job {job!r}: attempt 1:\n")
    assert 'test_reports.py", line ' in frames
    assert "raise ValueError(text)" in frames
    assert frames.endswith("\nValueError")
    assert "s3cret" not in caplog.text


async def test_of_a_group_each_failure_is_named_with_its_place(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    async def fails(kind: type[Exception]) -> None:
        raise kind("s3cret")

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        async with anyio.create_task_group() as nursery:
            for kind in (KeyError, ValueError, OSError, LookupError):
                nursery.start_soon(fails, kind)

    await _failing(manager)
    [(level, line)] = _said(caplog)
    assert level == "WARNING"
    assert "attempt 1 of 1 failed with ExceptionGroup (" in line
    assert line.count(f" at test_reports.py:{_line_of(fails)} in fails") == 3
    assert ", 1 more), dead: exhausted;" in line
    assert "s3cret" not in line


async def test_an_error_of_a_call_into_the_engine_is_placed_at_the_call(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        job.logger({"when": object()})

    await _failing(manager)
    [(_, line)] = _said(caplog)
    place = f"test_reports.py:{_line_of(handler) + 1} in handler"
    assert f"failed with SerializationError at {place}, dead: invalid_call" in line


async def test_a_timeout_is_said_with_its_length(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job", attempts=1, timeout=2.5)
    async def handler(job: Job[None]) -> None:
        await anyio.sleep(60)

    await _failing(manager)
    [(_, line)] = _said(caplog)
    assert "attempt 1 of 1 ran longer than its timeout of 2.5 s, dead: exhausted;" in line


async def test_names_that_a_program_has_made_up_stay_on_one_short_line(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)
    kind = type("Odd\nError" + "x" * 1000, (Exception,), {})

    @manager.handler("job", attempts=1)
    async def handler(job: Job[None]) -> None:
        raise kind

    await _failing(manager)
    [(_, line)] = _said(caplog)
    assert "failed with Odd?Errorxxx" in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (lambda: RetryLater(1), "again in 1.000 s"),
        (lambda: Discard("s3cret"), "skipped (why: "),
    ],
)
async def test_what_a_handler_asks_for_is_quiet(
    raised: Callable[[], Exception],
    expected: str,
    broker: FaultyBroker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        if job.attempt == 1:
            raise raised()
        raise Discard

    caplog.set_level(logging.INFO, LOGGER)
    await _failing(manager)
    said = _said(caplog)
    assert {level for level, _ in said} == {"INFO"}
    kind = type(raised()).__qualname__
    place = f"test_reports.py:{_line_of(handler) + 2} in handler"
    assert f"attempt 1 of 4 ended with {kind} at {place}, {expected}" in said[0][1]
    assert "s3cret" not in caplog.text


async def test_a_dead_letter_is_a_warning_that_keeps_its_reason_to_itself(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> None:
        raise DeadLetter("s3cret")

    job = await _failing(manager)
    [(level, line)] = _said(caplog)
    assert level == "WARNING"
    assert f"dead (why: (await tasks.queue('default').job({job!r})).reason)" in line
    assert "s3cret" not in line


# -- dead without a failure ------------------------------------------------------------------------


def _dead(job: str, event: str, why: str) -> tuple[str, str]:
    look = f"look at it: (await tasks.queue('default').job({job!r}))"
    return "WARNING", f"job {job!r} ({event!r} in queue 'default') is dead: {why}; {look}"


def _idle_manager(broker: FaultyBroker, **options: Any) -> TaskManager[Any]:
    manager = manager_on(broker, **options)

    @manager.handler("send-email")
    async def handler(job: Job[None]) -> None: ...

    return manager


async def test_a_job_whose_deadline_has_passed_is_one_warning(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker)
    async with manager:
        ref = await manager.emit("send-email", deadline=1)
        await anyio.sleep(2)
        await manager.start()
        await manager.until_idle()
    why = "expired (its deadline passed before an attempt could start)"
    assert _said(caplog) == [_dead(ref.id, "send-email", why)]


async def test_a_job_that_cannot_be_decoded_is_one_warning(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker)
    async with onlooker(broker) as aside, manager:
        ref = await manager.emit("send-email")
        await MemoryBackdoor(aside.store).spoil("default", ref.id, b"\xc1s3cret")
        await manager.start()
        await manager.until_idle()
    assert _said(caplog) == [_dead(ref.id, "", "undecodable (its record cannot be decoded)")]


async def test_a_job_whose_workers_died_in_all_its_attempts_is_one_warning(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker)
    async with onlooker(broker) as aside, manager:
        world = World(aside, MemoryBackdoor(aside.store))
        ref = await manager.emit("send-email", attempts=1)
        mortal = await world.worker("mortal")
        await mortal.take_one()
        await world.backdoor.end_lease("default", mortal.membership.incarnation)
        await manager.start()
        await manager.until_idle()
    [(level, line)] = _said(caplog)
    assert (level, line.startswith(f"job {ref.id!r} ('send-email' ")) == ("WARNING", True)
    assert "is dead: exhausted (all its attempts are used up, and the last one ended with" in line


async def test_a_job_whose_outcome_is_refused_is_one_warning(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(broker)

    @manager.handler("job")
    async def handler(job: Job[None]) -> str:
        broker.refused_ids.add(job.id)
        return "s3cret"

    job = await _failing(manager)
    why = "internal (the server refused what came of its attempt)"
    assert [line for line in _said(caplog) if "dead" in line[1]] == [_dead(job, "job", why)]
    assert "s3cret" not in caplog.text


async def test_an_event_without_a_handler_is_one_warning_and_one_more_for_each_dead_job(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker, unknown_event_grace=8)
    async with manager:
        await manager.start()
        jobs = [await emit(broker, "sned-email", "s3cret") for _ in range(3)]
        await anyio.sleep(5)
        parked = (
            "queue 'default': no handler for event 'sned-email' here; its jobs are parked for"
            " workers that have one, and without one for 8 s are dead; did you mean 'send-email'?"
        )
        assert _said(caplog) == [("WARNING", parked)]
        await anyio.sleep(10)
        await manager.stop()
        await manager.start()
        await emit(broker, "sned-email")
        await anyio.sleep(1)
    why = "no_handler (no living worker has a handler for its event)"
    assert sorted(_said(caplog)[1:]) == [_dead(job, "sned-email", why) for job in sorted(jobs)]
    assert "s3cret" not in caplog.text


async def test_where_such_jobs_are_skipped_the_warning_says_so_and_guesses_nothing(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker, unknown_event_grace=8, processor={"ignore_config_errors": True})
    async with manager:
        await manager.start()
        await emit(broker, "xyz")
        await anyio.sleep(20)
    [(level, line)] = _said(caplog)
    assert level == "WARNING"
    assert line.startswith("queue 'default': no handler for event 'xyz' here; its jobs are parked")
    assert line.endswith("are skipped")


async def test_a_record_of_a_newer_release_is_one_warning_and_one_more_for_each_dead_job(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _idle_manager(broker, unknown_event_grace=8)
    async with manager:
        await manager.start()
        for _ in range(2):
            record = Record(RECORD_VERSION + 1, "future", b'"s3cret"')
            await broker.emit([NewJob(id=Ids().job_id(), queue="default", record=record)])
        await anyio.sleep(20)
    parked, *dead = _said(caplog)
    assert parked[1].startswith(
        f"queue 'default': a job's record is of version {RECORD_VERSION + 1}, newer than version"
        f" {RECORD_VERSION}, which is ours; such jobs are parked"
    )
    assert ["is dead: unsupported (" in line for _, line in dead] == [True, True]
    assert "s3cret" not in caplog.text
