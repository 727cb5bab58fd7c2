"""What must be as it was when an operation is over."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import trio
from trio.lowlevel import Task

__all__ = ["Belongings"]


class Belongings:
    """Tasks of the running loop, and threads, file descriptors and children of the process."""

    def __init__(self) -> None:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        self.tasks = sorted(_tasks(root))
        # Trio keeps idle worker threads for a while, on purpose.
        names = [thread.name for thread in threading.enumerate()]
        self.threads = sorted(name for name in names if not name.startswith("Trio thread"))
        self.descriptors = sorted(os.listdir("/proc/self/fd"))
        self.children = sorted(
            child
            for path in Path("/proc/self/task").glob("*/children")
            for child in path.read_text().split()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Belongings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(vars(self))


def _tasks(task: Task) -> list[str]:
    found = [task.name]
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            found += _tasks(child)
    return found
