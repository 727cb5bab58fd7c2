"""The invariants: what is checked in every state, or in the step that could break it.

The numbers are those of the list of invariants in the design. `Chronicle` keeps the history that
some of them are about; nobody in the world acts on it.
"""

from __future__ import annotations

from enum import StrEnum

from tests.model.actors import Before, Cancel, History, Kind, Requeue, Setting, Worker, World
from tests.model.server import maker
from tests.model.store import (
    NEW,
    RELEASED,
    Delivery,
    Entry,
    Frozen,
    Inc,
    New,
    Outcome,
    Record,
    Row,
    Server,
)

__all__ = ["Chronicle", "Invariant", "superseded"]

MOST_SPINS = 3
"""More hand-outs of one job at one instant are a loop."""


class Invariant(StrEnum):
    """An invariant; its value says it in words."""

    ONE_PLACE = "1-3: each job is in one place: queued or running with one entry, or without any"
    ACKED = "1: a job whose emit was answered is there until it has ended"
    ONCE = "4: a life completes once"
    ATTEMPTS = "5: a handler begins at most `attempts` times"
    DEAD_FOR_A_REASON = "9: exhausted are only attempts that began, or whose worker fell silent"
    REQUEUED_ONCE = "10: one requeue moves a job once"
    ONE_LIFE = "11: one emit makes one job"
    NEWEST = "12: never older data after newer"
    ONE_WIN = "13: one completion per window of a leading key"
    OPEN_AGAIN = "13: the key of a job that ends dead or cancelled is open again"
    CHILDREN = "16: children exist, once, if and only if their parent's completion was applied"
    CANCELLED = "17: a job that somebody wants cancelled is not tried again"
    OTHER_LIFE = "17: a cancel concerns the life that it was meant for"
    PRESENT = "23: a handler runs only while its start is the present one"
    FOR_GOOD = "28: what would fail each further attempt is not tried again"
    NO_LOOP = "28: no job is handed out again and again while no time passes"


def superseded(stream: tuple[Entry, ...], worker: Worker) -> str | None:
    """A job that the worker runs under a start that is not the present one."""
    for held in worker.held:
        token = held.token
        if (
            held.phase == "runs"
            and (token.job, token.entry, token.inc, token.deliveries) not in stream
        ):
            return token.job
    return None


class Chronicle:
    """Records what happens in worlds of one setting, and says which invariant it breaks."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        # What the checks of a server's content said, by that content.
        self._checked: dict[Frozen, str | None] = {}

    def broken(self, state: World, invariant: Invariant, why: str) -> World:
        """The world in which an invariant was broken, unless that is excused here."""
        if invariant in self.setting.excused or state.broken is not None:
            return state
        return state._replace(broken=f"{invariant} ({why})")

    # -- the content of a server -----------------------------------------------------------------

    def check(self, state: World, server: Server) -> World:
        """The invariants of what the server holds."""
        if state.broken is not None:
            return state
        if state.server not in self._checked:
            self._checked[state.server] = self._wrong_with(server)
        wrong = self._checked[state.server]
        if wrong is not None:
            return state._replace(broken=wrong)
        for child in state.promised:
            there = any(row.child == child for row in server.out)
            if not there and child.number not in _of(state, child.id).makers:
                return self.broken(state, Invariant.CHILDREN, f"{child.id} is missing")
        return state

    def _wrong_with(self, server: Server) -> str | None:
        for invariant, check in (
            (Invariant.ONE_PLACE, _misplaced),
            (Invariant.OPEN_AGAIN, self._closed_for_nobody),
        ):
            why = None if invariant in self.setting.excused else check(server)
            if why is not None:
                return f"{invariant} ({why})"
        return None

    def _closed_for_nobody(self, server: Server) -> str | None:
        """What contradicts `OPEN_AGAIN`."""
        for key in server.keys.values():
            record = server.jobs.get(key.job)
            if record is not None and maker(record) == key.maker and record.s in "zx":
                kind = self.setting.kinds.get(record.b)
                if kind is not None and kind.edge == "leading":
                    return f"the key names {key.job}, which is {record.s!r}"
        return None

    # -- emits -----------------------------------------------------------------------------------

    def emitted(self, state: World, new: New, former: Record | None, server: Server) -> World:
        """An emit was applied where there was a `former` record, or none."""
        job, number, history = new.id, new.number, _of(state, new.id)
        present = server.jobs.get(job)
        if present is None or former is None or former.gen != present.gen:
            return self._made(state, job, number)
        if former.s in "qd" and number not in (*history.makers, *history.attached):
            attached = (*history.attached, number)
            return _told(state, job, history._replace(attached=attached))
        return state

    def _made(self, state: World, job: str, number: int | None) -> World:
        history = _of(state, job)
        if number in history.makers or number in history.attached:
            state = self.broken(state, Invariant.ONE_LIFE, f"{job} was made twice by one emit")
        makers = (*history.makers, number)
        fresh = History(runs=history.runs, makers=makers, attached=history.attached)
        return _told(state, job, fresh)

    def acknowledged(self, state: World, new: New) -> World:
        """The answer of an emit was read."""
        state = state._replace(acked=tuple(sorted({*state.acked, new.id})))
        return self._missed(state, state.server)

    def _missed(self, state: World, server: Frozen) -> World:
        """Whether an acknowledged job is gone."""
        there = {job for job, _ in server.jobs}
        for job in state.acked:
            if job not in there and not _of(state, job).ended:
                return self.broken(state, Invariant.ACKED, f"{job} is gone")
        return state

    def child(self, state: World, child: New, former: Record | None, server: Server) -> World:
        """The completion of a child's parent was applied."""
        state = state._replace(promised=(*state.promised, child))
        return state if child.out else self.emitted(state, child, former, server)

    def delivered(
        self,
        state: World,
        row: Row,
        child: New,
        former: Record | None,
        server: Server,
        *,
        late: bool,
    ) -> World:
        """A child was carried to its queue. (It bears the row's id, or else an id of its own.)"""
        history = _of(state, child.id)
        if late and former is None and child.number in history.makers:
            # It has run long ago, and now there is a dead job of its name: an alarm, not a run.
            return state
        if child.id == row.child.id:
            return self.emitted(state, child, former, server)
        return self._made(state, row.child.id, child.number)

    # -- starts and outcomes ---------------------------------------------------------------------

    def handed_out(self, state: World, inc: Inc, delivery: Delivery) -> World:
        """A take was applied; until now the job was queued, or of a dead worker."""
        job = delivery.token.job
        history = _of(state, job)
        spins = history.spins + 1 if self.setting.tick else 0
        if spins > MOST_SPINS:
            state = self.broken(state, Invariant.NO_LOOP, job)
        worker = state.workers[inc[0]]
        is_dead = inc[1] <= worker.former or worker.status == "dead"
        history = history._replace(
            lost=history.lost + _is_lost(state, history),
            holder=inc,
            meant=is_dead or (worker.life == inc[1] and worker.member),
            began=False,
            spins=spins,
        )
        return _told(state, job, history)

    def given_back(self, state: World, server: Server) -> World:
        """`own` was applied: a start that it has given back is not a lost one."""
        for entry in server.stream:
            history = _of(state, entry.job)
            if entry.owner == RELEASED and history.holder is not None:
                state = _told(state, entry.job, history._replace(holder=None))
        return state

    def begun(self, state: World, delivery: Delivery, kind: Kind, server: Server) -> World:
        """A handler begins."""
        job = delivery.token.job
        if not server.is_present(delivery.token):
            state = self.broken(state, Invariant.PRESENT, f"{job} begins")
        history = _of(state, job)
        history = history._replace(begun=history.begun + 1, runs=history.runs + 1, began=True)
        if history.begun - history.back > kind.attempts:
            state = self.broken(state, Invariant.ATTEMPTS, f"{job}, {history.begun} times")
        if kind.order:
            if kind.order < state.newest:
                state = self.broken(state, Invariant.NEWEST, job)
            state = state._replace(newest=max(state.newest, kind.order))
        return _told(state, job, history)

    def committed(
        self, state: World, outcome: Outcome, answer: str, kind: Kind, server: Server
    ) -> World:
        """An outcome was applied."""
        job = outcome.token.job
        record, history = server.jobs.get(job), _of(state, job)
        letter = {"A": outcome.kind, "X": "x", "P": "k"}[answer]
        if history.noted and record is not None and record.s in "qd":
            state = self.broken(state, Invariant.CANCELLED, f"{job} is {record.s!r}")
        if outcome.why == "exhausted" and letter == "z":
            # An attempt that failed before its handler began was one, too.
            failed = not outcome.ran and outcome.attempt <= kind.attempts
            used = history.begun - history.back + history.lost + failed
            if used < kind.attempts:
                why = f"{job}: {used} of {kind.attempts}"
                state = self.broken(state, Invariant.DEAD_FOR_A_REASON, why)
        if letter == "t" and kind.raises:
            state = self.broken(state, Invariant.FOR_GOOD, job)
        if letter in "csxz":
            history = history._replace(ended=True, noted=False)
        if letter == "c":
            if history.ok:
                state = self.broken(state, Invariant.ONCE, job)
            if kind.edge == "leading" and record is not None and not record.rq:
                state = state._replace(wins=state.wins + 1)
                if state.wins > 1:
                    state = self.broken(state, Invariant.ONE_WIN, job)
        history = history._replace(
            holder=None,
            lost=history.lost + (letter == "t" and not outcome.ran),
            back=history.back + (letter == "i"),
            ok=history.ok + (letter == "c"),
        )
        return _told(state, job, history)

    # -- steering --------------------------------------------------------------------------------

    def cancelled(self, state: World, what: Cancel, answer: str, record: Record | None) -> World:
        """A cancel was applied to what was a record like this."""
        if record is None or answer not in ("cancelled", "noted"):
            return state
        job, history = what.job, _of(state, what.job)
        if what.number is not None and what.number not in record.present:
            state = self.broken(state, Invariant.OTHER_LIFE, job)
        if answer == "noted":
            return _told(state, job, history._replace(noted=True))
        return _told(state, job, history._replace(ended=True, noted=False, holder=None))

    def requeued(self, state: World, what: Requeue, answer: str) -> World:
        """A requeue was applied. The generation that it has read names the call."""
        if answer != "requeued":
            return state
        history = _of(state, what.job)
        call = -1 - what.generation
        if call in history.makers:
            state = self.broken(state, Invariant.REQUEUED_ONCE, what.job)
        makers = (*history.makers, call)
        fresh = History(runs=history.runs, makers=makers, attached=history.attached)
        return _told(state, what.job, fresh)

    def lost_a_write(self, state: World, before: Before) -> World:
        """The server went back. What handlers did stays done; what it knew is as it was."""
        history: dict[str, History] = {}
        for job, then in before.history:
            now = _of(state, job)
            back = now.back if now.makers == then.makers else then.back
            runs = now.runs - then.runs
            history[job] = then._replace(begun=then.begun + runs, runs=now.runs, back=back)
        state = state._replace(
            server=before.server,
            history=tuple(history.items()),
            promised=before.promised,
            wins=before.wins,
            before=None,
        )
        return self._missed(state, state.server)

    def rested(self, state: World) -> World:
        """Time passes."""
        return state._replace(
            history=tuple((job, history._replace(spins=0)) for job, history in state.history)
        )


def _of(state: World, job: str) -> History:
    for name, history in state.history:
        if name == job:
            return history
    return History()


def _is_lost(state: World, history: History) -> bool:
    """Whether the job's present start ends without having begun, though its worker meant it."""
    if history.holder is None or history.began or not history.meant:
        return False
    worker = state.workers[history.holder[0]]
    return worker.status != "left" or worker.life != history.holder[1]


def _told(state: World, job: str, history: History) -> World:
    rest = [(name, other) for name, other in state.history if name != job]
    return state._replace(history=tuple(sorted([*rest, (job, history)], key=_first)))


def _first(pair: tuple[str, History]) -> str:
    return pair[0]


def _misplaced(server: Server) -> str | None:
    """What contradicts `ONE_PLACE`."""
    entries: dict[str, list[int]] = {}
    for entry in server.stream:
        entries.setdefault(entry.job, []).append(entry.id)
        if entry.owner not in (NEW, RELEASED) and not entry.deliveries:
            return f"an entry of {entry.job} is pending, but was not delivered"
    for job, record in server.jobs.items():
        found = entries.pop(job, [])
        if found != ([record.e] if record.s == "q" else []):
            return f"{job} is {record.s!r} (entry {record.e}) and has the entries {found}"
        if (record.s == "d") is (record.due is None):
            return f"{job} is {record.s!r} and due at {record.due}"
    for job in entries:
        return f"there is an entry of {job}, which has no record"
    for job in server.cancels:
        if job not in server.jobs or server.jobs[job].s != "q":
            return f"{job} has a request to cancel it, and does not run"
    return None
