"""Leases in ticks: what happens to them when the server is away, or its clock jumps.

A lease is twelve ticks. A beat is sent every third of it and arrives a tick later, so while all is
well the server hears a worker every five ticks. Requests take no time of their own: what else
connections can do is the business of `world.py`.

One job is held by worker A at first. Two things are checked: that nobody takes a job from a worker
that lives and can be heard, and that the lease of a dead one ends in time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.model import server as srv
from tests.model.explore import Step
from tests.model.rules import Rule
from tests.model.store import Frozen, New, Outcome, Server, Token
from trio_tasks.processor.lease import beat_every_ms, outage_after_ms, stop_after_ms

__all__ = ["LeaseModel"]

LEASE: Final = 12
HEARD_EVERY: Final = beat_every_ms(LEASE) + 1
SILENT_AFTER: Final = stop_after_ms(LEASE)
IN_TIME: Final = LEASE + outage_after_ms(LEASE) + HEARD_EVERY
"""A dead worker's lease has ended so long after its death, and after the last thing that made all
leases begin anew."""
OLDEST: Final = 4 * LEASE


class Worker(NamedTuple):
    """`age`: ticks since its last beat was sent. `token`: the start that it holds; `runs`: its
    handler has not been cancelled."""

    lives: bool = True
    life: int = 1
    age: int = 0
    token: Token | None = None
    runs: bool = False


class World(NamedTuple):
    """`calm`: ticks since a worker died, the server came back, or its clock jumped."""

    server: Frozen
    workers: tuple[Worker, ...]
    away: bool
    left: tuple[int, int, int]
    calm: int = 0
    broken: str | None = None


class LeaseModel:
    """The model; see `explore.Model`.

    Args:
        name: its name.
        off: rules that are switched off.
        workers: how many.
        kills, outages, jumps: how many of each may happen.
        jump_by: by how many ticks the clock may jump.
    """

    def __init__(
        self,
        name: str,
        *,
        off: frozenset[Rule] = frozenset(),
        workers: int = 2,
        kills: int = 0,
        outages: int = 0,
        jumps: int = 0,
        jump_by: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._workers = workers
        self._left = (kills, outages, jumps)
        self._jump_by = jump_by
        self._empty = Server(off, lease=LEASE)

    def initial(self) -> World:
        """All workers have just joined; A runs the job."""
        server = self._empty.thaw(self._empty.frozen())
        srv.enqueue(server, New("a", "a"))
        for index in range(self._workers):
            srv.register(server, (index, 1))
            srv.beat(server, (index, 1))
        (delivery,) = srv.take(server, (0, 1), 0, 1).deliveries
        first = Worker(token=delivery.token, runs=True)
        return World(server.frozen(), (first, *[Worker()] * (self._workers - 1)), False, self._left)

    def parts(self, state: World) -> tuple[Hashable, ...]:
        """The server, and the rest."""
        return state

    def violation(self, state: World) -> str | None:
        """What the last step broke."""
        if state.broken is not None or state.calm <= IN_TIME:
            return state.broken
        leases = self._empty.thaw(state.server).leases
        for (index, life), until in leases.items():
            worker = state.workers[index]
            if until > 0 and (not worker.lives or worker.life != life):
                return "23: the lease of a dead worker does not end in time"
        return None

    def is_end(self, state: World) -> bool:
        """The job is done."""
        return not self._empty.thaw(state.server).stream

    def steps(self, state: World) -> Iterator[Step[World]]:
        """All steps, in a fixed order."""
        for index, worker in enumerate(state.workers):
            if worker.lives and not state.away:
                yield from self._asks(state, index, worker)
        if state.away:
            yield Step("the server is back", state._replace(away=False, calm=0))
        if state.away or not any(w.lives and w.age >= HEARD_EVERY for w in state.workers):
            yield self._tick(state)
        yield from self._faults(state)

    def _asks(self, state: World, index: int, worker: Worker) -> Iterator[Step[World]]:
        name, inc = "ABC"[index], (index, worker.life)
        server = self._empty.thaw(state.server)
        if worker.age >= HEARD_EVERY:
            alive = srv.beat(server, inc).alive
            after = worker._replace(age=0) if alive else self._joins(server, index, worker)
            yield Step(
                f"{name} beats{'' if alive else ': dead'}", _with(state, server, index, after)
            )
            return
        if worker.token is None:
            yield from self._takes(state, server, index, worker)
        elif worker.runs:
            outcome = Outcome(worker.token, "c", 1)
            text = f"{name} completes: {srv.commit(server, outcome)}"
            yield Step(text, _with(state, server, index, worker._replace(token=None, runs=False)))
        else:
            answer = srv.commit(server, Outcome(worker.token, "i", 1))
            text = f"{name} gives back: {answer}"
            yield Step(text, _with(state, server, index, worker._replace(token=None)))

    def _takes(
        self, state: World, server: Server, index: int, worker: Worker
    ) -> Iterator[Step[World]]:
        name = "ABC"[index]
        owners = {entry.job: entry.owner for entry in server.stream}
        taken = srv.take(server, (index, worker.life), 0, 1)
        if taken.status == "dead":
            after = self._joins(server, index, worker)
            yield Step(f"{name} is dead, and joins anew", _with(state, server, index, after))
            return
        broken = None
        for delivery in taken.deliveries:
            worker = worker._replace(token=delivery.token, runs=worker.age <= SILENT_AFTER)
            robbed, life = owners["a"]
            if robbed >= 0 and state.workers[robbed].lives and state.workers[robbed].life == life:
                broken = f"23: {name} takes the job of {'ABC'[robbed]}, which lives"
        after = _with(state, server, index, worker)._replace(broken=broken)
        yield Step(f"{name} takes {'the job' if taken.deliveries else 'nothing'}", after)

    def _joins(self, server: Server, index: int, worker: Worker) -> Worker:
        srv.register(server, (index, worker.life + 1))
        return worker._replace(life=worker.life + 1, age=0, runs=False)

    def _tick(self, state: World) -> Step[World]:
        server = self._empty.thaw(state.server)
        server.now += 1
        server.rebase(OLDEST)
        workers = [
            w._replace(
                age=min(w.age + 1, OLDEST) if w.lives else 0,
                runs=w.runs and w.age < SILENT_AFTER,
            )
            for w in state.workers
        ]
        calm = 0 if state.away else min(state.calm + 1, IN_TIME + 1)
        after = state._replace(server=server.frozen(), workers=tuple(workers), calm=calm)
        return Step("a tick", after)

    def _faults(self, state: World) -> Iterator[Step[World]]:
        kills, outages, jumps = state.left
        if kills:
            for index, worker in enumerate(state.workers):
                if worker.lives:
                    workers = list(state.workers)
                    workers[index] = Worker(lives=False, life=worker.life)
                    left = (kills - 1, outages, jumps)
                    after = state._replace(workers=tuple(workers), left=left, calm=0)
                    yield Step(f"{'ABC'[index]} is killed", after, fault=True)
        if outages and not state.away:
            after = state._replace(away=True, left=(kills, outages - 1, jumps))
            yield Step("the server is away", after, fault=True)
        if jumps:
            for by in self._jump_by:
                server = self._empty.thaw(state.server)
                server.now += by
                server.rebase(OLDEST)
                left = (kills, outages, jumps - 1)
                after = state._replace(server=server.frozen(), left=left, calm=0)
                yield Step(f"the server's clock jumps by {by}", after, fault=True)


def _with(state: World, server: Server, index: int, worker: Worker) -> World:
    workers = list(state.workers)
    workers[index] = worker
    return state._replace(server=server.frozen(), workers=tuple(workers))
