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

from tests.contract.world import Backdoor, adds_up
from trio_tasks.broker import (
    RECORD_VERSION,
    Applied,
    Broker,
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
    ran: bool = True
    kept: bool = True
    error: bool = False
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
class Spoil:
    job: int


@dataclass(frozen=True, slots=True)
class List:
    """A page of jobs, after the first one of the list, or from it on."""

    queue: int
    state: Literal[JobState.QUEUED, JobState.RUNNING]
    limit: int
    after_first: bool


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
    | Spoil
    | List
    | Declare
    | MakeDue
    | Tick
    | RemoveSchedule
)

# --- programs ---------------------------------------------------------------------------------

numbers = st.integers(0, 40)
events = st.sampled_from(["e", "f"])
names = st.sampled_from(["s", "t"])
some_queue = st.sampled_from([0] * 5 + [1])

specs = st.builds(
    Spec,
    name=st.sampled_from(["minted", "minted", "x", "x", "y", "again"]),
    which=numbers,
    queue=some_queue,
    event=events,
    priority=st.sampled_from([0, 0, 5, 9]),
    when=st.sampled_from(["now"] * 5 + ["later", "past"]),
    deadline=st.booleans(),
    debounce=st.sampled_from(["none", "none", "none", "leading", "trailing", "trailing at once"]),
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
    ran=st.booleans(),
    kept=st.booleans(),
    error=st.booleans(),
    publish=st.booleans(),
)  # fmt: skip
emits = st.builds(Emit, st.lists(specs, min_size=1, max_size=3).map(tuple))
steps = st.builds(
    Step,
    worker=numbers,
    ends=st.lists(ends, max_size=2).map(tuple),
    want=st.sampled_from([1, 1, 2, 3, 0]),
)
asks = st.builds(
    AskDebounce,
    worker=numbers,
    start=numbers,
    edge=st.sampled_from(["leading", "leading", "trailing"]),
    digest=st.sampled_from(["k", "k", "t"]),
)
logs = st.builds(Log, start=numbers, lines=st.integers(1, 3), most=st.integers(1, 4))
cancels = st.builds(
    CancelJob, job=numbers, number=st.sampled_from(["none", "first", "last"]), kept=st.booleans()
)
requeues = st.builds(Requeue, job=numbers)
pauses = st.builds(Pause, queue=some_queue, paused=st.sampled_from([False, False, True]))
relays = st.builds(Relay, queue=some_queue)
joins = st.builds(Join, queue=some_queue, events=st.sampled_from([("e",), ("f",), ("e", "f")]))
fates = st.builds(Worker, worker=numbers, does=st.sampled_from(["beat", "leave", "die", "die"]))
spoils = st.builds(Spoil, job=numbers)
lists = st.builds(
    List,
    queue=some_queue,
    state=st.sampled_from([JobState.QUEUED, JobState.RUNNING]),
    limit=st.integers(1, 3),
    after_first=st.booleans(),
)
declares = st.builds(
    Declare,
    name=names,
    definition=st.sampled_from(["1", "2"]),
    when=st.sampled_from(["later", "later", "past"]),
    lives=st.booleans(),
    replace=st.booleans(),
)
ticks = st.builds(Tick, name=names, seen=numbers, with_job=st.booleans(), ends=st.booleans())
operations: st.SearchStrategy[Operation] = st.sampled_from(
    [steps] * 24
    + [emits] * 8
    + [asks] * 6
    + [cancels, requeues] * 3
    + [logs, relays, declares, ticks, st.builds(MakeDue, name=names), joins, fates] * 2
    + [pauses, spoils, lists, st.builds(RemoveSchedule, name=names)]
).flatmap(lambda kind: kind)


@st.composite
def programs(draw: st.DrawFn) -> list[Operation]:
    """Programs, long ones as likely as short ones."""
    return [draw(operations) for _ in range(draw(st.integers(1, 60)))]


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
    for join in (Join(0, ("e",)), Join(0, ("e", "f")), Join(1, ("e",))):
        await both.do(join)
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
        self._alive: list[int] = []
        self._open: list[int] = []

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
                queue, job_id = await self._mostly_dead(operation.job)
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
            case List():
                await self._list(operation)
            case Spoil():
                await self._spoil(operation)
            case Declare() | MakeDue() | Tick() | RemoveSchedule():
                await self._schedule(operation)
            case _:
                assert_never(operation)

    # -- what is asked of both -----------------------------------------------------------------

    async def _agree(
        self,
        ask: Callable[[Side], Awaitable[T]],
        view: Callable[[T], object] = lambda answer: answer,
    ) -> tuple[T, T]:
        """Ask both; their answers, which must look the same."""
        memory, real = self._sides
        answers = await ask(memory), await ask(real)
        shown = view(answers[0]), view(answers[1])
        assert shown[0] == shown[1], f"{memory.name}: {shown[0]}\n{real.name}: {shown[1]}"
        return answers

    async def _step(self, step: Step) -> None:
        worker, queue = self._worker_of(step.worker)
        chosen = {self._start(end.start, queue): end for end in step.ends}
        outcomes = [
            (start, end, self._verdict(end), [self._job(spec) for spec in end.children])
            for start, end in chosen.items()
            if start is not None
        ]

        def of(side: Side) -> list[Outcome]:
            return [
                self._outcome(side.starts[start], end, verdict, children)
                for start, end, verdict, children in outcomes
            ]

        replies = await self._agree(
            lambda side: side.workers[worker].step(of(side), step.want),
            lambda reply: (list(reply.applied), reply.relay, _taken_view(reply.taken)),
        )
        for (start, *_), applied in zip(outcomes, replies[0].applied, strict=True):
            if start in self._open and applied is not Applied.REFUSED:
                self._open.remove(start)
        first = len(self._sides[0].starts)
        for side, reply in zip(self._sides, replies, strict=True):
            if reply.taken is not None:
                side.starts += reply.taken.deliveries
        self._open += range(first, len(self._sides[0].starts))

    def _outcome(
        self, delivery: Delivery, end: End, verdict: Verdict, children: list[NewJob]
    ) -> Outcome:
        return Outcome(
            token=delivery.token,
            event="" if delivery.record is None else delivery.record.event,
            attempt=delivery.attempt,
            verdict=verdict,
            ran=end.ran or end.verdict == "complete",
            attempts=delivery.attempt + 2 if end.error else None,
            retention_ms=HOUR_MS if end.kept else 0,
            result=b"null" if end.error else b'"result"',
            error=b'{"type":"E"}' if end.error else None,
            children=children,
            logged=end.error,
            generation=delivery.generation,
            dead_letter_stream=f"{self._sides[1].backdoor.stream('dead')}" if end.publish else None,
        )

    def _verdict(self, end: End) -> Verdict:
        match end.verdict:
            case "complete":
                return Complete()
            case "retry":
                return Retry(self._next_ms(-10 * HOUR_MS))
            case "retry later":
                return Retry(self._next_ms(HOUR_MS))
            case "park":
                return Park(self._next_ms(-10 * HOUR_MS), since_ms=next(self._counter))
            case "release":
                return Release(counted=False, began=False)
            case "interrupt":
                return Release(counted=False, began=True)
            case "count":
                return Release(counted=True, began=True)
            case "die":
                return Die("exhausted")
            case "die unless served":
                return Die("no_handler", unless_served=True)
            case "skip":
                return Skip("debounced", by="another")
            case "skip unless served":
                return Skip("no_handler", unless_served=True)
            case "cancel":
                return Cancel("by its worker")

    async def _ask(self, ask: AskDebounce) -> None:
        worker, queue = self._worker_of(ask.worker)
        start = self._start(ask.start, queue)
        if start is not None:
            await self._agree(
                lambda side: side.workers[worker].debounce(
                    [DebounceAsk(side.starts[start].token, ask.edge, HOUR_MS, ask.digest)]
                )
            )

    async def _log(self, log: Log) -> None:
        lines = [b"%d" % next(self._counter) for _ in range(log.lines)]
        worker, queue = self._worker_of(log.start)
        start = self._start(log.start, queue)
        if start is not None:
            await self._agree(
                lambda side: side.workers[worker].log(side.starts[start].token, lines, log.most)
            )

    async def _cancel(self, cancel: CancelJob) -> None:
        queue, job_id = self._known(cancel.job)
        sent = [job.number for job in self._sent if (job.queue, job.id) == (queue, job_id)]
        number = None
        if cancel.number != "none" and sent:
            number = sent[0 if cancel.number == "first" else -1]
        await self._agree(
            lambda side: side.broker.cancel(
                queue,
                job_id,
                number=number,
                reason="by a user",
                retention_ms=HOUR_MS if cancel.kept else 0,
            )
        )

    async def _join(self, join: Join) -> None:
        registration = Registration(
            queue=QUEUES[join.queue],
            incarnation=f"w{next(self._counter)}",
            consumer_id="w",
            host="h",
            events=join.events,
            lease_ms=2 * HOUR_MS,
        )
        self._alive.append(len(self._sides[0].workers))
        for side in self._sides:
            side.workers.append(
                await side.broker.register(registration, have=list, lost=_nothing_is_lost)
            )

    async def _worker(self, what: Worker) -> None:
        worker, queue = self._worker_of(what.worker)
        if what.does != "beat" and worker in self._alive:
            self._alive.remove(worker)
        match what.does:
            case "beat":
                await self._agree(
                    lambda side: side.workers[worker].beat(),
                    lambda beat: (beat.alive, sorted(beat.cancels)),
                )
            case "leave":
                await self._agree(lambda side: side.workers[worker].leave())
            case "die":
                for side in self._sides:
                    incarnation = side.workers[worker].incarnation
                    await side.backdoor.end_lease(queue, incarnation)

    async def _spoil(self, spoil: Spoil) -> None:
        queue, job_id = self._known(spoil.job)
        if await self._sides[0].broker.read(queue, [job_id]) != [None]:
            for side in self._sides:
                await side.backdoor.spoil(queue, job_id, b"\xc1")

    async def _list(self, page: List) -> None:
        queue, after = QUEUES[page.queue], None
        if page.after_first:
            first = await self._sides[0].broker.jobs(queue, page.state, limit=1)
            after = first[0].id if first else "nobody"
        await self._agree(
            lambda side: side.broker.jobs(queue, page.state, limit=page.limit, after=after),
            lambda jobs: [job.id for job in jobs],
        )

    async def _schedule(self, what: Declare | MakeDue | Tick | RemoveSchedule) -> None:
        match what:
            case Declare():
                schedule = self._declared(what)
                records = await self._agree(
                    lambda side: side.broker.declare(schedule, replace=what.replace)
                )
                for side, record in zip(self._sides, records, strict=True):
                    side.seen.append(record)
            case MakeDue():
                at_ms = self._next_ms(self._now_ms - 10 * HOUR_MS)
                if what.name in {s.name for s in await self._sides[0].broker.schedules("a")}:
                    for side in self._sides:
                        await side.backdoor.make_due("a", what.name, at_ms)
                        side.seen += await side.broker.schedules("a")
            case Tick():
                await self._tick(what)
            case RemoveSchedule():
                await self._agree(lambda side: side.broker.remove_schedule("a", what.name))
        await self._agree(lambda side: side.broker.schedules("a"))
        await self._agree(
            lambda side: side.broker.due_schedules("a"),
            lambda answer: (list(answer.due), answer.next_in_ms is None),
        )

    def _declared(self, what: Declare) -> ScheduleRecord:
        past_ms = self._now_ms - HOUR_MS
        later_ms = self._next_ms(self._now_ms + HOUR_MS)
        return ScheduleRecord(
            queue="a",
            name=what.name,
            definition=what.definition.encode(),
            template=Record(RECORD_VERSION, "e", b"%d" % next(self._counter)),
            priority=5,
            deadline_ms=HOUR_MS,
            expires_after_ms=100 * HOUR_MS if what.lives else None,
            next_at_ms=past_ms if what.when == "past" else later_ms,
        )

    async def _tick(self, tick: Tick) -> None:
        seen = [i for i, s in enumerate(self._sides[0].seen) if s.name == tick.name]
        if not seen:
            return
        which = _mostly(tick.seen, seen[-1:], seen)
        schedule = self._sides[0].seen[which]
        job = NewJob(
            id=f"{schedule.name}:{schedule.next_at_ms}",
            queue="a",
            record=schedule.template,
            priority=schedule.priority,
        )
        self._ids["a", job.id] = None
        next_at_ms = None if tick.ends else self._next_ms(self._now_ms + HOUR_MS)
        await self._agree(
            lambda side: side.broker.tick(
                side.seen[which], next_at_ms=next_at_ms, job=job if tick.with_job else None
            )
        )

    # -- what operations name ------------------------------------------------------------------

    def _next_ms(self, from_ms: int) -> int:
        """An instant, or a delay, that nothing else has, and that is later than the last one."""
        return from_ms + 60_000 * next(self._counter)

    def _worker_of(self, number: int) -> tuple[int, str]:
        """A worker, mostly one that nobody has killed."""
        workers = self._sides[0].workers
        index = _mostly(number, self._alive, range(len(workers)))
        return index, workers[index].queue

    def _start(self, number: int, queue: str) -> int | None:
        """A start of this queue, mostly one that no outcome was committed for."""
        starts = self._sides[0].starts
        all_ = [i for i, start in enumerate(starts) if start.token.queue == queue]
        open_ = [i for i in self._open if starts[i].token.queue == queue]
        return _mostly(number, open_, all_) if all_ else None

    def _known(self, number: int) -> tuple[str, str]:
        """A job that may be there."""
        ids = list(self._ids) or [("a", "nobody")]
        return ids[-1 - number % len(ids)]

    async def _mostly_dead(self, number: int) -> tuple[str, str]:
        """A job, mostly a dead one."""
        dead: list[tuple[str, str]] = []
        for queue in QUEUES:
            jobs = await self._sides[0].broker.jobs(queue, JobState.DEAD, limit=1000)
            dead += sorted((queue, job.id) for job in jobs)
        return _mostly(number, dead, list(self._ids) or [("a", "nobody")])

    def _job(self, spec: Spec) -> NewJob:
        if spec.name == "again" and self._sent:
            return self._sent[spec.which % len(self._sent)]
        count = next(self._counter)
        chosen = spec.name in ("x", "y")
        debounce = None
        match spec.debounce:
            case "leading":
                debounce = Debounce("leading", HOUR_MS, "k")
            case "trailing":
                debounce = Debounce("trailing", self._next_ms(HOUR_MS), "t")
            case "trailing at once":
                debounce = Debounce("trailing", 0, "t")
            case "none":
                pass
        due_at_ms = None
        if spec.when != "now":
            past_ms = self._now_ms - HOUR_MS
            due_at_ms = self._next_ms(self._now_ms + HOUR_MS) if spec.when == "later" else past_ms
        job = NewJob(
            id=spec.name if chosen else f"m@{count}",
            queue=QUEUES[spec.queue],
            record=Record(spec.version, spec.event, b"%d" % count, debounce=debounce),
            number=f"n{count}" if chosen else None,
            priority=spec.priority,
            due_at_ms=due_at_ms,
            deadline_at_ms=self._now_ms + 10 * HOUR_MS + count if spec.deadline else None,
        )
        self._sent.append(job)
        self._ids[job.queue, job.id] = None
        return job

    # -- comparing -----------------------------------------------------------------------------

    async def compare(self) -> None:
        """What all jobs look like, the numbers, and whether workers would have been woken."""
        for queue in QUEUES:
            asked, given = [await side.backdoor.take_hint(queue) for side in self._sides]
            # One may be wasted, none may be missing: the memory broker gives those alone that
            # the protocol asks for.
            assert given >= asked, f"no hint that there is work in {queue}"
            ids = [job_id for where, job_id in self._ids if where == queue]
            await self._agree(
                lambda side, queue=queue, ids=ids: side.broker.read(queue, ids, logs=True),
                lambda jobs: [job and _stored_view(job) for job in jobs],
            )
            counts, _ = await self._agree(lambda side, queue=queue: side.broker.counts(queue))
            assert adds_up(counts), counts

    async def compare_all(self) -> None:
        """Lists, schedules and names besides; and that nothing is broken."""
        for queue in QUEUES:
            for state in (JobState.QUEUED, JobState.RUNNING, JobState.DELAYED, JobState.DEAD):
                await self._agree(
                    lambda side, queue=queue, state=state: side.broker.jobs(
                        queue, state, limit=1000
                    ),
                    _list_view,
                )
        await self._agree(lambda side: side.broker.queues())
        await self._agree(lambda side: side.broker.schedules("a"))
        for side in self._sides:
            assert await side.backdoor.defects() == []


def _mostly(number: int, likely: Sequence[T], all_: Sequence[T]) -> T:
    """Three times of four one of the likely ones, if there are any; zero is the latest."""
    number, rest = divmod(number, 4)
    chosen = likely if rest < 3 and likely else all_
    return chosen[-1 - number % len(chosen)]


async def _requeue(side: Side, queue: str, job_id: str) -> bool | None:
    try:
        return await side.broker.requeue(queue, job_id)
    except JobNotFoundError:
        return None


def _nothing_is_lost(tokens: Sequence[object]) -> None:
    assert not tokens


def _taken_view(taken: Taken | None) -> object:
    if taken is None:
        return None
    instants = taken.next_due_in_ms, taken.next_tick_in_ms
    coming = ["never" if ms is None else "later" if ms else "now" for ms in instants]
    return taken.status, coming, [_delivery_view(delivery) for delivery in taken.deliveries]


def _delivery_view(delivery: Delivery) -> object:
    token = replace(delivery.token, entry="")
    return replace(delivery, token=token, unknown_since_ms=_since_view(delivery.unknown_since_ms))


def _since_view(instant: int | None) -> int | None:
    """What a worker said is a small number, and the same; what the server said is an instant."""
    return None if instant is None else min(instant, HOUR_MS)


def _stored_view(job: Stored) -> Stored:
    def there(instant: int | None) -> int | None:
        return None if instant is None else 0

    return replace(
        job,
        due_at_ms=there(job.due_at_ms),
        started_at_ms=there(job.started_at_ms),
        finished_at_ms=there(job.finished_at_ms),
        unknown_since_ms=_since_view(job.unknown_since_ms),
        numbers=list(job.numbers),
        logs=[(0, line) for _, line in job.logs],
    )


def _list_view(jobs: Sequence[Stored]) -> object:
    """The ids: in their order where that is not the order of what happened in a millisecond."""
    ordered = [job.id for job in jobs if job.state is not JobState.DEAD and job.why != "parked"]
    return ordered, sorted(job.id for job in jobs)
