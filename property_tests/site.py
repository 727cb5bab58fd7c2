"""A program with a bit of everything, for simulations: handlers, and what to emit to them.

What a job's attempts do is in its data, so that whoever draws the data draws the program.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import count
from typing import Any, Literal, cast, get_args

import anyio
import msgspec

from trio_tasks import (
    Context,
    DeadLetter,
    DebouncePolicy,
    Discard,
    Emit,
    Handlers,
    Job,
    RetryLater,
    TaskManager,
)
from trio_tasks.environment import Luck
from trio_tasks.testing import Faults, Report, simulate

__all__ = [
    "ENDS",
    "RATES",
    "Attempt",
    "End",
    "Site",
    "Steady",
    "Work",
    "draw_emit",
    "life",
    "steady_life",
    "to_key",
    "to_work",
]

End = Literal["return", "fail", "later", "discard", "die", "hang", "swallow"]
ENDS = cast("tuple[End, ...]", get_args(End))


class Attempt(msgspec.Struct):
    """One attempt of a job: how long it takes, what it emits, how it ends."""

    seconds: float
    end: End
    children: int = 0
    logs: bool = False


class Work(msgspec.Struct):
    """A job's data: what its attempts do; the last one stands for all further ones."""

    attempts: list[Attempt]
    key: int = 0


class Site:
    """The outside world, and handlers that act upon it.

    Attributes:
        returned: handlers of "work" that came to their end, by job.
        children: … of "child".
    """

    def __init__(self) -> None:
        self.returned = Counter[str]()
        self.children = Counter[str]()

    def build(self, db: str) -> TaskManager[Any]:
        """What `simulate` asks for."""
        tasks = TaskManager(db, concurrency=2, lease=12, processor={"retry": {"delay": 3}})
        main, other = Handlers[Any](queue="main"), Handlers[Any](queue="other")

        @main.handler("work", timeout=45)
        async def work(job: Job[Work], ctx: Context[Any]) -> int:
            plan = job.data.attempts[min(job.attempt, len(job.data.attempts)) - 1]
            if plan.logs:
                job.logger(f"attempt {job.attempt}")
            for number in range(plan.children):
                ctx.emit("child", job.id, queue=("main", "other")[number % 2], delay=number or None)
            await _do(plan)
            self.returned[job.id] += 1
            return job.attempt

        @main.handler("first", debounce=DebouncePolicy(90, key=_key), attempts=2, timeout=45)
        async def first(job: Job[Work]) -> None:
            await _do(job.data.attempts[0])

        @other.handler(
            "last", debounce=DebouncePolicy(4, key=_key, edge="trailing"), attempts=3, timeout=45
        )
        async def last(job: Job[Work]) -> None:
            await _do(job.data.attempts[0])

        for group in (main, other):

            @group.handler("child")
            async def child(job: Job[str]) -> None:
                await anyio.sleep(0.5)
                self.children[job.id] += 1

        @other.handler("often", repeat="*/20 * * * *")
        async def often(job: Job[None]) -> None:
            assert job.scheduled_for is not None

        tasks.include(main, other)
        return tasks


class Steady:
    """Jobs that do not fail of their own, and have one child each."""

    def __init__(self) -> None:
        self.done = Counter[int]()
        self._children = defaultdict[int, set[str]](set)

    def build(self, db: str) -> TaskManager[Any]:
        """What `simulate` asks for."""
        tasks = TaskManager(db, concurrency=3)

        @tasks.handler("work", attempts=1000)
        async def work(job: Job[int], ctx: Context[Any]) -> None:
            await anyio.sleep(job.data % 13)
            ctx.emit("child", job.data, queue=("default", "other")[job.data % 2])
            self.done[job.data] += 1

        for queue in ("default", "other"):

            @tasks.handler("child", queue=queue, attempts=1000)
            async def child(job: Job[int]) -> None:
                self._children[job.data].add(job.id)

        return tasks

    def check(self, report: Report) -> None:
        """What must hold for this program, whatever the faults were.

        A child that an hour's step of the clock makes late arrives dead, and says so.
        """
        late = report.dead_letters
        assert {letter.reason for letter in late} <= {"relayed_late"}
        assert report.emitted == report.completed + len(late) == 2 * len(self.done)
        assert all(len(children) == 1 for children in self._children.values())
        assert len(self._children) == len(self.done) - len(late)


def _key(job: Any) -> str:
    return str(job.data.key)


async def _do(plan: Attempt) -> None:
    try:
        await anyio.sleep(plan.seconds)
    except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - some handlers do that
        if plan.end != "swallow":
            raise
    match plan.end:
        case "fail":
            raise ConnectionError
        case "later":
            raise RetryLater(10)
        case "discard":
            raise Discard("enough")
        case "die":
            raise DeadLetter("too bad")
        case "hang":
            await anyio.sleep_forever()  # until its time-out
        case "return" | "swallow":
            pass


def to_work(plan: list[Attempt], **options: Any) -> Emit[Any]:
    """A job that does this; options as for `emit`."""
    return Emit("work", Work(plan), queue="main", **options)


def to_key(event: Literal["first", "last"], key: int, plan: Attempt, **options: Any) -> Emit[Any]:
    """A job under a debounce key: the first of a window runs, or the last of a burst."""
    queue = {"first": "main", "last": "other"}[event]
    return Emit(event, Work([plan], key), queue=queue, **options)


def draw_emit(luck: Luck) -> Emit[Any]:
    """Something, by luck."""
    ends: tuple[End, ...] = ("return",) * 6 + ("fail", "later", "die", "discard", "swallow")
    plan = [
        Attempt(luck.expovariate(1 / 6), luck.choice(ends), luck.randrange(3), luck.random() < 0.2)
        for _ in range(3)
    ]
    match luck.randrange(14):
        case 0 | 10:
            return to_key("first", luck.randrange(2), plan[0], attempts=luck.randrange(1, 4))
        case 1 | 11 | 12 | 13:
            retried = Attempt(luck.expovariate(1 / 3), luck.choice(("return", "fail", "later")))
            return to_key("last", luck.randrange(2), retried)
        case 2:
            return to_work(plan, delay=luck.expovariate(1 / 60))
        case 3:
            return to_work(plan, deadline=luck.expovariate(1 / 20))
        case 4:
            return to_work(plan, id=f"chosen-{luck.randrange(4)}")
        case 5:
            return to_work(plan, priority=luck.randrange(10), attempts=luck.randrange(1, 4))
        case 6:
            long = Attempt(luck.uniform(20, 40), "return")
            return to_work([long], attempts=10)
        case _:
            return to_work(plan)


RATES = tuple(kind for kind in Faults.__slots__ if kind != "longest")


def _workers(seed: int) -> int:
    return 1 + (seed + 1) % 3


def life(seed: int, *, hours: float, per_hour: float, rate: float) -> Report:
    """A life of a `Site` in which each fault comes so many times an hour."""
    return simulate(
        Site().build,
        seed=seed,
        hours=hours,
        emits=draw_emit,
        per_hour=per_hour,
        workers=_workers(seed),
        faults=dict.fromkeys(RATES, rate),
    )


def steady_life(seed: int, *, hours: float, per_hour: float, rate: float) -> Report:
    """The same of a `Steady`, whose jobs nobody cancels."""
    site = Steady()
    numbers = count()
    report = simulate(
        site.build,
        seed=seed,
        hours=hours,
        emits=lambda _: Emit("work", next(numbers)),
        per_hour=per_hour,
        workers=_workers(seed),
        faults=dict.fromkeys(RATES, rate) | {"cancels": 0},
    )
    site.check(report)
    return report
