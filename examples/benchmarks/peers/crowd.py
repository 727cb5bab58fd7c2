"""What several workers of one measurement share: memory in which each counts its own executions.

Every place in it has one writer, so there is nothing to lock. The command makes the file, and
reads in the end who ran what. Standard library only, see `harness.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from mmap import mmap
from pathlib import Path

__all__ = ["Crowd"]

LOOK = 0.005  # seconds between two looks at what the others do


class Crowd:
    """The view of one of the workers, or of the command.

    Attributes:
        counts: jobs that each worker has run; `me` writes its own.
        seen: for each worker, a byte for each job: whether it has run that.
        complete: all workers have a handler that runs, or has run.
    """

    def __init__(self, path: str, workers: int, jobs: int, me: int = 0) -> None:
        """Map the memory.

        Args:
            path: a file that `make` has made for as many workers and jobs.
            workers: how many there are.
            jobs: numbered from 0.
            me: this worker, from 0.
        """
        with Path(path).open("r+b") as file:
            memory = memoryview(mmap(file.fileno(), 0))
        bodies = 9 * workers  # eight bytes for a count, one that says "here"
        self.counts = memory[: 8 * workers].cast("q")
        self.seen = [memory[at : at + jobs] for at in range(bodies, bodies + workers * jobs, jobs)]
        self.complete = False
        self._here = memory[8 * workers : bodies]
        self._me = me

    @staticmethod
    def make(path: str, workers: int, jobs: int) -> Crowd:
        """Make the file, all zero, and return the command's view of it."""
        Path(path).write_bytes(bytes(workers * (9 + jobs)))
        return Crowd(path, workers, jobs)

    async def gather(self, sleep: Callable[[float], Awaitable[object]]) -> None:
        """Called by a handler: wait until each worker runs one.

        Else the first worker to come would do much of the work before the second has started, and
        the second would pay for its start on the clock.
        """
        self._here[self._me] = 1
        while not all(self._here):
            await sleep(LOOK)
        self.complete = True

    def count(self) -> None:
        """This worker has run one more job."""
        self.counts[self._me] += 1

    def total(self) -> int:
        """Jobs that all of them have run."""
        return sum(self.counts)

    def executed(self) -> tuple[int, int]:
        """Jobs that were run by anybody, and by how many workers too many."""
        runs = list(map(sum, zip(*self.seen, strict=True)))
        executed = sum(map(bool, runs))
        return executed, sum(runs) - executed
