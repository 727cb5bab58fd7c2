"""The server's side of a world: requests are carried out, and told to the chronicle."""

from __future__ import annotations

from typing import assert_never

from tests.model import server as srv
from tests.model.actors import (
    PLAIN,
    Answer,
    Ask,
    Asked,
    Beat,
    Before,
    Cancel,
    Kind,
    Leave,
    Own,
    Pause,
    Register,
    RelayDeliver,
    RelayDone,
    RelayRead,
    Requeue,
    Setting,
    StepAnswer,
    Take,
    What,
    World,
)
from tests.model.invariants import Chronicle
from tests.model.rules import Rule
from tests.model.store import New, Server

__all__ = ["Service"]

WINDOW_MS = 10_000


class Service:
    """Carries out requests in worlds of one setting.

    Attributes:
        setting: the setting.
        chronicle: what is told what has happened.
        empty: a server without data.
        is_lossy: whether the server may lose its last write.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.chronicle = Chronicle(setting)
        self.is_lossy = bool(setting.faults.get("lose"))
        tombstone = setting.tombstone
        self.empty = Server(
            setting.off, tombstone=tombstone, relayed_tombstone=6 * (tombstone or 0)
        )

    def keeps(self, rule: Rule) -> bool:
        """Whether a rule is switched on."""
        return rule not in self.setting.off

    def kind(self, name: str) -> Kind:
        """How jobs of a kind behave."""
        return self.setting.kinds.get(name, PLAIN)

    def knows(self, worker: int) -> tuple[str, ...]:
        """The kinds of jobs that a worker lists when it registers."""
        knows = self.setting.knows
        return () if knows is None else knows.get(worker, ())

    def thaw(self, state: World) -> Server:
        """The server of a world."""
        return self.empty.thaw(state.server)

    def stored(self, state: World, server: Server, former: World) -> World:
        """The world with what a script has made of the server."""
        frozen = server.frozen()
        if frozen == state.server:
            return state
        before = None
        if self.is_lossy:
            before = Before(former.server, former.history, former.promised, former.wins)
        return self.chronicle.check(state._replace(server=frozen, before=before), server)

    def applied(self, state: World, sender: int, what: What) -> tuple[World, Answer]:
        """Carry out a request of a worker, or of a client (`CLIENT`)."""
        server, chronicle, former_state = self.thaw(state), self.chronicle, state
        answer: Answer
        match what:
            case Take():
                state, answer = self._step(state, server, sender, what)
            case Own(life=life, g=g, have=have):
                answer = srv.own(server, (sender, life), g, have)
                state = chronicle.given_back(state, server)
            case Register(life=life):
                srv.register(server, (sender, life), self.knows(sender))
                answer = True
            case Beat(life=life):
                answer = srv.beat(server, (sender, life))
            case Leave(life=life):
                answer = srv.leave(server, (sender, life))
            case Ask(delivery=delivery) if self.kind(delivery.b).spoilt:
                answer = Asked(None, refused=True)
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
        return self.stored(state, server, former_state), answer

    def _step(
        self, state: World, server: Server, sender: int, what: Take
    ) -> tuple[World, StepAnswer]:
        answers, chronicle = "", self.chronicle
        for outcome in what.outcomes:
            former = dict(server.jobs)
            answer = srv.commit(server, outcome)
            answers += answer
            if answer in "AXP":
                kind = self.kind(former[outcome.token.job].b)
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
