"""What the server of a simulation has been asked and has answered, and whether that adds up.

It hears of every request at the moment in which the server carries it out, whatever becomes of the
answer on its way. `course.py` and `keys.py` judge each step of each job by what happened before.
From all of it follows what must be there at the end: each job that was emitted, that an occurrence
became, or that is the child of an attempt whose completion was applied, once. What is found wrong
is kept as a sentence in `violations`.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, cast

from trio_tasks.broker import (
    Applied,
    CancelAnswer,
    DebounceAsk,
    Delivery,
    Emitted,
    NewJob,
    Outcome,
    Registration,
    ScheduleRecord,
    StartToken,
    StepReply,
    TickAnswer,
)
from trio_tasks.consumer.held import Held
from trio_tasks.environment import loop_time
from trio_tasks.job import JobState
from trio_tasks.memory.records import RELEASED, Entry
from trio_tasks.memory.store import QueueStore, Store
from trio_tasks.processor.decisions import Cancel, Complete, Die
from trio_tasks.testing.course import Courses
from trio_tasks.testing.keys import DebounceKeys

__all__ = ["Client", "Ledger", "Unfinished"]


class Client(Protocol):
    """Who asks, over a line of its own."""

    @property
    def client(self) -> str:
        """Its name."""
        ...

    @property
    def trouble_at(self) -> float:
        """When something of it was last lost or late, on the loop's clock."""
        ...


class Unfinished(NamedTuple):
    """Something that has not come to its end: a job, or (without id) what is on its way."""

    queue: str
    what: str
    job_id: str | None = None


KEPT_LINES = 1000
"""How much of the trace is kept: what happened last."""

MOST_AT_ONCE = 100_000
"""How many requests there may be without virtual time going on."""


class Ledger:
    """The books of one simulation.

    Attributes:
        counts: how often what happened.
        violations: what must not be, in words.
        lines: the end of the trace, without requests that changed nothing, such as beats, steps
            that carried nothing, and looks. (The fingerprint has those too.)
    """

    def __init__(self, store: Store, held: Callable[[], Iterable[Held]]) -> None:
        """Keep the books of a store; `held` tells which starts are in the workers' memories."""
        self.counts = Counter[str]()
        self.violations: list[str] = []
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._store = store
        self._held = held
        self._courses = Courses(store)
        self._keys = DebounceKeys(store)
        self._stops_at: dict[str, float] = {}
        self._beats_s: dict[str, float] = {}
        self._began_at: dict[StartToken, float] = {}
        self._cancel_at: dict[tuple[str, str], float] = {}
        self._occurrences: set[tuple[str, str, int]] = set()
        self._born: set[tuple[str, str | None]] = set()
        self._born_for_sure = True
        self._checksum = 0
        self._last_at: float = 0.0
        self._at_once = 0

    @property
    def fingerprint(self) -> str:
        """Of the whole trace: two runs with the same one went the same way."""
        return f"{self._checksum:08x}"

    def note(self, line: str, *, kept: bool = True) -> None:
        """Add a line to the trace.

        Args:
            line: what happened.
            kept: whether it says anything; else it counts for the fingerprint alone.

        Raises:
            RuntimeError: time stands still, because somebody does the same again and again.
        """
        now: float = loop_time()
        self._at_once = self._at_once + 1 if now == self._last_at else 0
        self._last_at = now
        if self._at_once > MOST_AT_ONCE:
            raise RuntimeError(f"{MOST_AT_ONCE} requests at one instant, the last one: {line}")
        line = f"{now:.3f} {line}"
        if kept:
            self.lines.append(line)
        self._checksum = zlib.crc32(line.encode(), self._checksum)

    def stops(self, client: str) -> None:
        """A worker begins to stop: whatever is handed out to it from now on must not run."""
        self._stops_at[client] = loop_time()

    def clock_set(self, by_s: float = 0.0) -> None:
        """The server's clock is about to be set, or (0) was set."""
        self._courses.clock_set()
        self._keys.clock_set(by_s)

    def heard(self, client: Client, request: str, asked: object, answer: object) -> None:
        """The server has carried out a request of a client."""
        match request:
            case "register":
                registration = cast("Registration", asked)
                self._beats_s[registration.incarnation] = registration.lease_ms / 3000
                self._stops_at.pop(client.client, None)
                text = registration.incarnation
            case "emit":
                text = self._emitted(
                    cast("Sequence[NewJob]", asked), cast("Sequence[Emitted]", answer)
                )
            case "tick":
                schedule, job = cast("tuple[ScheduleRecord, NewJob | None]", asked)
                text = self._ticked(schedule, job, cast("TickAnswer", answer))
            case "step" | "own":
                text = self._stepped(
                    client, cast("Sequence[Outcome]", asked), cast("StepReply", answer)
                )
            case "debounce":
                text = self._debounced(
                    cast("Sequence[DebounceAsk]", asked), cast("Sequence[str | None]", answer)
                )
            case "cancel":
                queue, job_id = cast("tuple[str, str]", asked)
                self._cancelled(queue, job_id, cast("CancelAnswer", answer))
                text = f"{job_id} {answer}"
            case "pause":
                queue, paused = cast("tuple[str, bool]", asked)
                self._courses.pause(queue, paused)
                text = f"{queue} {paused}"
            case "requeue":
                queue, job_id = cast("tuple[str, str]", asked)
                if answer:
                    self._courses.requeued(queue, job_id)
                text = f"{job_id} {answer}"
            case "relay":
                text = f"{asked} {answer}" if answer else ""
            case "log":
                text = f"{asked} {answer}"
            case _:
                text = ""
        self.note(f"{client.client} {request} {text}", kept=text != "")

    def _emitted(self, jobs: Sequence[NewJob], answers: Sequence[Emitted]) -> str:
        for job, answer in zip(jobs, answers, strict=True):
            if answer.created and self._courses.emitted(job):
                self._keys.emitted(job)
                self._born.add((job.id, job.number))
        return " ".join(f"{job.record.event}:{job.id}" for job in jobs)

    def _ticked(self, schedule: ScheduleRecord, job: NewJob | None, answer: TickAnswer) -> str:
        if answer is TickAnswer.CREATED and job is not None:
            occurrence = schedule.queue, schedule.name, schedule.next_at_ms
            if occurrence in self._occurrences:
                self.violations.append(
                    f"the occurrence of schedule {schedule.name!r} at {schedule.next_at_ms} ms"
                    " became a job twice"
                )
            self._occurrences.add(occurrence)
            self._courses.emitted(job)
            self._born.add((job.id, schedule.queue))
            self.counts["occurrences"] += 1
        return f"{schedule.name} {schedule.next_at_ms} {answer}"

    def _debounced(self, asks: Sequence[DebounceAsk], answers: Sequence[str | None]) -> str:
        for ask, answer in zip(asks, answers, strict=True):
            if self._courses.present(ask.token):
                self.violations += self._keys.asked(ask, answer)
        return str([ask.token.job_id for ask in asks])

    def _cancelled(self, queue: str, job_id: str, answer: CancelAnswer) -> None:
        self._courses.cancel(queue, job_id, answer)
        if answer is CancelAnswer.CANCELLED:
            self._keys.given_up(queue, job_id)
        elif answer is CancelAnswer.NOTED:
            self._cancel_at.setdefault((queue, job_id), loop_time())

    def _stepped(self, client: Client, outcomes: Sequence[Outcome], reply: StepReply) -> str:
        words: list[str] = []
        for outcome, applied in zip(outcomes, reply.applied, strict=True):
            step = outcome.verdict.step.value
            words.append(f"{outcome.token.job_id}.{outcome.attempt}:{step}:{applied.value}")
            self.violations += self._courses.answered(outcome, applied)
            if applied is Applied.APPLIED:
                self._ended(client, outcome)
            if applied is Applied.CANCELLED or isinstance(outcome.verdict, Cancel | Die):
                self._given_up(outcome, applied)
            self._began_at.pop(outcome.token, None)
            self.counts[f"outcomes {applied.value}"] += applied is not Applied.APPLIED
        deliveries = () if reply.taken is None else reply.taken.deliveries
        for delivery in deliveries:
            words.append(f"{delivery.token.job_id}.{delivery.attempt}:start")
            self._started(delivery)
        self.violations += self._passed_over(deliveries)
        return " ".join(words)

    def _given_up(self, outcome: Outcome, applied: Applied) -> None:
        if applied in (Applied.APPLIED, Applied.CANCELLED):
            self._keys.given_up(outcome.token.queue, outcome.token.job_id)
            self._cancel_at.pop((outcome.token.queue, outcome.token.job_id), None)

    def _ended(self, client: Client, outcome: Outcome) -> None:
        self.counts["attempts"] += outcome.ran
        self.counts[outcome.verdict.step.value] += 1
        self.violations += self._keys.skipped(outcome)
        if isinstance(outcome.verdict, Complete):
            for child in outcome.children:
                self._child(child, outcome.token.queue)
            self.counts["children"] += len(outcome.children)
            self._completed_all_the_same(client, outcome.token)
        began_at = self._began_at.get(outcome.token, math.inf)
        if outcome.ran and self._stops_at.get(client.client, math.inf) < began_at < math.inf:
            self.violations.append(
                f"{client.client} was about to stop, and began job {outcome.token.job_id!r}"
            )

    def _child(self, child: NewJob, queue: str) -> None:
        self._born.add((child.id, child.number))
        if child.number is None:
            self._courses.emitted(child)
            if child.queue == queue:
                self._keys.emitted(child)
        else:
            # Whether it meets a living job of its id, nobody tells us.
            self._courses.may_be_emitted(child)
            self._born_for_sure = False

    def _completed_all_the_same(self, client: Client, token: StartToken) -> None:
        """A request to cancel reaches the handler with the next beat but one, if all is well."""
        cancel_at = self._cancel_at.pop((token.queue, token.job_id), math.inf)
        undisturbed_s = loop_time() - max(
            cancel_at, client.trouble_at, self._began_at.get(token, math.inf)
        )
        if undisturbed_s > 2 * self._beats_s.get(token.incarnation, math.inf):
            for held in self._held():
                if held.delivery.token == token and held.cause is None:
                    self.violations.append(
                        f"job {token.job_id!r} ran on for {undisturbed_s:.1f} s after somebody"
                        " had asked to cancel it, and was never told"
                    )

    def _started(self, delivery: Delivery) -> None:
        """No other handler may work for the same job, unless it is being cancelled already.

        A worker that lost its lease has cancelled its handlers by then.
        """
        token = delivery.token
        self.counts["starts"] += 1
        self.violations += self._courses.started(delivery)
        self._began_at[token] = loop_time()
        for held in self._held():
            other = held.delivery.token
            if (
                (other.queue, other.job_id) == (token.queue, token.job_id)
                and other != token
                and held.begun
                and not held.ended
                and held.cause is None
            ):
                self.violations.append(
                    f"job {token.job_id!r} was handed out again while its handler ran undisturbed"
                )

    def _passed_over(self, deliveries: Sequence[Delivery]) -> Iterable[str]:
        """Jobs of a higher level that were ready, and were not handed out."""
        if deliveries:
            token = min((delivery.token for delivery in deliveries), key=lambda token: token.level)
            ready = self._store.queue(token.queue).ready
            for level in range(token.level + 1, 10):
                for entry in ready[level].values():
                    yield f"job {token.job_id!r} was handed out before {entry.job_id!r}"

    # -- the end ---------------------------------------------------------------------------------

    def unfinished(self) -> set[Unfinished]:
        """What is queued, running, due, or on its way to another queue."""
        now_ms = self._store.clock.now_ms()
        found: set[Unfinished] = set()
        for name, queue in self._store.queues.items():
            for job in queue.jobs.values():
                due_at_ms = job.now.due_at_ms
                if job.entry is not None or (due_at_ms is not None and due_at_ms <= now_ms):
                    what = f"job {job.id!r}, {job.state.value}, attempt {job.attempt}"
                    found.add(Unfinished(name, what, job.id))
            found |= {
                Unfinished(name, f"what left it at {row.written_at_ms} ms") for row in queue.out
            }
        return found

    def what_holds(self, unfinished: Unfinished) -> str:
        """What something unfinished waits for, as far as is known."""
        name, _, job_id = unfinished
        queue = self._store.queue(name)
        if not queue.members:
            return f"no worker serves the queue {name!r}"
        job = None if job_id is None else queue.jobs.get(job_id)
        if job is None or job.entry is None:
            return "nobody has taken it"
        if job.state is JobState.RUNNING:
            return self._what_runs(job.entry)
        if queue.paused:
            return "the queue is paused"
        record = job.record
        if record is not None and not any(record.event in m.events for m in queue.members.values()):
            return f"no worker has a handler for the event {record.event!r}"
        return "nobody has taken it: the workers' slots are taken by other jobs"

    def _what_runs(self, entry: Entry) -> str:
        for held in self._held():
            token = held.delivery.token
            if (token.incarnation, token.entry) == (entry.owner, entry.id) and not held.ended:
                since = f"{self._began_at.get(token, math.nan):.3f} s"
                if not held.begun:
                    return f"it was handed out at {since}, and its handler has not begun"
                told = "" if held.cause is None else f", though cancelled ({held.cause.value})"
                return f"its handler has not returned since {since}{told}"
        return "the worker that it was handed out to does not have it"

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
        self.violations += islice(self._courses.lost(), 10)
        born, emitted = len(self._born), self.total("emitted")
        if self._born_for_sure and born != emitted:
            self.violations.append(
                f"{born} jobs were to come into being (emits, occurrences, children of completed"
                f" attempts), and {emitted} did"
            )
        there = sum(
            self.in_state(state) for state in (JobState.QUEUED, JobState.DELAYED, JobState.DEAD)
        )
        ended = sum(self.total(what) for what in ("completed", "skipped", "cancelled", "removed"))
        if there + ended != emitted:
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
