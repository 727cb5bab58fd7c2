"""Worker processes on a real server, and what is left behind when all is done."""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import msgspec
import redis

from tests.contract.backdoors import FAMILY
from tests.faults.worker import Effects, Settings, manager, run
from tests.forks import FORKS
from trio_tasks import BrokerUnavailableError, Emit, TaskManager

__all__ = ["QUEUES", "Run", "Site", "Worker", "memory_of"]

QUEUES = ("main", "other")

EMPTY = {"z": "ZCARD", "dlq": "ZCARD", "x": "HLEN", "out": "XLEN"}
"""What has to be empty at the end, and how to ask."""


class Run(NamedTuple):
    """One run of a handler; `at`: when it began, on this machine's `time.monotonic()`."""

    event: str
    data: int
    job_id: str
    attempt: int
    worker: str
    at: float


class Worker:
    """A worker process."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name
        ours, its = os.pipe()
        with os.fdopen(its, "wb") as output:
            self._process = FORKS.Process(target=run, args=(settings, DupFd(output.fileno())))
            self._process.start()
        self._output = os.fdopen(ours, encoding="utf-8")

    async def ready(self) -> None:
        """Wait until it takes jobs."""
        said = ""
        while line := await anyio.to_thread.run_sync(self._output.readline):
            if line == "ready\n":
                return
            said += line
        raise AssertionError(f"{self.name} has ended: {said}")

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def memory(self) -> int:
        """Bytes that it has in memory."""
        return memory_of(self.pid)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def stopped(self) -> tuple[int | None, str]:
        """Wait for its end: exit code, and what it said last."""
        said = await anyio.to_thread.run_sync(self._output.read)
        await anyio.to_thread.run_sync(self._process.join)
        return self._process.exitcode, said

    def end(self) -> None:
        """SIGKILL, whatever state it is in."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._output.close()


def memory_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Site:
    """One namespace on a server, with its workers and an onlooker."""

    def __init__(self, url: str, directory: Path) -> None:
        self.settings = Settings(
            url=url, namespace=f"f{uuid.uuid4().hex[:10]}", effects=str(directory / "effects")
        )
        self._effects = Effects(self.settings)
        self._noted = Path(self.settings.effects).open(encoding="utf-8")  # noqa: SIM115 - open while the site is
        self._half_line = ""
        self._runs: list[Run] = []
        self._workers: list[Worker] = []
        self._redis: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]

    @classmethod
    @contextmanager
    def on(cls, url: str, directory: Path) -> Generator[Site]:
        """A site, whose workers end with the block."""
        site = cls(url, directory)
        try:
            yield site
        finally:
            for worker in site._workers:
                worker.end()
            site._redis.close()
            site._noted.close()
            site._effects.close()

    def onlooker(self) -> TaskManager[Effects]:
        """A manager that emits and looks, and runs nothing."""
        return manager(self.settings)

    async def workers(self, *names: str, **options: Any) -> list[Worker]:
        """Start workers, and wait until they take jobs."""
        made: list[Worker] = []
        for name in names:
            settings = msgspec.structs.replace(self.settings, name=name, **options)
            made.append(Worker(settings))
            self._workers.append(made[-1])
        for worker in made:
            await worker.ready()
        return made

    async def emit(self, tasks: TaskManager[Effects], jobs: range) -> None:
        """Emit parents with these numbers, however often the server is away meanwhile."""
        batch = [Emit("parent", n, queue="main") for n in jobs]
        while batch:
            try:
                await tasks.emit_many(batch)
                return
            except BrokerUnavailableError as error:
                # What was minted once may be emitted again: it is that job.
                numbers = jobs[len(jobs) - len(error.ids) :]
                batch = [
                    Emit("parent", n, queue="main", id=job_id)
                    for n, job_id in zip(numbers, error.ids, strict=True)
                ]

    async def idle(self, tasks: TaskManager[Effects]) -> None:
        """Wait until nothing is left to do, however often the server is away meanwhile."""
        while True:
            try:
                return await tasks.until_idle(QUEUES)
            except BrokerUnavailableError:
                await anyio.sleep(0.05)

    def runs(self) -> list[Run]:
        """What handlers have noted so far, in the order in which they began."""
        # The last line may be half written yet.
        *lines, self._half_line = (self._half_line + self._noted.read()).split("\n")
        for line in lines:
            event, data, job_id, attempt, worker, at = line.split()
            self._runs.append(Run(event, int(data), job_id, int(attempt), worker, float(at)))
        return self._runs

    async def wrongs(self, tasks: TaskManager[Effects], jobs: int) -> dict[str, int]:
        """What has to be zero when these many parents and all their children have ended."""
        found: Counter[str] = Counter()
        for event in ("parent", "sibling", "child"):
            kind = "jobs" if event == "parent" else "children"
            numbers = {run.data for run in self.runs() if run.event == event}
            ids = {run.job_id for run in self.runs() if run.event == event}
            found[f"{kind} lost"] += len(set(range(jobs)) - numbers)
            found[f"{kind} doubled"] += len(ids) - len(numbers)
        for queue, expected in (("main", 2 * jobs), ("other", jobs)):
            stats = await tasks.queue(queue).stats()
            found["outcomes lost"] += max(0, expected - stats.completed)
            found["outcomes doubled"] += max(0, stats.completed - expected)
            found["dead, cancelled, skipped"] += stats.dead + stats.cancelled + stats.skipped
            found["not ended"] += stats.queued + stats.running + stats.delayed
            found["entries left"] += self.ask("XLEN", self.key(queue, "s:0"))
            found["pending left"] += self.pending(queue)
            found["keys left"] += len(self.leaked(queue))
        return found

    async def check(self, tasks: TaskManager[Effects], jobs: int) -> Counter[str]:
        """Nothing was lost, nothing doubled, nothing is left; how often each event ran."""
        wrongs = await self.wrongs(tasks, jobs)
        assert not any(wrongs.values()), wrongs
        assert [key for queue in QUEUES for key in self.leaked(queue)] == []
        return Counter(run.event for run in self.runs())

    async def dead_are_buried(self, *, living: int, within: float) -> None:
        """Wait until no member and no consumer is left but those that live."""

        def buried(queue: str) -> bool:
            members = {name.decode() for name in self.members(queue)}
            return len(members) == living and self.consumers(queue) <= members

        with anyio.fail_after(within):
            while not all(map(buried, QUEUES)):  # noqa: ASYNC110 - what workers leave behind
                await anyio.sleep(0.02)

    def key(self, queue: str, name: str) -> str:
        return f"{self.settings.namespace}:{{{queue}}}:{name}"

    def ask(self, command: str, *arguments: object) -> Any:
        """What the server answers."""
        return self._redis.execute_command(command, *arguments)

    def commands_processed(self) -> int:
        """By the whole server, since it started."""
        return self._redis.info("stats")["total_commands_processed"]

    def members(self, queue: str) -> list[bytes]:
        """The incarnations that live."""
        return self.ask("ZRANGE", self.key(queue, "c"), 0, -1)

    def consumers(self, queue: str) -> set[str]:
        """The consumers of the group, `~released` apart."""
        found = self._redis.xinfo_consumers(self.key(queue, "s:0"), "g")
        return {consumer["name"].decode() for consumer in found} - {"~released"}

    def pending(self, queue: str) -> int:
        """Entries that were handed out and not acked, released ones included."""
        return int(self._redis.xpending(self.key(queue, "s:0"), "g")["pending"])

    def leaked(self, queue: str) -> list[str]:
        """Keys that should not be there when all jobs have ended."""
        left = [f"{queue}: {name} is not empty" for name in EMPTY if self._size(queue, name)]
        prefix = self.key(queue, "")
        for raw in self._redis.scan_iter(prefix + "*", count=10_000):
            name = raw.decode().removeprefix(prefix)
            if not FAMILY.fullmatch(name):
                left.append(f"{queue}: {name} has no meaning")
            elif name.startswith(("j:", "l:", "d:")) and self.ask("TTL", raw) == -1:
                left.append(f"{queue}: {name} stays for ever")
        return left

    def _size(self, queue: str, name: str) -> int:
        return self.ask(EMPTY[name], self.key(queue, name))
