"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from examples.benchmarks.systems import OURS, How, System

__all__ = ["COST", "DRAINS", "EMITS", "IDLE", "MEASURES", "REST", "START", "TWO", "Measure"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the tables.

    Attributes:
        name: as it is shown.
        kind: "drain": jobs that wait are worked off by one process; "emit": one process emits
            while nobody works; "idle": from before an emit to the start of the handler, in
            another process that has nothing else to do; "rest": what that process costs
            meanwhile; "start": how long it takes to begin.
        concurrency: handlers at once.
        nap: seconds that a handler sleeps.
        how: the jobs are emitted.
        tasks: that emit at once, if that is how.
        workers: processes that work off the same queue, if it is a drain.
        ours_alone: the peers are not asked.
        once: in the first round only, as it takes long and other work hardly changes it.
    """

    name: str
    kind: Literal["drain", "emit", "idle", "rest", "start"]
    concurrency: int = 1
    nap: float = 0.0
    how: How = "bulk"
    tasks: int = 1
    workers: int = 1
    ours_alone: bool = False
    once: bool = False

    def suits(self, system: System) -> bool:
        """Whether the system has what this measures."""
        if self.kind == "start":
            return system.name == OURS
        if self.ours_alone:
            return system.ours
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
    Measure("10 ms jobs, 500", "drain", concurrency=500, nap=0.01, ours_alone=True),
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
