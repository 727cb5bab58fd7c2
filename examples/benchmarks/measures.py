"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from examples.benchmarks.systems import OURS, How, System

__all__ = [
    "COST",
    "DRAINS",
    "EMITS",
    "GROWTH",
    "IDLE",
    "MEASURES",
    "REST",
    "SMALL",
    "START",
    "TWO",
    "Load",
    "Measure",
    "quick",
]


@dataclass(frozen=True, slots=True)
class Load:
    """What there is beside the jobs that are measured.

    Attributes:
        kind: "none"; "queued": jobs behind them in the same queue; "delayed": jobs in it that are
            not due; "held": jobs of it in flight elsewhere; "queues": other queues that the worker
            serves; "schedules": of the queue.
        size: how many.
    """

    kind: Literal["none", "queued", "delayed", "held", "queues", "schedules"] = "none"
    size: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the tables.

    Attributes:
        name: as it is shown.
        kind: "drain": jobs that wait are worked off by one process; "emit": one process emits
            while nobody works; "idle": from before an emit to the start of the handler, in
            another process that has nothing else to do; "rest": what that process costs
            meanwhile; "start": how long it takes to begin; "growth": a drain, and the idle
            latency, under a load.
        concurrency: handlers at once.
        nap: seconds that a handler sleeps.
        how: the jobs are emitted.
        tasks: that emit at once, if that is how.
        workers: processes that work off the same queue, if it is a drain.
        load: if it is growth.
        ours_alone: the peers are not asked.
        once: in the first round only, as it takes long and other work hardly changes it.
    """

    name: str
    kind: Literal["drain", "emit", "idle", "rest", "start", "growth"]
    concurrency: int = 1
    nap: float = 0.0
    how: How = "bulk"
    tasks: int = 1
    workers: int = 1
    load: Load = Load()
    ours_alone: bool = False
    once: bool = False

    def suits(self, system: System) -> bool:
        """Whether the system has what this measures."""
        if self.kind in {"start", "growth"}:
            return system.name == OURS
        if self.ours_alone:
            return system.ours
        if system.most is not None and self.concurrency > system.most:
            return False
        return self.kind != "emit" or self.how in system.emits


COST = Measure("drain, 32", "drain", concurrency=32)
TWO = Measure("drain, 32, two workers", "drain", concurrency=32, workers=2, ours_alone=True)
DRAINS = (
    Measure("drain, 1", "drain", concurrency=1),
    Measure("drain, 4", "drain", concurrency=4),
    COST,
    TWO,
    Measure("drain, 100", "drain", concurrency=100),
    Measure("10 ms jobs, 100", "drain", concurrency=100, nap=0.01),
    Measure("10 ms jobs, 500", "drain", concurrency=500, nap=0.01),
)
EMITS = (
    Measure("emit, bulk", "emit", how="bulk"),
    Measure("emit, 32 tasks", "emit", how="tasks", tasks=32),
    Measure("emit, 500 tasks", "emit", how="tasks", tasks=500),
    Measure("emit, one by one", "emit", how="one"),
)
IDLE = Measure("idle latency", "idle", concurrency=4)
REST = Measure("idle worker", "rest", concurrency=4, once=True)
START = Measure("start", "start")
MEASURES = (*DRAINS, *EMITS, IDLE, REST, START)

SMALL = Measure("small case", "growth", concurrency=32)
GROWTH = (
    SMALL,
    Measure("jobs queued", "growth", concurrency=32, load=Load("queued", 1_000_000)),
    Measure("jobs delayed", "growth", concurrency=32, load=Load("delayed", 100_000)),
    Measure("jobs in flight", "growth", concurrency=32, load=Load("held", 50_000)),
    Measure("queues", "growth", concurrency=32, load=Load("queues", 99)),
    Measure("schedules", "growth", concurrency=32, load=Load("schedules", 1000)),
)
"""Not among the usual measures, as they take minutes a round."""

_QUICK = 500  # a million becomes two thousand


def quick(measure: Measure) -> Measure:
    """The same with a small load."""
    size = min(measure.load.size, max(2, measure.load.size // _QUICK))
    return replace(measure, load=replace(measure.load, size=size))
