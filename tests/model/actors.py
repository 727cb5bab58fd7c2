"""Who acts in a world: workers, clients, what they send; and the world itself, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from tests.model.rules import Rule
from tests.model.store import (
    BeatAnswer,
    Delivery,
    Frozen,
    Inc,
    New,
    Outcome,
    OwnAnswer,
    Row,
    TakeAnswer,
    Token,
)

__all__ = [
    "FAULTS",
    "PLAIN",
    "WORKER_FAULTS",
    "Answer",
    "Ask",
    "Asked",
    "Beat",
    "Before",
    "Cancel",
    "Client",
    "Held",
    "History",
    "Kind",
    "Late",
    "Leave",
    "Own",
    "Pause",
    "Register",
    "RelayDeliver",
    "RelayDone",
    "RelayRead",
    "Request",
    "Requeue",
    "Setting",
    "StepAnswer",
    "Take",
    "What",
    "Worker",
    "World",
]

FAULTS: Final = ("break", "kill", "freeze", "stop", "hang up", "lose", "flush")
"""break: the connection of a worker; hang up: that of a client; lose: the server restarts without
its last write; flush: it loses all data."""

WORKER_FAULTS: Final = 4
"""So many of them, from the first, happen to workers."""


CLIENT: Final = -1
"""Who sends what no worker sends."""


# -- what is sent ----------------------------------------------------------------------------------


class Own(NamedTuple):
    """`own`; `have` are the tokens in memory."""

    life: int
    g: int
    have: tuple[Token, ...]


class Take(NamedTuple):
    """`step`: outcomes, and how many jobs are wanted."""

    life: int
    g: int
    outcomes: tuple[Outcome, ...]
    want: int


class Register(NamedTuple):
    """`counts`: what it renews is not too old yet, counted from its sending."""

    life: int
    counts: bool = True


class Beat(NamedTuple):
    """As `Register`."""

    life: int
    counts: bool = True


class Leave(NamedTuple):
    life: int


class Ask(NamedTuple):
    """`debounce` for one start."""

    delivery: Delivery
    edge: str
    digest: str


class Cancel(NamedTuple):
    job: str
    number: int | None


class Requeue(NamedTuple):
    """A requeue; `generation` is read before it is sent."""

    job: str
    generation: int = -1


class Pause(NamedTuple):
    """Pause or resume; its number is one above that which is read before it is sent."""

    paused: bool
    number: int = -1


class RelayRead(NamedTuple):
    """Look into the outbox; a relay does this again and again."""


class RelayDeliver(NamedTuple):
    row: Row
    child: New
    late: bool


class RelayDone(NamedTuple):
    row: Row


What: TypeAlias = (
    Own
    | Take
    | Register
    | Beat
    | Leave
    | Ask
    | New
    | Cancel
    | Requeue
    | Pause
    | RelayRead
    | RelayDeliver
    | RelayDone
)


class StepAnswer(NamedTuple):
    applied: str
    taken: TakeAnswer | None


class Asked(NamedTuple):
    """Who holds the debounce key; `refused`: the server cannot say, the key is something else."""

    holder: str | None
    refused: bool = False


Answer: TypeAlias = OwnAnswer | StepAnswer | BeatAnswer | Asked | str | bool


class Request(NamedTuple):
    """A request on its way, or with an answer that nobody has read yet."""

    what: What
    answer: Answer | None = None


class Late(NamedTuple):
    """A request that was sent on a connection that is gone. `sender`: the worker, or `CLIENT`."""

    sender: int
    what: What


# -- who sends -------------------------------------------------------------------------------------


class Held(NamedTuple):
    """A job in a worker's memory.

    `phase`: `asks` (for its debounce key), `runs`, or `ended` (its outcome waits or is under way).
    """

    delivery: Delivery
    phase: str
    outcome: Outcome | None = None
    children: tuple[New, ...] = ()

    @property
    def token(self) -> Token:
        return self.delivery.token


class Worker(NamedTuple):
    """A process.

    Attributes:
        status: up, frozen, stopping, left (stopped in good order) or dead.
        life: which incarnation; a name is never used again.
        former: lives up to this one were those of processes that are dead.
        member: nobody has told it otherwise.
        g: the ordinal of its connection.
        owned: `own` is answered on this connection.
        stale: the last good renewal is too old.
    """

    status: str = "up"
    life: int = 1
    former: int = 0
    member: bool = True
    g: int = 0
    connected: bool = True
    owned: bool = True
    stale: bool = False
    held: tuple[Held, ...] = ()
    requests: tuple[Request, ...] = ()

    @property
    def acts(self) -> bool:
        return self.status in ("up", "stopping")


class Client(NamedTuple):
    """Somebody who emits, cancels, pauses, requeues or relays: calls of a program, in order.

    `at`: which call is next. `unknown`: it was sent, and its answer was lost.
    """

    at: int = 0
    request: Request | None = None
    unknown: bool = False


# -- the world -------------------------------------------------------------------------------------


class History(NamedTuple):
    """What has happened to a job; nothing acts on it, the invariants are about it.

    Attributes:
        begun, back: handlers that began in this generation, and of them those given back uncounted.
        lost: starts whose worker fell silent, or that failed, before the handler began.
        holder: who was handed the present start; `None`: there is none.
        meant: that is an incarnation in use, or of a dead process.
        began: the handler of the present start began.
        spins: hand-outs since time last passed.
        runs: handlers that ever began.
        ok: completions of this life.
        ended: it was final in this life.
        noted: a cancel request was noted in this life.
        makers, attached: emit numbers that made lives, and those attached to them (`None`: a
            minted id's; below 0: a requeue's).
    """

    begun: int = 0
    back: int = 0
    lost: int = 0
    holder: Inc | None = None
    meant: bool = True
    began: bool = False
    spins: int = 0
    runs: int = 0
    ok: int = 0
    ended: bool = False
    noted: bool = False
    makers: tuple[int | None, ...] = ()
    attached: tuple[int | None, ...] = ()


class Before(NamedTuple):
    """What a server that loses its last write goes back to, and what is known of it."""

    server: Frozen
    history: tuple[tuple[str, History], ...]
    promised: tuple[New, ...]
    wins: int


class World(NamedTuple):
    """A state.

    Attributes:
        left: how many of each of `FAULTS` are left.
        before: as it was before the server's last write; only where that may be lost.
        newest: the newest data that began under the trailing key.
        wins: completions under the leading key.
        promised: children whose parent's completion was applied.
        minted: ids that a relay has made (only without `Rule.CHILD_ID`).
        acked: jobs whose emit was answered.
        broken: an invariant that the last step broke.
    """

    server: Frozen
    workers: tuple[Worker, ...]
    clients: tuple[Client, ...]
    left: tuple[int, ...]
    late: tuple[Late, ...] = ()
    history: tuple[tuple[str, History], ...] = ()
    before: Before | None = None
    newest: int = 0
    wins: int = 0
    promised: tuple[New, ...] = ()
    minted: int = 0
    acked: tuple[str, ...] = ()
    broken: str | None = None

    def with_worker(self, index: int, worker: Worker) -> World:
        """The state in which a worker is like this."""
        workers = list(self.workers)
        workers[index] = worker
        return self._replace(workers=tuple(workers))

    def with_client(self, index: int, client: Client) -> World:
        """The state in which a client is like this."""
        clients = list(self.clients)
        clients[index] = client
        return self._replace(clients=tuple(clients))

    def hold(self, index: int, held: Held) -> World:
        """The state in which a worker holds a job."""
        worker = self.workers[index]
        return self.with_worker(
            index, worker._replace(held=tuple(sorted([*worker.held, held], key=repr)))
        )

    def disconnected(self, index: int, *, late: bool) -> World:
        """A worker's connection is gone, and with it the answers that nobody has read.

        `late`: requests that were not carried out may be so afterwards.
        """
        worker = self.workers[index]
        sent = [Late(index, r.what) for r in worker.requests if r.answer is None] if late else []
        gone = worker._replace(connected=False, owned=False, requests=())
        late_ones = tuple(sorted([*self.late, *sent], key=repr))
        return self.with_worker(index, gone)._replace(late=late_ones)

    def killed(self, index: int, *, late: bool) -> World:
        """A worker's process is gone."""
        after = self.disconnected(index, late=late)
        dead = after.workers[index]._replace(status="dead", held=(), stale=False)
        return after.with_worker(index, dead)

    def may(self, fault: str) -> bool:
        """Whether there is such a fault left."""
        return self.left[FAULTS.index(fault)] > 0

    def spent(self, fault: str) -> World:
        """The state in which there is one less of it."""
        left = list(self.left)
        left[FAULTS.index(fault)] -= 1
        return self._replace(left=tuple(left))


@dataclass(frozen=True)
class Kind:
    """A kind of job: how it behaves.

    Attributes:
        attempts: total runs.
        ends: how a handler may end: ok, fail, or not at all.
        children: what it emits if it completes; an id that ends in `@` is minted.
        edge, digest: its debounce.
        order: of trailing jobs: how new its data are.
        raises: what finds its debounce key raises.
        spoilt: its debounce key holds something else, so that the server refuses to say who has it.
        poison: whoever touches its data is killed.
    """

    attempts: int = 2
    ends: tuple[str, ...] = ("ok",)
    children: tuple[New, ...] = ()
    edge: str = ""
    digest: str = "key"
    order: int = 0
    raises: bool = False
    spoilt: bool = False
    poison: bool = False


PLAIN: Final = Kind()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A world: what is there at first, who does what, and which faults may happen.

    Attributes:
        off: rules that are switched off.
        jobs: emitted already.
        kinds: how they and their children behave; others are `PLAIN`.
        ended: chosen ids of jobs that have completed already, with their emit number.
        workers: how many.
        slots: how many handlers a worker runs at once.
        steps: how many steps a worker has under way at once.
        deaf: workers without a slot: they beat only.
        knows: the kinds that workers have handlers for; `None`: all.
        programs: what each client calls.
        faults: how many of each sort.
        victims: workers that faults of one worker may happen to; `None`: all.
        beats: workers that send beats though they need not.
        late: whether requests of broken connections may be applied late.
        slow: a cancelled handler takes a while to unwind.
        tick: how much time may pass at once; 0: none does.
        age: instants that are longer ago are alike.
        tombstone: how long the record of an ended job stays, six times as long if it was relayed;
            `None`: for ever.
        excused: invariants that the faults of this world may break; see `Invariant`.
    """

    name: str
    off: frozenset[Rule] = frozenset()
    jobs: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    ended: Mapping[str, int] = field(default_factory=dict[str, int])
    workers: int = 2
    slots: int = 1
    steps: int = 1
    deaf: frozenset[int] = frozenset()
    knows: Mapping[int, tuple[str, ...]] | None = None
    programs: tuple[tuple[What, ...], ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict[str, int])
    victims: frozenset[int] | None = None
    beats: frozenset[int] = frozenset()
    late: bool = True
    slow: bool = False
    tick: int = 0
    age: int = 0
    tombstone: int | None = None
    excused: frozenset[str] = frozenset()

    @property
    def budget(self) -> tuple[int, ...]:
        """How many of each of `FAULTS`."""
        return tuple(self.faults.get(fault, 0) for fault in FAULTS)

    @property
    def are_workers_alike(self) -> bool:
        """Whether it makes no difference which worker is which."""
        return (
            self.victims is None
            and not self.deaf
            and not self.beats
            and (self.knows is None or len(set(self.knows.values())) == 1)
        )
