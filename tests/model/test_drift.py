"""The model's server does what the scripts do, and what the MemoryBroker does.

Random paths of requests are carried out by the model's server and by the real thing; every answer
and the state of every job must be the same. So what the model proves is said of the real scripts.

`own`, requests of older connections and numbered pauses are not part of the Broker's contract:
only the scripts are asked about those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import pytest
import redis
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.contract.backdoors import MemoryBackdoor
from tests.lua.conftest import clear
from tests.lua.desk import Desk
from tests.model import server as model
from tests.model.store import NEW, RELEASED, Inc, New, Server
from tests.servers import ServerProcess
from trio_tasks.broker import (
    RECORD_VERSION,
    Applied,
    Debounce,
    DebounceAsk,
    Delivery,
    Membership,
    NewJob,
    Outcome,
    Record,
    Registration,
    StartToken,
    Stored,
)
from trio_tasks.errors import JobNotFoundError
from trio_tasks.job import JobState
from trio_tasks.memory import MemoryBroker
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
from trio_tasks.processor.lifecycle import STATE_OF_LETTER
from trio_tasks.redis_streams import calls

QUEUE = "q"
HOUR_MS = 3_600_000
RETENTION_MS = 60_000
LEASE_MS = HOUR_MS

VERDICTS: dict[str, Verdict] = {
    "c": Complete(),
    "t": Retry(HOUR_MS),
    "k": Park(HOUR_MS, 0),
    "u": Release(counted=False, began=False),
    "i": Release(counted=False, began=True),
    "v": Release(counted=True, began=True),
    "z": Die("why"),
    "s": Skip("why"),
    "x": Cancel("why"),
}
LETTER_OF = {
    Applied.APPLIED: "A",
    Applied.REPEATED: "R",
    Applied.CANCELLED: "X",
    Applied.PARKED: "P",
    Applied.STALE: "S",
    Applied.GONE: "G",
}


# -- paths -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Emit:
    name: Literal["minted", "x", "y", "again"]
    delayed: bool
    trailing: bool


@dataclass(frozen=True)
class Step:
    """`ends`: (which start, kind, whether its handler had begun); small numbers are the latest
    starts. `late`: of an older g."""

    worker: int
    ends: tuple[tuple[int, str, bool], ...]
    want: int
    late: bool = False


@dataclass(frozen=True)
class Own:
    worker: int
    late: bool
    forgotten: int


@dataclass(frozen=True)
class Forget:
    """The server loses the latest hand-out."""


@dataclass(frozen=True)
class Worker:
    worker: int
    does: Literal["join", "beat", "leave", "lease ends"]


@dataclass(frozen=True)
class Steer:
    """`job`: small numbers are the latest ones; of starts, where one is to be cancelled."""

    job: int
    does: Literal["cancel", "cancel this life", "requeue", "requeue late", "due"]


@dataclass(frozen=True)
class Pause:
    paused: bool
    late: bool


@dataclass(frozen=True)
class Ask:
    start: int
    edge: Literal["leading", "trailing"]


Operation: TypeAlias = Emit | Step | Own | Forget | Worker | Steer | Pause | Ask

first = st.sampled_from([0, 0, 0, 1, 2])
emits = st.builds(
    Emit,
    name=st.sampled_from(["minted", "x", "x", "x", "again"]),
    delayed=st.sampled_from([False, False, True]),
    trailing=st.sampled_from([False, False, True]),
)
ends = st.tuples(
    first, st.sampled_from(["c", "c", "z", "z", *VERDICTS]), st.sampled_from([True, True, False])
)
steps = st.builds(
    Step,
    worker=st.integers(0, 1),
    ends=st.lists(ends, max_size=2, unique_by=lambda end: end[0]).map(tuple),
    want=st.sampled_from([1, 1, 1, 2, 0]),
)
late_steps = st.builds(
    Step, worker=st.integers(0, 1), ends=st.just(()), want=st.just(1), late=st.just(True)
)
workers = st.builds(
    Worker,
    worker=st.integers(0, 1),
    does=st.sampled_from(["join", "beat", "beat", "leave", "lease ends", "lease ends"]),
)
steers = st.builds(
    Steer,
    job=first,
    does=st.sampled_from(
        ["cancel", "cancel this life", "requeue", "requeue", "requeue late", "due", "due"]
    ),
)
asks = st.builds(Ask, start=first, edge=st.sampled_from(["leading", "leading", "trailing"]))
owns = st.builds(Own, worker=st.integers(0, 1), late=st.booleans(), forgotten=st.integers(0, 4))
pauses = st.builds(Pause, paused=st.sampled_from([False, False, True]), late=st.booleans())
of_the_contract: st.SearchStrategy[Operation] = st.sampled_from(
    [emits] * 5 + [steps] * 12 + [workers] * 4 + [steers] * 6 + [asks] * 3
).flatmap(lambda kind: kind)
of_the_scripts: st.SearchStrategy[Operation] = st.sampled_from(
    [of_the_contract] * 10 + [owns] * 2 + [late_steps, pauses, st.just(Forget())]
).flatmap(lambda kind: kind)


@st.composite
def paths(draw: st.DrawFn, operations: st.SearchStrategy[Operation]) -> Sequence[Operation]:
    """Paths, long ones as likely as short ones."""
    return [draw(operations) for _ in range(draw(st.integers(5, 60)))]


# -- peers -----------------------------------------------------------------------------------------

Taken: TypeAlias = tuple[str, list[tuple[str, int, int]]]
"""The status, and (job, attempt, deliveries) of each delivery."""


class Peer(Protocol):
    """What the model's server is compared with."""

    starts: list[Delivery]

    async def emit(self, job: NewJob) -> bool: ...

    async def join(self, inc: Inc) -> None: ...

    async def step(
        self, inc: Inc, ordinal: int, outcomes: Sequence[Outcome], want: int
    ) -> tuple[str, Taken | None]: ...

    async def beat(self, inc: Inc) -> tuple[bool, list[str]]: ...

    async def leave(self, inc: Inc) -> None: ...

    async def end_lease(self, inc: Inc) -> None: ...

    async def cancel(self, job: str, number: str | None) -> str: ...

    async def requeue(self, job: str, generation: int) -> str: ...

    async def make_due(self, job: str, ago_ms: int) -> None: ...

    async def debounce(self, inc: Inc, token: StartToken, edge: str) -> str | None: ...

    async def read(self, jobs: Sequence[str]) -> list[Stored | None]: ...


class Scripts:
    """The scripts on a real server."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.starts: list[Delivery] = []

    async def emit(self, job: NewJob) -> bool:
        (created,) = self.desk.send(job)
        return created

    async def join(self, inc: Inc) -> None:
        self.desk.ask(calls.register(self.desk.keys, _registration(inc)))

    async def step(
        self, inc: Inc, ordinal: int, outcomes: Sequence[Outcome], want: int
    ) -> tuple[str, Taken | None]:
        reply = self.desk.ask(
            calls.step(
                self.desk.keys,
                incarnation=_name(inc),
                ordinal=ordinal,
                outcomes=outcomes,
                want=want,
                lease_ms=LEASE_MS,
            )
        )
        applied = "".join(LETTER_OF[answer] for answer in reply.applied)
        if reply.taken is None:
            return applied, None
        self.starts += reply.taken.deliveries
        return applied, (reply.taken.status.value, _rows(reply.taken.deliveries))

    async def own(
        self, inc: Inc, ordinal: int, have: Sequence[StartToken]
    ) -> tuple[str, list[int]]:
        call = calls.own(self.desk.keys, incarnation=_name(inc), ordinal=ordinal, have=have)
        reply = self.desk.ask(call)
        return reply.status.value, sorted(have.index(token) for token in reply.lost)

    async def pause(self, paused: bool, number: int) -> bool:
        return self.desk.ask(calls.pause(self.desk.keys, paused=paused, number=number)).applied

    async def beat(self, inc: Inc) -> tuple[bool, list[str]]:
        call = calls.beat(self.desk.keys, incarnation=_name(inc), lease_ms=LEASE_MS)
        beat = self.desk.ask(call).beat
        return beat.alive, sorted(job for job, _ in beat.cancels)

    async def leave(self, inc: Inc) -> None:
        self.desk.ask(calls.leave(self.desk.keys, incarnation=_name(inc)))

    async def end_lease(self, inc: Inc) -> None:
        self.desk.do("ZADD", self.desk.keys.leases, "XX", self.desk.now_ms() - 1, _name(inc))

    async def cancel(self, job: str, number: str | None) -> str:
        return self.desk.cancel(job, number=number, retention_ms=RETENTION_MS).value

    async def requeue(self, job: str, generation: int) -> str:
        return self.desk.ask(calls.requeue(self.desk.keys, job, generation=generation)).value

    async def make_due(self, job: str, ago_ms: int) -> None:
        self.desk.make_due(job, ago_ms)

    async def debounce(self, inc: Inc, token: StartToken, edge: str) -> str | None:
        del inc
        ask = _ask(token, edge)
        (holder,) = self.desk.ask(calls.debounce(self.desk.keys, [ask]))
        return holder

    async def read(self, jobs: Sequence[str]) -> list[Stored | None]:
        return self.desk.ask(calls.read(self.desk.keys, jobs))


class Memory:
    """The MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.backdoor = MemoryBackdoor(broker.store)
        self.members: dict[Inc, Membership] = {}
        self.starts: list[Delivery] = []

    async def emit(self, job: NewJob) -> bool:
        (emitted,) = await self.broker.emit([job])
        return emitted.created

    async def join(self, inc: Inc) -> None:
        self.members[inc] = await self.broker.register(
            _registration(inc), have=list, lost=lambda _: None
        )

    async def step(
        self, inc: Inc, ordinal: int, outcomes: Sequence[Outcome], want: int
    ) -> tuple[str, Taken | None]:
        del ordinal
        reply = await self.members[inc].step(outcomes, want)
        applied = "".join(LETTER_OF[answer] for answer in reply.applied)
        if reply.taken is None:
            return applied, None
        self.starts += reply.taken.deliveries
        return applied, (reply.taken.status.value, _rows(reply.taken.deliveries))

    async def beat(self, inc: Inc) -> tuple[bool, list[str]]:
        beat = await self.members[inc].beat()
        return beat.alive, sorted(job for job, _ in beat.cancels)

    async def leave(self, inc: Inc) -> None:
        await self.members[inc].leave()

    async def end_lease(self, inc: Inc) -> None:
        await self.backdoor.end_lease(QUEUE, _name(inc))

    async def cancel(self, job: str, number: str | None) -> str:
        answer = await self.broker.cancel(
            QUEUE, job, number=number, reason="asked", retention_ms=RETENTION_MS
        )
        return answer.value

    async def requeue(self, job: str, generation: int) -> str:
        (stored,) = await self.broker.read(QUEUE, [job])
        if stored is not None and stored.generation != generation:
            return "not_dead"  # the contract has no generations: they are the scripts' own
        try:
            return "requeued" if await self.broker.requeue(QUEUE, job) else "not_dead"
        except JobNotFoundError:
            return "missing"

    async def make_due(self, job: str, ago_ms: int) -> None:
        with self.broker.store.step(QUEUE) as (queue, now_ms):
            stored = queue.jobs[job]
            queue.add_delay(stored, now_ms - ago_ms, stored.now.why or "")

    async def debounce(self, inc: Inc, token: StartToken, edge: str) -> str | None:
        (holder,) = await self.members[inc].debounce([_ask(token, edge)])
        return holder

    async def read(self, jobs: Sequence[str]) -> list[Stored | None]:
        return await self.broker.read(QUEUE, jobs)


def _name(inc: Inc) -> str:
    return f"w{inc[0]}:{inc[1]}"


def _registration(inc: Inc) -> Registration:
    return Registration(
        queue=QUEUE,
        incarnation=_name(inc),
        consumer_id=f"w{inc[0]}",
        host="host",
        events=["work"],
        lease_ms=LEASE_MS,
    )


def _rows(deliveries: Sequence[Delivery]) -> list[tuple[str, int, int]]:
    return [(d.token.job_id, d.attempt, d.token.deliveries) for d in deliveries]


def _ask(token: StartToken, edge: str) -> DebounceAsk:
    return DebounceAsk(token, "leading" if edge == "leading" else "trailing", HOUR_MS, edge)


# -- both together ---------------------------------------------------------------------------------


@dataclass
class Both:
    """The model's server and its peer, of whom the same things are asked."""

    peer: Peer
    server: Server = field(default_factory=Server)
    starts: list[model.Delivery] = field(default_factory=list[model.Delivery])
    lives: dict[int, int] = field(default_factory=lambda: {0: 1, 1: 1})
    ordinals: dict[Inc, int] = field(default_factory=dict[Inc, int])
    sent: list[New] = field(default_factory=list[New])
    count: int = 0

    async def begin(self) -> None:
        for worker, life in self.lives.items():
            await self._joins((worker, life))

    async def _joins(self, inc: Inc) -> None:
        await self.peer.join(inc)
        model.register(self.server, inc)

    def _inc(self, worker: int) -> Inc:
        return worker % 2, self.lives[worker % 2]

    def _start(self, number: int) -> int | None:
        return len(self.starts) - 1 - number % len(self.starts) if self.starts else None

    def _job(self, number: int) -> str | None:
        jobs = list(dict.fromkeys(new.id for new in reversed(self.sent)))
        return jobs[number % len(jobs)] if jobs else None

    async def do(self, operation: Operation) -> None:
        """Carry out an operation on both, and compare the answers."""
        match operation:
            case Emit():
                await self._emit(operation)
            case Step():
                await self._step(operation)
            case Own():
                await self._own(operation)
            case Forget():
                self._forget()
            case Worker():
                await self._worker(operation)
            case Steer(job=number, does=does):
                start = self._start(number) if does == "cancel" else None
                job = self._job(number) if start is None else self.starts[start].token.job
                if job is not None:
                    await self._steer(job, does)
            case Pause(paused=paused, late=late):
                assert isinstance(self.peer, Scripts)
                number = self.server.pause_number + (not late)
                answer = await self.peer.pause(paused, number)
                assert answer == model.pause(self.server, paused, number)
            case Ask(start=number, edge=edge):
                start = self._start(number)
                if start is not None:
                    delivery = self.starts[start]
                    token = self.peer.starts[start].token
                    holder = await self.peer.debounce(delivery.token.inc, token, edge)
                    expected = model.debounce(self.server, delivery.token, edge, edge, HOUR_MS)
                    if expected is not None and expected not in self.server.jobs:
                        expected = expected.replace("@", "@n")  # of an earlier life
                    assert holder == expected

    async def _emit(self, emit: Emit) -> None:
        self.count += 1
        if emit.name == "again":
            if not self.sent:
                return
            new = self.sent[self.count % len(self.sent)]
        else:
            is_minted = emit.name == "minted"
            new = New(
                f"m@{self.count}" if is_minted else emit.name,
                "work",
                None if is_minted else self.count,
                delay=HOUR_MS + self.count if emit.delayed else None,
                digest="trailing" if emit.trailing else "",
                window=HOUR_MS + self.count if emit.trailing else 0,
            )
        self.sent.append(new)
        debounce = Debounce("trailing", new.window, new.digest) if new.digest else None
        job = NewJob(
            id=new.id,
            queue=QUEUE,
            record=Record(RECORD_VERSION, "work", b"{}", debounce=debounce),
            number=None if new.number is None else f"n{new.number}",
            delay_ms=None if new.digest else new.delay,
        )
        assert await self.peer.emit(job) == (model.enqueue(self.server, new) == "1")

    async def _step(self, step: Step) -> None:
        inc = self._inc(step.worker)
        ordinal = self.ordinals.get(inc, 0) - step.late
        if ordinal < 0:
            return
        places = [(self._start(number), kind, ran) for number, kind, ran in step.ends]
        chosen = {place: (kind, ran) for place, kind, ran in places if place is not None}
        expected = ""
        outcomes: list[Outcome] = []
        for place, (kind, ran) in chosen.items():
            ran |= kind in "ci"  # noqa: PLW2901 - those have begun
            mine, other = self.starts[place], self.peer.starts[place]
            outcome = model.Outcome(mine.token, kind, mine.attempt, ran, delay=HOUR_MS)
            expected += model.commit(self.server, outcome)
            outcomes.append(
                Outcome(
                    token=other.token,
                    event="work",
                    attempt=other.attempt,
                    verdict=VERDICTS[kind],
                    ran=ran,
                    retention_ms=RETENTION_MS,
                    generation=other.generation,
                )
            )
        applied, taken = await self.peer.step(inc, ordinal, outcomes, step.want)
        assert applied == expected
        if step.want:
            mine = model.take(self.server, inc, ordinal, step.want)
            self.starts += mine.deliveries
            rows = [(d.token.job, d.attempt, d.token.deliveries) for d in mine.deliveries]
            assert taken == (mine.status, rows)

    async def _own(self, own: Own) -> None:
        assert isinstance(self.peer, Scripts)
        inc = self._inc(own.worker)
        ordinal = max(0, self.ordinals.get(inc, 0) + (-1 if own.late else 1))
        places = [n for n, d in enumerate(self.starts) if d.token.inc == inc][-3:]
        places = [n for n in places if n % 4 != own.forgotten]
        # A token that came again is one token.
        places = list({self.starts[n].token: n for n in places}.values())
        have = tuple(self.starts[n].token for n in places)
        expected = model.own(self.server, inc, ordinal, have)
        answer = await self.peer.own(inc, ordinal, [self.peer.starts[n].token for n in places])
        assert answer == (expected.status, [have.index(token) for token in expected.lost])
        if expected.status in ("owned", "forgotten"):
            self.ordinals[inc] = ordinal

    def _forget(self) -> None:
        assert isinstance(self.peer, Scripts)
        read = [entry for entry in self.server.stream if entry.owner != NEW]
        if not read or read[-1].deliveries != 1 or read[-1].owner == RELEASED:
            return
        latest = read[-1]
        for mine, other in zip(self.starts, self.peer.starts, strict=True):
            if (mine.token.job, mine.token.entry) == (latest.job, latest.id):
                self.peer.desk.forget(other.token)
                model.put(self.server, latest._replace(owner=NEW, deliveries=0))
                return

    async def _worker(self, worker: Worker) -> None:
        inc = self._inc(worker.worker)
        match worker.does:
            case "join":
                self.lives[inc[0]] += 1
                await self._joins((inc[0], self.lives[inc[0]]))
            case "beat":
                expected = model.beat(self.server, inc)
                assert await self.peer.beat(inc) == (expected.alive, list(expected.cancels))
            case "leave":
                await self.peer.leave(inc)
                model.leave(self.server, inc)
            case "lease ends":
                await self.peer.end_lease(inc)
                if inc in self.server.leases:
                    self.server.leases[inc] = 0

    async def _steer(self, job: str, does: str) -> None:
        record = self.server.jobs[job]
        generation = record.gen - 1 if does == "requeue late" else record.gen
        match does:
            case "cancel":
                answer = await self.peer.cancel(job, None)
                assert answer == model.cancel(self.server, job, None)
            case "cancel this life":
                number = next((n.number for n in self.sent if n.id == job), None)
                answer = await self.peer.cancel(job, None if number is None else f"n{number}")
                assert answer == model.cancel(self.server, job, number)
            case "requeue" | "requeue late":
                answer = await self.peer.requeue(job, generation)
                assert answer == model.requeue(self.server, job, generation)
            case _:
                if record.s == "d":
                    self.count += 1
                    await self.peer.make_due(job, 10_000 - self.count)
                    self.server.jobs[job] = record._replace(due=self.count - 10_000)

    async def compare(self) -> None:
        """Every job is in the same state."""
        jobs = list(self.server.jobs)
        for job, stored in zip(jobs, await self.peer.read(jobs), strict=True):
            assert stored is not None
            found = (stored.state, stored.attempt, stored.generation, stored.interruptions)
            assert (job, *found, set(stored.numbers)) == self._expected(job)

    def _expected(self, job: str) -> tuple[str, JobState, int, int, int, set[str]]:
        record, entry = self.server.jobs[job], self.server.entry_of(job)
        state, attempt = STATE_OF_LETTER[record.s], record.a
        if entry is not None and entry.owner not in (NEW, RELEASED):
            state, attempt = JobState.RUNNING, record.a + entry.deliveries - record.gb
        numbers = {f"n{number}" for number in record.present}
        return job, state, attempt, record.gen, record.gi, numbers


async def _walk(peer: Peer, path: Sequence[Operation]) -> None:
    both = Both(peer)
    await both.begin()
    for operation in path:
        await both.do(operation)
        await both.compare()


@given(path=paths(of_the_contract))
def test_the_memory_broker_walks_with_the_model(path: Sequence[Operation]) -> None:
    async def program() -> None:
        async with MemoryBroker() as broker:
            await _walk(Memory(broker), path)

    trio.run(program, clock=MockClock(autojump_threshold=0))


@pytest.fixture
def new_desk(server: ServerProcess) -> Iterator[Callable[[], Desk]]:
    """Makes desks that are cleared afterwards."""
    desks: list[Desk] = []
    with redis.Redis(
        unix_socket_path=server.socket_path,
        socket_timeout=20,
        single_connection_client=True,
        protocol=2,
    ) as client:

        def made() -> Desk:
            desks.append(Desk(client, f"drift{len(desks)}", QUEUE))
            return desks[-1]

        yield made
        for desk in desks:
            clear(desk)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(path=paths(of_the_scripts))
def test_the_scripts_walk_with_the_model(
    new_desk: Callable[[], Desk], path: Sequence[Operation]
) -> None:
    desk = new_desk()
    try:
        trio.run(_walk, Scripts(desk), path)
        assert desk.defects() == []
    finally:
        clear(desk)
