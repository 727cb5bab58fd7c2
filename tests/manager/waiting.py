"""Waiting for what other tasks bring about, on whatever clock the loop has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from trio_tasks import TaskManager

__all__ = ["begun", "eventually"]


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most five seconds."""
    with anyio.fail_after(5):
        while not holds():  # noqa: ASYNC110 - it looks at what handlers leave behind
            await anyio.sleep(0.001)


async def begun(manager: TaskManager[Any]) -> None:
    """Wait until a handler runs here; the broker calls a job running a moment earlier."""
    await eventually(lambda: manager.statistics().started > 0)
