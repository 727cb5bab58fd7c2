"""The search: every state of a model, breadth first, then backwards from the good ends.

States are told apart by their *parts* (SPIN calls it collapse compression): each part is replaced
by its number among all parts seen so far, and the tuple of numbers is what is kept. So a state
costs about 200 bytes, exactly and without a hash's risk, and only the states at the frontier
exist as objects. A path is replayed from the initial state.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Model", "Report", "Step", "explore"]

S = TypeVar("S")


class Step(NamedTuple, Generic[S]):
    """One step: what is done, the state afterwards, and whether it is a fault.

    Faults are what the world has a budget of; a stuck job may not wait for one.
    """

    text: str
    after: S
    fault: bool = False


class Model(Protocol[S]):
    """What can be explored."""

    @property
    def name(self) -> str: ...

    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """All steps from a state, always in the same order."""
        ...

    def parts(self, state: S) -> tuple[Hashable, ...]:
        """What tells the state apart from others that behave differently."""
        ...

    def violation(self, state: S) -> str | None:
        """Which invariant does not hold, or did not hold in the step that led here."""
        ...

    def is_end(self, state: S) -> bool:
        """Whether all jobs are final and nothing is pending."""
        ...


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        broken: the first violation; `None`: there is none.
        trace: how to get there.
        ends: how many states are good ends.
    """

    name: str
    states: int
    transitions: int
    ends: int
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.states} states, {self.transitions} transitions,"
            f" {self.seconds:.1f} s"
        )
        if self.broken is None:
            return head
        steps = "".join(f"\n  {n:2} {text}" for n, text in enumerate(self.trace, 1))
        return f"{head}\n  VIOLATED: {self.broken}, after{steps or ' nothing'}"


class _Search(Generic[S]):
    def __init__(self, model: Model[S], most: int) -> None:
        self.model = model
        self.most = most
        self.transitions = 0
        self.began = time.perf_counter()
        self._parts: dict[Hashable, int] = {}
        self._index: dict[tuple[int, ...], int] = {}
        # How a state was found first: from which one, by its how-manieth step.
        self._parents = array("l")
        self._choices = array("l")
        self._ends = bytearray()
        # All steps that are no faults, as pairs.
        self._sources = array("l")
        self._targets = array("l")

    def run(self) -> Report:
        model = self.model
        start = model.initial()
        self._add(start, -1, -1)
        broken = model.violation(start)
        if broken is not None:
            return self._report(broken, 0)
        queue = deque([(0, start)])
        while queue:
            index, state = queue.popleft()
            for choice, step in enumerate(model.steps(state)):
                self.transitions += 1
                after = step.after
                key = self._key(after)
                known = self._index.get(key)
                if known is None:
                    known = self._add(after, index, choice)
                    broken = model.violation(after)
                    if broken is not None:
                        return self._report(broken, known)
                    if known >= self.most:
                        raise RuntimeError(f"{model.name}: more than {self.most} states")
                    queue.append((known, after))
                if not step.fault and known != index:
                    self._sources.append(index)
                    self._targets.append(known)
        return self._live()

    def _key(self, state: S) -> tuple[int, ...]:
        parts = self._parts
        return tuple([parts.setdefault(part, len(parts)) for part in self.model.parts(state)])

    def _add(self, state: S, parent: int, choice: int) -> int:
        index = len(self._parents)
        self._index[self._key(state)] = index
        self._parents.append(parent)
        self._choices.append(choice)
        self._ends.append(self.model.is_end(state))
        return index

    def _live(self) -> Report:
        """Whether an end can be reached from every state, without further faults."""
        good = bytearray(self._ends)
        into = self._into()
        waiting = [index for index, end in enumerate(self._ends) if end]
        while waiting:
            for source in into(waiting.pop()):
                if not good[source]:
                    good[source] = 1
                    waiting.append(source)
        stuck = good.find(0)
        if stuck < 0:
            return self._report(None, 0)
        return self._report("from here not all jobs can end", stuck)

    def _into(self) -> _Into:
        return _Into(len(self._parents), self._sources, self._targets)

    def _report(self, broken: str | None, index: int) -> Report:
        return Report(
            self.model.name,
            len(self._parents),
            self.transitions,
            sum(self._ends),
            time.perf_counter() - self.began,
            broken,
            () if broken is None else tuple(self._replayed(index)),
        )

    def _replayed(self, index: int) -> Iterator[str]:
        choices: list[int] = []
        while index > 0:
            choices.append(self._choices[index])
            index = self._parents[index]
        state = self.model.initial()
        for choice in reversed(choices):
            for number, step in enumerate(self.model.steps(state)):
                if number == choice:
                    yield f"{step.text}{'   (fault)' if step.fault else ''}"
                    state = step.after
                    break


class _Into:
    """The steps that lead into a state, sorted by it."""

    def __init__(self, states: int, sources: array[int], targets: array[int]) -> None:
        self._starts = array("l", bytes(8 * (states + 1)))
        for target in targets:
            self._starts[target + 1] += 1
        for state in range(states):
            self._starts[state + 1] += self._starts[state]
        place = self._starts[:]
        self._sources = array("l", bytes(8 * len(sources)))
        for source, target in zip(sources, targets, strict=True):
            self._sources[place[target]] = source
            place[target] += 1

    def __call__(self, state: int) -> array[int]:
        return self._sources[self._starts[state] : self._starts[state + 1]]


def explore(model: Model[S], *, most: int = 10_000_000) -> Report:
    """Explore a model; stops at the first violation.

    Raises:
        RuntimeError: it has more than `most` states.
    """
    return _Search(model, most).run()
