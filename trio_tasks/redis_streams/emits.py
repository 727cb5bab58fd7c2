"""Group commit of emits: tasks that emit at the same time share round trips.

Theory of operation
-------------------
Each queue has a *lane*. An emit that finds its lane free goes out at once, in its caller's own
task. Those that come while it is under way gather, without a timer, in the next *step*, and
*carriers* send one step after the other: tasks of the broker's nursery, so that a caller who is
cancelled does not take the others' jobs with it. Where steps are large enough there are two of
them, each with half of the callers: the server works on one step while the callers of the other go
on. When nothing gathers any more the lane is free again. An emit of more than one step's worth of
jobs gathers with nobody: it goes out by itself, several steps in one round trip, while the lane
serves the others.

An emit may be repeated without harm (a minted id, or the emit number of a chosen one, names it),
so a step whose answer was lost is sent again until the deadline. Each caller has its own: when a
shared step fails, those whose time is over are told, with the ids of their own jobs, and it is
sent again for the others.

Where something can be lost: nowhere once `emit` has returned. A caller that is cancelled does not
know whether its jobs were stored; those that still gather are taken back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final

import anyio.abc
import anyio.lowlevel

from trio_tasks.broker import BATCH, STEP_BYTES, Emitted, NewJob
from trio_tasks.control_c import protected
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError, QueueFullError
from trio_tasks.native import native
from trio_tasks.redis_streams.asking import Asks
from trio_tasks.redis_streams.scripts import Call

__all__ = ["Emits"]

_STEPS_IN_FLIGHT: Final = 8  # keeps the server busy; more would only hold memory

_CARRIERS: Final = 2

_ENOUGH: Final = 8
"""Jobs that make a step beside another one worth its while (measured: with fewer a round trip more
costs the client what it gains, with 8 they cancel out)."""


class _Caller:
    """An emit that waits for others to carry it."""

    __slots__ = ("answer", "bytes", "deadline", "gave_up", "jobs", "step")

    step: _Step  # that it goes out in

    def __init__(self, jobs: Sequence[NewJob], deadline: float) -> None:
        self.jobs = jobs
        self.bytes = _size(jobs)
        self.deadline = deadline
        self.gave_up = False
        self.answer: list[Emitted] | BrokerError | None = None


class _Step:
    """Callers whose jobs will be stored together; those of one are never divided."""

    __slots__ = ("bytes", "callers", "jobs", "told")

    def __init__(self) -> None:
        self.callers: list[_Caller] = []
        self.jobs = self.bytes = 0
        self.told = native().new_event()

    def add(self, caller: _Caller) -> None:
        """Carry this one's jobs too."""
        caller.step = self
        self.callers.append(caller)
        self.jobs += len(caller.jobs)
        self.bytes += caller.bytes

    def has_room_for(self, caller: _Caller) -> bool:
        """Whether this one's jobs would not be too many, nor too large."""
        return self.jobs + len(caller.jobs) <= BATCH and self.bytes + caller.bytes <= STEP_BYTES

    def halved(self) -> tuple[_Step, _Step]:
        """Two steps in its place."""
        halves, middle = (_Step(), _Step()), len(self.callers) // 2
        for place, caller in enumerate(self.callers):
            halves[place >= middle].add(caller)
        self.tell()  # each waits for its own half from now on, whichever is answered first
        return halves

    def tell(self) -> None:
        """Wake all callers; those that have no answer yet will wait on."""
        told, self.told = self.told, native().new_event()
        told.set()


class _Lane:
    """One queue.

    Attributes:
        steps: those that gather, oldest first.
        under_way: how many have been sent and not been answered.
        coming: carriers that will look for a step in a moment.
    """

    __slots__ = ("coming", "steps", "under_way")

    def __init__(self) -> None:
        self.under_way = self.coming = 0
        self.steps: deque[_Step] = deque()

    def add(self, caller: _Caller) -> None:
        """Let this one's jobs go out in the last step, or in one behind it."""
        if not self.steps or not self.steps[-1].has_room_for(caller):
            self.steps.append(_Step())
        self.steps[-1].add(caller)

    def is_worthwhile(self) -> bool:
        """Whether a step may go out now."""
        if not self.steps or self.under_way == _CARRIERS:
            return False
        return not self.under_way or self.steps[0].jobs >= _ENOUGH

    def close(self) -> None:
        """Whoever still waits does so in vain."""
        for step in self.steps:
            for caller in step.callers:
                caller.answer = BrokerUnavailableError("the broker was closed")
            step.tell()
        self.steps.clear()


class Emits:
    """All emits of a process."""

    def __init__(
        self,
        link: Asks,
        tasks: anyio.abc.TaskGroup,
        enqueue: Callable[[str, Sequence[NewJob]], Call[list[Emitted]]],
    ) -> None:
        self._link = link
        self._tasks = tasks
        self._enqueue = enqueue
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)

    async def emit(self, queue: str, jobs: Sequence[NewJob]) -> list[Emitted]:
        """Store jobs of one queue; they are there, in this order, when it returns.

        Raises:
            BrokerUnavailableError: it could not be done, or not be known to be done, in time;
                `ids` names the jobs that this is true of.
            QueueFullError: the server's memory is full; `ids` as above. Of up to `BATCH` jobs none
                was stored.
        """
        if len(jobs) > 1 and (len(jobs) > BATCH or _size(jobs) > STEP_BYTES):
            return await self._in_bulk(queue, jobs)
        lane = self._lanes[queue]
        if lane.under_way or lane.coming:
            return await self._with_others(queue, lane, jobs)
        lane.under_way = 1
        try:
            return await self._link.call(self._enqueue(queue, jobs), repeat=True)
        except BrokerError as error:
            raise _told_to(jobs, error) from error
        finally:
            lane.under_way -= 1
            if lane.steps:
                self._call_carrier(queue, lane)

    async def _in_bulk(self, queue: str, jobs: Sequence[NewJob]) -> list[Emitted]:
        emitted: list[Emitted] = []
        chunks = _chunks(jobs)
        for start in range(0, len(chunks), _STEPS_IN_FLIGHT):
            calls = [
                self._enqueue(queue, chunk) for chunk in chunks[start : start + _STEPS_IN_FLIGHT]
            ]
            try:
                for answer in await self._link.calls(calls, repeat=True):
                    if isinstance(answer, BrokerError):
                        raise answer
                    emitted += answer
            except BrokerError as error:
                raise _told_to(jobs[len(emitted) :], error) from error
        return emitted

    async def _with_others(self, queue: str, lane: _Lane, jobs: Sequence[NewJob]) -> list[Emitted]:
        caller = _Caller(jobs, loop_time() + self._link.timeout)
        lane.add(caller)
        self._call_carrier(queue, lane)
        try:
            while caller.answer is None:
                await caller.step.told.wait()
        finally:
            caller.gave_up = True
        if isinstance(caller.answer, BrokerError):
            raise _told_to(jobs, caller.answer) from caller.answer
        return caller.answer

    def _call_carrier(self, queue: str, lane: _Lane) -> None:
        if lane.coming or not lane.is_worthwhile():
            return
        if self._link.over:
            lane.close()
        else:
            lane.coming += 1
            self._tasks.start_soon(protected(self._carry), queue, lane)

    async def _carry(self, queue: str, lane: _Lane) -> None:
        """Send what has gathered, and what gathers meanwhile, until nothing has."""
        try:
            while lane.is_worthwhile() and not self._link.over:
                step = lane.steps.popleft()
                lane.coming -= 1
                lane.under_way += 1
                try:
                    if lane.under_way < _CARRIERS and len(step.callers) >= 2 * _ENOUGH:
                        step, other = step.halved()
                        lane.steps.appendleft(other)
                        self._call_carrier(queue, lane)
                    await self._carry_once(queue, step)
                finally:
                    lane.coming += 1
                    lane.under_way -= 1
                    if step.callers:
                        lane.steps.appendleft(step)
                # Those that were told run now, in whatever order, and may have more to emit.
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
        finally:
            lane.coming -= 1
            if self._link.over or not (lane.under_way or lane.coming):
                lane.close()

    async def _carry_once(self, queue: str, step: _Step) -> None:
        """Send a step; whoever was not told stays among its callers."""
        callers = step.callers = [caller for caller in step.callers if not caller.gave_up]
        if not callers:
            return
        try:
            call = self._enqueue(queue, [job for caller in callers for job in caller.jobs])
            # The first to come is the first whose time is over.
            stored = await self._link.call(call, deadline=callers[0].deadline, repeat=True)
        except BrokerUnavailableError as error:
            now = loop_time()
            for caller in callers:
                if caller.deadline <= now:
                    caller.answer = error
        except BrokerError as error:
            await self._refused(queue, callers, error)
        else:
            answers = iter(stored)
            for caller in callers:
                caller.answer = [next(answers) for _ in caller.jobs]
        finally:
            step.callers = [caller for caller in callers if caller.answer is None]
            step.tell()

    async def _refused(self, queue: str, callers: Sequence[_Caller], error: BrokerError) -> None:
        if len(callers) == 1 or isinstance(error, QueueFullError):
            for caller in callers:
                caller.answer = error
            return
        for caller in callers:  # one of them is refused, and it takes the others with it
            try:
                call = self._enqueue(queue, caller.jobs)
                caller.answer = await self._link.call(call, deadline=caller.deadline, repeat=True)
            except BrokerError as refusal:
                caller.answer = refusal


def _size(jobs: Sequence[NewJob]) -> int:
    if len(jobs) == 1:  # as nearly always
        return len(jobs[0].record.data)
    return sum(len(job.record.data) for job in jobs)


def _chunks(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Steps of up to `BATCH` jobs and about `STEP_BYTES` bytes; a larger job goes by itself."""
    chunks: list[Sequence[NewJob]] = []
    start = size = 0
    for end, job in enumerate(jobs):
        more = len(job.record.data)
        if end > start and (end - start == BATCH or size + more > STEP_BYTES):
            chunks.append(jobs[start:end])
            start, size = end, 0
        size += more
    chunks.append(jobs[start:])
    return chunks


def _told_to(jobs: Sequence[NewJob], error: BrokerError) -> BrokerError:
    """The error as it concerns one caller, who may hold it while others hold theirs."""
    if isinstance(error, BrokerUnavailableError | QueueFullError):
        return type(error)(str(error), ids=[job.id for job in jobs])
    return error
