"""Hypothesis for both trees of tests: how many examples, and no limit of time for one.

`make verify EXAMPLES=5000 SEED=7` raises the count. A test whose single example is a whole program
takes a share of it, `settings(max_examples=settings().max_examples // 10)`, not a number.
"""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

__all__ = ["freeze_heap", "load_profile"]


def load_profile() -> None:
    """Let all tests that follow use it.

    A busy machine must not fail a test: each example may take its time, and generating it too.
    """
    settings.register_profile(
        "trio_tasks",
        max_examples=int(os.environ.get("EXAMPLES") or 100),
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("trio_tasks")


def freeze_heap() -> None:
    """Let the garbage collector leave alone what is there, as it is there until the end.

    Thousands of collected tests are a million objects. Each full collection would visit them all:
    a third of the time of tests that run programs by the hundred.
    """
    gc.collect()
    gc.freeze()
