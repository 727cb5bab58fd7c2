"""Processes that are forked by a server which has imported all that they need.

A start costs no second, as an interpreter would that imports the package anew.
"""

from __future__ import annotations

import multiprocessing
from typing import Protocol

__all__ = ["FORKS", "Output"]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.worker", "tests.signalled"])


class Output(Protocol):
    """An open file on its way to another process."""

    def detach(self) -> int:
        """Its descriptor there."""
        ...
