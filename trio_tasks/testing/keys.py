"""What debounce keys of a simulation may be answered.

Leading: the first job of a key has it for its window, unless it ends dead or cancelled. Trailing:
no job runs after one that was emitted later, and only those are skipped that another has replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trio_tasks.broker import DebounceAsk, NewJob, Outcome
from trio_tasks.memory.store import Store
from trio_tasks.processor.decisions import Skip

__all__ = ["DebounceKeys"]

_MOST_SET_S = 240.0
"""By how much in all the clock may be set before trailing keys are forgotten here."""


@dataclass(slots=True)
class _Leading:
    """Who has a leading key, until when."""

    job_id: str
    until_ms: int


@dataclass(slots=True)
class _Trailing:
    """The jobs of a trailing key in the order in which they were emitted, and the last that ran."""

    places: dict[str, int] = field(default_factory=dict[str, int])
    last: int = 0
    ran: int = 0


class DebounceKeys:
    """All debounce keys."""

    def __init__(self, store: Store) -> None:
        """Follow the keys of a store."""
        self._store = store
        self._leading: dict[tuple[str, str], _Leading] = {}
        self._held: dict[tuple[str, str], str] = {}
        self._set_by_s = 0.0
        self._trailing: dict[tuple[str, str], _Trailing] = {}

    def emitted(self, job: NewJob) -> None:
        """A job came into being, in the order of its queue."""
        debounce = job.record.debounce
        if debounce is not None and debounce.edge == "trailing" and debounce.digest is not None:
            key = self._trailing.setdefault((job.queue, debounce.digest), _Trailing())
            key.last += 1
            key.places[job.id] = key.last

    def clock_set(self, by_s: float) -> None:
        """The clock is about to be set, or was: windows that are over by now do not come back.

        The server keeps a trailing key for ten minutes by its clock, and a job that was emitted
        while that was ahead starts when it has got there again. So nothing is known of trailing
        keys any more when the clock has been set by minutes.
        """
        now_ms = self._store.clock.now_ms()
        self._leading = {
            key: holder for key, holder in self._leading.items() if now_ms < holder.until_ms
        }
        self._set_by_s += abs(by_s)
        if self._set_by_s > _MOST_SET_S:
            self._set_by_s = 0.0
            self._trailing.clear()

    def asked(self, ask: DebounceAsk, answer: str | None) -> Iterator[str]:
        """A start has asked for its key; yields what is wrong with the answer."""
        return self._lead(ask, answer) if ask.edge == "leading" else self._trail(ask, answer)

    def _lead(self, ask: DebounceAsk, answer: str | None) -> Iterator[str]:
        queue, job_id = ask.token.queue, ask.token.job_id
        now_ms = self._store.clock.now_ms()
        holder = self._leading.get((queue, ask.digest))
        if holder is not None and now_ms >= holder.until_ms:
            holder = None
        if answer == job_id:
            if holder is None:
                self._leading[queue, ask.digest] = _Leading(job_id, now_ms + ask.window_ms)
                self._held[queue, job_id] = ask.digest
            elif holder.job_id != job_id:
                yield f"job {job_id!r} runs in the debounce window of {holder.job_id!r}"
        elif holder is None and answer is not None and "@-" not in answer:
            yield f"job {job_id!r} is debounced by {answer!r}, which has no window any more"

    def _trail(self, ask: DebounceAsk, answer: str | None) -> Iterator[str]:
        queue, job_id = ask.token.queue, ask.token.job_id
        key = self._trailing.get((queue, ask.digest))
        place = None if key is None else key.places.get(job_id)
        if key is not None and place is not None and answer == job_id:
            if place < key.ran:
                yield f"job {job_id!r} runs after one of its debounce key that was emitted later"
            key.ran = max(key.ran, place)

    def skipped(self, outcome: Outcome) -> Iterator[str]:
        """A start was skipped; yields what is wrong with that."""
        verdict, job_id = outcome.verdict, outcome.token.job_id
        if isinstance(verdict, Skip) and verdict.reason == "debounced":
            for (queue, _), key in self._trailing.items():
                if queue == outcome.token.queue and key.places.get(job_id) == key.last:
                    yield f"job {job_id!r} was skipped, and is the last of its debounce key"

    def given_up(self, queue: str, job_id: str) -> None:
        """A job has ended dead or cancelled: its leading key is free again."""
        digest = self._held.pop((queue, job_id), None)
        if digest is not None:
            holder = self._leading.get((queue, digest))
            if holder is not None and holder.job_id == job_id:
                del self._leading[queue, digest]
