"""What a worker makes of an answer: it begins handlers, or lets go of jobs."""

from __future__ import annotations

from tests.model import policy
from tests.model.actors import (
    Answer,
    Ask,
    Asked,
    Beat,
    Held,
    Leave,
    Own,
    Register,
    StepAnswer,
    Take,
    What,
    Worker,
    World,
)
from tests.model.rules import Rule
from tests.model.service import Service
from tests.model.store import BeatAnswer, Delivery, New, OwnAnswer, TakeAnswer, Token
from trio_tasks.processor.decisions import Run
from trio_tasks.processor.inputs import DebounceAnswered, HandedOut, Input, Interrupted, LeaseLost

__all__ = ["Hearing"]


class Hearing:
    """Answers are read in worlds of one setting."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def heard(self, state: World, index: int, worker: Worker, what: What, answer: Answer) -> World:
        """A worker has read the answer to a request."""
        match what, answer:
            case Own(life=life), OwnAnswer(status="owned", lost=lost):
                worker = worker._replace(owned=True)
                if self._service.keeps(Rule.OWN_NAMES_LOST):
                    worker = self._let_go(worker, lost)
            case Own(life=life), OwnAnswer(status="dead" | "forgotten"):
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
            case Ask(delivery=delivery), Asked() as asked:
                return self._may_run(state, index, worker, delivery, asked)
            case _:
                raise AssertionError(what, answer)
        return state.with_worker(index, worker)

    def _taken(
        self, state: World, index: int, worker: Worker, what: Take, taken: TakeAnswer
    ) -> World:
        is_left = what.life != worker.life or not worker.member
        if taken.status == "dead" and not is_left:
            return state.with_worker(index, self._died(worker, what.life))
        state = state.with_worker(index, worker)
        for delivery in taken.deliveries:
            if worker.status == "stopping":
                state = self._returned(state, index, delivery, Interrupted(began=False))
            elif (is_left and self._service.keeps(Rule.LEFT_GIVEN_BACK)) or (
                worker.stale and self._service.keeps(Rule.TWO_THIRDS)
            ):
                state = self._returned(state, index, delivery, LeaseLost(began=False))
            else:
                state = self._decided(state, index, delivery)
        return state

    def _returned(self, state: World, index: int, delivery: Delivery, why: Input) -> World:
        """A delivery of which nothing begins."""
        return state.hold(index, self.ended(Held(delivery, "asks"), why))

    def _decided(self, state: World, index: int, delivery: Delivery) -> World:
        """The Processor says what is to be done with a delivery, before its data are touched."""
        kind, knows = self._service.kind(delivery.b), self._service.setting.knows
        happened = HandedOut(
            known=knows is None or delivery.b in knows.get(index, ()),
            cancel_reason="asked" if delivery.cancelled else None,
        )
        decision = policy.decide(delivery, kind.attempts, happened, 0)
        if kind.poison and (isinstance(decision, Run) or not self._service.keeps(Rule.ASK_FIRST)):
            state = self._service.chronicle.begun(state, delivery, kind, self._service.thaw(state))
            return state.killed(index, late=self._service.setting.late)
        outcome = policy.outcome(delivery, decision)
        if outcome is not None:
            return state.hold(index, Held(delivery, "ended", outcome))
        if kind.raises:
            return self._returned(state, index, delivery, policy.MISUSED)
        asks = kind.edge == "leading" or (
            kind.edge == "trailing" and self._service.keeps(Rule.TRAILING_CHECKED)
        )
        if asks and not delivery.rq:
            return state.hold(index, Held(delivery, "asks"))
        return self._begins(state, index, delivery)

    def _may_run(
        self, state: World, index: int, worker: Worker, delivery: Delivery, asked: Asked
    ) -> World:
        """The answer about a debounce key."""
        held = next((h for h in worker.held if h.token == delivery.token), None)
        if held is None or held.phase != "asks":
            return state.with_worker(index, worker)  # it was given up meanwhile
        rest = tuple(h for h in worker.held if h is not held)
        state = state.with_worker(index, worker._replace(held=rest))
        if asked.refused:
            return state.hold(index, self.ended(held, policy.FAILED))
        kind = self._service.kind(delivery.b)
        if asked.holder is None and not self._service.keeps(Rule.ASKS_AS_PRESENT):
            return self._begins(state, index, delivery)
        decision = policy.decide(delivery, kind.attempts, DebounceAnswered(asked.holder), 0)
        outcome = policy.outcome(delivery, decision)
        if outcome is not None:
            return state.hold(index, held._replace(phase="ended", outcome=outcome))
        return self._begins(state, index, delivery)

    def _begins(self, state: World, index: int, delivery: Delivery) -> World:
        kind = self._service.kind(delivery.b)
        state = self._service.chronicle.begun(state, delivery, kind, self._service.thaw(state))
        runs = next(h.runs for job, h in state.history if job == delivery.token.job)
        children = tuple(self._minted(child, runs) for child in kind.children)
        return state.hold(index, Held(delivery, "runs", children=children))

    def _minted(self, child: New, run: int) -> New:
        """A child as this run of its parent emits it: with an id or number of its own."""
        if child.id.endswith("@"):
            is_minted = self._service.keeps(Rule.CHILD_ID)
            return child._replace(id=f"{child.id}{run}") if is_minted else child
        return child._replace(number=100 + run) if self._service.keeps(Rule.CHILD_NUMBER) else child

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
        return worker

    def _give_up(self, worker: Worker, held: Held, why: Input) -> Worker:
        """Cancel a handler; its job is given back, or what `why` says."""
        if held.phase in ("ended", "unwinds"):
            return worker
        rest = [h for h in worker.held if h is not held]
        if isinstance(why, LeaseLost) and held.phase == "asks":
            why = LeaseLost(began=False)
        if not isinstance(why, LeaseLost) or self._service.keeps(Rule.GIVEN_UP_RELEASED):
            ended = self.ended(held, why)
            if self._service.setting.slow and held.phase == "runs":
                ended = ended._replace(phase="unwinds")
            rest.append(ended)
        return worker._replace(held=tuple(sorted(rest, key=repr)))

    def ended(self, held: Held, happened: Input) -> Held:
        """The Processor says what comes of what has happened."""
        attempts = self._service.kind(held.delivery.b).attempts
        decision = policy.decide(held.delivery, attempts, happened, 0)
        outcome = policy.outcome(
            held.delivery,
            decision,
            ran=held.phase == "runs",
            children=held.children,
        )
        assert outcome is not None, "only a hand-out is answered with Run"
        return held._replace(phase="ended", outcome=outcome)

    def silent(self, worker: Worker) -> Worker:
        """The last good renewal is too old: handlers are cancelled."""
        if self._service.keeps(Rule.TWO_THIRDS):
            for held in worker.held:
                worker = self._give_up(worker, held, LeaseLost(began=True))
        requests = tuple(
            r._replace(what=r.what._replace(counts=False))
            if isinstance(r.what, Beat | Register)
            else r
            for r in worker.requests
        )
        return worker._replace(stale=True, requests=requests)
