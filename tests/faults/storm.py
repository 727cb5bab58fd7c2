"""Random faults, drawn from a seed, hit workers and their server under load; then all is counted.

Theory of operation
-------------------
Three workers always run: two on the server's unix socket, one behind a `Line`. A *round* emits
jobs, lets some of them run, strikes, and waits until work has gone on. The kinds of faults are
drawn from a bag that is filled again when it is empty, so each gets its share. About every second
round waits until all is done, then, so that faults meet the after-effects of others.

What is measured, each time: *work went on* after so many seconds, counted

* for a worker that was killed or frozen: from then until the last of the jobs that it had in its
  hands began elsewhere;
* for one that was told to stop: the same, from the end of its grace;
* for all else: from the moment in which the trouble was over until a handler began (on the line:
  one of the worker behind it).

A worker stands and does nothing? At the end, after all faults, each living worker has to run some
of a last batch of jobs.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from tests.faults.clock import Clock
from tests.faults.line import Line
from tests.faults.site import QUEUES, Site, Worker, memory_of
from tests.faults.worker import Effects
from tests.servers import ServerProcess, follow, free_port, start_replica, succeed
from trio_tasks import BrokerUnavailableError, QueueFullError, TaskManager

__all__ = ["KINDS", "Storm"]

_GRACE_S = 0.3
_STOP_LIMIT_S = _GRACE_S + 2
_EXIT_S = 1.0  # for an interpreter on a busy machine to say goodbye
_WORK_ON_S = 2.0  # how long it may take until work goes on, where nothing else is promised
_AT_ONCE_S = 1.0
_EMIT_DEADLINE_S = 5.0
_EMITTERS = 1000  # in the long outage; each fails every five seconds
_GROWTH_LIMIT = 32 * 2**20  # bytes that a process may grow by in it

_STUCK_S = 60.0
_NAMES = ("far", "near", "nearer")

_TURNED = "clock jump on the server"

KINDS = {
    "kill -9 of a worker": "_kill",
    "SIGTERM": "_term",
    "SIGSTOP": "_freeze",
    "server restart with AOF": "_restart",
    "server away": "_away",
    "server away, worker stopped": "_away_and_stop",
    "server away, worker killed": "_away_and_kill",
    "frozen server": "_server_frozen",
    "READONLY": "_read_only",
    "failover": "_failover",
    "OOM": "_memory_full",
    _TURNED: "_clock_turned",
    "connections killed": "_connections_killed",
    "SCRIPT FLUSH": "_scripts_flushed",
    "line reset": "_line_reset",
    "reset in mid-command": "_line_cut",
    "line slow": "_line_slow",
    "line silent": "_line_silent",
}
"""The kinds of faults, named as in docs/invariants.md where they are there; who does them."""


class Storm:
    """One run.

    Attributes:
        jobs: parents that were emitted.
        took_s: per kind of fault, how long it took each time until work went on.
        broken: what was not as promised, in words.
        hung_stops: stops that took longer than they may.
    """

    def __init__(
        self,
        site: Site,
        tasks: TaskManager[Effects],
        server: ServerProcess,
        line: Line,
        clock: Clock | None,
        seed: int,
        *,
        lease_s: float = 1.0,
    ) -> None:
        """Nothing happens before `start`.

        Args:
            site: on the server.
            tasks: its onlooker, entered.
            server: on TCP too, with an append-only file that is written always.
            line: to the server.
            clock: that of the server; `None`: it cannot be turned.
            seed: of all luck.
            lease_s: of the workers.
        """
        self.jobs = 0
        self.took_s: defaultdict[str, list[float]] = defaultdict(list)
        self.broken: list[str] = []
        self.hung_stops = 0
        self._site = site
        self._tasks = tasks
        self._server = server
        self._line = line
        self._clock = clock
        self._lease_s = lease_s
        self._limits_s = {
            "kill -9 of a worker": lease_s + 1,
            "SIGSTOP": lease_s + 1,
            "SIGTERM": _AT_ONCE_S,
        }
        self._luck = random.Random(seed)
        self._workers: dict[str, Worker] = {}
        self._ordinal = 0
        self._bag: list[str] = []

    def can(self, kind: str) -> bool:
        """Whether that kind of fault can happen here."""
        return kind != _TURNED or self._clock is not None

    async def start(self) -> None:
        """Start the workers."""
        for place in _NAMES:
            await self._replace(place)

    async def round(self, jobs: int) -> None:
        """Emit so many jobs, and let a fault happen while they are being done."""
        if not self._bag:
            self._bag = [kind for kind in KINDS if self.can(kind)]
            self._luck.shuffle(self._bag)
        await self.strike(self._bag.pop(), jobs)
        if self._luck.random() < 0.5:
            await self.idle()

    async def strike(self, kind: str, jobs: int) -> None:
        """Emit so many jobs, and let this fault happen while they are being done."""
        before = len(self._site.runs())
        await self._emit(jobs)
        some = before + int(3 * jobs * self._luck.uniform(0.05, 0.4))
        await self._until(lambda: len(self._site.runs()) >= some, "jobs that were emitted run")
        took_s = await getattr(self, KINDS[kind])()
        self.took_s[kind].append(took_s)
        limit_s = self._limits_s.get(kind, _WORK_ON_S)
        if took_s > limit_s:
            self.broken.append(f"{kind}: work went on after {took_s:.2f} s, not {limit_s:g}")

    async def wrongs(self) -> Counter[str]:
        """What has to be zero, when all is done."""
        await self.idle()
        wrongs = Counter(await self._site.wrongs(self._tasks, self.jobs))
        wrongs["hung stops"] = self.hung_stops
        wrongs["promises broken"] = len(self.broken)
        return wrongs

    async def end(self) -> Counter[str]:
        """Let everything come to its end; what has to be zero."""
        await self.idle()
        await self._each_worker_works()
        wrongs = await self.wrongs()
        with anyio.move_on_after(3 * self._lease_s) as scope:
            await self._site.dead_are_buried(living=len(self._workers), within=_STUCK_S)
        if scope.cancelled_caught:
            wrongs["consumers left"] += 1
        for worker in tuple(self._workers.values()):
            await self._stop(worker)
        self._workers.clear()
        for queue in QUEUES:
            wrongs["consumers left"] += len(self._site.consumers(queue))
            wrongs["members left"] += len(self._site.members(queue))
        wrongs.update({"hung stops": self.hung_stops - wrongs["hung stops"]})
        wrongs.update({"promises broken": len(self.broken) - wrongs["promises broken"]})
        return wrongs

    async def idle(self) -> None:
        """Wait until all is done."""
        with anyio.move_on_after(_STUCK_S) as scope:
            await self._site.idle(self._tasks)
        if scope.cancelled_caught:
            raise AssertionError(
                f"jobs are stuck: {await self._site.wrongs(self._tasks, self.jobs)}"
            )

    # -- workers ---------------------------------------------------------------------------------

    async def _replace(self, place: str) -> None:
        """Start a worker where one has ended."""
        self._ordinal += 1
        url = self._line.url if place == "far" else self._site.settings.url
        (self._workers[place],) = await self._site.workers(
            f"{place}-{self._ordinal}",
            url=url,
            work=0.01,
            long_work=0.7 * self._lease_s,
            lease=self._lease_s,
            grace=_GRACE_S,
            concurrency=8,
            ticks=True,
        )

    def _somebody(self) -> tuple[str, Worker]:
        place = self._luck.choice(_NAMES)
        return place, self._workers[place]

    async def _stop(self, worker: Worker) -> float:
        """Tell a worker to stop; when that was."""
        at = time.monotonic()
        worker.signal(SIGTERM)
        code, said = await worker.stopped()
        if time.monotonic() - at > _STOP_LIMIT_S + _EXIT_S:
            self.hung_stops += 1
        if code:
            self.broken.append(f"{worker.name} exits with {code}: {said[-500:]!r}")
        return at

    async def _each_worker_works(self) -> None:
        since = time.monotonic()
        idle = {worker.name for worker in self._workers.values()}
        with anyio.move_on_after(10):
            while idle:
                await self._emit(50)
                await anyio.sleep(0.1)
                idle -= {run.worker for run in self._site.runs() if run.at > since}
        self.broken += [f"{name} lives and does nothing" for name in idle]

    # -- jobs ------------------------------------------------------------------------------------

    async def _emit(self, jobs: int) -> None:
        self.jobs += jobs
        await self._site.emit(self._tasks, range(self.jobs - jobs, self.jobs))

    async def top_up(self, jobs: int) -> None:
        """Emit what is missing to this number of jobs."""
        while self.jobs < jobs:
            await self._emit(min(1000, jobs - self.jobs))

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(_STUCK_S) as scope:
            while not holds():  # noqa: ASYNC110 - it looks at what other processes do
                await anyio.sleep(0.01)
        if scope.cancelled_caught:
            raise AssertionError(f"{what}: not within {_STUCK_S:g} s")

    async def _went_on(self, since: float, worker: Worker | None = None) -> float:
        """Wait until a handler begins; seconds from `since` to that."""
        seen = max(0, len(self._site.runs()) - 200)  # others may have noted theirs meanwhile
        more_at = since + 0.2
        while True:
            for run in self._site.runs()[seen:]:
                if run.at > since and (worker is None or run.worker == worker.name):
                    return run.at - since
            if time.monotonic() > more_at:
                if time.monotonic() > since + _STUCK_S:
                    raise AssertionError("nobody works any more")
                await self._emit(50)
                more_at = time.monotonic() + 0.2
            await anyio.sleep(0.005)

    async def _handed_on(self, worker: Worker, since: float) -> float:
        """Wait until all is done; how long jobs of that worker's lay until they began elsewhere."""
        await self.idle()
        runs = self._site.runs()
        last = {run.job_id: run for run in runs if run.worker == worker.name and run.at <= since}
        longest = 0.0
        for run in reversed(runs):
            if run.at <= since:
                break
            if run.job_id in last and run.attempt >= last[run.job_id].attempt:
                last[run.job_id] = run  # backwards: the earliest one stays
        for run in last.values():
            longest = max(longest, run.at - since)
        return longest

    # -- faults of workers -----------------------------------------------------------------------

    async def _kill(self) -> float:
        place, victim = self._somebody()
        victim.signal(SIGKILL)
        killed_at = time.monotonic()
        took_s = await self._handed_on(victim, killed_at)
        await self._replace(place)
        return took_s

    async def _term(self) -> float:
        place, victim = self._somebody()
        told_at = await self._stop(victim)
        took_s = await self._handed_on(victim, told_at + _GRACE_S)
        await self._replace(place)
        return took_s

    async def _freeze(self) -> float:
        _, victim = self._somebody()
        victim.signal(SIGSTOP)
        frozen_at = time.monotonic()
        await anyio.sleep(self._lease_s * self._luck.uniform(1.2, 2.5))
        victim.signal(SIGCONT)
        return await self._handed_on(victim, frozen_at)

    # -- faults of the server --------------------------------------------------------------------

    async def _restart(self) -> float:
        await anyio.to_thread.run_sync(self._server.restart)
        return await self._went_on(time.monotonic())

    async def _away(self) -> float:
        self._server.kill()
        await anyio.sleep(self._lease_s * self._luck.uniform(0.2, 2))
        await anyio.to_thread.run_sync(self._server.start)
        return await self._went_on(time.monotonic())

    async def _away_and_stop(self) -> float:
        place, victim = self._somebody()
        self._server.kill()
        await self._stop(victim)
        await anyio.to_thread.run_sync(self._server.start)
        back_at = time.monotonic()
        took_s = await self._went_on(back_at)
        await self._replace(place)
        return took_s

    async def _away_and_kill(self) -> float:
        place, victim = self._somebody()
        self._server.kill()
        await anyio.sleep(self._luck.uniform(0, self._lease_s))
        victim.signal(SIGKILL)
        await anyio.to_thread.run_sync(self._server.start)
        took_s = await self._went_on(time.monotonic())
        await self._replace(place)
        return took_s

    async def _server_frozen(self) -> float:
        self._server.freeze()
        await anyio.sleep(self._lease_s * self._luck.uniform(0.2, 2.5))
        self._server.thaw()
        return await self._went_on(time.monotonic())

    async def _connections_killed(self) -> float:
        self._server.ask("CLIENT", "KILL", "TYPE", "normal")
        return await self._went_on(time.monotonic())

    async def _scripts_flushed(self) -> float:
        self._server.ask("SCRIPT", "FLUSH")
        return await self._went_on(time.monotonic())

    async def _read_only(self) -> float:
        """As in a failover that goes wrong, and is undone."""
        self._server.ask("REPLICAOF", "127.0.0.1", free_port())
        await anyio.sleep(self._lease_s * self._luck.uniform(0.2, 1.5))
        self._server.ask("REPLICAOF", "NO", "ONE")
        return await self._went_on(time.monotonic())

    async def _failover(self) -> float:
        """A replica is promoted and gets the address; and back again."""
        server = self._server
        with ExitStack() as stack:
            replica = await anyio.to_thread.run_sync(stack.enter_context, start_replica(server))
            await anyio.to_thread.run_sync(succeed, server, replica)
            server.hand_over(replica)
            took_s = await self._went_on(time.monotonic())
            # Whoever is connected stays where the primary is. The address leads to its replica:
            # whoever is not has to wait until that is promoted.
            await anyio.to_thread.run_sync(follow, server, replica)
            back_at = time.monotonic()
            async with anyio.create_task_group() as emitting:
                emitting.start_soon(self._emit, 50)
                await anyio.to_thread.run_sync(succeed, replica, server)
                back_at = time.monotonic()
            return max(took_s, await self._went_on(back_at))

    async def _memory_full(self) -> float:
        """Emits are refused at once; what is there completes, with its children."""
        self._server.ask("CONFIG", "SET", "maxmemory", 1)
        began = time.monotonic()
        try:
            await self._tasks.emit("parent", -1, queue="main")
            self.broken.append("a full server took a job")
        except QueueFullError:
            if time.monotonic() - began > _AT_ONCE_S:
                self.broken.append("a full server refused a job too late")
        before = len(self._site.runs())
        await self.idle()
        if len(self._site.runs()) == before:
            self.broken.append("nothing was done while memory was full")
        self._server.ask("CONFIG", "SET", "maxmemory", 0)
        return await self._went_on(time.monotonic())

    async def _clock_turned(self) -> float:
        """By an hour back and, when all is done, forward to where it was; no job may be stolen."""
        assert self._clock is not None
        await self.idle()
        first, turned_at = len(self._site.runs()), time.monotonic()
        for offset_s in (-3600, 0):
            before = len(self._site.runs())
            await self._emit(30)
            await self._until(lambda n=before: len(self._site.runs()) > n, "jobs run")
            self._clock.turn_to(offset_s)
            turned_at = time.monotonic()
            await self.idle()
        runs = self._site.runs()[first:]
        ids = [run.job_id for run in runs if run.event != "tick"]
        stolen = len(ids) - len(set(ids))
        if stolen:
            self.broken.append(f"a clock that was turned stole {stolen} jobs")
        # Jobs are done; but does the schedule tick?
        while True:
            for run in self._site.runs()[first:]:
                if run.event == "tick" and run.at > turned_at:
                    return run.at - turned_at
            if time.monotonic() > turned_at + _STUCK_S:
                raise AssertionError("the schedule is silent")
            await anyio.sleep(0.01)

    # -- faults of the line ----------------------------------------------------------------------

    async def _line_reset(self) -> float:
        self._line.reset()
        return await self._went_on(time.monotonic(), self._workers["far"])

    async def _line_cut(self) -> float:
        connects = self._line.connects
        self._line.cut_reply_after(int(10 ** self._luck.uniform(0, 4)))
        await self._until(lambda: self._line.connects > connects, "a line that was cut is renewed")
        return await self._went_on(time.monotonic(), self._workers["far"])

    async def _line_slow(self) -> float:
        self._line.drip(0.0005)
        await anyio.sleep(self._lease_s * self._luck.uniform(0.5, 1.5))
        self._line.drip(0)
        return await self._went_on(time.monotonic(), self._workers["far"])

    async def _line_silent(self) -> float:
        self._line.hold()
        await anyio.sleep(self._lease_s * self._luck.uniform(0.5, 2))
        self._line.release()
        return await self._went_on(time.monotonic(), self._workers["far"])

    # -- the long outage -------------------------------------------------------------------------

    async def outage(self, seconds: float) -> dict[str, float]:
        """Let the server be away so long under load, with emits all the time; what was measured.

        Keys: seconds until work went on, the longest that a failed emit took, and by how many MiB
        a worker and, once all emits had failed a first time, this process grew.
        """
        await self._emit(1000)
        before = {name: worker.memory() for name, worker in self._workers.items()}
        own_before: int | None = None
        grown = own_grown = 0
        longest_emit_s, failed = 0.0, 0
        is_back = False

        async def emit_all_the_time() -> None:
            nonlocal longest_emit_s, failed
            while not is_back:
                began = time.monotonic()
                try:
                    # To a queue that nobody serves: those that get through do no harm.
                    await self._tasks.emit("nothing", None, queue="nowhere")
                except BrokerUnavailableError:
                    failed += 1
                    longest_emit_s = max(longest_emit_s, time.monotonic() - began)
                await checkpoint()

        self._server.kill()
        back_at = gone_until = time.monotonic() + seconds
        async with anyio.create_task_group() as nursery:
            for _ in range(_EMITTERS):
                nursery.start_soon(emit_all_the_time)
            while time.monotonic() < gone_until:
                await anyio.sleep(0.25)
                grown = max(grown, *(w.memory() - before[n] for n, w in self._workers.items()))
                own = memory_of(os.getpid())
                if own_before is not None:
                    own_grown = max(own_grown, own - own_before)
                elif failed >= _EMITTERS:
                    own_before = own
            await anyio.to_thread.run_sync(self._server.start)
            back_at = time.monotonic()
            is_back = True
        took_s = await self._went_on(back_at)
        await self.idle()
        if took_s > _WORK_ON_S:
            self.broken.append(f"after a long outage work went on after {took_s:.2f} s")
        if longest_emit_s > _EMIT_DEADLINE_S + 1:
            self.broken.append(f"an emit failed after {longest_emit_s:.2f} s")
        if seconds > _EMIT_DEADLINE_S + 1 and not failed:
            self.broken.append("no emit has failed in the outage")
        if max(grown, own_grown) > _GROWTH_LIMIT:
            self.broken.append(f"a process grew by {max(grown, own_grown) / 2**20:.0f} MiB")
        return {
            "work went on after, s": took_s,
            "longest emit that failed, s": longest_emit_s,
            "emits that failed": failed,
            "a worker grew by, MiB": grown / 2**20,
            "the emitting process grew by, MiB": own_grown / 2**20,
        }
