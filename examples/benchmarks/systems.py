"""What is compared: each system, what it needs, and how it is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["OURS", "SYSTEMS", "How", "System"]

How = Literal["bulk", "tasks", "one"]
OURS = "trio_tasks"


@dataclass(frozen=True, slots=True)
class System:
    """One row of the tables.

    Attributes:
        name: as it is shown and chosen.
        script: in `peers/`.
        configured: how, in a few words; more in the script's head.
        packages: what its environment holds; the first is the system. Empty: it runs in this one.
        language: of the script, and so of the packages.
        python: the oldest Python that its packages install on.
        arguments: more arguments of the script.
        emits: the ways to emit that its interface has.
        most: handlers at once that it can cope with.
    """

    name: str
    script: str
    configured: str
    packages: tuple[str, ...] = ()
    language: Literal["python", "node"] = "python"
    python: tuple[int, int] = (3, 11)
    arguments: tuple[str, ...] = ()
    emits: frozenset[How] = frozenset({"bulk", "tasks", "one"})
    most: int | None = None

    @property
    def ours(self) -> bool:
        """Whether it is this engine, on whatever event loop."""
        return self.name.startswith(OURS)


_EACH_AWAITED = frozenset[How]({"tasks", "one"})

SYSTEMS = (
    System(
        OURS,
        "trio_tasks_peer.py",
        "Trio; all defaults: results kept, events, fencing",
    ),
    System(
        f"{OURS} on asyncio",
        "trio_tasks_peer.py",
        "the same on asyncio, through AnyIO",
        arguments=("asyncio",),
    ),
    System(
        "streaQ",
        "streaq_peer.py",
        "Trio; defaults: results kept",
        ("streaq~=7.2", "trio", "hiredis"),
    ),
    System(
        "taskiq-redis",
        "taskiq_peer.py",
        "stream broker, no result back-end",
        ("taskiq-redis~=1.2", "hiredis"),
        emits=_EACH_AWAITED,
    ),
    System(
        "SAQ",
        "saq_peer.py",
        "defaults: results kept",
        ("saq[redis,hiredis]~=0.26.4", "typing_extensions"),  # it imports this, and does not say so
        emits=_EACH_AWAITED,
    ),
    System(
        "dramatiq",
        "dramatiq_peer.py",
        "threads; defaults: no results",
        ("dramatiq[redis]~=2.2", "hiredis"),
        emits=frozenset[How]({"one"}),
    ),
    System(
        "docket",
        "docket_peer.py",
        "tuned: checks every 5 ms; results kept",
        ("pydocket~=0.27.0", "hiredis"),
    ),
    System(
        "arq",
        "arq_peer.py",
        "tuned: checks every 5 ms; results kept",
        ("arq~=0.28.0", "hiredis"),
        emits=_EACH_AWAITED,
    ),
    System(
        "huey",
        "huey_peer.py",
        "threads; defaults",
        ("huey~=3.5", "redis", "hiredis"),
        emits=frozenset[How]({"one"}),
        most=100,  # with 500 threads half of 125 jobs had not run after a minute
    ),
    System(
        "Celery",
        "celery_peer.py",
        "threads; late acknowledgement, no result back-end",
        ("celery[redis]~=5.7", "hiredis"),
        emits=frozenset[How]({"one"}),
    ),
    System(
        "ardiq",
        "ardiq_peer.py",
        "Rust core; defaults: results kept",
        ("ardiq~=1.2",),
        python=(3, 12),
    ),
    System(
        "BullMQ",
        "bullmq_peer.cjs",
        "Node; defaults: results kept",
        ("bullmq@^6.7", "ioredis@^5"),
        language="node",
    ),
    System(
        "floor, task per job",
        "floor_peer.py",
        "Trio, hiredis, a stream; no state, no result",
        arguments=("tasks",),
        emits=frozenset[How]({"bulk", "one"}),
    ),
    System(
        "floor, slots",
        "floor_peer.py",
        "the same, handlers awaited in long-lived tasks",
        arguments=("slots",),
        emits=frozenset[How](),
    ),
)
