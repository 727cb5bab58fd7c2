"""The server: one function for each script.

Functions bear the names of the scripts in `trio_tasks/redis_streams/lua/` and do in Python what
those do, so that the two can be read side by side. A function is one atomic step; `step` is
`commit` and then `take`. Where a `Rule` is asked about, `server.keeps(rule)` is the protocol and
the other branch is what happens without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.model.rules import Rule
from tests.model.store import (
    FOREVER,
    LETTERS,
    NEW,
    RELEASED,
    BeatAnswer,
    Delivery,
    Entry,
    Inc,
    Key,
    New,
    Outcome,
    OwnAnswer,
    Record,
    Row,
    Schedule,
    Server,
    TakeAnswer,
    Token,
)
from trio_tasks.processor.lease import PARK_MS

__all__ = [
    "beat",
    "cancel",
    "commit",
    "debounce",
    "declare",
    "enqueue",
    "leave",
    "maker",
    "own",
    "pause",
    "register",
    "relay_deliver",
    "relay_done",
    "requeue",
    "take",
    "tick",
]

KEPT: Final = 16
"""Emit numbers that a record keeps."""


# -- _effects.lua, _leases.lua ---------------------------------------------------------------------


def add_entry(server: Server, job: str) -> int:
    """Make a job startable; returns its entry's name."""
    number = server.jobs[job].entries + 1 if job in server.jobs else 1
    server.stream.append(Entry(job, number))
    return number


def put(server: Server, entry: Entry) -> None:
    """Replace an entry, in its place."""
    for place, other in enumerate(server.stream):
        if other.job == entry.job and other.id == entry.id:
            server.stream[place] = entry
            return


def ack(server: Server, job: str, entry: int) -> None:
    """XACK and XDEL."""
    server.stream = [e for e in server.stream if e.job != job or e.id != entry]


def renew_after_outage(server: Server) -> None:
    """Nobody was heard for so long that silence proves nothing: all leases begin anew."""
    lease = server.lease
    if lease is None or server.last_beat is None or not server.keeps(Rule.OUTAGE):
        return
    limit = lease / 2
    if not server.keeps(Rule.OUTAGE_NOT_A_THIRD):
        limit = lease / 3
    if not server.keeps(Rule.OUTAGE_NOT_TWO_THIRDS):
        limit = lease * 2 / 3
    if abs(server.now - server.last_beat) > limit:
        for inc in server.leases:
            server.leases[inc] = server.lease_end()


def declare_dead(server: Server) -> None:
    """Whose lease has ended is no member any more; what it owns is an orphan."""
    for inc, until in list(server.leases.items()):
        if until <= server.now:
            forget(server, inc)
            if server.owned_by(inc):
                server.orphans = True


def forget(server: Server, inc: Inc) -> None:
    """Take an incarnation out of `c` and `ci`."""
    del server.leases[inc]
    server.ordinals.pop(inc, None)
    server.served.pop(inc, None)


# -- register, own, beat, leave --------------------------------------------------------------------


def register(server: Server, inc: Inc, events: tuple[str, ...] = ()) -> None:
    """Adds a member, always under a fresh name, and creates the groups. Who joins is heard."""
    renew_after_outage(server)
    server.last_beat = server.now
    server.groups = True
    server.served[inc] = events
    server.ordinals.setdefault(inc, 0)
    server.leases[inc] = server.lease_end()


def own(server: Server, inc: Inc, ordinal: int, have: Sequence[Token]) -> OwnAnswer:
    """The first request on a new connection: gives back, uncounted, what is not in memory."""
    if inc not in server.leases:
        return OwnAnswer("dead")
    if server.ordinals.get(inc, 0) > ordinal:
        return OwnAnswer("old")
    for entry in server.owned_by(inc):
        if Token(entry.job, entry.id, entry.deliveries, inc) not in have:
            give_back(server, entry)
    server.ordinals[inc] = ordinal
    lost = tuple(token for token in have if not server.is_present(token))
    forgotten = server.keeps(Rule.LOST_JOINS_ANEW) and any(
        entry.job == token.job and entry.id == token.entry and entry.deliveries < token.deliveries
        for token in lost
        for entry in server.stream
    )
    return OwnAnswer("forgotten" if forgotten else "owned", lost)


def give_back(server: Server, entry: Entry) -> None:
    """Give back a start of which its worker knows nothing."""
    record = server.jobs.get(entry.job)
    if record is None or record.e != entry.id:
        ack(server, entry.job, entry.id)
        return
    if server.keeps(Rule.OWN_UNCOUNTED):
        used = record.a + entry.deliveries - record.gb - 1
        server.jobs[entry.job] = record._replace(a=used, gb=entry.deliveries)
    put(server, entry._replace(owner=RELEASED))
    server.orphans = True


def beat(server: Server, inc: Inc) -> BeatAnswer:
    """Renews the lease of a member, declares others dead, collects cancel requests."""
    alive = inc in server.leases or not server.keeps(Rule.BEAT_RENEWS_MEMBERS)
    if alive:
        renew_after_outage(server)
        server.leases[inc] = server.lease_end()
        server.last_beat = server.now
    declare_dead(server)
    mine = {entry.job for entry in server.owned_by(inc)} if alive else set[str]()
    cancels = tuple(sorted(mine & server.cancels))
    if not server.keeps(Rule.CANCEL_KEPT):
        server.cancels.difference_update(cancels)
    return BeatAnswer(alive, cancels)


def leave(server: Server, inc: Inc) -> bool:
    """Ends a membership; a member that owns jobs yet is left to its lease."""
    if server.owned_by(inc):
        return False
    if inc in server.leases:
        forget(server, inc)
    return True


# -- step is commit, then take ---------------------------------------------------------------------


def take(server: Server, inc: Inc, ordinal: int, want: int) -> TakeAnswer:
    """Declares the dead, promotes what is due, hands out; every hand-out is a counted start."""
    renew_after_outage(server)
    declare_dead(server)
    if server.keeps(Rule.TAKE_NEEDS_MEMBER) and inc not in server.leases:
        return TakeAnswer("dead")
    if server.keeps(Rule.OWN_FENCES) and server.ordinals.get(inc, 0) > ordinal:
        return TakeAnswer("old")
    if server.paused:
        return TakeAnswer("paused")
    promote(server)
    if not server.groups:
        return TakeAnswer("dead")
    return TakeAnswer("taken", hand_out(server, inc, want))


def promote(server: Server) -> None:
    """Makes due jobs ready, earliest first."""
    due = [
        (record.due, job)
        for job, record in server.jobs.items()
        if record.due is not None and record.due <= server.now
    ]
    for _, job in sorted(due):
        record = server.jobs[job]
        entry = add_entry(server, job)
        server.jobs[job] = record._replace(s="q", e=entry, entries=entry, due=None, why="")
        if not server.keeps(Rule.TRAILING_KEPT):
            for digest, key in list(server.keys.items()):
                if key.job == job:
                    del server.keys[digest]


def hand_out(server: Server, inc: Inc, want: int) -> tuple[Delivery, ...]:
    """What is left behind before what is new, each oldest first."""
    deliveries: list[Delivery] = []
    if server.orphans:
        orphans = [
            entry
            for entry in server.stream
            if entry.owner != NEW and entry.owner not in server.leases
        ]
        for entry in orphans[:want]:
            counted = server.keeps(Rule.COUNTED) or entry.owner == RELEASED
            start(server, entry, inc, deliveries, counted=counted)
        server.orphans = len(orphans) > want
    fresh = [entry for entry in server.stream if entry.owner == NEW]
    for entry in fresh[: max(0, want - len(deliveries))]:
        start(server, entry, inc, deliveries, counted=True)
    return tuple(deliveries)


def start(
    server: Server, entry: Entry, inc: Inc, deliveries: list[Delivery], *, counted: bool
) -> None:
    """Hand an entry out."""
    entry = entry._replace(owner=inc, deliveries=entry.deliveries + counted)
    job = entry.job
    record = server.jobs.get(job)
    if record is None or record.s != "q" or record.e != entry.id:
        ack(server, job, entry.id)
        return
    put(server, entry)
    deliveries.append(
        Delivery(
            token=Token(job, entry.id, entry.deliveries, inc),
            b=record.b,
            attempt=record.a + entry.deliveries - record.gb,
            gi=record.gi,
            gen=record.gen,
            us=record.us,
            rq=record.rq,
            cancelled=job in server.cancels,
        )
    )


def is_mine(server: Server, token: Token) -> bool:
    """The fence."""
    if not server.keeps(Rule.FENCE):
        return server.entry_of(token.job) is not None
    if not server.keeps(Rule.FENCE_COUNT):
        entry = server.entry_of(token.job)
        return entry is not None and entry.id == token.entry and entry.owner == token.inc
    return server.is_present(token)


def commit(server: Server, outcome: Outcome) -> str:
    """Applies an outcome: A applied, R repeated, X cancelled instead, P parked instead, S stale,
    G gone."""
    token = outcome.token
    job = token.job
    record = server.jobs.get(job)
    if not is_mine(server, token):
        if record is None:
            return "G"
        return "R" if token in (record.lt, record.f) else "S"
    entry = server.entry_of(job)
    if record is None or entry is None:
        ack(server, job, token.entry)
        return "G"

    answer, kind, delay, since, why = "A", outcome.kind, outcome.delay, outcome.since, outcome.why
    asked = job in server.cancels
    if asked and kind not in "cx":
        answer, kind = "X", "x"
    elif outcome.unless_served and is_served(server, record.b):
        answer, kind, since, why = "P", "k", server.now, "parked"
        # Without the rule: due when the grace ends, which was long ago.
        delay = PARK_MS if server.keeps(Rule.REPARK) else 0

    state = LETTERS[kind]
    counts = (
        kind == "v"
        or (kind == "t" and server.keeps(Rule.RETRY_COUNTS))
        or (outcome.ran and kind not in "kui")
    )
    used = outcome.attempt if counts else outcome.attempt - 1
    record = record._replace(s=state, a=used)
    if state == "q":
        # The count of deliveries goes on, so that no later start has this token: it is made good.
        record = record._replace(gb=entry.deliveries, gi=record.gi + (kind == "i"))
        put(server, entry._replace(owner=RELEASED))
        server.orphans = True
    else:
        record = record._replace(gb=0)
    if state == "d":
        us = since if kind == "k" and record.us is None else record.us
        record = record._replace(due=server.now + delay, us=us, why=why or "retry")
    record = record._replace(lt=token) if state in "qd" else record._replace(why=why, f=token)
    if state != "q":
        record = record._replace(e=0)
        ack(server, job, entry.id)
    server.jobs[job] = record
    if state in "zx" and record.dg:
        reopen(server, job, record.dg)
    if asked:
        server.cancels.discard(job)
    for child in outcome.children:
        add_child(server, child)
    if state in "csx":
        expire(server, job)
    return answer


def is_served(server: Server, kind: str) -> bool:
    """Whether a living incarnation lists the event."""
    return any(
        kind in server.served.get(inc, ())
        for inc, until in server.leases.items()
        if until > server.now
    )


def add_child(server: Server, child: New) -> None:
    """A child of the same queue is there at once; for another one it is a row of the outbox."""
    if not child.out:
        enqueue(server, child)
        return
    server.out.append(Row(child, server.now))


# -- _end.lua, enqueue, relay_*, debounce ---------------------------------------------------------


def expire(server: Server, job: str) -> None:
    """The TTL of an ended job: it is its own tombstone."""
    if not server.keeps(Rule.TOMBSTONE):
        del server.jobs[job]
        return
    if server.tombstone is None:
        return
    record = server.jobs[job]
    lasts = server.relayed_tombstone if record.relayed else server.tombstone
    server.jobs[job] = record._replace(expires=server.now + lasts)


def maker(record: Record) -> int | None:
    """The emit number that began this life."""
    return record.present[-1] if record.present else None


def joined(present: tuple[int, ...], earlier: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Newest first; those of earlier lives are forgotten first, the maker of this one never."""
    while len(present) + len(earlier) > KEPT:
        if earlier:
            earlier = earlier[:-1]
        else:
            present = (*present[:-2], present[-1])
    return present, earlier


def answered(server: Server, record: Record, new: New, late: bool) -> str | None:
    """What a job that exists answers to an emit; `None`: it has ended, a new life begins."""
    number = new.number
    if number is None:
        if server.keeps(Rule.MINTED_ONCE) or record.s in "qd":
            return "1"  # this emit's, sent again
        return None
    if number in record.present:
        return "1" if number == maker(record) else "0"
    if number in record.earlier:
        return "0"
    if late or record.s in "qd":
        if server.keeps(Rule.ATTACHED_KEPT):
            present, earlier = joined((number, *record.present), record.earlier)
            server.jobs[new.id] = record._replace(present=present, earlier=earlier)
        return "0"
    return None


def become_last(server: Server, new: New) -> None:
    """Trailing debounce: the last job of the key is replaced if it waits; the key names this."""
    key = server.keys.get(new.digest)
    former = None if key is None else server.jobs.get(key.job)
    if key is not None and former is not None and former.s == "d" and key.maker == maker(former):
        end_idle(server, key.job, "s", "debounced")
    tombstone = server.tombstone
    until = FOREVER if tombstone is None else server.now + new.window + tombstone
    server.keys[new.digest] = Key(new.id, new.number, until)


def end_idle(server: Server, job: str, letter: str, why: str) -> None:
    """Ends a job that does not run."""
    record = server.jobs[job]
    server.jobs[job] = record._replace(s=letter, due=None, why=why)
    expire(server, job)


def enqueue(server: Server, new: New, *, mode: str = "e") -> str:
    """Stores a job: `1` made by this emit, now or when it was sent before, `0` by another one.

    Modes: e emitted, r relayed, l relayed too late.
    """
    old = server.jobs.get(new.id)
    answer = None if old is None else answered(server, old, new, mode == "l")
    if answer is not None:
        return answer

    delay = new.window if new.digest else new.delay
    state = "z" if mode == "l" else "d" if delay else "q"
    if new.digest and state != "z":
        become_last(server, new)
    record = Record(state, new.b, relayed=mode != "e", entries=0 if old is None else old.entries)
    if new.number is not None and server.keeps(Rule.NUMBERS_KEPT):
        earlier = () if old is None else (*old.present, *old.earlier)
        if not server.keeps(Rule.NUMBERS_INHERITED):
            earlier = ()
        present, earlier = joined((new.number,), earlier)
        record = record._replace(present=present, earlier=earlier)
    if old is not None:
        record = record._replace(gen=old.gen + 1)
    if state == "q":
        entry = add_entry(server, new.id)
        record = record._replace(e=entry, entries=entry)
    if state == "d":
        assert delay is not None
        record = record._replace(due=server.now + delay, why="debounce" if new.digest else "delay")
    if state == "z":
        record = record._replace(why="relayed_late")
    server.jobs[new.id] = record
    return "1"


def relay_deliver(server: Server, child: New, *, late: bool) -> None:
    """`enqueue` for a child that comes from another queue."""
    enqueue(server, child, mode="l" if late else "r")


def relay_done(server: Server, row: Row) -> None:
    """Removes a row whose target has answered."""
    if row in server.out:
        server.out.remove(row)


def reopen(server: Server, job: str, digest: str) -> None:
    """Releases a leading debounce key that this life of a job holds."""
    key, record = server.keys.get(digest), server.jobs.get(job)
    if key is not None and record is not None and key == (job, maker(record), key.until):
        del server.keys[digest]


def debounce(server: Server, token: Token, edge: str, digest: str, window: int) -> str | None:
    """Who holds a debounce key, the asker if nobody else; `None`: its start was superseded."""
    if not server.is_present(token):
        return None
    record = server.jobs[token.job]
    key = server.keys.get(digest)
    if edge == "trailing":
        return token.job if key is None else key.job
    if key is None:
        key = server.keys[digest] = Key(token.job, maker(record), server.now + window)
    is_mine = key.job == token.job and key.maker == maker(record)
    if is_mine and server.keeps(Rule.LEADING_RECORDED):
        server.jobs[token.job] = record._replace(dg=digest)
    if key.job == token.job and not is_mine and server.keeps(Rule.LEADING_LIFE):
        return f"{key.job}@{key.maker}"
    return key.job


# -- cancel, requeue, pause ------------------------------------------------------------------------


def cancel(server: Server, job: str, number: int | None) -> str:
    """Cancels a job that does not run; leaves a request for the one who runs it."""
    record = server.jobs.get(job)
    if record is None:
        return "missing"
    is_other_life = number is not None and number not in record.present
    if record.s in "csxz" or (is_other_life and server.keeps(Rule.CANCEL_NUMBER)):
        return "final"
    entry = server.entry_of(job)
    if entry is not None and entry.owner not in (NEW, RELEASED):
        server.cancels.add(job)
        return "noted"
    if entry is not None:
        ack(server, job, entry.id)
    server.cancels.discard(job)
    server.jobs[job] = record._replace(e=0)
    end_idle(server, job, "x", "cancelled")
    if record.dg:
        reopen(server, job, record.dg)
    return "cancelled"


def requeue(server: Server, job: str, generation: int) -> str:
    """Puts a dead job back: fresh attempts, a new generation."""
    record = server.jobs.get(job)
    if record is None:
        return "missing"
    is_other = record.gen != generation and server.keeps(Rule.REQUEUE_GENERATION)
    if record.s != "z" or is_other:
        return "not_dead"
    entry = add_entry(server, job)
    server.jobs[job] = Record(
        "q",
        record.b,
        e=entry,
        gen=record.gen + 1,
        rq=True,
        present=record.present,
        earlier=record.earlier,
        relayed=record.relayed,
        entries=entry,
    )
    return "requeued"


def pause(server: Server, paused: bool, number: int) -> bool:
    """Pauses or resumes handing out; whether it was applied."""
    if number <= server.pause_number and server.keeps(Rule.PAUSE_NUMBER):
        return False
    server.pause_number = max(number, server.pause_number)
    server.paused = paused
    return True


# -- declare, tick ---------------------------------------------------------------------------------


def declare(server: Server, definition: str, at: int) -> Schedule | None:
    """Stores a schedule; what is in force then. `None`: the instant is refused."""
    stored = server.schedule
    if stored is not None and stored.definition == definition and server.keeps(Rule.DECLARE_KEEPS):
        return stored
    last = -1 if stored is None else stored.last
    after = max(server.now, last) if server.keeps(Rule.AFTER_LAST) else server.now
    if at <= after:
        return None
    server.schedule = Schedule(definition, at, last)
    return server.schedule


def tick(server: Server, definition: str, occurrence: int, following: int, job: New | None) -> str:
    """Turns an occurrence into a job, or passes it over, and advances the schedule."""
    stored = server.schedule
    if stored is None or stored.definition != definition:
        return "taken"
    if server.keeps(Rule.CRON_CAS) and (stored.next != occurrence or stored.last >= occurrence):
        return "taken"
    if occurrence > server.now and server.keeps(Rule.CRON_NOT_EARLY):
        return "early"
    if job is not None:
        enqueue(server, job)
    server.schedule = Schedule(definition, following, occurrence)
    return "passed" if job is None else "created"
