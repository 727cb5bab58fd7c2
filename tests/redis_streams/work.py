"""A manager whose jobs have children in other queues, and what of it has run: for counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import anyio

from trio_tasks import Context, Job, TaskManager
from trio_tasks.errors import BrokerUnavailableError

__all__ = ["Work"]


class Work:
    """Parents run in the first queues; each emits a child into each of the last ones.

    Attributes:
        ran: how often each `(queue, number)` ran.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "work",
        parents: Sequence[str] = ("default",),
        children: Sequence[str] = ("other",),
        **options: Any,
    ) -> None:
        self.ran: Counter[tuple[str, int]] = Counter()
        self.queues = [*parents, *children]
        self.tasks: TaskManager[Any] = TaskManager(
            url, namespace=namespace, concurrency=8, **options
        )
        self._ran_one = anyio.Event()

        async def child(job: Job[int]) -> None:
            self._note(job)

        async def parent(job: Job[int], ctx: Context[Any]) -> str:
            self._note(job)
            for queue in children:
                ctx.emit("child", job.data, queue=queue)
            return "done"

        for queue in parents:
            self.tasks.handler("parent", queue=queue)(parent)
        for queue in children:
            self.tasks.handler("child", queue=queue)(child)

    def _note(self, job: Job[int]) -> None:
        self.ran[job.queue, job.data] += 1
        self._ran_one.set()

    async def emit(self, number: int, queue: str = "default") -> None:
        """Emit until the job is known to be stored; a repeat of the same id is harmless."""
        same: dict[str, Any] = {}
        while True:
            try:
                await self.tasks.emit("parent", number, queue=queue, **same)
            except BrokerUnavailableError as error:
                same = {"id": error.ids[0]}
            else:
                return

    async def until_some_ran(self, count: int) -> None:
        """Wait until so many more have run."""
        wanted = self.ran.total() + count
        while self.ran.total() < wanted:
            self._ran_one = anyio.Event()
            await self._ran_one.wait()

    async def until_ran(self, numbers: Iterable[int]) -> None:
        """Wait until these ran in every queue, and nothing is left to do."""
        wanted = {(queue, number) for queue in self.queues for number in numbers}
        while not wanted <= self.ran.keys():
            self._ran_one = anyio.Event()
            await self._ran_one.wait()
        await self.tasks.until_idle()

    async def left(self) -> list[int]:
        """How many jobs are left in each queue, dead ones included."""
        return [
            counts.queued + counts.delayed + counts.running + counts.dead
            for counts in [await self.tasks.queue(name).stats() for name in self.queues]
        ]
