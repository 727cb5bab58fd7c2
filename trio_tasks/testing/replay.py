"""Making a run under Trio repeat itself: the same seed, the same order of everything.

Theory of operation. A program on a virtual clock has three sources of chance: what the engine asks
of `environment` (luck, ids, the wall clock), the order in which Trio runs tasks that became ready
together, which Trio shuffles on purpose, and memory addresses and string hashes, by which sets are
ordered. The first is given a seed by `environment.simulated`. For the second there is the switch
that Trio keeps for Hypothesis: with it, ready tasks are sorted by their age before they are
shuffled by a generator of Trio's own, which is seeded here; the sorting also takes care of sets of
tasks. What is left is not to iterate over sets where the order matters.

Trio's switch is not a part of its API. Where it is missing, everything works but the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from trio_tasks import environment

__all__ = ["replayable"]

_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"


@contextmanager
def replayable(seed: int, wall_clock_ms: Callable[[], int]) -> Generator[None]:
    """While the block runs, a `trio.run` on a virtual clock repeats itself with its seed.

    Args:
        seed: any number.
        wall_clock_ms: what is to be the wall clock, milliseconds since the epoch.

    Raises:
        RuntimeError: this process simulates already.
    """
    with environment.simulated(environment.Luck(seed), wall_clock_ms), _trio_seeded(seed):
        yield


@contextmanager
def _trio_seeded(seed: int) -> Generator[None]:
    import trio._core._run as scheduler

    shuffler: object = getattr(scheduler, "_r", None)
    if not isinstance(shuffler, environment.Luck) or not hasattr(scheduler, _SWITCH):
        yield
        return
    former, state = getattr(scheduler, _SWITCH), shuffler.getstate()
    setattr(scheduler, _SWITCH, True)
    shuffler.seed(seed)
    try:
        yield
    finally:
        setattr(scheduler, _SWITCH, former)
        shuffler.setstate(state)
