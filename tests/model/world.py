"""A world in motion: all steps that are possible in a state, and what they lead to.

What is assumed of the world outside, so that what must hold can hold:

* The lease of a worker that lives, is connected and not frozen does not end, since it beats in
  time. One that has lost its connection notices before its lease ends that it could not renew it
  (`Rule.TWO_THIRDS`); one that is frozen notices nothing, until it is thawed.
* Two requests of one connection are applied in their order; answers are read in any. What was
  sent on a connection that is gone may be applied at any time afterwards, or never.
* No request is under way for as long as a debounce window, or the ten minutes of a tombstone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import assert_never

from tests.model import invariants, policy, server as srv
from tests.model.actors import (
    FAULTS,
    PLAIN,
    Answer,
    Ask,
    Asked,
    Beat,
    Cancel,
    Client,
    Held,
    History,
    Kind,
    Late,
    Leave,
    Own,
    Pause,
    Register,
    RelayDeliver,
    RelayDone,
    RelayRead,
    Request,
    Requeue,
    Setting,
    StepAnswer,
    Take,
    What,
    Worker,
    World,
)
from tests.model.explore import Step
from tests.model.invariants import Invariant
from tests.model.rules import Rule
from tests.model.server import (
    FOREVER,
    BeatAnswer,
    Delivery,
    Frozen,
    Inc,
    New,
    Outcome,
    OwnAnswer,
    Record,
    Server,
    TakeAnswer,
    Token,
)
from trio_tasks.processor.decisions import Run
from trio_tasks.processor.inputs import CancelRequested, DebounceAnswered, Input, Succeeded

__all__ = ["WorldModel"]

TOO_LATE_MS = 50 * 60_000
_SUCCEEDED = Succeeded()
_CANCEL = CancelRequested("asked")
_SPINS = 3
"""More hand-outs of one job than that at one instant are a loop."""


class WorldModel:
    """The model of one setting; see `explore.Model`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._server = Server(setting.off)
        self._lossy = bool(setting.faults.get("lose"))
        # What the checks of a server's content said, by that content.
        self._checked: dict[Frozen, str | None] = {}

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.setting.name

    def keeps(self, rule: Rule) -> bool:
        """Whether a rule is switched on."""
        return rule not in self.setting.off

    def kind(self, name: str) -> Kind:
        """How jobs of a kind behave."""
        return self.setting.kinds.get(name, PLAIN)

    # -- explore.Model ---------------------------------------------------------------------------

    def initial(self) -> World:
        """Workers are members and connected, the jobs are emitted."""
        setting, server = self.setting, Server(self.setting.off)
        history: dict[str, History] = {}
        for job, number in setting.ended.items():
            record = Record("c", job, present=(number,), a=1, entries=1)
            server.jobs[job] = record
            history[job] = History(ended=True, makers=(number,), ok=1)
        for job in setting.jobs:
            srv.enqueue(server, New(job, job))
            history[job] = History(makers=(None,))
        for worker in range(setting.workers):
            srv.register(server, (worker, 1), self._knows(worker))
        return World(
            server.frozen(),
            (Worker(),) * setting.workers,
            (Client(),) * len(setting.programs),
            tuple(setting.faults.get(fault, 0) for fault in FAULTS),
            history=tuple(sorted(history.items())),
        )

    def parts(self, state: World) -> tuple[Hashable, ...]:
        """Each worker by itself, each client, and the rest."""
        return (
            state.server,
            *state.workers,
            *state.clients,
            state.late,
            state.history,
            state.before,
            (state.left, state.newest, state.wins, state.minted, state.acked, state.broken),
        )

    def violation(self, state: World) -> str | None:
        """What the last step broke, or what is wrong in this state."""
        if state.broken is not None:
            return state.broken
        if Invariant.PRESENT not in self.setting.excused:
            stream = state.server[2]
            assert isinstance(stream, tuple)
            for index, worker in enumerate(state.workers):
                if worker.held and worker.acts and not (self._lossy and not worker.owned):
                    job = invariants.superseded(stream, worker)
                    if job is not None:
                        return f"{Invariant.PRESENT} ({_name(index)} runs {job})"
        return None

    def is_end(self, state: World) -> bool:
        """All jobs are final, all programs done, nothing is pending, nobody holds anything."""
        server = self._thaw(state)
        return (
            not server.stream
            and not server.out
            and not server.cancels
            and all(record.s in "csxz" for record in server.jobs.values())
            and not any(worker.held for worker in state.workers)
            and all(
                client.at >= len(program) or isinstance(program[client.at], RelayRead)
                for client, program in zip(state.clients, self.setting.programs, strict=True)
            )
        )

    def steps(self, state: World) -> Iterator[Step[World]]:
        """All steps, in a fixed order."""
        for index, worker in enumerate(state.workers):
            yield from self._worker(state, index, worker)
        for index, client in enumerate(state.clients):
            yield from self._client(state, index, client)
        for place, late in enumerate(state.late):
            left = state._replace(late=(*state.late[:place], *state.late[place + 1 :]))
            yield Step(
                f"late, from an old connection of {_sender(late)}: {_said(late.what)}",
                self._apply(left, late.sender, late.what)[0],
            )
        yield from self._leases(state)
        if self.setting.tick:
            yield from self._time(state)
        yield from self._server_faults(state)

    # -- the server ------------------------------------------------------------------------------

    def _thaw(self, state: World) -> Server:
        return self._server.thaw(state.server)

    def _stored(self, state: World, server: Server) -> World:
        """The world with what a script has made of the server."""
        frozen = server.frozen()
        if frozen == state.server:
            return state
        before = state.server if self._lossy else None
        after = state._replace(server=frozen, before=before)
        if frozen not in self._checked:
            self._checked[frozen] = self._wrong_with(server)
        wrong = self._checked[frozen]
        return after if wrong is None else after._replace(broken=wrong)

    def _wrong_with(self, server: Server) -> str | None:
        excused = self.setting.excused
        for invariant, check in (
            (Invariant.ONE_PLACE, invariants.misplaced),
            (Invariant.OPEN_AGAIN, invariants.closed_for_nobody),
        ):
            why = None if invariant in excused else check(server)
            if why is not None:
                return f"{invariant} ({why})"
        return None

    def _break(self, state: World, invariant: Invariant, why: str) -> World:
        if invariant in self.setting.excused or state.broken is not None:
            return state
        return state._replace(broken=f"{invariant} ({why})")

    def _apply(self, state: World, sender: int, what: What) -> tuple[World, Answer]:
        """Carry out a request."""
        server = self._thaw(state)
        answer: Answer
        match what:
            case Take():
                return self._step(state, server, sender, what)
            case Own(life=life, g=g, have=have):
                answer = srv.own(server, (sender, life), g, have)
                state = self._given_back(state, server)
            case Register(life=life):
                srv.register(server, (sender, life), self._knows(sender))
                answer = True
            case Beat(life=life):
                answer = srv.beat(server, (sender, life))
            case Leave(life=life):
                answer = srv.leave(server, (sender, life))
            case Ask(delivery=delivery, edge=edge, digest=digest):
                answer = Asked(srv.debounce(server, delivery.token, edge, digest, 10_000))
            case New():
                answer = srv.enqueue(server, what)
                state = self._emitted(state, what, answer)
            case Cancel(job=job, number=number):
                record = server.jobs.get(job)
                answer = srv.cancel(server, job, number)
                state = self._cancelled(state, what, answer, record)
            case Requeue(job=job, generation=generation):
                answer = srv.requeue(server, job, generation)
                state = self._requeued(state, what, answer)
            case Pause(paused=paused, number=number):
                answer = srv.pause(server, paused, number)
            case RelayDeliver(child=child, late=late):
                known = server.jobs.get(child.id)
                srv.relay_deliver(server, child, late=late)
                made = server.jobs.get(child.id) is not known
                answer = "1" if made and not (known and known.gen == server.jobs[child.id].gen) else "0"
                state = self._emitted(state, child, answer)
            case RelayDone(row=row):
                srv.relay_done(server, row)
                answer = True
            case RelayRead():
                answer = True
            case _:
                assert_never(what)
        return self._stored(state, server), answer

    def _step(self, state: World, server: Server, sender: int, what: Take) -> tuple[World, Answer]:
        answers = ""
        for outcome in what.outcomes:
            answer = srv.commit(server, outcome)
            answers += answer
            if answer in "AXP":
                state = self._committed(state, server, outcome, answer)
        taken = None
        if what.want:
            inc = (sender, what.life)
            taken = srv.take(server, inc, what.g, what.want)
            for delivery in taken.deliveries:
                state = self._handed_out(state, inc, delivery)
        return self._stored(state, server), StepAnswer(answers, taken)

    # -- history: what the invariants are about ----------------------------------------------------

    def _committed(self, state: World, server: Server, outcome: Outcome, answer: str) -> World:
        job = outcome.token.job
        record = server.jobs.get(job)
        history = _of(state, job)
        kind = outcome.kind if answer == "A" else "x" if answer == "X" else "k"
        if record is not None and record.s in "qd" and history.noted:
            state = self._break(state, Invariant.CANCELLED, f"{job} is {record.s!r}")
        if record is not None and invariants.used_up_for_nothing(
            record, history, self.kind(record.b).attempts
        ):
            state = self._break(state, Invariant.DEAD_FOR_A_REASON, f"{job}: {history.begun} begun")
        history = history._replace(open=False)
        if kind == "i":
            history = history._replace(back=history.back + 1)
        if kind in "csxz":
            history = history._replace(ended=True, noted=False)
        if kind == "c":
            if history.ok:
                state = self._break(state, Invariant.ONCE, job)
            history = history._replace(ok=history.ok + 1)
            if record is not None and self.kind(record.b).edge == "leading" and not record.rq:
                state = state._replace(wins=state.wins + 1)
                if state.wins > 1:
                    state = self._break(state, Invariant.ONE_WIN, job)
        state = _told(state, job, history)
        for child in outcome.children if kind == "c" else ():
            if not child.out:
                state = self._emitted(state, child, "1" if _is_new(server, child) else "0")
            if not self._exists(state, server, child):
                state = self._break(state, Invariant.CHILDREN, f"{child.id} of {job} is missing")
        return state

    def _exists(self, state: World, server: Server, child: New) -> bool:
        """Whether a child has come into being, or lies in the outbox."""
        if child.out:
            return any(row.child == child for row in server.out)
        return child.id in server.jobs and (
            child.number is None or child.number in server.jobs[child.id].present
        )

    def _handed_out(self, state: World, inc: Inc, delivery: Delivery) -> World:
        job = delivery.token.job
        history = _of(state, job)
        if history.open and not history.began and history.held:
            history = history._replace(lost=history.lost + 1)
        worker = state.workers[inc[0]]
        held = worker.status == "gone" or (worker.life == inc[1] and worker.member)
        history = history._replace(open=True, began=False, held=held, spins=history.spins + 1)
        if history.spins > _SPINS and self.setting.tick:
            state = self._break(state, Invariant.NO_LOOP, job)
        return _told(state, job, history)

    def _given_back(self, state: World, server: Server) -> World:
        """`own` has given back what nobody knows of."""
        for entry in server.stream:
            if entry.owner == srv.RELEASED:
                history = _of(state, entry.job)
                if history.open:
                    state = _told(state, entry.job, history._replace(open=False))
        return state

    def _emitted(self, state: World, new: New, answer: str) -> World:
        if answer != "1":
            return state
        former = _of(state, new.id)
        if new.number in former.makers and not (new.number is None and former.runs < 0):
            state = self._break(state, Invariant.ONE_LIFE, f"{new.id} was made twice")
        history = History(runs=former.runs, makers=(*former.makers, new.number))
        return _told(state, new.id, history)

    def _cancelled(
        self, state: World, what: Cancel, answer: str, record: Record | None
    ) -> World:
        job = what.job
        if answer in ("cancelled", "noted") and record is not None and what.number is not None:
            if what.number not in record.present:
                state = self._break(state, Invariant.OTHER_LIFE, job)
        history = _of(state, job)
        if answer == "noted":
            state = _told(state, job, history._replace(noted=True))
        elif answer == "cancelled":
            state = _told(state, job, history._replace(ended=True, noted=False, open=False))
        return state

    def _requeued(self, state: World, what: Requeue, answer: str) -> World:
        if answer != "requeued":
            return state
        history = _of(state, what.job)
        # One call, one requeue: the number of the generation names the call.
        mark = -1 - what.generation
        if mark in history.makers:
            state = self._break(state, Invariant.REQUEUED_ONCE, what.job)
        fresh = History(runs=history.runs, makers=(*history.makers, mark))
        return _told(state, what.job, fresh)

    def _begun(self, state: World, delivery: Delivery, kind: Kind) -> World:
        """A handler begins."""
        token = delivery.token
        if not self._thaw(state).is_present(token):
            state = self._break(state, Invariant.PRESENT, f"{token.job} begins")
        history = _of(state, token.job)
        history = history._replace(begun=history.begun + 1, runs=history.runs + 1, began=True)
        if history.begun - history.back > kind.attempts:
            state = self._break(
                state, Invariant.ATTEMPTS, f"{token.job} begins for the {history.begun}th time"
            )
        if kind.order:
            if kind.order < state.newest:
                state = self._break(state, Invariant.NEWEST, token.job)
            state = state._replace(newest=max(state.newest, kind.order))
        return _told(state, token.job, history)

    # -- workers -----------------------------------------------------------------------------------

    def _worker(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        name = _name(index)
        if worker.connected:
            for place, request in enumerate(worker.requests):
                if request.answer is None:
                    after, answer = self._apply(state, index, request.what)
                    done = request._replace(answer=answer)
                    yield Step(
                        f"the server does {_said(request.what)} of {name}: {_told_text(answer)}",
                        _with(after, index, _answered(after.workers[index], place, done)),
                    )
                    break
        if worker.acts:
            yield from self._acts(state, index, worker)
        elif worker.status == "frozen":
            yield from self._thaws(state, index, worker)
        elif worker.status == "gone":
            fresh = Worker(life=worker.life, member=False, connected=False, owned=False)
            yield Step(f"{name} is started again", _with(state, index, fresh))
        yield from self._worker_faults(state, index, worker)

    def _acts(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        name = _name(index)
        for place, request in enumerate(worker.requests):
            if request.answer is not None:
                rest = (*worker.requests[:place], *worker.requests[place + 1 :])
                reads = _with(state, index, worker._replace(requests=rest))
                yield Step(
                    f"{name} reads the answer to {_said(request.what)}",
                    self._reads(reads, index, request.what, request.answer),
                )
        for place, held in enumerate(worker.held):
            for text, after in self._ends(state, index, worker, held):
                yield Step(
                    f"{name}: {held.token.job} {text}",
                    after if isinstance(after, World) else _hold(state, index, place, after),
                )
        if not worker.connected:
            yield from self._cut_off(state, index, worker)
            return
        for what in self._wishes(index, worker):
            after = worker
            if isinstance(what, Register):
                after = worker._replace(life=what.life)
            requests = (*worker.requests, Request(what))
            yield Step(
                f"{name} sends {_said(what)}", _with(state, index, after._replace(requests=requests))
            )

    def _cut_off(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        name = _name(index)
        if worker.status == "stopping":
            gone = worker._replace(status="gone", held=(), stale=False)
            yield Step(f"{name} gives up to stop in good order", _with(state, index, gone))
        g = worker.g + 1
        life = worker.life if worker.member else worker.life + 1
        first = Own(life, g, tuple(held.token for held in worker.held if held.token.inc[1] == life))
        back = worker._replace(connected=True, g=g if worker.member else 0, life=life)
        if not worker.member:
            back = back._replace(requests=(Request(Register(life)),))
        elif self.keeps(Rule.OWN_FIRST):
            back = back._replace(requests=(Request(first),), owned=False)
        else:
            back = back._replace(owned=True)
        yield Step(f"{name} connects, sends {_said(back.requests[0].what) if back.requests else 'nothing'}", _with(state, index, back))
        if not worker.stale and worker.member:
            yield Step(
                f"{name} sees that it could not renew its lease in time",
                self._silent(state, index, worker),
            )

    def _silent(self, state: World, index: int, worker: Worker) -> World:
        """Two thirds of a lease are over: handlers are cancelled, their jobs given back."""
        worker = worker._replace(stale=True)
        if self.keeps(Rule.TWO_THIRDS):
            worker = self._gives_up(worker, policy.LEASE_LOST)
        return _with(state, index, worker)

    def _gives_up(self, worker: Worker, why: Input, only: Token | None = None) -> Worker:
        """Cancel handlers; without `GIVEN_UP_RELEASED` their jobs are only forgotten."""
        held_after: list[Held] = []
        for held in worker.held:
            if held.phase == "ended" or held.phase == "unwinds" or only not in (None, held.token):
                held_after.append(held)
            elif self.keeps(Rule.GIVEN_UP_RELEASED) or why is not policy.LEASE_LOST:
                if held.phase == "asks":
                    why = policy.unbegun(why)
                ended = self._ended(held, why)
                if self.setting.slow and held.phase == "runs":
                    ended = ended._replace(phase="unwinds")
                held_after.append(ended)
        return worker._replace(held=tuple(held_after))

    def _ended(self, held: Held, happened: Input) -> Held:
        kind = self.kind(held.delivery.token.job)
        decision = policy.decide(held.delivery, kind.attempts, happened, 0)
        outcome = policy.outcome(held.delivery, decision, held.reopen, held.children)
        assert outcome is not None
        return held._replace(phase="ended", outcome=outcome)

    def _wishes(self, index: int, worker: Worker) -> Iterator[What]:
        """What a connected worker may send now."""
        under_way = {type(request.what) for request in worker.requests}
        if not worker.member:
            if Register not in under_way and worker.status == "up":
                fresh = worker.life + 1 if self.keeps(Rule.FRESH_NAME) else worker.life
                yield Register(fresh)
                return
            if worker.status == "stopping" and not worker.held and not under_way:
                yield Leave(worker.life)
        if Take not in under_way and Own not in under_way and Register not in under_way:
            outcomes = tuple(
                held.outcome
                for held in worker.held
                if held.phase == "ended" and held.outcome is not None
            )
            room = all(held.phase == "ended" for held in worker.held)
            may_take = (
                worker.status == "up"
                and worker.owned
                and worker.member
                and not worker.stale
                and index not in self.setting.deaf
            )
            want = int(room and may_take)
            if outcomes or want:
                yield Take(worker.life, worker.g, outcomes, want)
        if worker.member and Beat not in under_way and (self.setting.beats or worker.stale):
            yield Beat(worker.life)
        for held in worker.held:
            if held.phase == "asks" and Ask not in under_way:
                kind = self.kind(held.token.job)
                yield Ask(held.delivery, kind.edge, kind.digest)
        if worker.status == "stopping" and worker.member and not worker.held:
            waits = self.keeps(Rule.LEAVE_WAITS) and Take in under_way
            if not waits and Leave not in under_way:
                yield Leave(worker.life)

    def _ends(
        self, state: World, index: int, worker: Worker, held: Held
    ) -> Iterator[tuple[str, Held | World]]:
        """How a handler may end."""
        if held.phase == "unwinds":
            yield "is unwound", held._replace(phase="ended")
        if held.phase != "runs":
            return
        for end in self.kind(_kind_of(state, held.token.job)).ends:
            if end == "ok":
                yield "completes", self._ended(held, _SUCCEEDED)
            elif end == "fail":
                yield "fails", self._ended(held, policy.FAILED)
        if worker.status == "stopping":
            stopped = self._gives_up(worker, policy.INTERRUPTED, only=held.token)
            yield "is interrupted", _with(state, index, stopped)
