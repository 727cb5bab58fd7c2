"""What the server holds, and what is asked of it and answered.

Record fields are called as in Redis (`redis_streams/codec.py`). All queues lie in one: what matters
of two queues is that a child reaches the other one by way of the outbox, and it does here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from tests.model.rules import Rule

__all__ = [
    "FOREVER",
    "LETTERS",
    "NEW",
    "RELEASED",
    "BeatAnswer",
    "Delivery",
    "Entry",
    "Frozen",
    "Inc",
    "Key",
    "New",
    "Outcome",
    "OwnAnswer",
    "Record",
    "Row",
    "Schedule",
    "Server",
    "TakeAnswer",
    "Token",
]

Inc: TypeAlias = tuple[int, int]
"""An incarnation: the worker's number, and which of its lives."""

NEW: Final[Inc] = (-1, 0)
"""The owner of an entry that nobody was given yet."""
RELEASED: Final[Inc] = (-2, 0)
"""The consumer `~released`."""

LETTERS: Final = {"c": "c", "t": "d", "k": "d", "u": "q", "i": "q", "v": "q"} | {
    letter: letter for letter in "zsx"
}
"""What state each kind of outcome leads to: c complete, t retry, k park, u release, i release of
a begun attempt, v release that counts, z die, s skip, x cancel."""

FOREVER: Final = 1 << 60


class Token(NamedTuple):
    """The name of a start."""

    job: str
    entry: int
    deliveries: int
    inc: Inc


class Entry(NamedTuple):
    """A stream entry, and its row in the pending list."""

    job: str
    id: int
    owner: Inc = NEW
    deliveries: int = 0


class New(NamedTuple):
    """A job to be: what an emit sends.

    `number`: the emit number; `None`: a minted id. `b`: which kind of job it is. `out`: it is a
    child for another queue. `digest`, `window`: of a trailing debounce.
    """

    id: str
    b: str
    number: int | None = None
    delay: int | None = None
    digest: str = ""
    window: int = 0
    out: bool = False


class Record(NamedTuple):
    """The hash `j:<id>`; of its field `f` only the start that has ended the job.

    `n` is taken apart: `present` and `earlier` are the emit numbers of this life and of former
    ones. `entries` says how many entries this id ever had, for the name of the next one.
    """

    s: str
    b: str
    e: int = 0
    a: int = 0
    gb: int = 0
    gi: int = 0
    gen: int = 0
    due: int | None = None
    us: int | None = None
    dg: str = ""
    rq: bool = False
    why: str = ""
    present: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()
    lt: Token | None = None
    f: Token | None = None
    relayed: bool = False
    expires: int | None = None
    entries: int = 0


class Key(NamedTuple):
    """A debounce key: the life of a job that it names, and until when it lasts."""

    job: str
    maker: int | None
    until: int


class Row(NamedTuple):
    """A row of the outbox."""

    child: New
    written: int


class Schedule(NamedTuple):
    """The next occurrence of a schedule, and the last one that was turned into a job."""

    definition: str
    next: int
    last: int


class Outcome(NamedTuple):
    """What a start has come to; `ran`: its handler had begun."""

    token: Token
    kind: str
    attempt: int
    ran: bool = True
    why: str = ""
    delay: int = 0
    since: int = 0
    by: str = ""
    unless_served: bool = False
    children: tuple[New, ...] = ()


class Delivery(NamedTuple):
    """A job that was handed out."""

    token: Token
    b: str
    attempt: int
    gi: int
    gen: int
    us: int | None
    rq: bool
    cancelled: bool


class TakeAnswer(NamedTuple):
    """`taken`, `paused`, `dead` or `old`."""

    status: str
    deliveries: tuple[Delivery, ...] = ()


class OwnAnswer(NamedTuple):
    """`owned`, `forgotten`, `dead` or `old`; the tokens of `have` that are no longer ours."""

    status: str
    lost: tuple[Token, ...] = ()


class BeatAnswer(NamedTuple):
    """Whether it is a member; which of its jobs somebody wants cancelled."""

    alive: bool
    cancels: tuple[str, ...] = ()


class Frozen(NamedTuple):
    """What a server holds, as a value."""

    now: int
    jobs: tuple[tuple[str, Record], ...]
    stream: tuple[Entry, ...]
    orphans: bool
    groups: bool
    leases: tuple[tuple[Inc, int], ...]
    ordinals: tuple[tuple[Inc, int], ...]
    served: tuple[tuple[Inc, tuple[str, ...]], ...]
    last_beat: int | None
    cancels: tuple[str, ...]
    out: tuple[Row, ...]
    keys: tuple[tuple[str, Key], ...]
    paused: bool
    pause_number: int
    schedule: Schedule | None


@dataclass(slots=True)
class Server:
    """What Redis holds. Instants and durations are in whatever unit the world counts in.

    Attributes:
        off: the rules that are switched off.
        lease: its duration; `None`: it lasts until somebody ends it.
        tombstone, relayed_tombstone: how long the records of ended jobs stay; `None`: for ever.
        stream: entries in their order.
        orphans: entries lie about that were given back or belong to the dead (`o` in `m`).
        served: the events that members list, as kinds of jobs (`ci`).
        groups: `register` has created them.
    """

    off: frozenset[Rule] = frozenset()
    lease: int | None = None
    tombstone: int | None = None
    relayed_tombstone: int = 0
    now: int = 0
    jobs: dict[str, Record] = field(default_factory=dict[str, Record])
    stream: list[Entry] = field(default_factory=list[Entry])
    orphans: bool = False
    groups: bool = True
    leases: dict[Inc, int] = field(default_factory=dict[Inc, int])
    ordinals: dict[Inc, int] = field(default_factory=dict[Inc, int])
    served: dict[Inc, tuple[str, ...]] = field(default_factory=dict[Inc, "tuple[str, ...]"])
    last_beat: int | None = None
    cancels: set[str] = field(default_factory=set[str])
    out: list[Row] = field(default_factory=list[Row])
    keys: dict[str, Key] = field(default_factory=dict[str, Key])
    paused: bool = False
    pause_number: int = 0
    schedule: Schedule | None = None

    def keeps(self, rule: Rule) -> bool:
        """Whether a rule is switched on."""
        return rule not in self.off

    def frozen(self) -> Frozen:
        """All that changes, as a hashable value."""
        return Frozen(
            self.now,
            tuple(sorted(self.jobs.items())),
            tuple(self.stream),
            self.orphans,
            self.groups,
            tuple(sorted(self.leases.items())),
            tuple(sorted(self.ordinals.items())),
            tuple(sorted(self.served.items())),
            self.last_beat,
            tuple(sorted(self.cancels)),
            tuple(self.out),
            tuple(sorted(self.keys.items())),
            self.paused,
            self.pause_number,
            self.schedule,
        )

    def thaw(self, frozen: Frozen) -> Server:
        """The server as it was frozen, with the settings of this one."""
        server = Server(self.off, self.lease, self.tombstone, self.relayed_tombstone)
        server.now = frozen.now
        server.jobs = dict(frozen.jobs)
        server.stream = list(frozen.stream)
        server.orphans = frozen.orphans
        server.groups = frozen.groups
        server.leases = dict(frozen.leases)
        server.ordinals = dict(frozen.ordinals)
        server.served = dict(frozen.served)
        server.last_beat = frozen.last_beat
        server.cancels = set(frozen.cancels)
        server.out = list(frozen.out)
        server.keys = dict(frozen.keys)
        server.paused = frozen.paused
        server.pause_number = frozen.pause_number
        server.schedule = frozen.schedule
        return server

    # -- looking ---------------------------------------------------------------------------------

    def entry_of(self, job: str) -> Entry | None:
        """The entry that the job's record names."""
        record = self.jobs.get(job)
        if record is None or not record.e:
            return None
        for entry in self.stream:
            if entry.job == job and entry.id == record.e:
                return entry
        return None

    def is_present(self, token: Token) -> bool:
        """Whether the pending list says what the token says: the start is the present one."""
        for entry in self.stream:
            if entry.job == token.job and entry.id == token.entry:
                return entry.owner == token.inc and entry.deliveries == token.deliveries
        return False

    def owned_by(self, inc: Inc) -> list[Entry]:
        """The entries that are pending for an incarnation."""
        return [entry for entry in self.stream if entry.owner == inc]

    def lease_end(self) -> int:
        """When a lease that is renewed now will end."""
        return FOREVER if self.lease is None else self.now + self.lease

    def rebase(self, oldest: int) -> None:
        """Call this instant 0, and what was longer than `oldest` ago so long ago."""

        def moved(at: int) -> int:
            return at if at == FOREVER else max(at - self.now, -oldest)

        for job, record in self.jobs.items():
            self.jobs[job] = record._replace(
                due=None if record.due is None else moved(record.due),
                us=None if record.us is None else moved(record.us),
                expires=None if record.expires is None else moved(record.expires),
            )
        for digest, key in self.keys.items():
            self.keys[digest] = key._replace(until=moved(key.until))
        self.out = [row._replace(written=moved(row.written)) for row in self.out]
        self.leases = {inc: moved(until) for inc, until in self.leases.items()}
        if self.last_beat is not None:
            self.last_beat = moved(self.last_beat)
        self.now = 0

    def forget_entries(self, held: set[str]) -> None:
        """Name entries anew, from 1, of jobs that have none, and of which nobody holds a start."""
        for job, record in self.jobs.items():
            if record.s != "q" and job not in held:
                self.jobs[job] = record._replace(entries=0, lt=None, f=None)

    def expire(self) -> None:
        """Remove what has a TTL that is over."""
        for job, record in list(self.jobs.items()):
            if record.expires is not None and record.expires <= self.now:
                del self.jobs[job]
        for digest, key in list(self.keys.items()):
            if key.until <= self.now:
                del self.keys[digest]
