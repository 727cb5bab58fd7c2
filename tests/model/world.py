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

from tests.model import server as srv
from tests.model.actors import CLIENT, Client, History, RelayRead, Setting, Worker, World
from tests.model.clients import Clients
from tests.model.explore import Step
from tests.model.invariants import Invariant, superseded
from tests.model.service import Service
from tests.model.store import New, Record, Server
from tests.model.words import answered, name_of, said
from tests.model.workers import Workers

__all__ = ["WorldModel"]


class WorldModel:
    """The model of one setting; see `explore.Model`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._service = Service(setting)
        self._workers = Workers(self._service)
        self._clients = Clients(self._service)

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.setting.name

    # -- explore.Model ---------------------------------------------------------------------------

    def initial(self) -> World:
        """Workers are members and connected, the jobs are emitted."""
        setting, server = self.setting, Server(self.setting.off)
        history: dict[str, History] = {}
        for job, number in setting.ended.items():
            server.jobs[job] = Record("c", job, present=(number,), a=1, entries=1)
            history[job] = History(ended=True, makers=(number,), ok=1)
        for job in setting.jobs:
            srv.enqueue(server, New(job, job))
            history[job] = History(makers=(None,))
        for worker in range(setting.workers):
            srv.register(server, (worker, 1), self._service.knows(worker))
        return World(
            server.frozen(),
            (Worker(),) * setting.workers,
            (Client(),) * len(setting.programs),
            self.setting.budget,
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
            for index, worker in enumerate(state.workers):
                # Who has lost a start with the server's last write learns it by `own`.
                has_heard = worker.owned or not self._service.is_lossy
                if worker.held and worker.acts and has_heard:
                    job = superseded(state.server.stream, worker)
                    if job is not None:
                        return f"{Invariant.PRESENT} ({name_of(index)} runs {job})"
        return state.broken

    def is_end(self, state: World) -> bool:
        """All jobs are final, all programs done, nothing is pending, nobody holds anything."""
        server = self._service.thaw(state)
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
        for index in range(len(state.workers)):
            yield from self._workers.steps(state, index)
        for index in range(len(state.clients)):
            yield from self._clients.steps(state, index)
        yield from self._late(state)
        yield from self._workers.lease_ends(state)
        yield from self._time_passes(state)
        yield from self._faults(state)

    def _late(self, state: World) -> Iterator[Step[World]]:
        """A request of a connection that is gone is carried out after all."""
        for place, late in enumerate(state.late):
            rest = (*state.late[:place], *state.late[place + 1 :])
            after, answer = self._service.applied(state._replace(late=rest), late.sender, late.what)
            sender = "a client" if late.sender == CLIENT else name_of(late.sender)
            text = f"server, late: {sender}'s {said(late.what)} → {answered(answer)}"
            yield Step(text, after)

    def _time_passes(self, state: World) -> Iterator[Step[World]]:
        if not self.setting.tick:
            return
        busy = any(client.request for client in state.clients) or any(
            worker.requests or any(held.phase != "runs" for held in worker.held)
            for worker in state.workers
        )
        if not busy:
            server = self._service.thaw(state)
            server.now += self.setting.tick
            server.expire()
            server.rebase(self.setting.age)
            server.forget_entries(_held_jobs(state))
            after = self._service.stored(state._replace(late=()), server, state)
            yield Step("time passes", self._service.chronicle.rested(after))

    def _faults(self, state: World) -> Iterator[Step[World]]:
        if state.before is not None and state.may("lose"):
            after = self._service.chronicle.lost_a_write(state.spent("lose"), state.before)
            for index in range(len(state.workers)):
                after = after.disconnected(index, late=False)
            clients = tuple(
                c._replace(request=None, unknown=True) if c.request else c for c in after.clients
            )
            after = after._replace(clients=clients, late=())
            yield Step("the server restarts without its last write", after, fault=True)
        if state.may("flush"):
            empty = Server(self.setting.off, groups=False).frozen()
            after = state.spent("flush")._replace(server=empty, history=(), promised=(), acked=())
            yield Step("the server loses all data", after, fault=True)


def _held_jobs(state: World) -> set[str]:
    return {held.token.job for worker in state.workers for held in worker.held}
