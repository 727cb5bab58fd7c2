"""Refs: what they show, how they wait, and what they raise."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import msgspec
import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.access import Access, Attempted, Worker, opened
from trio_tasks.broker import RECORD_VERSION, NewJob, Record, Stored, Watch
from trio_tasks.context import end_attempt
from trio_tasks.errors import (
    ConfigurationError,
    InternalError,
    JobFailedError,
    JobNotFoundError,
    SerializationError,
)
from trio_tasks.job import JobError, JobState, LogLine
from trio_tasks.memory import MemoryBroker
from trio_tasks.payloads import codec_for
from trio_tasks.processor.decisions import Cancel, Die, Retry, Skip
from trio_tasks.refs import EarlyRef, JobRef, info_of

pytestmark = pytest.mark.anyio

ERROR = b'{"type":"ValueError","message":"no","traceback":"Traceback: no"}'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def new_job(job_id: str = "p@1", number: str | None = None, **fields: Any) -> NewJob:
    record = Record(RECORD_VERSION, "some-event", b'{"a":1}', emitted_at_ms=1000)
    return NewJob(id=job_id, queue="default", record=record, number=number, **fields)


async def emitted(access: Access, **fields: Any) -> JobRef[Any]:
    job = new_job(**fields)
    await access.broker.emit([job])
    return JobRef(job.id, "default", access, created=True, number=job.number)


# --- info -----------------------------------------------------------------------------------------


async def test_info_of_a_job_that_waits() -> None:
    async with opened() as access:
        ref = await emitted(access, priority=3)
        info = await ref.info()
        assert (info.id, info.name, info.queue, info.priority) == (
            "p@1",
            "some-event",
            "default",
            3,
        )
        assert info.state is JobState.QUEUED
        assert info.data == {"a": 1}
        assert info.raw == b'{"a":1}'
        assert info.attempt == 0
        assert info.attempts is None
        assert info.emitted_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert info.started_at is info.finished_at is info.due_at is None
        assert info.result is info.error is info.reason is None
        assert info.logs == ()


async def test_info_of_a_job_that_is_delayed() -> None:
    async with opened() as access:
        info = await (await emitted(access, delay_ms=5000)).info()
        assert info.state is JobState.DELAYED
        assert info.reason == "delay"
        assert info.due_at is not None
        now_ms = await access.broker.time_ms("default")
        assert info.due_at.timestamp() * 1000 == pytest.approx(now_ms + 5000)


async def test_info_of_a_job_that_failed_and_is_tried_again_has_its_error() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        await worker.end(await worker.take(), Retry(delay_ms=1000), error=ERROR)
        info = await ref.info()
        assert info.state is JobState.DELAYED
        assert info.reason == "retry"
        assert info.error == JobError("ValueError", "no", "Traceback: no")
        assert info.attempt == 1


async def test_info_of_a_completed_job_has_result_logs_and_instants() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        delivery = await worker.take()
        await worker.log(delivery, b'"line"', b'{"percent":50}')
        await worker.end(delivery, result=b"[1]")
        info = await ref.info()
        assert info.state is JobState.COMPLETED
        assert info.state.is_final
        assert info.result == [1]
        assert [line.message for line in info.logs] == ["line", {"percent": 50}]
        assert isinstance(info.logs[0], LogLine)
        assert info.started_at is not None
        assert info.finished_at is not None
        assert info.started_at <= info.finished_at


def stored(record: Record | None = None, **fields: Any) -> Stored:
    return Stored(id="x", queue="q", state=JobState.DEAD, record=record, **fields)


def test_a_record_that_cannot_be_decoded_is_shown_as_its_bytes() -> None:
    info = info_of(stored(raw=b"\xff\x00", attempts=4))
    assert info.raw == b"\xff\x00"
    assert info.data is None
    assert info.name == ""
    assert info.attempts == 4
    assert info.emitted_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_data_that_are_no_json_are_shown_as_their_bytes() -> None:
    info = info_of(stored(record=Record(RECORD_VERSION, "e", b"{", attempts=2), attempts=9))
    assert info.data is None
    assert info.raw == b"{"
    assert info.attempts == 2


def test_a_malformed_error_is_our_fault() -> None:
    with pytest.raises(InternalError):
        info_of(stored(error=b"[]"))


# --- Jobs that are not there ----------------------------------------------------------------------


async def test_a_ref_from_an_id_of_no_job_raises_everywhere() -> None:
    async with opened() as access:
        ref = JobRef[Any]("nobody", "default", access)
        for use in (ref.info, ref.result, ref.cancel):
            with pytest.raises(
                JobNotFoundError, match="no job 'nobody' in queue 'default': the id"
            ):
                await use()


async def test_after_its_retention_a_job_is_gone() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        await worker.end(await worker.take(), result=b"1", retention_ms=1000)
        assert await ref.result() == 1
        await anyio.sleep(2)
        for use in (ref.info, ref.result, ref.cancel):
            with pytest.raises(JobNotFoundError, match="its retention has passed"):
                await use()


async def test_a_ref_that_waits_for_its_job_says_so_when_asked_too_early() -> None:
    async with opened() as access:
        ref = JobRef[Any]("later", "default", access, appears=True)
        for use in (ref.info, ref.cancel):
            with pytest.raises(JobNotFoundError, match="it has not appeared yet"):
                await use()


async def test_a_ref_without_an_entered_manager_raises_at_once() -> None:
    async with opened() as access:
        ref = await emitted(access)
        access.is_open = False
        for use in (ref.info, ref.result, ref.cancel):
            with pytest.raises(RuntimeError, match="async with tasks"):
                await use()


# --- result ---------------------------------------------------------------------------------------


async def test_result_is_plain_json_without_a_codec_and_typed_with_one() -> None:
    async with opened() as access:
        plain = await emitted(access)
        typed = JobRef[set[int]](plain.id, "default", access, codec=codec_for(set[int]))
        worker = await Worker.join(access)
        await worker.end(await worker.take(), result=b"[1,2]")
        assert await plain.result() == [1, 2]
        assert await typed.result() == {1, 2}
        wrong = JobRef[str](plain.id, "default", access, codec=codec_for(str))
        with pytest.raises(SerializationError, match="result does not fit str"):
            await wrong.result()


async def test_a_completed_job_without_a_result_gives_none() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        await worker.end(await worker.take())
        assert await ref.result() is None


async def test_result_wakes_when_the_job_ends() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        delivery = await worker.take()
        results: list[object] = []

        async def wait() -> None:
            results.append(await ref.result())

        began = anyio.current_time()
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert results == []
            await worker.end(delivery, result=b"5")
        assert results == [5]
        assert anyio.current_time() == began


async def test_a_watch_that_never_wakes_costs_at_most_a_second() -> None:
    class Deaf(MemoryBroker):
        def watch(self, queue: str, job_id: str | None = None) -> Any:
            return super().watch(queue, "somebody else")

    async with Deaf() as broker:
        access = Access(broker)
        ref = await emitted(access)
        worker = await Worker.join(access)
        began = anyio.current_time()
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(ref.result)
            await wait_all_tasks_blocked()
            await worker.end(await worker.take())
        assert anyio.current_time() - began <= 1.001


async def test_a_job_that_ends_before_the_watch_is_open_is_seen_at_once() -> None:
    class Late(MemoryBroker):
        """The job ends after the first look and before the watch: nobody is told of that."""

        @asynccontextmanager
        async def watch(self, queue: str, job_id: str | None = None) -> AsyncGenerator[Watch]:
            await worker.end(delivery, result=b"5")
            async with super().watch(queue, job_id) as watch:
                yield watch

    async with Late() as broker:
        access = Access(broker)
        ref = await emitted(access)
        worker = await Worker.join(access)
        delivery = await worker.take()
        began = anyio.current_time()
        assert await ref.result() == 5
        assert anyio.current_time() == began


async def test_result_times_out() -> None:
    async with opened() as access:
        ref = await emitted(access)
        began = anyio.current_time()
        with pytest.raises(TimeoutError, match=r"job 'p@1' in queue 'default' .* within 2.5 s"):
            await ref.result(timeout=2.5)
        assert anyio.current_time() - began == pytest.approx(2.5)
        with pytest.raises(TimeoutError):
            await ref.result(timeout=timedelta(milliseconds=1))


async def test_a_timeout_of_zero_looks_once() -> None:
    async with opened() as access:
        ref = await emitted(access)
        with pytest.raises(TimeoutError):
            await ref.result(timeout=0)
        worker = await Worker.join(access)
        await worker.end(await worker.take(), result=b"5")
        assert await ref.result(timeout=0) == 5


@pytest.mark.parametrize("timeout", [-1, "5", float("inf")])
async def test_a_wrong_timeout_is_refused(timeout: Any) -> None:
    async with opened() as access:
        ref = await emitted(access)
        with pytest.raises(ConfigurationError, match="timeout="):
            await ref.result(timeout=timeout)


async def test_a_cancelled_wait_leaves_the_job_alone() -> None:
    async with opened() as access:
        ref = await emitted(access)
        with anyio.move_on_after(1):
            await ref.result()
        assert (await ref.info()).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("verdict", "state", "reason", "by"),
    [
        (Die("exhausted"), JobState.DEAD, "exhausted", None),
        (Skip("debounced", by="other"), JobState.SKIPPED, "debounced", "other"),
        (Skip("not needed"), JobState.SKIPPED, "not needed", None),
        (Cancel("by hand"), JobState.CANCELLED, "by hand", None),
    ],
)
async def test_a_job_without_a_result_says_how_it_ended(
    verdict: Any, state: JobState, reason: str, by: str | None
) -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        error = ERROR if isinstance(verdict, Die) else None
        await worker.end(await worker.take(), verdict, error=error)
        with pytest.raises(JobFailedError) as raised:
            await ref.result()
        failed = raised.value
        assert (failed.id, failed.state, failed.reason) == ("p@1", state, reason)
        assert failed.stood_in_by == by
        assert failed.attempts == 1
        assert (failed.error is not None) is isinstance(verdict, Die)


async def test_a_ref_waits_for_its_job_to_appear_and_then_for_its_end() -> None:
    async with opened() as access:
        ref = JobRef[Any]("p@1", "default", access, appears=True)
        worker = await Worker.join(access)
        results: list[object] = []

        async def wait() -> None:
            results.append(await ref.result(timeout=60))

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await access.broker.emit([new_job()])
            await wait_all_tasks_blocked()
            assert results == []
            await worker.end(await worker.take(), result=b"5")
        assert results == [5]


async def test_a_job_that_appeared_and_is_gone_is_not_waited_for() -> None:
    async with opened() as access:
        ref = JobRef[Any]("p@1", "default", access, appears=True)
        await access.broker.emit([new_job()])
        await ref.info()
        worker = await Worker.join(access)
        await worker.end(await worker.take(), retention_ms=0)
        with pytest.raises(JobNotFoundError, match="retention has passed"):
            await ref.result()


# --- Lives of a chosen id -------------------------------------------------------------------------


async def test_a_ref_means_the_life_that_its_emit_made_or_met() -> None:
    async with opened() as access:
        first = await emitted(access, job_id="chosen", number="n1")
        met = await emitted(access, job_id="chosen", number="n2")
        worker = await Worker.join(access)
        await worker.end(await worker.take(), result=b"1")
        assert await first.result() == await met.result() == 1
        second = await emitted(access, job_id="chosen", number="n3")
        await worker.end(await worker.take(), result=b"2")
        assert await second.result() == 2
        assert await JobRef[Any]("chosen", "default", access).result() == 2
        for use in (first.info, first.result, met.result):
            with pytest.raises(JobNotFoundError, match="its id was emitted anew"):
                await use()
        assert not await first.cancel()


async def test_a_number_that_may_have_been_dropped_means_the_present_life() -> None:
    async with opened() as access:
        first = await emitted(access, job_id="chosen", number="n0")
        for number in range(1, 20):
            await emitted(access, job_id="chosen", number=f"n{number}")
        assert (await first.info()).state is JobState.QUEUED


# --- cancel ---------------------------------------------------------------------------------------


async def test_a_job_that_has_not_started_is_cancelled_now() -> None:
    async with opened() as access:
        ref = await emitted(access)
        assert await ref.cancel("not needed")
        info = await ref.info()
        assert info.state is JobState.CANCELLED
        assert info.reason == "not needed"
        assert not await ref.cancel()
        assert access.noted == []


async def test_without_a_reason_the_reason_is_user() -> None:
    async with opened() as access:
        ref = await emitted(access)
        await ref.cancel()
        assert (await ref.info()).reason == "user"


async def test_a_cancelled_job_is_kept_for_the_retention_of_who_cancelled_it() -> None:
    async with opened() as access:
        access.retention_ms = 1000
        ref = await emitted(access)
        await ref.cancel()
        await anyio.sleep(2)
        with pytest.raises(JobNotFoundError):
            await ref.info()


async def test_the_request_for_a_running_job_is_noted_and_its_worker_here_is_told() -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        await worker.take()
        assert not await ref.cancel("enough")
        assert access.noted == [("default", "p@1", "enough")]
        assert (await ref.info()).state is JobState.RUNNING


@pytest.mark.parametrize(("ends", "cancelled"), [(Die("x"), True), (None, False)])
async def test_cancel_can_wait_for_the_end_and_tells_how_it_was(ends: Any, cancelled: bool) -> None:
    async with opened() as access:
        ref = await emitted(access)
        worker = await Worker.join(access)
        delivery = await worker.take()
        answers: list[bool] = []

        async def cancel() -> None:
            answers.append(await ref.cancel(wait=True))

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(cancel)
            await wait_all_tasks_blocked()
            assert answers == []
            await worker.end(delivery, ends)
        assert answers == [cancelled]


@pytest.mark.parametrize("reason", ["", "x" * 1001, 5, "\ud800"])
async def test_a_wrong_reason_is_refused(reason: Any) -> None:
    async with opened() as access:
        ref = await emitted(access)
        with pytest.raises(ConfigurationError, match="give a text of 1 to 1000 characters"):
            await ref.cancel(reason)
        assert (await ref.info()).state is JobState.QUEUED


# --- Early refs -----------------------------------------------------------------------------------


async def test_an_early_ref_is_usable_once_its_parent_has_ended() -> None:
    async with opened() as access:
        attempt = Attempted()
        ref = EarlyRef[Any]("p@1", "default", access, parent=attempt)
        with pytest.raises(RuntimeError, match="does not exist before this handler has completed"):
            await ref.info()
        end_attempt(attempt)
        with pytest.raises(TimeoutError):
            await ref.result(timeout=1)
        await access.broker.emit([new_job()])
        assert (await ref.info()).data == {"a": 1}
        assert await ref.cancel()


def test_a_repr_shows_no_data() -> None:
    access = Access(cast(Any, None))
    assert repr(JobRef("p@1", "q", access)) == "<JobRef 'p@1' in 'q'>"


async def test_an_info_keeps_data_out_of_its_repr() -> None:
    async with opened() as access:
        record = Record(RECORD_VERSION, "e", b'"secret"')
        await access.broker.emit([msgspec.structs.replace(new_job(), record=record)])
        info = await JobRef[Any]("p@1", "default", access).info()
        assert info.data == "secret"
        assert "secret" not in repr(info)
        words = {
            "raw": b"secret",
            "result": "secret",
            "logs": (LogLine(info.emitted_at, "secret"),),
        }
        error = JobError("ValueError", "secret", "secret")
        for field, value in {**words, "error": error}.items():
            assert "secret" not in repr(replace(info, **{field: value})), field
