"""Who acts in a world: workers, clients, what they send; and the world itself, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from tests.model.rules import Rule
from tests.model.server import (
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
    "RelayDone",
    "RelayDeliver",
    "RelayRead",
    "Requeue",
    "Request",
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
    """Who holds the debounce key."""

    holder: str | None


Answer: TypeAlias = OwnAnswer | StepAnswer | BeatAnswer | Asked | str | bool


class Request(NamedTuple):
    """A request on its way, or with an answer that nobody has read yet."""

    what: What
    answer: Answer | None = None


class Late(NamedTuple):
    """A request that was sent on a connection that is gone. `sender`: the worker, -1: a client."""

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
    reopen: str = ""

    @property
    def token(self) -> Token:
        return self.delivery.token


class Worker(NamedTuple):
    """A process.

    `status`: up, frozen, stopping, left (stopped in good order) or dead. `life`: which incarnation;
    a name is never used again. `former`: lives up to this one were those of processes that are dead.
    `member`: nobody has told it otherwise. `g`: the ordinal of its connection.
    `owned`: `own` is answered on this connection. `stale`: the last good renewal is too old.
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

    Of the present generation: `begun` handlers, of them `back` given back uncounted; `lost`:
    starts whose worker fell silent before the handler began; `holder`: who was handed the present
    start, `meant`: that this is an incarnation in use, or of a dead process; `began`: its handler
    began; `spins`: hand-outs since time last passed. Over all: `runs`, `ended` and completions of
    this life (`ok`), `makers` of all lives (`None`: without an emit number) and
    numbers `attached` to them, `noted`: a cancel
    request was noted for the present life.
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

    `before`: as it was before the server's last write. `left`: how many faults of each sort are left.
    `newest`: the newest data that began under the trailing key; `wins`: completions under the
    leading key. `promised`: children whose parent's completion was applied. `minted`: ids that a relay has made (only without `Rule.CHILD_ID`). `acked`: jobs whose emit was
    answered. `broken`: an invariant that the last step broke.
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


@dataclass(frozen=True)
class Kind:
    """A kind of job: how it behaves.

    Attributes:
        attempts: total runs.
        ends: how a handler may end: ok, fail, or not at all.
        children: what it emits if it completes; an id that ends in `@` is minted.
        edge, digest: its debounce.
        order: of trailing jobs: how new its data are.
        poison: whoever touches its data is killed.
    """

    attempts: int = 2
    ends: tuple[str, ...] = ("ok",)
    children: tuple[New, ...] = ()
    edge: str = ""
    digest: str = "key"
    order: int = 0
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
