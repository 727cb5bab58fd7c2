"""What the server of a simulation has been asked and has answered, and whether that adds up.

It hears of every request at the moment in which the server carries it out, whatever becomes of the
answer on its way. From that follows what must be there at the end: each job that was emitted, that
an occurrence became, or that is the child of an attempt whose completion was applied, once. What
is found wrong is kept as a sentence in `violations`.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from trio_tasks.broker import (
    Applied,
    DebounceAsk,
    Emitted,
    NewJob,
    Outcome,
    ScheduleRecord,
    StartToken,
    StepReply,
    TickAnswer,
)
from trio_tasks.consumer.held import Held
from trio_tasks.environment import loop_time
from trio_tasks.job import JobState
from trio_tasks.memory.records import RELEASED
from trio_tasks.memory.store import QueueStore, Store
from trio_tasks.processor.decisions import Complete

__all__ = ["Ledger"]

KEPT_LINES = 1000
"""How much of the trace is kept: what happened last."""

MOST_AT_ONCE = 100_000
"""How many requests there may be without virtual time going on."""


class Ledger:
    """The books of one simulation.

    Attributes:
        counts: how often what happened.
        violations: what must not be, in words.
        lines: the end of the trace.
    """

    def __init__(self, store: Store, running: Callable[[], Iterable[Held]]) -> None:
        """Keep the books of a store; `running` tells what runs in all workers now."""
        self.counts = Counter[str]()
        self.violations: list[str] = []
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._store = store
        self._running = running
        self._born: set[tuple[str, str | None]] = set()
        self._minted_only = True
        self._born_for_sure = True
        self._checksum = 0
        self._last_at: float = 0.0
        self._at_once = 0

    @property
    def fingerprint(self) -> str:
        """Of the whole trace: two runs with the same one went the same way."""
        return f"{self._checksum:08x}"

    def note(self, line: str) -> None:
        """Add a line to the trace.

        Raises:
            RuntimeError: time stands still, because somebody does the same again and again.
        """
        now: float = loop_time()
        self._at_once = self._at_once + 1 if now == self._last_at else 0
        self._last_at = now
        if self._at_once > MOST_AT_ONCE:
            raise RuntimeError(f"{MOST_AT_ONCE} requests at one instant, the last one: {line}")
        line = f"{now:.3f} {line}"
        self.lines.append(line)
        self._checksum = zlib.crc32(line.encode(), self._checksum)

    def heard(self, client: str, request: str, asked: object, answer: object) -> None:
        """The server has carried out a request of a client."""
        match request:
            case "emit":
                text = self._emitted(
                    cast("Sequence[NewJob]", asked), cast("Sequence[Emitted]", answer)
                )
            case "tick":
                text = self._ticked(cast("ScheduleRecord", asked), cast("TickAnswer", answer))
            case "step" | "own":
                text = self._stepped(cast("Sequence[Outcome]", asked), cast("StepReply", answer))
            case "debounce":
                text = str([ask.token.job_id for ask in cast("Sequence[DebounceAsk]", asked)])
            case "cancel" | "requeue" | "pause" | "relay" | "log":
                text = f"{asked} {answer}"
            case _:
                text = ""
        self.note(f"{client} {request} {text}")

    def _emitted(self, jobs: Sequence[NewJob], answers: Sequence[Emitted]) -> str:
        for job, answer in zip(jobs, answers, strict=True):
            if answer.created:
                self._born.add((job.id, job.number))
                self._minted_only &= job.number is None
        return " ".join(f"{job.record.event}:{job.id}" for job in jobs)

    def _ticked(self, schedule: ScheduleRecord, answer: TickAnswer) -> str:
        if answer is TickAnswer.CREATED:
            self._born.add((f"{schedule.name}:{schedule.next_at_ms}", schedule.queue))
            self.counts["occurrences"] += 1
        return f"{schedule.name} {schedule.next_at_ms} {answer}"

    def _stepped(self, outcomes: Sequence[Outcome], reply: StepReply) -> str:
        words: list[str] = []
        for outcome, applied in zip(outcomes, reply.applied, strict=True):
            step = outcome.verdict.step.value
            words.append(f"{outcome.token.job_id}.{outcome.attempt}:{step}:{applied.value}")
            if applied is Applied.APPLIED:
                self._ended(outcome)
            self.counts[f"outcomes {applied.value}"] += applied is not Applied.APPLIED
        deliveries = () if reply.taken is None else reply.taken.deliveries
        for delivery in deliveries:
            words.append(f"{delivery.token.job_id}.{delivery.attempt}:start")
            self._started(delivery.token)
        return " ".join(words)

    def _ended(self, outcome: Outcome) -> None:
        self.counts["attempts"] += outcome.ran
        self.counts[outcome.verdict.step.value] += 1
        if isinstance(outcome.verdict, Complete):
            for child in outcome.children:
                self._born.add((child.id, child.number))
                if child.number is not None:
                    # Whether it meets a living job of its id, nobody tells us.
                    self._minted_only = self._born_for_sure = False
            self.counts["children"] += len(outcome.children)
        if outcome.ran and outcome.attempts is not None and outcome.attempt > outcome.attempts:
            self.violations.append(
                f"job {outcome.token.job_id!r} ran {outcome.attempt} times and may run"
                f" {outcome.attempts} times"
            )

    def _started(self, token: StartToken) -> None:
        """No other handler may work for the same job, unless it is being cancelled already.

        A worker that lost its lease has cancelled its handlers by then.
        """
        self.counts["starts"] += 1
        for held in self._running():
            other = held.delivery.token
            if (
                (other.queue, other.job_id) == (token.queue, token.job_id)
                and other != token
                and held.cause is None
            ):
                self.violations.append(
                    f"job {token.job_id!r} was handed out again while its handler ran undisturbed"
                )

    # -- the end ---------------------------------------------------------------------------------

    def unfinished(self) -> set[tuple[str, str]]:
        """What is queued, running, due, or on its way to another queue: (queue, what)."""
        now_ms = self._store.clock.now_ms()
        found: set[tuple[str, str]] = set()
        for name, queue in self._store.queues.items():
            for job in queue.jobs.values():
                due_at_ms = job.now.due_at_ms
                if job.entry is not None or (due_at_ms is not None and due_at_ms <= now_ms):
                    found.add((name, f"job {job.id!r}, {job.state.value}, attempt {job.attempt}"))
            found |= {(name, f"what left it at {row.written_at_ms} ms") for row in queue.out}
        return found

    def until_due_s(self) -> float:
        """Seconds until the first delayed job is due; a second, if none is delayed."""
        now_ms = self._store.clock.now_ms()
        dues_ms = [queue.next_due_in_ms(now_ms) for queue in self._store.queues.values()]
        return min((due_ms for due_ms in dues_ms if due_ms is not None), default=1000) / 1000

    def total(self, what: str) -> int:
        """A total or a number of all queues, by the name that `QueueStore` has for it."""
        return sum(getattr(queue, what) for queue in self._store.queues.values())

    def in_state(self, state: JobState) -> int:
        """How many jobs are in a state."""
        return sum(
            job.state is state
            for queue in self._store.queues.values()
            for job in queue.jobs.values()
        )

    def audit(self) -> None:
        """Look for what must not be, once all workers have left."""
        for name, queue in self._store.queues.items():
            self.violations += [f"queue {name!r}: {text}" for text in _defects(queue)]
        born, emitted = len(self._born), self.total("emitted")
        if self._born_for_sure and born != emitted:
            self.violations.append(
                f"{born} jobs were to come into being (emits, occurrences, children of completed"
                f" attempts), and {emitted} did"
            )
        there = sum(
            self.in_state(state) for state in (JobState.QUEUED, JobState.DELAYED, JobState.DEAD)
        )
        ended = sum(self.total(what) for what in ("completed", "skipped", "cancelled"))
        # A dead job whose chosen id is emitted anew is counted no more.
        if self._minted_only and there + ended != emitted:
            self.violations.append(
                f"{emitted} jobs came into being, {there} are there and {ended} have ended"
            )


def _defects(queue: QueueStore) -> Iterable[str]:
    """What is wrong with a queue in which nobody works."""
    if queue.defects:
        yield f"{queue.defects} entries without a job were met"
    for owner, entries in queue.pending.items():
        if owner != RELEASED:
            yield f"{[entry.job_id for entry in entries.values()]} are pending for {owner!r}"
    entries = [entry for level in queue.ready.values() for entry in level.values()]
    entries += [entry for owned in queue.pending.values() for entry in owned.values()]
    startable = sorted(job.id for job in queue.jobs.values() if job.entry is not None)
    if startable != sorted(entry.job_id for entry in entries):
        yield "jobs and entries do not belong together"
    for job in queue.jobs.values():
        if (job.state is JobState.QUEUED) is (job.entry is None):
            yield f"job {job.id!r} is {job.state.value} and has {'no' * (job.entry is None)} entry"
    if queue.cancels:
        yield f"requests to cancel {sorted(queue.cancels)} are left"
