"""A world in motion: all steps that are possible in a state, and what they lead to.

What is assumed of the world outside, so that what must hold can hold:

* The lease of a worker that lives, is connected and not frozen does not end, since it beats in
  time. One that has lost its connection notices before its lease ends that it could not renew it
  (`Rule.TWO_THIRDS`); one that is frozen notices nothing until it is thawed.
* Requests of one connection are applied in their order; answers are read in any. What was sent
  on a connection that is gone may be applied at any time afterwards, or never.
* Where time passes, nothing is under way meanwhile: requests take less time than a debounce
  window lasts, or a tombstone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import assert_never

from tests.model import policy, server as srv
from tests.model.actors import (
    FAULTS,
    PLAIN,
    Answer,
    Ask,
    Asked,
    Beat,
    Before,
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
from tests.model.invariants import Chronicle, Invariant, superseded
from tests.model.rules import Rule
from tests.model.server import (
    FOREVER,
    BeatAnswer,
    Delivery,
    Inc,
    New,
    OwnAnswer,
    Record,
    Server,
    TakeAnswer,
    Token,
)
from trio_tasks.processor.decisions import Run
from trio_tasks.processor.inputs import (
    DebounceAnswered,
    HandedOut,
    Input,
    Interrupted,
    LeaseLost,
)

__all__ = ["WorldModel"]

TOO_LATE_MS = 50 * 60_000
WINDOW_MS = 10_000
CLIENT = -1


class WorldModel:
    """The model of one setting; see `explore.Model`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._off = setting.off
        self._chronicle = Chronicle(setting)
        tombstone = setting.tombstone
        self._empty = Server(
            setting.off, tombstone=tombstone, relayed_tombstone=6 * (tombstone or 0)
        )
        self._lossy = bool(setting.faults.get("lose"))

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.setting.name

    # -- explore.Model ---------------------------------------------------------------------------

    def initial(self) -> World:
        """Workers are members and connected, the jobs are emitted."""
        setting, server = self.setting, Server(self._off)
        history: dict[str, History] = {}
        for job, number in setting.ended.items():
            server.jobs[job] = Record("c", job, present=(number,), a=1, entries=1)
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
        """Server, each worker, each client, and the rest."""
        rest = (
            state.left,
            state.newest,
            state.wins,
            state.promised,
            state.minted,
            state.acked,
            state.broken,
        )
        return (
            state.server,
            *state.workers,
            *state.clients,
            state.late,
            state.history,
            state.before,
            rest,
        )

    def violation(self, state: World) -> str | None:
        """What the last step broke, or what is wrong in this state."""
        if state.broken is None and Invariant.PRESENT not in self.setting.excused:
            stream = state.server[2]
            assert isinstance(stream, tuple)
            for index, worker in enumerate(state.workers):
                if worker.held and worker.acts and not (self._lossy and not worker.owned):
                    job = superseded(stream, worker)
                    if job is not None:
                        return f"{Invariant.PRESENT} ({_name(index)} runs {job})"
        return state.broken

    def is_end(self, state: World) -> bool:
        """All jobs are final, all programs done, nothing is pending, nobody holds anything."""
        server = self._thaw(state)
        return (
            not server.stream
            and not server.out
            and all(record.s in "csxz" for record in server.jobs.values())
            and not any(worker.held for worker in state.workers)
            and all(
                client.at == len(program) or isinstance(program[client.at], RelayRead)
                for client, program in zip(state.clients, self.setting.programs, strict=True)
            )
        )

    def steps(self, state: World) -> Iterator[Step[World]]:
        """All steps, in a fixed order."""
        for index, worker in enumerate(state.workers):
            yield from self._served(state, index, worker)
            if worker.acts:
                yield from self._reads(state, index, worker)
                yield from self._handlers(state, index, worker)
                if worker.connected:
                    yield from self._sends(state, index, worker)
                else:
                    yield from self._cut_off(state, index, worker)
            elif worker.status == "frozen":
                yield from self._thaws(state, index, worker)
            else:
                yield from self._starts_again(state, index, worker)
            yield from self._worker_faults(state, index, worker)
        for index, client in enumerate(state.clients):
            yield from self._client(state, index, client)
        yield from self._late(state)
        yield from self._lease_ends(state)
        yield from self._time_passes(state)
        yield from self._server_faults(state)

    # -- requests are applied --------------------------------------------------------------------

    def _served(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """The server carries out the oldest request of a connection."""
        for place, request in enumerate(worker.requests):
            if request.answer is None:
                after, answer = self._applied(state, index, request.what)
                requests = list(worker.requests)
                requests[place] = request._replace(answer=answer)
                yield Step(
                    f"server: {_name(index)}'s {_said(request.what)} → {_answered(answer)}",
                    _with(after, index, worker._replace(requests=tuple(requests))),
                )
                return

    def _late(self, state: World) -> Iterator[Step[World]]:
        """A request of a connection that is gone is carried out after all."""
        for place, late in enumerate(state.late):
            rest = (*state.late[:place], *state.late[place + 1 :])
            after, answer = self._applied(state._replace(late=rest), late.sender, late.what)
            sender = "a client" if late.sender == CLIENT else _name(late.sender)
            text = f"server, late: {sender}'s {_said(late.what)} → {_answered(answer)}"
            yield Step(text, after)

    def _applied(self, state: World, sender: int, what: What) -> tuple[World, Answer]:
        server, chronicle, former_state = self._thaw(state), self._chronicle, state
        answer: Answer
        match what:
            case Take():
                state, answer = self._step(state, server, sender, what)
            case Own(life=life, g=g, have=have):
                answer = srv.own(server, (sender, life), g, have)
                state = chronicle.given_back(state, server)
            case Register(life=life):
                srv.register(server, (sender, life), self._knows(sender))
                answer = True
            case Beat(life=life):
                answer = srv.beat(server, (sender, life))
            case Leave(life=life):
                answer = srv.leave(server, (sender, life))
            case Ask(delivery=delivery, edge=edge, digest=digest):
                answer = Asked(srv.debounce(server, delivery.token, edge, digest, WINDOW_MS))
            case New():
                former = server.jobs.get(what.id)
                answer = srv.enqueue(server, what)
                state = chronicle.emitted(state, what, former, server)
            case Cancel(job=job, number=number):
                record = server.jobs.get(job)
                answer = srv.cancel(server, job, number)
                state = chronicle.cancelled(state, what, answer, record)
            case Requeue(job=job, generation=generation):
                answer = srv.requeue(server, job, generation)
                state = chronicle.requeued(state, what, answer)
            case Pause(paused=paused, number=number):
                answer = srv.pause(server, paused, number)
            case RelayDeliver(row=row, child=child, late=late):
                former = server.jobs.get(child.id)
                srv.relay_deliver(server, child, late=late)
                state = chronicle.delivered(state, row, child, former, server, late=late)
                answer = True
            case RelayDone(row=row):
                srv.relay_done(server, row)
                answer = True
            case RelayRead():
                raise AssertionError("reading changes nothing: it is part of what is sent next")
            case _:
                assert_never(what)
        return self._stored(state, server, former_state), answer

    def _step(
        self, state: World, server: Server, sender: int, what: Take
    ) -> tuple[World, StepAnswer]:
        answers, chronicle = "", self._chronicle
        for outcome in what.outcomes:
            former = dict(server.jobs)
            answer = srv.commit(server, outcome)
            answers += answer
            if answer in "AXP":
                kind = self._kind(former[outcome.token.job].b)
                state = chronicle.committed(state, outcome, answer, kind, server)
                for child in outcome.children:
                    state = chronicle.child(state, child, former.get(child.id), server)
        taken = None
        if what.want:
            inc = (sender, what.life)
            taken = srv.take(server, inc, what.g, what.want)
            for delivery in taken.deliveries:
                state = chronicle.handed_out(state, inc, delivery)
        return state, StepAnswer(answers, taken)

    def _thaw(self, state: World) -> Server:
        return self._empty.thaw(state.server)

    def _stored(self, state: World, server: Server, former: World) -> World:
        """The world with what a script has made of the server."""
        frozen = server.frozen()
        if frozen == state.server:
            return state
        before = None
        if self._lossy:
            before = Before(former.server, former.history, former.promised, former.wins)
        return self._chronicle.check(state._replace(server=frozen, before=before), server)

    # -- a worker reads answers ------------------------------------------------------------------

    def _reads(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        for place, request in enumerate(worker.requests):
            if request.answer is not None:
                rest = (*worker.requests[:place], *worker.requests[place + 1 :])
                after = self._heard(
                    state, index, worker._replace(requests=rest), request.what, request.answer
                )
                yield Step(f"{_name(index)} reads the answer to {_said(request.what)}", after)

    def _heard(
        self, state: World, index: int, worker: Worker, what: What, answer: Answer
    ) -> World:
        match what, answer:
            case Own(), OwnAnswer(status="owned", lost=lost):
                worker = worker._replace(owned=True)
                if self._keeps(Rule.OWN_NAMES_LOST):
                    worker = self._let_go(worker, lost)
            case Own(life=life), OwnAnswer(status="dead"):
                worker = self._died(worker._replace(owned=True), life)
            case Own(), OwnAnswer():
                pass  # a newer one is under way
            case Take(outcomes=outcomes), StepAnswer(taken=taken):
                done = {outcome.token for outcome in outcomes}
                held = tuple(h for h in worker.held if h.phase != "ended" or h.token not in done)
                worker = worker._replace(held=held)
                if taken is not None:
                    return self._taken(state, index, worker, what, taken)
            case Beat(life=life), BeatAnswer(alive=False):
                worker = self._died(worker, life)
            case Beat(life=life, counts=counts), BeatAnswer(cancels=cancels):
                if life == worker.life and counts:
                    worker = worker._replace(stale=False)
                for held in worker.held:
                    if held.token.job in cancels:
                        worker = self._give_up(worker, held, policy.CANCELLED)
            case Register(counts=counts), _:
                worker = worker._replace(member=True, owned=True, stale=not counts, g=0)
            case Leave(), _:
                worker = worker._replace(status="left", connected=False)
            case Ask(delivery=delivery), Asked(holder=holder):
                return self._may_run(state, index, worker, delivery, holder)
            case _:
                raise AssertionError(what, answer)
        return _with(state, index, worker)

    def _taken(
        self, state: World, index: int, worker: Worker, what: Take, taken: TakeAnswer
    ) -> World:
        is_left = what.life != worker.life or not worker.member
        if taken.status == "dead" and not is_left:
            return _with(state, index, self._died(worker, what.life))
        state = _with(state, index, worker)
        for delivery in taken.deliveries:
            if worker.status == "stopping":
                state = self._returned(state, index, delivery, Interrupted(began=False))
            elif (is_left and self._keeps(Rule.LEFT_GIVEN_BACK)) or (
                worker.stale and self._keeps(Rule.TWO_THIRDS)
            ):
                state = self._returned(state, index, delivery, LeaseLost(began=False))
            else:
                state = self._decided(state, index, delivery)
        return state

    def _returned(self, state: World, index: int, delivery: Delivery, why: Input) -> World:
        """A delivery that is given back unbegun."""
        return _hold(state, index, self._ended(Held(delivery, "asks"), why))

    def _decided(self, state: World, index: int, delivery: Delivery) -> World:
        """The Processor says what is to be done with a delivery, before its data are touched."""
        kind, knows = self._kind(delivery.b), self.setting.knows
        happened = HandedOut(
            known=knows is None or delivery.b in knows.get(index, ()),
            cancel_reason="asked" if delivery.cancelled else None,
        )
        decision = policy.decide(delivery, kind.attempts, happened, 0)
        if kind.poison and (isinstance(decision, Run) or not self._keeps(Rule.ASK_FIRST)):
            state = self._chronicle.begun(state, delivery, kind, self._thaw(state))
            return self._killed(state, index)
        outcome = policy.outcome(delivery, decision)
        if outcome is not None:
            return _hold(state, index, Held(delivery, "ended", outcome))
        asks = kind.edge == "leading" or (
            kind.edge == "trailing" and self._keeps(Rule.TRAILING_CHECKED)
        )
        if asks and not delivery.rq:
            return _hold(state, index, Held(delivery, "asks"))
        return self._begins(state, index, delivery)

    def _may_run(
        self, state: World, index: int, worker: Worker, delivery: Delivery, holder: str | None
    ) -> World:
        """The answer about a debounce key."""
        held = next((h for h in worker.held if h.token == delivery.token), None)
        if held is None or held.phase != "asks":
            return _with(state, index, worker)  # it was given up meanwhile
        rest = tuple(h for h in worker.held if h is not held)
        state = _with(state, index, worker._replace(held=rest))
        kind = self._kind(delivery.b)
        if holder is None and kind.edge == "leading" and self._keeps(Rule.LEADING_PRESENT):
            return self._returned(state, index, delivery, LeaseLost(began=False))
        decision = policy.decide(delivery, kind.attempts, DebounceAnswered(holder), 0)
        outcome = policy.outcome(delivery, decision)
        if outcome is not None:
            return _hold(state, index, held._replace(phase="ended", outcome=outcome))
        mine = kind.edge == "leading" and holder == delivery.token.job
        return self._begins(state, index, delivery, kind.digest if mine else "")

    def _begins(self, state: World, index: int, delivery: Delivery, reopen: str = "") -> World:
        kind = self._kind(delivery.b)
        state = self._chronicle.begun(state, delivery, kind, self._thaw(state))
        runs = next(h.runs for job, h in state.history if job == delivery.token.job)
        children = tuple(self._minted(child, runs) for child in kind.children)
        return _hold(state, index, Held(delivery, "runs", children=children, reopen=reopen))

    def _minted(self, child: New, run: int) -> New:
        """A child as this run of its parent emits it: with an id or number of its own."""
        if child.id.endswith("@"):
            return child._replace(id=f"{child.id}{run}") if self._keeps(Rule.CHILD_ID) else child
        return child._replace(number=100 + run) if self._keeps(Rule.CHILD_NUMBER) else child

    # -- a worker lets go of jobs ----------------------------------------------------------------

    def _died(self, worker: Worker, life: int) -> Worker:
        """The server says that an incarnation is dead."""
        if life != worker.life:
            return worker
        for held in worker.held:
            if held.token.inc[1] == life:
                worker = self._give_up(worker, held, LeaseLost(began=True))
        return worker._replace(member=False)

    def _let_go(self, worker: Worker, lost: tuple[Token, ...]) -> Worker:
        """`own` says that these starts are no longer ours."""
        for held in worker.held:
            if held.token in lost:
                worker = self._give_up(worker, held, LeaseLost(began=True))
        if not self._keeps(Rule.LOST_FORGOTTEN):
            return worker
        forgotten: list[Held] = []
        for held in worker.held:
            if held.token not in lost:
                forgotten.append(held)
            elif held.phase == "unwinds":
                forgotten.append(held._replace(outcome=None))
        return worker._replace(held=tuple(forgotten))

    def _give_up(self, worker: Worker, held: Held, why: Input) -> Worker:
        """Cancel a handler; its job is given back, or what `why` says."""
        if held.phase in ("ended", "unwinds"):
            return worker
        rest = [h for h in worker.held if h is not held]
        if isinstance(why, LeaseLost) and held.phase == "asks":
            why = LeaseLost(began=False)
        if not isinstance(why, LeaseLost) or self._keeps(Rule.GIVEN_UP_RELEASED):
            ended = self._ended(held, why)
            if self.setting.slow and held.phase == "runs":
                ended = ended._replace(phase="unwinds")
            rest.append(ended)
        return worker._replace(held=tuple(sorted(rest)))

    def _ended(self, held: Held, happened: Input) -> Held:
        """The Processor says what comes of what has happened."""
        attempts = self._kind(held.delivery.b).attempts
        decision = policy.decide(held.delivery, attempts, happened, 0)
        outcome = policy.outcome(held.delivery, decision, held.reopen, held.children)
        assert outcome is not None, "only a hand-out is answered with Run"
        return held._replace(phase="ended", outcome=outcome)

    def _handlers(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """How handlers may end."""
        for held in worker.held:
            name, job = _name(index), held.token.job
            rest = _with(
                state, index, worker._replace(held=tuple(h for h in worker.held if h is not held))
            )
            if held.phase == "unwinds":
                ended = held._replace(phase="ended")
                after = rest if held.outcome is None else _hold(rest, index, ended)
                yield Step(f"{name}: the handler of {job} is unwound", after)
            if held.phase != "runs":
                continue
            ends = self._kind(held.delivery.b).ends
            if "ok" in ends:
                ended = self._ended(held, policy.SUCCEEDED)
                yield Step(f"{name}: {job} succeeds", _hold(rest, index, ended))
            if "fail" in ends:
                ended = self._ended(held, policy.FAILED)
                yield Step(f"{name}: {job} fails", _hold(rest, index, ended))
            if worker.status == "stopping":
                ended = self._ended(held, Interrupted(began=True))
                yield Step(f"{name}: {job} is interrupted", _hold(rest, index, ended))

    # -- a worker sends --------------------------------------------------------------------------

    def _sends(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        for what in self._wishes(index, worker):
            life = what.life if isinstance(what, Register) else worker.life
            requests = (*worker.requests, Request(what))
            yield Step(
                f"{_name(index)} sends {_said(what)}",
                _with(state, index, worker._replace(life=life, requests=requests)),
            )

    def _wishes(self, index: int, worker: Worker) -> Iterator[What]:
        """What a connected worker may send next."""
        under_way = {type(request.what) for request in worker.requests}
        is_up = worker.status == "up"
        if not under_way & {Take, Own, Register}:
            outcomes = tuple(h.outcome for h in worker.held if h.outcome and h.phase == "ended")
            busy = sum(h.phase != "ended" for h in worker.held)
            room = self.setting.slots - busy if index not in self.setting.deaf else 0
            ready = is_up and worker.owned and worker.member and not worker.stale
            if outcomes or (room and ready):
                yield Take(worker.life, worker.g, outcomes, room * ready)
        for held in worker.held:
            if held.phase == "asks" and Ask not in under_way:
                kind = self._kind(held.delivery.b)
                yield Ask(held.delivery, kind.edge, kind.digest)
        if not worker.member:
            if is_up and Register not in under_way:
                yield Register(worker.life + self._keeps(Rule.FRESH_NAME))
            return
        if Beat not in under_way and (worker.stale or index in self.setting.beats):
            yield Beat(worker.life)
        if worker.status == "stopping" and not worker.held and Leave not in under_way:
            if Take not in under_way or not self._keeps(Rule.LEAVE_WAITS):
                yield Leave(worker.life)

    def _cut_off(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """A worker without a connection."""
        name = _name(index)
        if worker.status == "stopping":
            yield Step(f"{name} ends without taking leave", self._killed(state, index))
        back = worker._replace(connected=True)
        if worker.member and self._keeps(Rule.OWN_FIRST):
            have = tuple(h.token for h in worker.held if h.token.inc[1] == worker.life)
            first = Own(worker.life, worker.g + 1, have)
            back = back._replace(g=first.g, owned=False, requests=(Request(first),))
            yield Step(f"{name} connects and sends {_said(first)}", _with(state, index, back))
        else:
            back = back._replace(g=worker.g + 1, owned=True)
            yield Step(f"{name} connects", _with(state, index, back))
        if worker.member and not worker.stale:
            yield Step(
                f"{name} could not renew its lease for two thirds of it",
                _with(state, index, self._silent(worker)),
            )

    def _silent(self, worker: Worker) -> Worker:
        """The last good renewal is too old: handlers are cancelled."""
        if self._keeps(Rule.TWO_THIRDS):
            for held in worker.held:
                worker = self._give_up(worker, held, LeaseLost(began=True))
        requests = tuple(
            r._replace(what=r.what._replace(counts=False))
            if isinstance(r.what, Beat | Register)
            else r
            for r in worker.requests
        )
        return worker._replace(stale=True, requests=requests)

    # -- what happens to workers -----------------------------------------------------------------

    def _thaws(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        up = worker._replace(status="up")
        if self._thaw(state).leases.get((index, worker.life)) == FOREVER:
            yield Step(f"{_name(index)} is thawed soon", _with(state, index, up))
        text = f"{_name(index)} is thawed after more than two thirds of its lease"
        yield Step(text, _with(state, index, self._silent(up)))

    def _starts_again(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        life = worker.life
        fresh = Worker(life=life, former=life, member=False, connected=False, owned=False)
        yield Step(f"{_name(index)} is started again", _with(state, index, fresh))

    def _lease_ends(self, state: World) -> Iterator[Step[World]]:
        leases = state.server[5]
        assert isinstance(leases, tuple)
        for inc, until in leases:  # pyright: ignore[reportUnknownVariableType] - see `frozen`
            if until == FOREVER and self._may_end(state.workers[inc[0]], inc):
                server = self._thaw(state)
                server.leases[inc] = 0
                text = f"the lease of {_name(inc[0])}.{inc[1]} ends"
                yield Step(text, state._replace(server=server.frozen()))

    def _may_end(self, worker: Worker, inc: Inc) -> bool:
        """Whether the lease of an incarnation can end by itself."""
        if worker.status in ("dead", "left", "frozen") or worker.life != inc[1]:
            return True
        if worker.stale:
            return not any(
                isinstance(r.what, Beat | Register) and r.what.counts and r.answer is not None
                for r in worker.requests
            )
        return worker.member and not worker.connected and not self._keeps(Rule.TWO_THIRDS)

    def _worker_faults(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        victims = self.setting.victims
        if worker.status in ("dead", "left") or (victims is not None and index not in victims):
            return
        name = _name(index)
        if worker.connected and _may(state, "break"):
            after = self._disconnected(_spent(state, "break"), index)
            yield Step(f"the connection of {name} breaks", after, fault=True)
        if _may(state, "kill"):
            after = self._killed(_spent(state, "kill"), index)
            yield Step(f"{name} is killed", after, fault=True)
        if worker.status == "up":
            if _may(state, "freeze"):
                frozen = worker._replace(status="frozen")
                after = _with(_spent(state, "freeze"), index, frozen)
                yield Step(f"{name} is frozen", after, fault=True)
            if _may(state, "stop"):
                stopping = worker._replace(status="stopping")
                after = _with(_spent(state, "stop"), index, stopping)
                yield Step(f"{name} is told to stop", after, fault=True)

    def _disconnected(self, state: World, index: int) -> World:
        """What was answered is lost; what was not may be carried out late."""
        worker = state.workers[index]
        if self.setting.late:
            sent = [Late(index, r.what) for r in worker.requests if r.answer is None]
            state = state._replace(late=tuple(sorted([*state.late, *sent], key=repr)))
        return _with(state, index, worker._replace(connected=False, owned=False, requests=()))

    def _killed(self, state: World, index: int) -> World:
        state = self._disconnected(state, index)
        worker = state.workers[index]
        return _with(state, index, worker._replace(status="dead", held=(), stale=False))

    # -- clients ---------------------------------------------------------------------------------

    def _client(self, state: World, index: int, client: Client) -> Iterator[Step[World]]:
        name, request = f"client {index + 1}", client.request
        if request is None:
            yield from self._calls(state, index, client)
            return
        if request.answer is None:
            after, answer = self._applied(state, CLIENT, request.what)
            done = client._replace(request=request._replace(answer=answer))
            yield Step(
                f"server: {name}'s {_said(request.what)} → {_answered(answer)}",
                _with_client(after, index, done),
            )
        else:
            yield Step(
                f"{name} reads the answer to {_said(request.what)}",
                self._client_reads(state, index, client, request.what, request.answer),
            )
        if _may(state, "hang up"):
            after = _spent(state, "hang up")
            if request.answer is None and self.setting.late:
                late = (*state.late, Late(CLIENT, request.what))
                after = after._replace(late=tuple(sorted(late, key=repr)))
            gone = client._replace(request=None, unknown=True)
            yield Step(
                f"the connection of {name} breaks", _with_client(after, index, gone), fault=True
            )

    def _calls(self, state: World, index: int, client: Client) -> Iterator[Step[World]]:
        """The next call of a program is sent; one whose answer was lost again, or never more."""
        name, program = f"client {index + 1}", self.setting.programs[index]
        if client.at == len(program):
            return
        server, call = self._thaw(state), program[client.at]
        past = Client(client.at + 1)
        match call:
            case Requeue(job=job):
                record = server.jobs.get(job)
                if record is None or record.s != "z":
                    if record is not None and record.s in "csx":
                        yield Step(
                            f"{name} sees no dead {job}", _with_client(state, index, past)
                        )
                    return
                call = call._replace(generation=record.gen)
            case Pause():
                call = call._replace(number=server.pause_number + 1)
            case RelayRead():
                if not server.out:
                    return
                call, state = self._relay(state, server)
            case _:
                pass
        sent = client._replace(request=Request(call), unknown=False)
        again = " again" if client.unknown else ""
        yield Step(f"{name} sends {_said(call)}{again}", _with_client(state, index, sent))
        if client.unknown and not isinstance(program[client.at], RelayRead):
            yield Step(f"{name} gives up", _with_client(state, index, past))

    def _relay(self, state: World, server: Server) -> tuple[What, World]:
        """The first thing that is done about the oldest row of the outbox."""
        row = server.out[0]
        child = row.child
        if child.id.endswith("@"):  # only without `Rule.CHILD_ID`
            child = child._replace(id=f"{child.id}{state.minted}")
            state = state._replace(minted=state.minted + 1)
        late = server.now - row.written > TOO_LATE_MS
        if late and not self._keeps(Rule.LATE_TO_TARGET):
            return RelayDone(row), state
        deliver = RelayDeliver(row, child, late and self._keeps(Rule.LATE_DEAD))
        return (deliver if self._keeps(Rule.ROW_AFTER_TARGET) else RelayDone(row)), state

    def _client_reads(
        self, state: World, index: int, client: Client, what: What, answer: Answer
    ) -> World:
        past = Client(client.at + 1)
        match what:
            case New():
                return _with_client(self._chronicle.acknowledged(state, what), index, past)
            case RelayDeliver(row=row):
                last = self._keeps(Rule.ROW_AFTER_TARGET)
                done = client._replace(request=Request(RelayDone(row)) if last else None)
                return _with_client(state, index, done)
            case RelayDone(row=row):
                done = client._replace(request=None)
                if not self._keeps(Rule.ROW_AFTER_TARGET):
                    done = done._replace(request=Request(RelayDeliver(row, row.child, late=False)))
                return _with_client(state, index, done)
            case Pause() if answer is False:
                return _with_client(state, index, client._replace(request=None))
            case _:
                return _with_client(state, index, past)

    # -- time and the server's faults --------------------------------------------------------------

    def _time_passes(self, state: World) -> Iterator[Step[World]]:
        if not self.setting.tick:
            return
        busy = any(client.request for client in state.clients) or any(
            worker.requests or any(held.phase != "runs" for held in worker.held)
            for worker in state.workers
        )
        if not busy:
            server = self._thaw(state)
            server.now += self.setting.tick
            server.expire()
            server.rebase(self.setting.age)
            server.forget_entries(state_jobs(state))
            after = self._stored(state._replace(late=()), server, state)
            yield Step("time passes", self._chronicle.rested(after))

    def _server_faults(self, state: World) -> Iterator[Step[World]]:
        if state.before is not None and _may(state, "lose"):
            after = self._chronicle.lost_a_write(_spent(state, "lose"), state.before)
            for index in range(len(state.workers)):
                after = self._disconnected(after, index)
            clients = tuple(
                c._replace(request=None, unknown=True) if c.request else c for c in after.clients
            )
            after = after._replace(clients=clients, late=())
            yield Step("the server restarts without its last write", after, fault=True)
        if _may(state, "flush"):
            empty = Server(self._off, groups=False).frozen()
            after = _spent(state, "flush")._replace(server=empty, history=(), promised=(), acked=())
            yield Step("the server loses all data", after, fault=True)

    # -- settings --------------------------------------------------------------------------------

    def _keeps(self, rule: Rule) -> bool:
        return rule not in self._off

    def _kind(self, name: str) -> Kind:
        return self.setting.kinds.get(name, PLAIN)

    def _knows(self, worker: int) -> tuple[str, ...]:
        knows = self.setting.knows
        return () if knows is None else knows.get(worker, ())


def state_jobs(state: World) -> set[str]:
    return {held.token.job for worker in state.workers for held in worker.held}


def _with(state: World, index: int, worker: Worker) -> World:
    workers = list(state.workers)
    workers[index] = worker
    return state._replace(workers=tuple(workers))


def _with_client(state: World, index: int, client: Client) -> World:
    clients = list(state.clients)
    clients[index] = client
    return state._replace(clients=tuple(clients))


def _hold(state: World, index: int, held: Held) -> World:
    worker = state.workers[index]
    # One start is held once: a start that was lost with the server's last write and handed out
    # again has the same token, and both are in memory while the first handler unwinds.
    return _with(state, index, worker._replace(held=tuple(sorted([*worker.held, held], key=repr))))


def _may(state: World, fault: str) -> bool:
    return state.left[FAULTS.index(fault)] > 0


def _spent(state: World, fault: str) -> World:
    left = list(state.left)
    left[FAULTS.index(fault)] -= 1
    return state._replace(left=tuple(left))


# -- words for traces ------------------------------------------------------------------------------


def _name(worker: int) -> str:
    return "ABC"[worker]


def _token(token: Token) -> str:
    return f"({_name(token.inc[0])}.{token.inc[1]}, {token.job} entry {token.entry}, {token.deliveries})"


def _said(what: What) -> str:
    match what:
        case Own(life=life, g=g, have=have):
            return f"own(life {life}, g {g}, have [{', '.join(map(_token, have))}])"
        case Take(life=life, g=g, outcomes=outcomes, want=want):
            said = ", ".join(f"{o.kind} {_token(o.token)}" for o in outcomes)
            return f"step(life {life}, g {g}, [{said}], want {want})"
        case Register(life=life) | Beat(life=life) | Leave(life=life):
            return f"{type(what).__name__.lower()}(life {life})"
        case Ask(delivery=delivery):
            return f"debounce({delivery.token.job})"
        case New(id=job, number=number):
            return f"enqueue({job}, number {number})"
        case Cancel(job=job, number=number):
            return f"cancel({job}, number {number})"
        case Requeue(job=job, generation=generation):
            return f"requeue({job}, generation {generation})"
        case Pause(paused=paused, number=number):
            return f"{'pause' if paused else 'resume'}(number {number})"
        case RelayDeliver(child=child, late=late):
            return f"relay_deliver({child.id}{', late' if late else ''})"
        case RelayDone(row=row):
            return f"relay_done({row.child.id})"
        case RelayRead():
            return "relay_read"
        case _:
            assert_never(what)


def _answered(answer: Answer) -> str:
    match answer:
        case StepAnswer(applied=applied, taken=taken):
            text = [applied] if applied else []
            if taken is not None:
                text.append(taken.status)
                text += [f"{_token(d.token)} attempt {d.attempt}" for d in taken.deliveries]
            return " ".join(text) or "nothing"
        case OwnAnswer(status=status, lost=lost):
            return f"{status}{' lost ' if lost else ''}{', '.join(map(_token, lost))}"
        case BeatAnswer(alive=alive, cancels=cancels):
            return f"{'alive' if alive else 'dead'}{', cancel ' if cancels else ''}{' '.join(cancels)}"
        case Asked(holder=holder):
            return f"held by {holder}"
        case _:
            return str(answer)
