"""Pause, stop, cancel and priority are as prompt as without prefetch, in the midst of a backlog.

What lies in a worker's hand is at most what it may take ahead, and it leaves that hand within
milliseconds: begun, or given back. Every test waits until that hand is full.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.manager.conftest import Managers
from tests.manager.waiting import eventually
from tests.workshop import slots_of
from trio_tasks import Emit, Job, JobFailedError, JobRef, JobState, TaskManager
from trio_tasks.consumer import slots as slots_module
from trio_tasks.consumer.prefetch import MOST_AHEAD

pytestmark = pytest.mark.anyio

CONCURRENCY = 4
IN_HAND = CONCURRENCY + MOST_AHEAD
FULL = 24  # jobs beyond the slots; on an idle machine there are several times as many
BACKLOG = 4000


class Works:
    """A manager with a handler that does nothing, until it is told to hold the slots.

    Attributes:
        began: the jobs whose handlers have begun, in this order.
        emitted: all jobs, in their order.
        in_hand: the job that lay behind all others when the hand was full.
    """

    in_hand: JobRef[None]

    def __init__(self, managers: Managers, concurrency: int = CONCURRENCY) -> None:
        self.began: list[str] = []
        self.emitted: list[JobRef[None]] = []
        self.manager: TaskManager[Any] = managers(concurrency=concurrency)
        self.manager.register_handler(self.work, event="work")
        self._full: anyio.Event | None = None
        self._holds = False
        self._let_go = anyio.Event()

    async def work(self, job: Job[None]) -> None:
        self.began.append(job.id)
        ready = slots_of(self.manager).ready
        if self._full is not None and not self._full.is_set() and len(ready) >= FULL:
            self.in_hand = self.manager.queue("default").ref(ready[-1].job_id)
            self._full.set()
        if self._holds and self._full is not None and self._full.is_set():
            await self._let_go.wait()

    async def has_its_hand_full(self, *, holds: bool = False) -> None:
        """Return when jobs lie ready beyond the slots, and many more are queued.

        Args:
            holds: from then on handlers wait for `let_go`, so that all slots are busy.
        """
        await self.emit()
        await self.manager.start()
        await eventually(lambda: len(self.began) > 1000)  # it knows that handlers are fast
        self._holds, self._full = holds, anyio.Event()
        while not self._full.is_set():
            await self.emit()
            with anyio.move_on_after(0.5):
                await self._full.wait()
        if holds:
            await eventually(lambda: slots_of(self.manager).running == CONCURRENCY)

    def let_go(self) -> None:
        self._holds = False
        self._let_go.set()

    async def emit(self) -> None:
        self.emitted += await self.manager.emit_many([Emit("work")] * BACKLOG)

    async def running(self) -> int:
        """How many jobs lie in workers' hands, as the broker knows it."""
        return (await self.manager.queue("default").stats()).running

    async def runs_no_more_than(self, count: int) -> None:
        with anyio.fail_after(5):
            while await self.running() > count:  # noqa: ASYNC110 - others change it
                await anyio.sleep(0.001)


@pytest.fixture
def works(managers: Managers) -> Works:
    return Works(managers)


@pytest.fixture
def keeps_what_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not start stays in the worker's hand, so that a test can be about that."""
    monkeypatch.setattr(slots_module, "LATE_S", 3600.0)


@pytest.mark.usefixtures("keeps_what_is_late")
async def test_one_slot_runs_jobs_in_their_order_though_two_takes_are_under_way(
    managers: Managers,
) -> None:
    works = Works(managers, concurrency=1)
    async with works.manager as manager:
        await works.has_its_hand_full()
        await manager.until_idle()
    assert works.began == [ref.id for ref in works.emitted]


# -- pause ---------------------------------------------------------------------------------------


async def test_of_a_paused_queue_no_more_starts_than_was_in_hand(works: Works) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full()
        await manager.queue("default").pause()
        begun = len(works.began)
        await works.runs_no_more_than(0)
        assert len(works.began) <= begun + IN_HAND
        rest = len(works.emitted) - len(works.began)
        assert rest > 0
        stats = await manager.queue("default").stats()
        assert (stats.queued, stats.completed) == (rest, len(works.began))

        await manager.queue("default").resume()
        await manager.until_idle()
    assert sorted(works.began) == sorted(ref.id for ref in works.emitted)


async def test_a_paused_queue_starts_nothing_when_busy_slots_become_free(works: Works) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full(holds=True)
        await manager.queue("default").pause()
        await works.runs_no_more_than(CONCURRENCY)
        begun = tuple(works.began)
        works.let_go()
        await works.runs_no_more_than(0)
        assert tuple(works.began) == begun

        await manager.queue("default").resume()
        await manager.until_idle()
    assert sorted(works.began) == sorted(ref.id for ref in works.emitted)


# -- stop ----------------------------------------------------------------------------------------


async def test_a_stop_in_the_midst_of_a_backlog_leaves_the_rest_to_others(
    works: Works, managers: Managers
) -> None:
    helps = Works(managers)
    async with works.manager as manager, helps.manager:
        await works.has_its_hand_full()
        begun = len(works.began)
        report = await manager.stop()
        # The stop begins a moment later: takes that go out until then bring as many at most.
        assert len(works.began) <= begun + 2 * IN_HAND
        assert (report.interrupted, report.abandoned) == (0, 0)
        stats = await manager.queue("default").stats()
        rest = len(works.emitted) - len(works.began)
        assert rest > 0
        assert (stats.running, stats.queued, stats.completed) == (0, rest, len(works.began))
        await helps.manager.start()
        await helps.manager.until_idle()
    assert sorted(works.began + helps.began) == sorted(ref.id for ref in works.emitted)


@pytest.mark.usefixtures("keeps_what_is_late")
async def test_a_stop_gives_back_what_has_not_begun_before_it_waits_for_handlers(
    works: Works, managers: Managers
) -> None:
    helps = Works(managers)
    async with works.manager as manager, helps.manager:
        await works.has_its_hand_full(holds=True)
        begun = tuple(works.began)
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(manager.stop, 60)
            await helps.manager.start()
            await eventually(lambda: len(begun) + len(helps.began) == len(works.emitted))
            assert manager.state == "stopping"
            works.let_go()
    assert tuple(works.began) == begun
    assert sorted(works.began + helps.began) == sorted(ref.id for ref in works.emitted)


# -- cancel --------------------------------------------------------------------------------------


async def test_no_job_starts_of_which_cancel_said_that_it_is_cancelled(works: Works) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full()
        cancelled: set[str] = set()
        for ref in reversed(works.emitted):
            if not await ref.cancel():
                break  # in hand, or even done: here the two meet
            cancelled.add(ref.id)
        assert cancelled
        await manager.until_idle()
    assert not cancelled & set(works.began)


@pytest.mark.usefixtures("keeps_what_is_late")
async def test_a_job_in_hand_that_is_cancelled_in_its_process_does_not_start(works: Works) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full(holds=True)
        ref = works.in_hand
        assert await ref.cancel("not needed") is False, "it was handed out, so it counts as running"
        works.let_go()
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
        assert (caught.value.state, caught.value.reason) == (JobState.CANCELLED, "not needed")
        await manager.until_idle()
    assert ref.id not in works.began
    assert len(works.began) == len(works.emitted) - 1


async def test_a_job_in_hand_that_another_process_cancels_does_not_start_behind_busy_slots(
    works: Works, managers: Managers
) -> None:
    async with works.manager as manager, managers() as other:
        await works.has_its_hand_full(holds=True)
        ref = other.queue("default").ref(works.in_hand.id)
        await ref.cancel()
        with pytest.raises(JobFailedError) as caught:
            await ref.result(timeout=5)
        assert caught.value.state is JobState.CANCELLED
        works.let_go()
        await manager.until_idle()
    assert ref.id not in works.began
    assert len(works.began) == len(works.emitted) - 1


# -- priority ------------------------------------------------------------------------------------


async def test_a_job_of_a_higher_priority_overtakes_all_but_what_is_in_hand(works: Works) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full()
        urgent = await manager.emit("work", priority=9)
        begun = len(works.began)
        await urgent.result(timeout=5)
        assert works.began.index(urgent.id) <= begun + IN_HAND
        assert len(works.began) < len(works.emitted)


async def test_a_job_of_a_higher_priority_is_the_next_to_start_behind_busy_slots(
    works: Works,
) -> None:
    async with works.manager as manager:
        await works.has_its_hand_full(holds=True)
        await works.runs_no_more_than(CONCURRENCY)
        begun = len(works.began)
        urgent = await manager.emit("work", priority=9)
        works.let_go()
        await urgent.result(timeout=5)
        assert works.began.index(urgent.id) == begun
