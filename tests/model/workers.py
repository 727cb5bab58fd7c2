"""What workers do and suffer."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import policy
from tests.model.actors import (
    WORKER_FAULTS,
    Ask,
    Beat,
    Leave,
    Own,
    Register,
    Request,
    Take,
    What,
    Worker,
    World,
)
from tests.model.explore import Step
from tests.model.hearing import Hearing
from tests.model.rules import Rule
from tests.model.service import Service
from tests.model.store import FOREVER, Inc
from tests.model.words import answered, name_of, said
from trio_tasks.processor.inputs import Interrupted

__all__ = ["Workers"]


class Workers:
    """The steps of workers in worlds of one setting."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._hearing = Hearing(service)
        self._left = service.setting.budget
        self._late = service.setting.late
        self._alike = service.setting.are_workers_alike

    def steps(self, state: World, index: int) -> Iterator[Step[World]]:
        """All steps of one worker, in a fixed order."""
        worker = state.workers[index]
        yield from self._served(state, index, worker)
        if worker.acts:
            yield from self._reads(state, index, worker)
            yield from self._handlers(state, index, worker)
            if worker.connected:
                yield from self._sends(state, index, worker)
            else:
                yield from self._cut_off(state, index, worker)
        if worker.status == "stopping" and not worker.member and not worker.held:
            ended = worker._replace(status="left", connected=False, requests=())
            yield Step(f"{name_of(index)} ends", state.with_worker(index, ended))
        elif worker.status == "frozen":
            yield from self._thaws(state, index, worker)
        elif worker.status in ("left", "dead"):
            yield from self._starts_again(state, index, worker)
        yield from self._faults(state, index, worker)

    def _served(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """The server carries out the oldest request of a connection."""
        for place, request in enumerate(worker.requests):
            if request.answer is None:
                after, answer = self._service.applied(state, index, request.what)
                requests = list(worker.requests)
                requests[place] = request._replace(answer=answer)
                yield Step(
                    f"server: {name_of(index)}'s {said(request.what)} → {answered(answer)}",
                    after.with_worker(index, worker._replace(requests=tuple(requests))),
                )
                return

    def _reads(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        for place, request in enumerate(worker.requests):
            if request.answer is not None:
                rest = (*worker.requests[:place], *worker.requests[place + 1 :])
                after = self._hearing.heard(
                    state, index, worker._replace(requests=rest), request.what, request.answer
                )
                yield Step(f"{name_of(index)} reads the answer to {said(request.what)}", after)

    def _handlers(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """How handlers may end."""
        for held in worker.held:
            name, job = name_of(index), held.token.job
            others = tuple(h for h in worker.held if h is not held)
            rest = state.with_worker(index, worker._replace(held=others))
            if held.phase == "unwinds":
                after = rest.hold(index, held._replace(phase="ended"))
                yield Step(f"{name}: the handler of {job} is unwound", after)
            if held.phase != "runs":
                continue
            ends = self._service.kind(held.delivery.b).ends
            if "ok" in ends:
                ended = self._hearing.ended(held, policy.SUCCEEDED)
                yield Step(f"{name}: {job} succeeds", rest.hold(index, ended))
            if "fail" in ends:
                ended = self._hearing.ended(held, policy.FAILED)
                yield Step(f"{name}: {job} fails", rest.hold(index, ended))
            if worker.status == "stopping":
                ended = self._hearing.ended(held, Interrupted(began=True))
                yield Step(f"{name}: {job} is interrupted", rest.hold(index, ended))

    # -- a worker sends --------------------------------------------------------------------------

    def _sends(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        for what in self._wishes(index, worker):
            life = what.life if isinstance(what, Register) else worker.life
            requests = (*worker.requests, Request(what))
            yield Step(
                f"{name_of(index)} sends {said(what)}",
                state.with_worker(index, worker._replace(life=life, requests=requests)),
            )

    def _wishes(self, index: int, worker: Worker) -> Iterator[What]:
        """What a connected worker may send next."""
        under_way = {type(request.what) for request in worker.requests}
        steps = [r.what for r in worker.requests if isinstance(r.what, Take)]
        if len(steps) < self._service.setting.steps and Register not in under_way:
            yield from self._next_step(index, worker, steps)
        for held in worker.held:
            if held.phase == "asks" and Ask not in under_way:
                kind = self._service.kind(held.delivery.b)
                yield Ask(held.delivery, kind.edge, kind.digest)
        if not worker.member:
            if worker.status == "up" and Register not in under_way:
                yield Register(worker.life + self._service.keeps(Rule.FRESH_NAME))
            return
        if Beat not in under_way and (worker.stale or index in self._service.setting.beats):
            yield Beat(worker.life)
        waits = Take in under_way and self._service.keeps(Rule.LEAVE_WAITS)
        if worker.status == "stopping" and not (worker.held or waits or Leave in under_way):
            yield Leave(worker.life)

    def _next_step(self, index: int, worker: Worker, steps: list[Take]) -> Iterator[Take]:
        """The outcomes that wait, and a take if there are free slots and it is allowed."""
        sent = {outcome.token for step in steps for outcome in step.outcomes}
        outcomes = tuple(
            h.outcome
            for h in worker.held
            if h.outcome is not None and h.phase == "ended" and h.token not in sent
        )
        may_take = (
            worker.status == "up"
            and worker.owned
            and worker.member
            and not worker.stale
            and index not in self._service.setting.deaf
        )
        busy = sum(h.phase != "ended" for h in worker.held) + sum(step.want for step in steps)
        want = max(0, self._service.setting.slots - busy) if may_take else 0
        if outcomes or want:
            yield Take(worker.life, worker.g, outcomes, want)

    def _cut_off(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        """A worker without a connection."""
        name = name_of(index)
        if worker.status == "stopping":
            after = state.killed(index, late=self._late)
            yield Step(f"{name} ends without taking leave", after)
        back = worker._replace(connected=True)
        if worker.member and self._service.keeps(Rule.OWN_FIRST):
            have = tuple(h.token for h in worker.held if h.token.inc[1] == worker.life)
            first = Own(worker.life, worker.g + 1, have)
            back = back._replace(g=first.g, owned=False, requests=(Request(first),))
            yield Step(f"{name} connects and sends {said(first)}", state.with_worker(index, back))
        else:
            back = back._replace(g=worker.g + 1, owned=True)
            yield Step(f"{name} connects", state.with_worker(index, back))
        if worker.member and not worker.stale:
            yield Step(
                f"{name} could not renew its lease for two thirds of it",
                state.with_worker(index, self._hearing.silent(worker)),
            )

    def _thaws(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        up = worker._replace(status="up")
        if self._service.thaw(state).leases.get((index, worker.life)) == FOREVER:
            yield Step(f"{name_of(index)} is thawed soon", state.with_worker(index, up))
        text = f"{name_of(index)} is thawed after more than two thirds of its lease"
        yield Step(text, state.with_worker(index, self._hearing.silent(up)))

    def _starts_again(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        life = worker.life
        fresh = Worker(life=life, former=life, member=False, connected=False, owned=False)
        yield Step(f"{name_of(index)} is started again", state.with_worker(index, fresh))

    def lease_ends(self, state: World) -> Iterator[Step[World]]:
        """A lease ends that nobody renews."""
        for inc, until in state.server.leases:
            if until == FOREVER and self._may_end(state.workers[inc[0]], inc):
                server = self._service.thaw(state)
                server.leases[inc] = 0
                text = f"the lease of {name_of(inc[0])}.{inc[1]} ends"
                yield Step(text, state._replace(server=server.frozen()))

    def _may_end(self, worker: Worker, inc: Inc) -> bool:
        """Whether the lease of an incarnation can end by itself."""
        is_left = worker.life != inc[1] or inc[1] <= worker.former
        if is_left or worker.status in ("dead", "left", "frozen"):
            return True
        if worker.stale:
            return not any(
                isinstance(r.what, Beat | Register) and r.what.counts and r.answer is not None
                for r in worker.requests
            )
        return worker.member and not worker.connected and not self._service.keeps(Rule.TWO_THIRDS)

    def _faults(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        victims = self._service.setting.victims
        if worker.status in ("dead", "left") or (victims is not None and index not in victims):
            return
        if index and self._alike and state.left[:WORKER_FAULTS] == self._left[:WORKER_FAULTS]:
            return  # the first fault strikes A: which of them is called A does not matter
        name = name_of(index)
        if worker.connected and state.may("break"):
            after = state.spent("break").disconnected(index, late=self._late)
            yield Step(f"the connection of {name} breaks", after, fault=True)
        if state.may("kill"):
            after = state.spent("kill").killed(index, late=self._late)
            yield Step(f"{name} is killed", after, fault=True)
        if worker.status == "up":
            if state.may("freeze"):
                frozen = worker._replace(status="frozen")
                after = state.spent("freeze").with_worker(index, frozen)
                yield Step(f"{name} is frozen", after, fault=True)
            if state.may("stop"):
                stopping = worker._replace(status="stopping")
                after = state.spent("stop").with_worker(index, stopping)
                yield Step(f"{name} is told to stop", after, fault=True)
