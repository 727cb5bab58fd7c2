"""A MemoryBroker that fails when it is told to, and counts what it is asked.

A fault hits a request before it is applied (it was never received), after it (its answer was lost),
or leaves it without an answer until its deadline. What a lost answer has handed out is given back,
as a remote broker does when it hears from the worker again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TypeVar

import anyio

from trio_tasks.broker import (
    Beat,
    Counts,
    DebounceAsk,
    DueSchedules,
    Emitted,
    Membership,
    NewJob,
    Outcome,
    Registration,
    ScheduleRecord,
    StartToken,
    StepReply,
    Taken,
    TickAnswer,
)
from trio_tasks.errors import BrokerError, BrokerUnavailableError, QueueFullError
from trio_tasks.memory import MemoryBroker
from trio_tasks.processor.dead_letter import INTERNAL
from trio_tasks.processor.decisions import Die, Release

__all__ = ["Fault", "FaultyBroker", "FaultyMembership"]

T = TypeVar("T")


class Fault(Enum):
    """What happens to a request."""

    BEFORE = "it does not arrive"
    AFTER = "it is applied, and the answer is lost"
    SILENCE = "it does not arrive, and its deadline passes"
    NO_ANSWER = "it is applied, and its deadline passes"
    REFUSED = "the broker refuses it"
    FULL = "the broker has no memory for it"


class FaultyBroker(MemoryBroker):
    """See the module.

    Attributes:
        calls: how often each method was called.
        sent: when each method was called, on the loop's clock.
        faults: by method, what happens to the next calls of it, in this order.
        always: by method, what happens to every call that has no fault of its own.
        delay: seconds that every request takes until it is applied.
        answer_delays: by method, seconds that the answers take.
        deadline: seconds after which a request without an answer fails.
        late: seconds that it is late to notice that the time of an armed wait is over.
        refused_ids: jobs of which no outcome is accepted but an engine-made death.
        memberships: those that were registered, oldest first.
    """

    def __init__(
        self, name: str | None = None, *, remote: bool = False, arms: bool = False
    ) -> None:
        super().__init__(name)
        self.calls: Counter[str] = Counter()
        self.sent: dict[str, list[float]] = {}
        self.faults: dict[str, deque[Fault | None]] = {}
        self.always: dict[str, Fault] = {}
        self.delay = 0.0
        self.answer_delays: dict[str, float] = {}
        self.deadline = 5.0
        self.late = 0.0
        self.refused_ids: set[str] = set()
        self.memberships: list[FaultyMembership] = []
        self._remote = remote
        self._arms = arms

    @property
    def remote(self) -> bool:
        return self._remote

    @property
    def arms(self) -> bool:
        return self._arms

    def break_next(self, method: str, *faults: Fault) -> None:
        """Let the next calls of a method fail."""
        self.faults.setdefault(method, deque()).extend(faults)

    def break_later(self, method: str, after: int, *faults: Fault) -> None:
        """Let so many calls of a method pass, and the next ones fail."""
        self.faults.setdefault(method, deque()).extend([*[None] * after, *faults])

    def go_away(self) -> None:
        """Nothing arrives any more."""
        self.always = dict.fromkeys(METHODS, Fault.BEFORE)

    def come_back(self) -> None:
        """All is well."""
        self.always = {}
        self.faults = {}

    async def ask(
        self,
        method: str,
        request: Callable[[], Awaitable[T]],
        lost: Callable[[T], Awaitable[None]] | None = None,
    ) -> T:
        """Carry out a request, or what becomes of it; `lost` undoes an answer that got lost."""
        self.calls[method] += 1
        self.sent.setdefault(method, []).append(anyio.current_time())
        if self.delay:
            await anyio.sleep(self.delay)
        planned = self.faults.get(method)
        match planned.popleft() if planned else self.always.get(method):
            case None:
                answer = await request()
                if method in self.answer_delays:
                    await anyio.sleep(self.answer_delays[method])
                return answer
            case Fault.BEFORE:
                raise BrokerUnavailableError(f"{method} did not arrive")
            case Fault.REFUSED:
                raise BrokerError(f"{method} was refused")
            case Fault.FULL:
                raise QueueFullError(f"no memory for {method}")
            case Fault.SILENCE:
                await anyio.sleep(self.deadline)
                raise BrokerUnavailableError(f"{method} got no answer in time")
            case Fault.AFTER | Fault.NO_ANSWER as fault:
                answer = await request()
                try:
                    if fault is Fault.NO_ANSWER:
                        await anyio.sleep(self.deadline)
                finally:
                    if lost is not None:
                        with anyio.CancelScope(shield=True):
                            await lost(answer)
                raise BrokerUnavailableError(f"the answer of {method} was lost")

    # -- the requests --------------------------------------------------------------------------

    async def emit(self, jobs: Sequence[NewJob]) -> list[Emitted]:
        return await self.ask("emit", lambda: super(FaultyBroker, self).emit(jobs))

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> Membership:
        async def register() -> FaultyMembership:
            inner = await super(FaultyBroker, self).register(registration, have=have, lost=lost)
            return FaultyMembership(self, inner)

        membership = await self.ask("register", register)
        self.memberships.append(membership)
        return membership

    async def relay(self, queue: str) -> int:
        return await self.ask("relay", lambda: super(FaultyBroker, self).relay(queue))

    async def time_ms(self, queue: str) -> int:
        return await self.ask("time_ms", lambda: super(FaultyBroker, self).time_ms(queue))

    async def declare(self, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
        return await self.ask(
            "declare", lambda: super(FaultyBroker, self).declare(schedule, replace=replace)
        )

    async def due_schedules(self, queue: str) -> DueSchedules:
        return await self.ask(
            "due_schedules", lambda: super(FaultyBroker, self).due_schedules(queue)
        )

    async def tick(
        self, schedule: ScheduleRecord, *, next_at_ms: int | None, job: NewJob | None
    ) -> TickAnswer:
        return await self.ask(
            "tick",
            lambda: super(FaultyBroker, self).tick(schedule, next_at_ms=next_at_ms, job=job),
        )

    async def counts(self, queue: str) -> Counts:
        return await self.ask("counts", lambda: super(FaultyBroker, self).counts(queue))


class FaultyMembership:
    """A membership of a FaultyBroker.

    Attributes:
        inner: the one that keeps the contract.
    """

    def __init__(self, broker: FaultyBroker, inner: Membership) -> None:
        self.inner = inner
        self._broker = broker

    @property
    def queue(self) -> str:
        return self.inner.queue

    @property
    def incarnation(self) -> str:
        return self.inner.incarnation

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        if want:
            self._broker.calls["take"] += 1
        for outcome in outcomes:
            ours = isinstance(outcome.verdict, Die) and outcome.verdict.reason == INTERNAL
            if outcome.token.job_id in self._broker.refused_ids and not ours:
                raise BrokerError("no step with such an outcome")
        return await self._broker.ask(
            "step", lambda: self.inner.step(outcomes, want), self._give_back
        )

    async def _give_back(self, reply: StepReply) -> None:
        """What a remote broker does with starts that nobody has in memory."""
        if reply.taken is not None:
            release = Release(counted=False, began=False)
            await self.inner.step(
                [
                    Outcome(
                        token=d.token,
                        event="",
                        attempt=d.attempt,
                        verdict=release,
                        retention_ms=300_000,  # if it ends, because somebody has cancelled it
                    )
                    for d in reply.taken.deliveries
                ],
                0,
            )

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        return await self._broker.ask("debounce", lambda: self.inner.debounce(asks))

    async def beat(self) -> Beat:
        return await self._broker.ask("beat", self.inner.beat)

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        await self._broker.ask("log", lambda: self.inner.log(token, lines, max_lines))

    async def wait(self, timeout: float) -> bool:
        return await self._broker.ask("wait", lambda: self.inner.wait(timeout))

    async def wait_and_take(self, timeout: float, want: int) -> Taken | None:
        self._broker.calls["take"] += 1
        late = self._broker.late

        async def give_back(taken: Taken | None) -> None:
            await self._give_back(StepReply([], taken))

        return await self._broker.ask(
            "wait", lambda: self.inner.wait_and_take(timeout + late, want), give_back
        )

    async def leave(self) -> None:
        await self._broker.ask("leave", self.inner.leave)


METHODS = (
    "emit",
    "register",
    "relay",
    "time_ms",
    "declare",
    "due_schedules",
    "tick",
    "counts",
    "step",
    "debounce",
    "beat",
    "log",
    "leave",
)
"""What fails when the broker is away. (`wait` waits then, says the contract.)"""
