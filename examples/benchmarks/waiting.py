"""How long jobs lie at a busy worker: `python -m examples.benchmarks.waiting`.

A worker takes more jobs than it has free slots while handlers are fast, and gives back what could
not start in time. So a job waits at it, while another worker could run it, from its hand-out until
its handler starts or it is given back. Prints that time as a Markdown table, over all hand-outs:

- *wait*: from the arrival of the hand-out until the handler starts, or the give-back is sent.
- *with both ways*: from the instant of the hand-out by the server's clock, in whole milliseconds,
  until the handler starts, or the give-back is answered.

A worker and a fresh server, on one machine; all jobs are queued before the worker starts. Rounds
are interleaved; percentiles are medians over the rounds, the maximum is that of all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median, quantiles
from typing import TYPE_CHECKING

import trio

from examples.benchmarks.results import Results
from examples.benchmarks.server import fresh_server
from trio_tasks import Consumer, Job
from trio_tasks.broker import (
    BATCH,
    Beat,
    DebounceAsk,
    Membership,
    NewJob,
    Outcome,
    Record,
    Registration,
    StartToken,
    StepReply,
    Taken,
)
from trio_tasks.processor.decisions import Release
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker

if TYPE_CHECKING:
    from collections.abc import Mapping

CONCURRENCY = 4
NAP = 0.05  # seconds
LIMIT = 120.0  # seconds for one round of one load
QUEUE = "default"


def mixed(jobs: int) -> list[float]:
    """One job in ten sleeps, at random places that are the same each time."""
    luck = Random(10)
    return [NAP if luck.random() < 0.1 else 0.0 for _ in range(jobs)]


LOADS: Mapping[str, Sequence[float]] = {
    "no-op": [0.0] * 30_000,
    "no-op, then 50 ms": [0.0] * 10_000 + [NAP] * 400,
    "one in ten 50 ms": mixed(3000),
    "1 ms": [0.001] * 4000,
    "0.1 ms, of CPU": [-0.0001] * 10_000,
}
"""What jobs do, in their order: nothing, sleep for so many seconds, or (negative) compute."""


@dataclass(slots=True)
class Diary:
    """What happened to the jobs of one round; instants in nanoseconds of the wall clock.

    Attributes:
        began: by job, when its handler started.
        runs: by job, how often.
        came: by start, when the server handed the job out, and when that arrived.
        left: by start that was given back, when that was sent, and when it was answered.
    """

    began: dict[str, int] = field(default_factory=dict[str, int])
    runs: Counter[str] = field(default_factory=Counter[str])
    came: dict[StartToken, tuple[int, int]] = field(
        default_factory=dict[StartToken, tuple[int, int]]
    )
    left: dict[StartToken, tuple[int, int]] = field(
        default_factory=dict[StartToken, tuple[int, int]]
    )

    def waits_ms(self, jobs: set[str]) -> tuple[list[float], list[float]]:
        """Of each hand-out of these jobs: its wait, and the same with both ways."""
        waits: list[float] = []
        with_ways: list[float] = []
        for token, (handed_out, arrived) in self.came.items():
            if token.job_id in jobs:
                began = self.began[token.job_id]
                sent, answered = self.left.get(token, (began, began))
                waits.append((sent - arrived) / 1e6)
                with_ways.append((answered - handed_out) / 1e6)
        return waits, with_ways


class WatchedBroker(RedisBroker):
    """Writes down what is handed out and what is given back."""

    def __init__(self, url: str, diary: Diary) -> None:
        super().__init__(parse_address(url))
        self._diary = diary

    async def register(
        self,
        registration: Registration,
        *,
        have: Callable[[], Sequence[StartToken]],
        lost: Callable[[Sequence[StartToken]], None],
    ) -> Membership:
        inner = await super().register(registration, have=have, lost=lost)
        return WatchedMembership(inner, self._diary)


class WatchedMembership:
    """That of a WatchedBroker."""

    def __init__(self, inner: Membership, diary: Diary) -> None:
        self._inner = inner
        self._diary = diary

    @property
    def queue(self) -> str:
        return self._inner.queue

    @property
    def incarnation(self) -> str:
        return self._inner.incarnation

    async def step(self, outcomes: Sequence[Outcome], want: int) -> StepReply:
        sent = time.time_ns()
        reply = await self._inner.step(outcomes, want)
        answered = time.time_ns()
        for outcome in outcomes:
            if isinstance(outcome.verdict, Release):
                self._diary.left[outcome.token] = sent, answered
        self._came(reply.taken, answered)
        return reply

    async def wait_and_take(self, timeout: float, want: int) -> Taken | None:
        taken = await self._inner.wait_and_take(timeout, want)
        self._came(taken, time.time_ns())
        return taken

    def _came(self, taken: Taken | None, arrived: int) -> None:
        if taken is not None:
            for delivery in taken.deliveries:
                self._diary.came[delivery.token] = 1_000_000 * taken.now_ms, arrived

    async def debounce(self, asks: Sequence[DebounceAsk]) -> list[str | None]:
        return await self._inner.debounce(asks)

    async def beat(self) -> Beat:
        return await self._inner.beat()

    async def log(self, token: StartToken, lines: Sequence[bytes], max_lines: int) -> None:
        await self._inner.log(token, lines, max_lines)

    async def wait(self, timeout: float) -> bool:
        return await self._inner.wait(timeout)

    async def leave(self) -> None:
        await self._inner.leave()


async def work_off(url: str, naps: Sequence[float]) -> Diary:
    """Queue the jobs, numbered by their ids, and let one worker run them."""
    diary, done = Diary(), trio.Event()

    async def handle(job: Job[float]) -> None:
        diary.began.setdefault(job.id, time.time_ns())
        diary.runs[job.id] += 1
        if len(diary.began) == len(naps):
            done.set()
        if job.data > 0:
            await trio.sleep(job.data)
        elif job.data < 0:
            until = time.perf_counter() - job.data
            while time.perf_counter() < until:
                pass

    async with WatchedBroker(url, diary) as broker, trio.open_nursery() as nursery:
        jobs = [new_job(number, nap) for number, nap in enumerate(naps)]
        for first in range(0, len(jobs), BATCH):
            await broker.emit(jobs[first : first + BATCH])
        consumer = Consumer(broker, [QUEUE], handle, concurrency=CONCURRENCY)
        await nursery.start(consumer.run)
        with trio.fail_after(LIMIT):
            await done.wait()
        await consumer.stop(grace=1)
    return diary


def new_job(number: int, nap: float) -> NewJob:
    record = Record(version=1, event="job", data=json.dumps(nap).encode())
    return NewJob(id=job_id(number), queue=QUEUE, record=record, number=None)


def job_id(number: int) -> str:
    return f"job@{number}"


def rows(name: str, naps: Sequence[float], diaries: Sequence[Diary]) -> Iterable[str]:
    """A row for all jobs and, where only some of them sleep, one for those alone."""
    everything = {job_id(number) for number in range(len(naps))}
    sleepers = {job_id(number) for number, nap in enumerate(naps) if nap > 0}
    yield row(name, everything, diaries)
    if sleepers and sleepers != everything:
        yield row("… of these, those that sleep", sleepers, diaries)


def row(name: str, jobs: set[str], diaries: Sequence[Diary]) -> str:
    runs = sum(diary.runs[each] for diary in diaries for each in jobs)
    again = runs - len(jobs) * len(diaries)
    back = sum(token.job_id in jobs for diary in diaries for token in diary.left)
    executions = f"{runs:,}, " + (f"{again} of them again" if again else "each once")
    waits, with_ways = zip(*(diary.waits_ms(jobs) for diary in diaries), strict=True)
    cells = [name, executions, f"{back:,}", *figures(waits), *figures(with_ways)]
    return f"| {' | '.join(cells)} |"


def figures(rounds: Sequence[Sequence[float]]) -> list[str]:
    """p50, p99, and the maximum."""
    percentiles = [quantiles(each, n=100, method="inclusive") for each in rounds]
    found = [median(each[place] for each in percentiles) for place in (49, 98)]
    return [f"{value:.2f}" for value in (*found, max(map(max, rounds)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks.waiting",
        description="How long jobs lie at a busy worker before they start or are given back.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--load", action="append", choices=[*LOADS], help="; ".join(LOADS))
    parser.add_argument("--share", type=float, default=1.0, help="of the jobs; for a first look")
    given = parser.parse_args()
    loads = {name: LOADS[name] for name in given.load or LOADS}
    if given.share < 1:
        loads = {name: naps[:: int(1 / given.share)] for name, naps in loads.items()}
    diaries: dict[str, list[Diary]] = {name: [] for name in loads}
    with fresh_server() as server:
        results = Results(server.version(), given.rounds)
    for _ in range(given.rounds):
        for name, naps in loads.items():
            with fresh_server() as server:
                diaries[name].append(trio.run(work_off, server.url, naps))
    print(f"{results.server}, {results.machine}. {given.rounds} round(s), {CONCURRENCY} slots.\n")
    times = ["p50", "p99", "max"]
    head = ["jobs", "executions", "given back", *(f"wait {each} (ms)" for each in times)]
    head += [f"with both ways {each} (ms)" for each in times]
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|")
    for name, naps in loads.items():
        print(*rows(name, naps, diaries[name]), sep="\n")


if __name__ == "__main__":
    main()
