"""What every peer script in Python shares: its assignment, the loops that emit, the count of runs.

Standard library only: it is imported inside each peer's own environment. A peer script is started
with its assignment as one JSON argument, and reports with lines of JSON on its standard output
that begin with `REPORT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from crowd import LOOK, Crowd

__all__ = ["ASYNCIO", "Assignment", "Loop", "Tally", "assignment", "emit", "report", "trio_loop"]

REPORT = "REPORT "
SETTLE = 0.3  # seconds in which a worker goes on, so that a job that runs twice is seen
CHUNK = 1000  # jobs in one call of a bulk interface that has no limit of its own


@dataclass(frozen=True)
class Assignment:
    """What this process is asked to do; numbers of jobs are `first`, `first + 1`, and so on.

    Attributes:
        role: "work" or "emit".
        url: the server.
        first: number of the first job; those below it were executed by way of warm-up.
        warm: jobs before the clock starts.
        jobs: jobs while it runs.
        limit: seconds after which a worker gives up.
        concurrency: handlers at once.
        nap: seconds that a handler sleeps; 0: it does nothing.
        how: "bulk", "tasks", "one", "idle" (one by one, with pauses, telling each its instant) or
            "preload": the fastest that there is.
        tasks: how many tasks emit at once, if that is how.
        beyond: jobs that wait behind those of the clock; a worker may run them too, uncounted.
        workers: processes that work off the same jobs; only trio_tasks_peer.py can share them.
        me: which of them this one is, from 0.
        crowd: if they are several, the file that they share, see `crowd.py`.
        load, size, queue: of growth.py, see there.
    """

    role: str
    url: str
    first: int = 0
    warm: int = 0
    jobs: int = 0
    limit: float = 60.0
    concurrency: int = 1
    nap: float = 0.0
    how: str = "preload"
    tasks: int = 32
    beyond: int = 0
    workers: int = 1
    me: int = 0
    crowd: str = ""
    load: str = "none"
    size: int = 0
    queue: str = "default"

    @property
    def last(self) -> int:
        """One beyond the number of the last job."""
        return self.first + self.warm + self.jobs


def assignment() -> Assignment:
    """What the command line says."""
    return Assignment(**json.loads(sys.argv[1]))


def report(**what: object) -> None:
    """Tell the command that started this script."""
    print(REPORT + json.dumps(what), flush=True)


class Tally:
    """Counts the executions of a worker; reports and ends the process when all jobs have run.

    The clock starts when as many jobs as serve for the warm-up have run, and stops with the last
    one: starting a process is not measured. CPU time is that of all threads of the process.

    Of several workers none knows by itself when that is. A thread looks every 5 ms at what all
    have run, and tells how many jobs were left when it started its clock.
    """

    def __init__(self, asked: Assignment, crowd: Crowd | None = None) -> None:
        self._crowd = crowd
        self._seen = bytearray(asked.last + asked.beyond) if crowd is None else crowd.seen[asked.me]
        self._next = count(1).__next__  # atomic, so that threads may share it
        self._warm, self._last = asked.warm, asked.last
        self._began = self._ended = (0.0, 0.0)
        self._clocked = asked.jobs
        self._repeats = 0
        self._latencies = array("q")
        self._done = threading.Event()
        threading.Thread(target=self._watch, args=[asked], daemon=True).start()

    def ran(self, number: int, emitted_at: int = 0) -> None:
        """Called by each execution: by those that sleep at their end.

        Args:
            number: the job's.
            emitted_at: `time.monotonic_ns()` before it was emitted; 0: nobody asks.
        """
        if emitted_at:
            self._latencies.append(time.monotonic_ns() - emitted_at)
        if self._seen[number]:
            self._repeats += 1
            return
        self._seen[number] = 1
        if self._crowd is not None:
            self._crowd.count()
            return
        place = self._next()
        if place == self._warm:
            self._begin(place)
        elif place == self._last:
            self._end()

    def _begin(self, place: int) -> None:
        report(warm=place)
        self._began = (time.perf_counter(), time.process_time())

    def _end(self) -> None:
        self._ended = (time.perf_counter(), time.process_time())
        report(over=True)
        self._done.set()

    def _watch(self, asked: Assignment) -> None:
        if self._crowd is None:
            finished = self._done.wait(asked.limit)
        else:
            finished = self._follow(self._crowd, asked.limit)
        time.sleep(SETTLE)
        report(
            finished=finished,
            executed=sum(self._seen),
            repeats=self._repeats,
            clocked=self._clocked,
            seconds=self._ended[0] - self._began[0],
            cpu=self._ended[1] - self._began[1],
            latencies_ns=self._latencies.tolist(),
        )
        os._exit(0)  # the server is thrown away too; how each system stops is not the question

    def _follow(self, crowd: Crowd, limit: float) -> bool:
        """Start and stop the clock by what all have run."""
        deadline = time.monotonic() + limit
        begun = False  # all over between two looks: the clock ran from here
        self._clocked, self._began = self._last, (time.perf_counter(), time.process_time())
        while (total := crowd.total()) < self._last and time.monotonic() < deadline:
            if total >= self._warm and not begun:
                begun, self._clocked = True, self._last - total
                self._begin(total)
            time.sleep(LOOK)
        self._end()
        return total >= self._last


Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Loop:
    """What the loops below need of an event loop."""

    sleep: Callable[[float], Awaitable[object]]
    together: Callable[[Sequence[Step]], Awaitable[object]]


async def _asyncio_together(steps: Sequence[Step]) -> None:
    await asyncio.gather(*(step() for step in steps))


ASYNCIO = Loop(asyncio.sleep, _asyncio_together)


def trio_loop() -> Loop:
    """The same for Trio, which not every environment has."""
    import trio

    async def together(steps: Sequence[Step]) -> None:
        async with trio.open_nursery() as nursery:
            for step in steps:
                nursery.start_soon(step)

    return Loop(trio.sleep, together)


async def emit(
    asked: Assignment,
    loop: Loop,
    one: Callable[[int, int], Awaitable[object]],
    many: Callable[[Sequence[int]], Awaitable[object]] | None = None,
) -> None:
    """Emit as asked and report the time that it took.

    Args:
        asked: the assignment.
        loop: the event loop that runs this.
        one: emits one job, given its number and the instant.
        many: emits jobs in bulk, given their numbers; `None`: there is no such interface.
    """

    async def emit_all(numbers: Sequence[int]) -> None:
        match asked.how:
            case "bulk" | "preload" if many is not None:
                await many(numbers)
            case "tasks" | "preload":
                shared = iter(numbers)
                await loop.together([lambda: emit_each(shared)] * asked.tasks)
            case "one":
                await emit_each(numbers)
            case "idle":
                luck = Random(asked.first)  # pauses that no poll is in step with
                for number in numbers:
                    await loop.sleep(luck.uniform(0.005, 0.025))
                    await one(number, time.monotonic_ns())
            case how:
                raise ValueError(f"how={how!r} is not possible here")

    async def emit_each(numbers: Iterable[int]) -> None:
        for number in numbers:
            await one(number, 0)

    middle = asked.first + asked.warm
    await emit_all(range(asked.first, middle))
    began, cpu = time.perf_counter(), time.process_time()
    await emit_all(range(middle, asked.last))
    report(seconds=time.perf_counter() - began, cpu=time.process_time() - cpu)
