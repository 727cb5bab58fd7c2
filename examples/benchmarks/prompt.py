"""How promptly a busy worker obeys: `python -m examples.benchmarks.prompt`.

A worker with four slots, whose handlers do nothing, works off a long backlog, so that it has in
hand as many jobs as it may take ahead. From another process the queue is paused, a job of the
highest priority is emitted, jobs are cancelled until the calls meet the worker, and it is sent
SIGTERM: each many times, at random moments. Prints as a Markdown table what handlers did after
the call had returned, or the signal had been sent. All processes read one clock.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any, TypeAlias

import trio

from examples.benchmarks.results import Results
from examples.benchmarks.server import fresh_server
from trio_tasks import Emit, Job, JobRef, TaskManager

CONCURRENCY = 4
EVENT, QUEUE = "job", "default"
BACKLOG = 20_000  # jobs that are queued at least when a worker begins, if nothing else is asked for
BUSY = 2000  # jobs after which it is disturbed
AFTERWARDS = 0.1  # seconds in which what comes late is seen
AROUND = 300  # cancels that go on when they have met the worker
LIMIT = 60.0  # seconds for one disturbance

luck = Random(4)


def now_ms() -> float:
    return time.monotonic_ns() / 1e6


# -- the worker ------------------------------------------------------------------------------------


def work(url: str) -> None:
    """Work until SIGTERM, then print which jobs began when, and when all was over."""
    began: list[tuple[str, float]] = []
    tasks = TaskManager(url, concurrency=CONCURRENCY)

    @tasks.handler(EVENT)
    async def job(job: Job[None]) -> None:
        began.append((job.id, now_ms()))

    trio.run(tasks.run)
    print(json.dumps({"began": began, "stopped": now_ms()}))


@dataclass(slots=True)
class Worker:
    """A worker's process. What it did is known at its end.

    Attributes:
        began: when its handlers began (ms), by the jobs' ids, in this order.
        stopped: when its `run()` had returned, with all that had not begun given back.
    """

    began: dict[str, float] = field(default_factory=dict[str, float])
    stopped: float = 0.0

    def between(self, since: float, until: float) -> list[float]:
        """When handlers began in this time."""
        return [at for at in self.began.values() if since < at <= until]


@dataclass(slots=True)
class Stage:
    """A server, and the other process: this one.

    Attributes:
        tasks: emits and steers.
        url: the server.
        backlog: jobs that are queued at least when a worker begins.
        refs: of all jobs, in their order.
        terminated: when the worker was sent SIGTERM.
    """

    tasks: TaskManager[Any]
    url: str
    backlog: int
    refs: list[JobRef[Any]] = field(default_factory=list[JobRef[Any]])
    terminated: float = 0.0

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[Worker]:
        """A worker that is in the midst of a backlog when the block begins, and ends with it."""
        worker, queue = Worker(), self.tasks.queue(QUEUE)
        stats = await queue.stats()
        self.refs += await self.tasks.emit_many([Emit(EVENT)] * max(0, self.backlog - stats.queued))
        command = [sys.executable, "-m", "examples.benchmarks.prompt", "--work", self.url]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        try:
            with trio.fail_after(LIMIT):
                while (await queue.stats()).completed < stats.completed + BUSY:  # noqa: ASYNC110
                    await trio.sleep(0.002)
                await trio.sleep(luck.uniform(0, 0.02))
                yield worker
                self.terminated = now_ms()
                process.send_signal(signal.SIGTERM)
                assert process.stdout is not None
                said = json.loads(b"".join([chunk async for chunk in process.stdout]))
        finally:
            process.kill()
            with trio.move_on_after(1, shield=True):
                await process.wait()
        worker.began, worker.stopped = dict(said["began"]), said["stopped"]


# -- what is done to it ----------------------------------------------------------------------------

Figures: TypeAlias = dict[str, float]


async def pause(stage: Stage) -> Figures:
    async with stage.working() as worker:
        await stage.tasks.queue(QUEUE).pause()
        paused = now_ms()
        await trio.sleep(AFTERWARDS)
        resumed = now_ms()
        await stage.tasks.queue(QUEUE).resume()
    late = worker.between(paused, resumed)
    return {
        "handlers that began afterwards": len(late),
        "the last of them, after (ms)": max(late, default=paused) - paused,
    }


async def prefer(stage: Stage) -> Figures:
    async with stage.working() as worker:
        urgent = await stage.tasks.emit(EVENT, priority=9)
        emitted = now_ms()
        await trio.sleep(AFTERWARDS)
    began = worker.began[urgent.id]
    return {
        "others that began before it": len(worker.between(emitted, began)[:-1]),
        "its own beginning, after (ms)": max(0.0, began - emitted),
    }


async def cancel(stage: Stage) -> Figures:
    answers: dict[str, tuple[bool, float]] = {}
    async with stage.working() as worker:
        for ref in reversed(stage.refs):
            answers[ref.id] = await ref.cancel(), now_ms()
            if sum(not is_cancelled for is_cancelled, _ in answers.values()) >= AROUND:
                break
    began = worker.began
    late = [began[each] - at for each, (_, at) in answers.items() if began.get(each, 0.0) > at]
    told = [each for each, (is_cancelled, _) in answers.items() if is_cancelled]
    return {
        "answers that a job is cancelled": len(told),
        "of these jobs, those that began": sum(each in began for each in told),
        "of the others, in hand, those that began afterwards": len(late),
        "the last of them, after (ms)": max(late, default=0.0),
    }


async def stop(stage: Stage) -> Figures:
    async with stage.working() as worker:
        pass
    stats = await stage.tasks.queue(QUEUE).stats()
    late = worker.between(stage.terminated, worker.stopped)
    return {
        "handlers that began afterwards": len(late),
        "the last of them, after (ms)": max(late, default=stage.terminated) - stage.terminated,
        "all given back and left, after (ms)": worker.stopped - stage.terminated,
        "jobs that stay in its hand": stats.running,
    }


DISTURBANCES: dict[str, Callable[[Stage], Awaitable[Figures]]] = {
    "`pause()`": pause,
    "`emit(priority=9)`": prefer,
    "`cancel()`, job by job": cancel,
    "SIGTERM": stop,
}


async def disturb(rounds: int, backlog: int) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    with fresh_server() as server:
        async with TaskManager(server.url) as tasks:
            stage = Stage(tasks, server.url, backlog)
            for _ in range(rounds):
                for name, disturbance in DISTURBANCES.items():
                    for what, number in (await disturbance(stage)).items():
                        found.setdefault((name, what), []).append(number)
            stats = await tasks.queue(QUEUE).stats()
        results = Results(server.version(), rounds)
    print(f"{results.server}, {results.machine}. {rounds} times each, {CONCURRENCY} slots.\n")
    print("| after | what | median | max |\n| --- | --- | --- | --- |")
    for (name, what), numbers in found.items():
        digits = 2 if what.endswith("(ms)") else 0
        print(f"| {name} | {what} | {median(numbers):.{digits}f} | {max(numbers):.{digits}f} |")
    ran, ended = stats.completed, stats.completed + stats.cancelled
    print(
        f"\n{ran:,} jobs ran, {stats.cancelled:,} were cancelled, {stats.queued:,} are queued:",
        end=" ",
    )
    print(f"{len(stage.refs) + rounds - ended - stats.queued} are missing.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks.prompt",
        description="What a busy worker still does after pause, cancel, a higher priority, a stop.",
    )
    parser.add_argument("--rounds", type=int, default=10, help="times each; default 10")
    parser.add_argument("--backlog", type=int, default=BACKLOG, help=f"jobs; default {BACKLOG}")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
    else:
        trio.run(disturb, given.rounds, given.backlog)


if __name__ == "__main__":
    main()
