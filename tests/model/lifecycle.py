"""The lifecycle table and the real Processor, in every interleaving, without connections.

The world is a list of jobs and a list of workers. Jobs move by `transition` alone, and what
becomes of a job that a worker holds, `Processor.decide` alone says; the world counts starts, keeps
due instants, and fences what is committed by the number of the start. A worker may crash between
any two steps: after the hand-out, after the decision, before the commit; it may be so silent that
others take over what it goes on to hold; it may stop.

This instant is always 0. Time may pass, which moves instants into the past, further away than the
grace of unknown events and all deadlines. A worker judges by the time at which it was handed a job.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from tests.model.explore import Step as Move
from trio_tasks.errors import ConfigurationError
from trio_tasks.job import FINAL_STATES, JobState
from trio_tasks.options import ProcessorOptions, RetryPolicy
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Decision,
    Die,
    Park,
    Release,
    Retry,
    Run,
    Skip,
    Verdict,
)
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import (
    AskedDeadLetter,
    AskedDiscard,
    AskedRetry,
    BadData,
    BadResult,
    CancelRequested,
    DebounceAnswered,
    Failed,
    HandedOut,
    Input,
    Interrupted,
    LeaseLost,
    OutcomeRefused,
    Succeeded,
    TimedOut,
)
from trio_tasks.processor.lease import UNCOUNTED_INTERRUPTIONS
from trio_tasks.processor.lifecycle import IllegalTransitionError, Step, transition
from trio_tasks.processor.processor import Processor

__all__ = ["EVERY_END", "Job", "LifecycleModel"]

GRACE_MS: Final = 60_000
DEADLINE_MS: Final = 50_000
LONG_AGO_MS: Final = -100_000

_PROCESSOR: Final = Processor(
    ProcessorOptions(retry=RetryPolicy(max_retries=1, give_up_on=(KeyError,))),
    unknown_event_grace_ms=GRACE_MS,
)
_LENIENT: Final = Processor(
    ProcessorOptions(retry=RetryPolicy(max_retries=1), ignore_config_errors=True),
    unknown_event_grace_ms=GRACE_MS,
)
ATTEMPTS: Final = 2

EVERY_END: Final[dict[str, Input]] = {
    "succeeds": Succeeded(),
    "fails": Failed(ValueError()),
    "fails for good": Failed(KeyError()),
    "uses trio_tasks wrongly": Failed(ConfigurationError()),
    "times out": TimedOut(1_000),
    "asks for a retry": AskedRetry(),
    "asks for the DLQ": AskedDeadLetter("asked"),
    "asks to be discarded": AskedDiscard("asked"),
    "cannot read its data": BadData(),
    "returns what cannot be encoded": BadResult(),
    "is refused by the broker": OutcomeRefused(),
    "loses its debounce key": DebounceAnswered("another"),
}
"""What may happen to a job that a worker runs, but for cancellation."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is emitted.

    Attributes:
        known: the workers that have a handler for it.
        readable, supported: as in `HandedOut`.
        deadline: it has one.
        interruptions: how often it was given back before the world begins.
        lenient: an unknown event is skipped at last.
    """

    known: frozenset[int] = frozenset({0, 1})
    readable: bool = True
    supported: bool = True
    deadline: bool = False
    interruptions: int = UNCOUNTED_INTERRUPTIONS - 1
    lenient: bool = False


class Place(NamedTuple):
    """Where a job is.

    `used`: attempts used, or the number of the one that runs; `start`: how many starts there were,
    which names the present one; `begun`, `back`: handlers that began in this
    generation, and of them those that were given back uncounted; `lost`: starts whose worker
    crashed or fell silent before; `asked`: somebody wants it cancelled.
    """

    state: JobState | None = None
    used: int = 0
    start: int = 0
    interruptions: int = 0
    unknown_since_ms: int | None = None
    deadline_at_ms: int | None = None
    begun: int = 0
    back: int = 0
    lost: int = 0
    asked: bool = False
    generations: int = 0


class Worker(NamedTuple):
    """A worker; `job` and `start` are what it holds, `phase` handed, runs or decided."""

    status: str = "up"
    job: int = -1
    start: int = 0
    phase: str = ""
    facts: JobFacts | None = None
    verdict: Verdict | None = None


class World(NamedTuple):
    """A state; `left`: how many crashes, silences, stops, cancels, requeues and revivals."""

    jobs: tuple[Place, ...]
    workers: tuple[Worker, ...]
    left: tuple[int, ...]
    broken: str | None = None


FAULTS: Final = ("crash", "silence", "stop", "cancel", "requeue", "revive")


class LifecycleModel:
    """The model; see `explore.Model`.

    Args:
        name: its name.
        jobs: what is emitted.
        ends: what may happen to handlers, of `EVERY_END`.
        workers: how many.
        left: how many of each of `FAULTS`; none where it is not named.

    Attributes:
        rows: the rows of the table that were used while exploring, as (source, step).
    """

    def __init__(
        self,
        name: str,
        jobs: tuple[Job, ...],
        *,
        ends: tuple[str, ...] = tuple(EVERY_END),
        workers: int = 2,
        **left: int,
    ) -> None:
        self.name = name
        self.rows: set[tuple[JobState | None, Step]] = set()
        self._jobs = jobs
        self._ends = ends
        self._workers = workers
        self._alike = all(len(job.known) in (0, workers) for job in jobs)
        self._left = tuple(left.pop(fault, 0) for fault in FAULTS)
        assert not left, left

    # -- explore.Model -----------------------------------------------------------------------------

    def initial(self) -> World:
        """Nothing is emitted yet."""
        places = tuple(
            Place(
                interruptions=job.interruptions,
                deadline_at_ms=DEADLINE_MS if job.deadline else None,
            )
            for job in self._jobs
        )
        return World(places, (Worker(),) * self._workers, self._left)

    def parts(self, state: World) -> tuple[Hashable, ...]:
        """Each job, each worker, and the rest, without what nothing depends on any more.

        What a final job has used up does not matter: whoever revives it begins afresh. Of starts
        only matters which is the present one, and of a stale one not even what was decided. Workers
        that can do the same are alike, whichever is which.
        """
        jobs = [
            Place(place.state, generations=place.generations)
            if place.state in FINAL_STATES
            else place._replace(start=0)
            for place in state.jobs
        ]
        workers: list[Hashable] = []
        for worker in state.workers:
            if worker.job < 0:
                workers.append((worker.status, -1, False, "", None, None))
                continue
            is_present = self._is_present(state, worker)
            facts, verdict = (worker.facts, worker.verdict) if is_present else (None, None)
            workers.append((worker.status, worker.job, is_present, worker.phase, facts, verdict))
        if self._alike:
            workers.sort(key=repr)
        return (*jobs, *workers, (state.left, state.broken))

    @staticmethod
    def _is_present(state: World, worker: Worker) -> bool:
        place = state.jobs[worker.job]
        return place.state is JobState.RUNNING and place.start == worker.start

    def violation(self, state: World) -> str | None:
        """What the last step broke, or what is wrong in this state."""
        if state.broken is not None:
            return state.broken
        for number, place in enumerate(state.jobs):
            if place.begun - place.back > ATTEMPTS:
                return f"5: job {number} begins for the {place.begun}th time"
            if place.asked and place.state is not JobState.RUNNING:
                return f"17: job {number} is {place.state}, and still to be cancelled"
        return None

    def is_end(self, state: World) -> bool:
        """All jobs are final, and nobody holds one."""
        return all(place.state in FINAL_STATES for place in state.jobs) and all(
            worker.job < 0 for worker in state.workers
        )

    def steps(self, state: World) -> Iterator[Move[World]]:
        """All steps, in a fixed order."""
        for number, place in enumerate(state.jobs):
            yield from self._waits(state, number, place)
        for index, worker in enumerate(state.workers):
            yield from self._works(state, index, worker)
            yield from self._suffers(state, index, worker)
        yield Move("time passes", state._replace(jobs=tuple(map(_older, state.jobs))))

    # -- jobs --------------------------------------------------------------------------------------

    def _moved(self, state: World, number: int, step: Step, **changes: object) -> World:
        """Move a job by a row of the table."""
        place = state.jobs[number]
        try:
            target = transition(place.state, step)
        except IllegalTransitionError as error:
            return state._replace(broken=str(error))
        self.rows.add((place.state, step))
        jobs = list(state.jobs)
        jobs[number] = place._replace(state=target, **changes)
        return state._replace(jobs=tuple(jobs))

    def _waits(self, state: World, number: int, place: Place) -> Iterator[Move[World]]:
        name = f"job {number}"
        match place.state:
            case None:
                yield Move(f"{name} is emitted", self._moved(state, number, Step.EMIT))
                later = self._moved(state, number, Step.EMIT_DELAYED)
                yield Move(f"{name} is emitted with a delay", later)
            case JobState.DELAYED:
                yield Move(f"{name} is due", self._moved(state, number, Step.PROMOTE))
            case JobState.DEAD:
                if _may(state, "requeue"):
                    fresh = _fresh(place)
                    after = self._moved(_spent(state, "requeue"), number, Step.REQUEUE, **fresh)
                    yield Move(f"{name} is requeued", after, fault=True)
            case _:
                pass
        if place.state in FINAL_STATES and _may(state, "revive"):
            for step in (Step.REVIVE, Step.REVIVE_DELAYED):
                after = self._moved(_spent(state, "revive"), number, step, **_fresh(place))
                yield Move(f"{name} is emitted anew ({step.value})", after, fault=True)
        if place.state is not None and place.state not in FINAL_STATES and _may(state, "cancel"):
            spent = _spent(state, "cancel")
            if place.state is JobState.RUNNING:
                if not place.asked:
                    after = _set(spent, number, place._replace(asked=True))
                    yield Move(f"{name} shall be cancelled", after, fault=True)
            else:
                after = self._moved(spent, number, Step.CANCEL)
                yield Move(f"{name} is cancelled", after, fault=True)

    # -- workers -----------------------------------------------------------------------------------

    def _works(self, state: World, index: int, worker: Worker) -> Iterator[Move[World]]:
        name = f"worker {index}"
        if worker.status in ("crashed", "stopped"):
            yield Move(f"{name} is started again", _worker(state, index, Worker()))
            return
        match worker.phase:
            case "":
                if worker.status == "up":
                    yield from self._takes(state, index)
                else:
                    yield Move(f"{name} ends", _worker(state, index, Worker("stopped")))
            case "handed":
                yield self._asks(state, index, worker)
            case "runs":
                yield from self._ends_of(state, index, worker)
            case "decided":
                yield self._commits(state, index, worker)
            case _:
                raise AssertionError(worker.phase)
        if worker.status == "stopping" and worker.phase in ("handed", "runs"):
            began = worker.phase == "runs"
            text = f"{name} interrupts job {worker.job}"
            yield self._decided(state, index, worker, Interrupted(began), text)

    def _takes(self, state: World, index: int) -> Iterator[Move[World]]:
        for number, place in enumerate(state.jobs):
            is_orphan = place.state is JobState.RUNNING and self._is_orphan(state, number, place)
            if place.state is not JobState.QUEUED and not is_orphan:
                continue
            step, lost = Step.START, place.lost
            if is_orphan:
                step = Step.TAKE_OVER
                lost += place.begun + place.lost - place.back < place.used
            start = place.start + 1
            used = place.used + 1
            after = self._moved(state, number, step, used=used, start=start, lost=lost)
            worker = Worker(
                job=number, start=start, phase="handed", facts=self._facts(after, number)
            )
            text = f"worker {index} is handed job {number} ({step.value})"
            yield Move(text, _worker(after, index, worker))

    def _is_orphan(self, state: World, number: int, place: Place) -> bool:
        """Whether the present start's worker is dead, or so silent that it counts as dead."""
        return not any(
            worker.job == number and worker.start == place.start and worker.status != "silent"
            for worker in state.workers
        )

    def _facts(self, state: World, number: int) -> JobFacts:
        place = state.jobs[number]
        return JobFacts(
            id=f"job {number}",
            attempt=place.used,
            deadline_at_ms=place.deadline_at_ms,
            interruptions=place.interruptions,
            unknown_since_ms=place.unknown_since_ms,
        )

    def _asks(self, state: World, index: int, worker: Worker) -> Move[World]:
        """The first question about each hand-out."""
        job, place = self._jobs[worker.job], state.jobs[worker.job]
        asked = place.asked and place.start == worker.start
        happened = HandedOut(
            known=index in job.known,
            readable=job.readable,
            supported=job.supported,
            cancel_reason="asked" if asked else None,
        )
        return self._decided(state, index, worker, happened, f"worker {index} asks the Processor")

    def _ends_of(self, state: World, index: int, worker: Worker) -> Iterator[Move[World]]:
        for text in self._ends:
            what = f"worker {index}: job {worker.job} {text}"
            yield self._decided(state, index, worker, EVERY_END[text], what)
        place = state.jobs[worker.job]
        if place.asked and place.start == worker.start:
            what = f"worker {index}: job {worker.job} is cancelled"
            yield self._decided(state, index, worker, CancelRequested("asked"), what)

    def _decided(
        self, state: World, index: int, worker: Worker, happened: Input, text: str
    ) -> Move[World]:
        """What the Processor says to what has happened."""
        number, facts = worker.job, worker.facts
        assert facts is not None
        processor = _LENIENT if self._jobs[number].lenient else _PROCESSOR
        try:
            decision = processor.decide(facts, happened, now_ms=0)
        except IllegalTransitionError as error:
            return Move(text, state._replace(broken=str(error)))
        text = f"{text}: {type(decision).__name__}"
        broken = self._objection(state, worker, decision)
        if broken is not None:
            return Move(text, state._replace(broken=broken))
        if isinstance(decision, Run):
            place = state.jobs[number]
            if place.start == worker.start:
                state = _set(state, number, place._replace(begun=place.begun + 1))
            return Move(text, _worker(state, index, worker._replace(phase="runs")))
        decided = worker._replace(phase="decided", verdict=decision)
        return Move(text, _worker(state, index, decided))

    def _objection(self, state: World, worker: Worker, decision: Decision) -> str | None:
        """Which invariant a decision breaks."""
        place, job, facts = state.jobs[worker.job], self._jobs[worker.job], worker.facts
        assert facts is not None
        if isinstance(decision, Run):
            if facts.deadline_at_ms is not None and facts.deadline_at_ms <= 0:
                return "18: a job begins after its deadline"
            if not job.readable or not job.supported:
                return "28: a handler is given what nobody can read"
        if isinstance(decision, Die) and decision.reason == "exhausted":
            used = place.begun - place.back + place.lost
            if place.start == worker.start and used < ATTEMPTS:
                return f"9: exhausted after {used} attempts"
        if isinstance(decision, Retry) and facts.attempt >= ATTEMPTS:
            return "5: a retry though no attempt is left"
        return None

    def _commits(self, state: World, index: int, worker: Worker) -> Move[World]:
        """The broker applies a verdict, if its start is still the present one."""
        number, verdict = worker.job, worker.verdict
        assert verdict is not None
        place = state.jobs[number]
        status = "up" if worker.status == "silent" else worker.status
        state = _worker(state, index, Worker(status))
        text = f"worker {index} commits {type(verdict).__name__} of job {number}"
        if place.state is not JobState.RUNNING or place.start != worker.start:
            return Move(f"{text}: stale", state)
        if place.asked and not isinstance(verdict, Complete | Cancel):
            verdict = Cancel("asked")
        elif isinstance(verdict, Die | Skip) and verdict.unless_served:
            known = self._jobs[number].known
            if any(i in known and w.status == "up" for i, w in enumerate(state.workers)):
                verdict = Park(5_000, 0)
        return Move(text, self._applied(state, number, verdict))

    def _applied(self, state: World, number: int, verdict: Verdict) -> World:
        place = state.jobs[number]
        match verdict:
            case Complete() | Die() | Skip() | Cancel():
                return self._moved(state, number, verdict.step, asked=False)
            case Retry():
                return self._moved(state, number, verdict.step)
            case Park(since_ms=since_ms):
                since = since_ms if place.unknown_since_ms is None else place.unknown_since_ms
                used = place.used - 1
                return self._moved(state, number, Step.PARK, used=used, unknown_since_ms=since)
            case Release(counted=counted, began=began):
                back = place.back + (began and not counted)
                interruptions = place.interruptions + (began and not counted)
                if interruptions > UNCOUNTED_INTERRUPTIONS:
                    return state._replace(broken="an eleventh interruption does not count")
                used = place.used - (not counted)
                return self._moved(
                    state, number, Step.RELEASE, used=used, back=back, interruptions=interruptions
                )
            case _:
                assert_never(verdict)

    def _suffers(self, state: World, index: int, worker: Worker) -> Iterator[Move[World]]:
        name = f"worker {index}"
        if worker.status in ("up", "silent", "stopping") and _may(state, "crash"):
            after = _worker(_spent(state, "crash"), index, Worker("crashed"))
            yield Move(f"{name} crashes", after, fault=True)
        if worker.status != "up":
            if worker.status == "silent" and worker.phase in ("handed", "runs"):
                lost = LeaseLost(worker.phase == "runs")
                yield self._decided(state, index, worker, lost, f"{name} has lost its lease")
            return
        if worker.job >= 0 and _may(state, "silence"):
            after = _worker(_spent(state, "silence"), index, worker._replace(status="silent"))
            yield Move(f"{name} falls silent", after, fault=True)
        if _may(state, "stop"):
            after = _worker(_spent(state, "stop"), index, worker._replace(status="stopping"))
            yield Move(f"{name} is told to stop", after, fault=True)


def _older(place: Place) -> Place:
    """A job's place when time has passed."""
    since_ms, deadline_at_ms = place.unknown_since_ms, place.deadline_at_ms
    return place._replace(
        unknown_since_ms=None if since_ms is None else LONG_AGO_MS,
        deadline_at_ms=None if deadline_at_ms is None else 0,
    )


def _fresh(place: Place) -> dict[str, object]:
    """What a new generation begins with."""
    return {
        "used": 0,
        "interruptions": 0,
        "unknown_since_ms": None,
        "deadline_at_ms": None,
        "begun": 0,
        "back": 0,
        "lost": 0,
        "generations": place.generations + 1,
    }


def _set(state: World, number: int, place: Place) -> World:
    jobs = list(state.jobs)
    jobs[number] = place
    return state._replace(jobs=tuple(jobs))


def _worker(state: World, index: int, worker: Worker) -> World:
    workers = list(state.workers)
    workers[index] = worker
    return state._replace(workers=tuple(workers))


def _may(state: World, fault: str) -> bool:
    return state.left[FAULTS.index(fault)] > 0


def _spent(state: World, fault: str) -> World:
    left = list(state.left)
    left[FAULTS.index(fault)] -= 1
    return state._replace(left=tuple(left))
