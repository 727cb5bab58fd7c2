"""Group commit of emits: tasks that emit at the same time share round trips.

Theory of operation
-------------------
Each queue has a *lane*. An emit that finds its lane free goes out at once, in its caller's own
task. Those that come while it is under way gather, without a timer, and go out together in the
next step; that one, and those after it, are carried by a task of the broker's nursery, so that a
caller who is cancelled does not take the others' jobs with it. The lane is free again when
nothing has gathered. An emit of more than one step's worth of jobs gathers with nobody: it goes
out by itself, several steps in one round trip, while the lane serves the others.

An emit may be repeated without harm (a minted id, or the emit number of a chosen one, names it),
so a step whose answer was lost is sent again until the deadline. Each caller has its own: when a
shared step fails, those whose time is over are told, with the ids of their own jobs, and the
others go into the next step.

Where something can be lost: nowhere once `emit` has returned. A caller that is cancelled does not
know whether its jobs were stored; those that still gather are taken back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.abc

from trio_tasks.broker import BATCH, STEP_BYTES, Emitted, NewJob
from trio_tasks.control_c import protected
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError, QueueFullError
from trio_tasks.redis_streams.asking import Asks
from trio_tasks.redis_streams.scripts import Call

__all__ = ["Emits"]

_STEPS_IN_FLIGHT: Final = 8  # keeps the server busy; more would only hold memory


class _Caller:
    """An emit that waits for others to carry it."""

    __slots__ = ("answer", "deadline", "done", "gave_up", "jobs")

    def __init__(self, jobs: Sequence[NewJob], deadline: float) -> None:
        self.jobs = jobs
        self.deadline = deadline
        self.done = anyio.Event()
        self.gave_up = False
        self.answer: list[Emitted] | BrokerError = []

    def tell(self, answer: list[Emitted] | BrokerError) -> None:
        self.answer = answer
        self.done.set()


class _Lane:
    """One queue: whether a step is under way, and who waits for the next one."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[_Caller] = deque()

    def clear(self) -> None:
        """Let the next emit go straight out. Whoever still waits does so in vain."""
        self.busy = False
        while self.waiting:
            self.waiting.popleft().tell(BrokerUnavailableError("the broker was closed"))


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
        if len(jobs) > BATCH or (len(jobs) > 1 and sum(map(_size, jobs)) > STEP_BYTES):
            return await self._in_bulk(queue, jobs)
        lane = self._lanes[queue]
        if lane.busy:
            return await self._with_others(lane, jobs)
        lane.busy = True
        try:
            return await self._alone(queue, jobs, loop_time() + self._link.timeout)
        finally:
            if lane.waiting and not self._link.over:
                self._tasks.start_soon(protected(self._carry), queue, lane)
            else:
                lane.clear()

    async def _alone(self, queue: str, jobs: Sequence[NewJob], deadline: float) -> list[Emitted]:
        try:
            call = self._enqueue(queue, jobs)
            return await self._link.call(call, deadline=deadline, repeat=True)
        except BrokerError as error:
            raise _told_to(jobs, error) from error

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

    async def _with_others(self, lane: _Lane, jobs: Sequence[NewJob]) -> list[Emitted]:
        caller = _Caller(jobs, loop_time() + self._link.timeout)
        lane.waiting.append(caller)
        try:
            await caller.done.wait()
        finally:
            caller.gave_up = True
        if isinstance(caller.answer, BrokerError):
            raise _told_to(jobs, caller.answer) from caller.answer
        return caller.answer

    async def _carry(self, queue: str, lane: _Lane) -> None:
        """Send what has gathered, and what gathers meanwhile, until nothing has."""
        try:
            while lane.waiting and not self._link.over:
                await self._carry_once(queue, lane)
        finally:
            lane.clear()

    async def _carry_once(self, queue: str, lane: _Lane) -> None:
        steps = _draw(lane.waiting)
        callers = [caller for step in steps for caller in step]
        if not callers:
            return
        calls = [
            self._enqueue(queue, [job for caller in step for job in caller.jobs]) for step in steps
        ]
        try:
            answers = await self._link.calls(
                calls, deadline=min(caller.deadline for caller in callers), repeat=True
            )
            for step, answer in zip(steps, answers, strict=True):
                await self._tell(queue, step, answer)
        except BrokerUnavailableError as error:
            now = loop_time()
            for caller in callers:
                if caller.deadline <= now:
                    caller.tell(error)
        finally:
            untold = [caller for caller in callers if not caller.done.is_set()]
            lane.waiting.extendleft(reversed(untold))

    async def _tell(
        self, queue: str, step: list[_Caller], answer: list[Emitted] | BrokerError
    ) -> None:
        if isinstance(answer, list):
            stored = iter(answer)
            for caller in step:
                caller.tell([next(stored) for _ in caller.jobs])
        elif len(step) == 1 or isinstance(answer, QueueFullError):
            for caller in step:
                caller.tell(answer)
        else:  # one of them is refused, and it takes the others with it
            for caller in step:
                try:
                    caller.tell(await self._alone(queue, caller.jobs, caller.deadline))
                except BrokerError as error:
                    caller.tell(error)


def _draw(waiting: deque[_Caller]) -> list[list[_Caller]]:
    """Callers for the next steps, in order; the jobs of one are never divided."""
    steps: list[list[_Caller]] = []
    room = room_bytes = 0
    while waiting:
        caller = waiting[0]
        if not caller.gave_up:
            size = sum(map(_size, caller.jobs))
            if len(caller.jobs) > room or size > room_bytes:
                if len(steps) == _STEPS_IN_FLIGHT:
                    break
                steps.append([])
                room, room_bytes = BATCH, STEP_BYTES
            steps[-1].append(caller)
            room -= len(caller.jobs)
            room_bytes -= size
        waiting.popleft()
    return steps


def _size(job: NewJob) -> int:
    return len(job.record.data)


def _chunks(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Steps of up to `BATCH` jobs and about `STEP_BYTES` bytes; a larger job goes by itself."""
    chunks: list[Sequence[NewJob]] = []
    start = size = 0
    for end, job in enumerate(jobs):
        if end > start and (end - start == BATCH or size + _size(job) > STEP_BYTES):
            chunks.append(jobs[start:end])
            start, size = end, 0
        size += _size(job)
    chunks.append(jobs[start:])
    return chunks


def _told_to(jobs: Sequence[NewJob], error: BrokerError) -> BrokerError:
    """The error as it concerns one caller, who may hold it while others hold theirs."""
    if isinstance(error, BrokerUnavailableError | QueueFullError):
        return type(error)(str(error), ids=[job.id for job in jobs])
    return error
