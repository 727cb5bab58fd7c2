"""Two brokers, one program: the memory broker and a real server do the same, and are compared.

A *program* is a list of operations. Each names what it works on by numbers (the seventh start
that was ever handed out, the third job ever emitted), so any list is a program, and a failing one
shrinks. After every operation the answers of both sides are compared, and what both hold.

Both sides go by the same wall clock, but not to the millisecond. So whatever depends on time lies
an hour away, before or after, each at an instant of its own: then order decides, and order is the
same. Leases end, and schedules become due, by the back door. Instants are compared only as being
there or not, and emit numbers, ids and names are the same on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar, assert_never

from hypothesis import strategies as st
from msgspec.structs import replace

from tests.contract.world import Backdoor
from trio_tasks.broker import (
    RECORD_VERSION,
    Broker,
    Counts,
    Debounce,
    DebounceAsk,
    Delivery,
    Membership,
    NewJob,
    Outcome,
    Record,
    Registration,
    ScheduleRecord,
    Stored,
    Taken,
)
from trio_tasks.errors import JobNotFoundError
from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Die,
    Park,
    Release,
    Retry,
    Skip,
    Verdict,
)

__all__ = ["Operation", "Side", "programs", "run_program"]

T = TypeVar("T")

HOUR_MS = 3_600_000
QUEUES = ("a", "b")

# --- operations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spec:
    """A job to be: what is emitted, or a child.

    Attributes:
        name: "minted", "again" (an emit that was sent before) or a chosen id.
        which: of those that were sent before.
        when: at once, later, or at an instant that has passed.
        debounce: a digest, if any; trailing ones have a window of nothing or of hours.
    """

    name: Literal["minted", "again", "x", "y"] = "minted"
    which: int = 0
    queue: int = 0
    event: Literal["e", "f"] = "e"
    priority: int = 0
    when: Literal["now", "later", "past"] = "now"
    deadline: bool = False
    debounce: Literal["none", "leading", "trailing", "trailing at once"] = "none"
    version: int = RECORD_VERSION


@dataclass(frozen=True, slots=True)
class End:
    """An outcome of the start `start`, whoever has it now."""

    start: int
    verdict: Literal[
        "complete", "retry", "retry later", "park", "release", "interrupt", "count", "die",
        "die unless served", "skip", "skip unless served", "cancel",
    ]  # fmt: skip
    children: tuple[Spec, ...] = ()
    kept: bool = True
    error: bool = False
    reopen: bool = False
    publish: bool = False


@dataclass(frozen=True, slots=True)
class Emit:
    specs: tuple[Spec, ...]


@dataclass(frozen=True, slots=True)
class Step:
    worker: int
    ends: tuple[End, ...]
    want: int


@dataclass(frozen=True, slots=True)
class AskDebounce:
    worker: int
    start: int
    edge: Edge
    digest: Literal["k", "t"]


@dataclass(frozen=True, slots=True)
class Log:
    start: int
    lines: int
    most: int


@dataclass(frozen=True, slots=True)
class CancelJob:
    job: int
    number: Literal["none", "first", "last"]
    kept: bool


@dataclass(frozen=True, slots=True)
class Requeue:
    job: int


@dataclass(frozen=True, slots=True)
class Pause:
    queue: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Relay:
    queue: int


@dataclass(frozen=True, slots=True)
class Join:
    queue: int
    events: tuple[Literal["e", "f"], ...]


@dataclass(frozen=True, slots=True)
class Worker:
    """Something that a worker does, or that happens to it."""

    worker: int
    does: Literal["beat", "leave", "die"]


@dataclass(frozen=True, slots=True)
class TakeHint:
    queue: int


@dataclass(frozen=True, slots=True)
class Spoil:
    job: int


@dataclass(frozen=True, slots=True)
class Declare:
    name: Literal["s", "t"]
    definition: Literal["1", "2"]
    when: Literal["later", "past"]
    lives: bool
    replace: bool


@dataclass(frozen=True, slots=True)
class MakeDue:
    name: Literal["s", "t"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of a schedule as it was seen when it was declared, made due or listed last."""

    name: Literal["s", "t"]
    seen: int
    with_job: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class RemoveSchedule:
    name: Literal["s", "t"]


Operation: TypeAlias = (
    Emit
    | Step
    | AskDebounce
    | Log
    | CancelJob
    | Requeue
    | Pause
    | Relay
    | Join
    | Worker
    | TakeHint
    | Spoil
    | Declare
    | MakeDue
    | Tick
    | RemoveSchedule
)

# --- programs ---------------------------------------------------------------------------------

numbers = st.integers(0, 40)
events = st.sampled_from(["e", "f"])
names = st.sampled_from(["s", "t"])

specs = st.builds(
    Spec,
    name=st.sampled_from(["minted", "minted", "x", "y", "again"]),
    which=numbers,
    queue=st.sampled_from([0, 0, 0, 1]),
    event=events,
    priority=st.sampled_from([0, 0, 5, 9]),
    when=st.sampled_from(["now", "now", "now", "later", "past"]),
    deadline=st.booleans(),
    debounce=st.sampled_from(
        ["none", "none", "none", "leading", "trailing", "trailing at once"]
    ),
    version=st.sampled_from([RECORD_VERSION] * 9 + [RECORD_VERSION + 1]),
)
ends = st.builds(
    End,
    start=numbers,
    verdict=st.sampled_from(
        ["complete", "complete", "retry", "retry later", "park", "release", "interrupt",
         "count", "die", "die", "die unless served", "skip", "skip unless served", "cancel"]
    ),
    children=st.lists(specs, max_size=2).map(tuple),
    kept=st.booleans(),
    error=st.booleans(),
    reopen=st.booleans(),
    publish=st.booleans(),
)  # fmt: skip
emits = st.builds(Emit, st.lists(specs, min_size=1, max_size=3).map(tuple))
steps = st.builds(
    Step, worker=numbers, ends=st.lists(ends, max_size=2).map(tuple), want=st.integers(0, 3)
)
others = st.one_of(
    st.builds(
        AskDebounce,
        worker=numbers,
        start=numbers,
        edge=st.sampled_from(["leading", "trailing"]),
        digest=st.sampled_from(["k", "t"]),
    ),
    st.builds(Log, start=numbers, lines=st.integers(1, 3), most=st.integers(1, 4)),
    st.builds(
        CancelJob,
        job=numbers,
        number=st.sampled_from(["none", "first", "last"]),
        kept=st.booleans(),
    ),
    st.builds(Requeue, job=numbers),
    st.builds(Pause, queue=st.sampled_from([0, 0, 1]), paused=st.booleans()),
    st.builds(Relay, queue=st.sampled_from([0, 0, 1])),
    st.builds(
        Join,
        queue=st.sampled_from([0, 0, 1]),
        events=st.sampled_from([("e",), ("f",), ("e", "f")]),
    ),
    st.builds(Worker, worker=numbers, does=st.sampled_from(["beat", "leave", "die", "die"])),
    st.builds(TakeHint, queue=st.sampled_from([0, 0, 1])),
    st.builds(Spoil, job=numbers),
    st.builds(
        Declare,
        name=names,
        definition=st.sampled_from(["1", "2"]),
        when=st.sampled_from(["later", "later", "past"]),
        lives=st.booleans(),
        replace=st.booleans(),
    ),
    st.builds(MakeDue, name=names),
    st.builds(Tick, name=names, seen=numbers, with_job=st.booleans(), ends=st.booleans()),
    st.builds(RemoveSchedule, name=names),
)
programs: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(emits, steps, steps, others, others), min_size=1, max_size=40
)

# --- the two sides ----------------------------------------------------------------------------


@dataclass(slots=True)
class Side:
    """One broker, and what was got from it: its own tokens and records."""

    name: str
    broker: Broker
    backdoor: Backdoor
    workers: list[Membership] = field(default_factory=list[Membership])
    starts: list[Delivery] = field(default_factory=list[Delivery])
    seen: list[ScheduleRecord] = field(default_factory=list[ScheduleRecord])


async def run_program(program: Sequence[Operation], sides: tuple[Side, Side], now_ms: int) -> None:
    """Run a program on two empty brokers, whose clocks show about `now_ms`.

    Raises:
        AssertionError: they differ.
    """
    both = _Both(sides, now_ms)
    for queue, served in ((0, ("e",)), (0, ("e", "f")), (1, ("e",))):
        await both.do(Join(queue, served))
    for operation in program:
        await both.do(operation)
        await both.compare()
    await both.compare_all()


class _Both:
    """Does each operation on both sides, and compares."""

    def __init__(self, sides: tuple[Side, Side], now_ms: int) -> None:
        self._sides = sides
        self._now_ms = now_ms
        self._counter = itertools.count(1)
        self._sent: list[NewJob] = []
        self._ids: dict[tuple[str, str], None] = {}

    async def do(self, operation: Operation) -> None:
        match operation:
            case Emit(specs=specs):
                jobs = [self._job(spec) for spec in specs]
                await self._agree(lambda side: side.broker.emit(jobs))
            case Step():
                await self._step(operation)
            case AskDebounce():
                await self._ask(operation)
            case Log():
                await self._log(operation)
            case CancelJob():
                await self._cancel(operation)
            case Requeue():
                queue, job_id = self._known(operation.job)
                await self._agree(lambda side: _requeue(side, queue, job_id))
            case Pause():
                queue, paused = QUEUES[operation.queue], operation.paused
                await self._agree(lambda side: side.broker.pause(queue, paused))
            case Relay():
                queue = QUEUES[operation.queue]
                await self._agree(lambda side: side.broker.relay(queue))
            case Join():
                await self._join(operation)
            case Worker():
                await self._worker(operation)
            case TakeHint():
                queue = QUEUES[operation.queue]
                hints = [await side.backdoor.take_hint(queue) for side in self._sides]
                # A hint may be wasted, but not missing: the memory broker gives those alone
                # that the protocol asks for.
                assert hints[1] >= hints[0], f"hints {hints}"
            case Spoil():
                await self._spoil(operation)
            case Declare() | MakeDue() | Tick() | RemoveSchedule():
                await self._schedule(operation)
            case _:
                assert_never(operation)
