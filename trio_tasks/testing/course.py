"""What may happen to each job of a simulation next, and what must not.

A second, much simpler account of what a broker does: it knows of each life of a job only what the
server has said about it, and says so when the next thing does not fit. No job starts before it is
due, after its deadline, after its end, or while its queue is paused; its attempt is one more than
those used, of which a give-back takes one away and a death of the worker does not; an outcome
counts for the present start only; whoever has asked for a cancel gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trio_tasks.broker import Applied, CancelAnswer, Delivery, NewJob, Outcome, StartToken
from trio_tasks.job import JobState
from trio_tasks.memory.store import QueueStore, Store
from trio_tasks.processor.decisions import Cancel, Complete, Park, Release, Retry

__all__ = ["Course", "Courses"]

_EFFECTIVE = (Applied.APPLIED, Applied.CANCELLED, Applied.PARKED)


@dataclass(slots=True)
class Course:
    """One life of a job.

    Attributes:
        maker: the emit number of the call that began this life; `None`: a minted id.
        due_at_ms: it must not start before.
        used: attempts used, the present one included.
        start: the present start, as long as it has no outcome.
        began_at_ms: when that was handed out (server time).
        unwanted: somebody has asked to cancel it while it ran.
        must_not_run: … and it was handed out again after that.
        ended: it has come to its end.
        replaceable: another emit may have ended it, which nobody tells us.
    """

    maker: str | None
    due_at_ms: int = 0
    deadline_at_ms: int | None = None
    used: int = 0
    start: StartToken | None = None
    began_at_ms: int = 0
    unwanted: bool = False
    must_not_run: bool = False
    ended: bool = False
    replaceable: bool = False


class Courses:
    """The courses of all jobs."""

    def __init__(self, store: Store) -> None:
        """Follow the jobs of a store."""
        self._paused: set[str] = set()
        self._store = store
        self._courses: dict[tuple[str, str], Course] = {}
        self._waiting: dict[tuple[str, str], Course] = {}
        self._untold: set[tuple[str, str]] = set()

    def present(self, token: StartToken) -> Course | None:
        """The course of a job, if this is its present start."""
        course = self._courses.get((token.queue, token.job_id))
        return None if course is None or course.start != token else course

    def clock_set(self) -> None:
        """The clock is about to be set: what is due by now may start, whatever it shows then."""
        now_ms = self._store.clock.now_ms()
        for course in self._waiting.values():
            if course.due_at_ms <= now_ms:
                course.due_at_ms = 0

    # -- what people do --------------------------------------------------------------------------

    def emitted(self, job: NewJob) -> bool:
        """A job came into being; `False`: it is known, this is a repeat."""
        key = job.queue, job.id
        known = self._courses.get(key)
        if known is not None and known.maker == job.number:
            return False
        now_ms = self._store.clock.now_ms()
        debounce = job.record.debounce
        trailing = debounce is not None and debounce.edge == "trailing"
        if debounce is not None and trailing:
            due_at_ms = now_ms + debounce.window_ms
        else:
            due_at_ms = (job.due_at_ms or 0) if job.delay_ms is None else now_ms + job.delay_ms
        self._courses[key] = self._waiting[key] = Course(
            job.number,
            due_at_ms=due_at_ms,
            deadline_at_ms=(
                job.deadline_at_ms if job.deadline_ms is None else now_ms + job.deadline_ms
            ),
            replaceable=trailing,
        )
        return True

    def may_be_emitted(self, job: NewJob) -> None:
        """A child with a chosen id: nobody tells whether it meets a living job of that id."""
        self._untold.add((job.queue, job.id))

    def cancel(self, queue: str, job_id: str, answer: CancelAnswer) -> None:
        """Somebody has asked to cancel a job."""
        course = self._courses.get((queue, job_id))
        if course is not None:
            if answer is CancelAnswer.CANCELLED:
                course.ended = True
            elif answer is CancelAnswer.NOTED:
                course.unwanted = True

    def pause(self, queue: str, paused: bool) -> None:
        """From now on nothing of a queue may be handed out, or again something."""
        (self._paused.add if paused else self._paused.discard)(queue)

    def requeued(self, queue: str, job_id: str) -> None:
        """A dead job begins a new generation."""
        former = self._courses.get((queue, job_id))
        self._courses[queue, job_id] = Course(None if former is None else former.maker)

    # -- what workers do -------------------------------------------------------------------------

    def started(self, delivery: Delivery) -> Iterator[str]:
        """A job was handed out; yields what is wrong with that."""
        token = delivery.token
        key = token.queue, token.job_id
        course = self._courses.get(key)
        if course is None or (course.ended and key in self._untold):
            course = Course(None, used=delivery.attempt - 1)
            self._courses[key] = course
        now_ms = self._store.clock.now_ms()
        what = f"job {token.job_id!r} was handed out"
        if course.ended:
            yield f"{what} after its end"
        if now_ms < course.due_at_ms:
            yield f"{what} {course.due_at_ms - now_ms} ms before it was due"
        if token.queue in self._paused:
            yield f"{what} while its queue is paused"
        if course.unwanted and delivery.cancel_reason is None:
            yield f"{what} as if nobody had asked to cancel it"
        course.used += 1
        if delivery.attempt != course.used:
            yield f"{what} as attempt {delivery.attempt}, and it is attempt {course.used}"
            course.used = delivery.attempt
        course.start, course.began_at_ms = token, now_ms
        course.must_not_run = course.unwanted
        course.due_at_ms = 0
        self._waiting.pop(key, None)

    def answered(self, outcome: Outcome, applied: Applied) -> Iterator[str]:
        """A worker has reported the outcome of a start; yields what is wrong with the answer."""
        token = outcome.token
        course = self._courses.get((token.queue, token.job_id))
        if course is None:
            return
        what = f"job {token.job_id!r}, attempt {outcome.attempt}: its outcome"
        if applied not in _EFFECTIVE:
            if applied is not Applied.REFUSED and course.start == token:
                yield f"{what} was not applied ({applied.value}), and it is the present one"
            return
        if course.start != token:
            yield f"{what} was applied, and is not that of the present start"
        course.start = None
        yield from self._ran(course, outcome)
        verdict = outcome.verdict
        if (
            applied is Applied.APPLIED
            and course.unwanted
            and not isinstance(verdict, Complete | Cancel)
        ):
            yield f"{what} was {verdict.step.value}, and somebody had asked to cancel it"
        if applied is Applied.PARKED or (applied is Applied.APPLIED and isinstance(verdict, Park)):
            course.used -= 1
        elif applied is Applied.CANCELLED:
            course.ended = True
        elif isinstance(verdict, Release):
            course.used -= not verdict.counted
        elif isinstance(verdict, Retry):
            course.due_at_ms = self._store.clock.now_ms() + verdict.delay_ms
            self._waiting[token.queue, token.job_id] = course
        else:
            course.ended = True

    def _ran(self, course: Course, outcome: Outcome) -> Iterator[str]:
        """What is wrong with a handler's having run at all."""
        if not outcome.ran:
            return
        what = f"job {outcome.token.job_id!r}"
        if outcome.attempts is not None and outcome.attempt > outcome.attempts:
            yield f"{what} ran {outcome.attempt} times and may run {outcome.attempts} times"
        if course.deadline_at_ms is not None and course.began_at_ms > course.deadline_at_ms:
            yield f"{what} ran after its deadline"
        if course.must_not_run:
            yield f"{what} ran after somebody had cancelled it"

    # -- the end ---------------------------------------------------------------------------------

    def lost(self) -> Iterable[str]:
        """Jobs that have not come to their end and are nowhere."""
        for (name, job_id), course in self._courses.items():
            queue = self._store.queues.get(name)
            if not course.ended and not course.replaceable and not _is_there(queue, job_id):
                yield f"job {job_id!r} of queue {name!r} was lost"


def _is_there(queue: QueueStore | None, job_id: str) -> bool:
    job = None if queue is None else queue.jobs.get(job_id)
    return job is not None and (not job.state.is_final or job.state is JobState.DEAD)
