"""Emit: identity, trailing debounce, and where a new job goes.

Identity, in the order in which it is asked:

- A minted id (it comes without an emit number) is that job, alive or ended: repeating is harmless.
- An emit number that the job has answered before is that job.
- A job that has not ended is that job, and answers for the number from now on.
- Otherwise the chosen id begins a new life.
"""

from __future__ import annotations

from trio_tasks.broker import Debounce, Emitted, NewJob
from trio_tasks.memory.debouncing import become_last, trailing_debounce
from trio_tasks.memory.records import StoredJob
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.lifecycle import Step, transition

__all__ = ["enqueue"]


def enqueue(
    queue: QueueStore, new: NewJob, now_ms: int, *, relayed: bool = False, late: bool = False
) -> Emitted:
    """Store one job, or find that it is there already.

    Args:
        relayed: it comes from another queue, and may come once more.
        late: it was under way for too long: it arrives dead, unless its id is taken.
    """
    former = queue.jobs.get(new.id)
    if former is not None:
        if new.number is None:
            return Emitted(new.id, created=True)  # a minted id: this emit's, sent again
        if new.number in former.numbers or new.number in former.earlier:
            return Emitted(new.id, created=new.number == former.maker)
        if late or not former.state.is_final:
            former.attached.append(new.number)
            former.trim_numbers()
            return Emitted(new.id, created=False)

    debounce = None if late else trailing_debounce(new)
    due_at_ms = None if late else _due_at_ms(new, debounce, now_ms)
    if late:
        step = Step.EMIT_LATE
    elif due_at_ms is None:
        step = Step.EMIT if former is None else Step.REVIVE
    else:
        step = Step.EMIT_DELAYED if former is None else Step.REVIVE_DELAYED

    job = _begin_life(queue, new, former, step)
    job.relayed = relayed
    job.now.deadline_at_ms = _deadline_at_ms(new, now_ms)
    if late:
        queue.dead[job.id] = now_ms
        job.now.finished_at_ms, job.now.why = now_ms, "relayed_late"
    elif due_at_ms is None:
        queue.add_entry(job)
    else:
        queue.add_delay(job, due_at_ms, "delay" if debounce is None else "debounce")
    if debounce is not None:
        become_last(queue, job, debounce, now_ms)
    return Emitted(new.id, created=True)


def _begin_life(queue: QueueStore, new: NewJob, former: StoredJob | None, step: Step) -> StoredJob:
    state = transition(None if former is None else former.state, step, job_id=new.id)
    job = StoredJob(new.id, new.record, new.priority, new.number, state)
    if former is not None:
        job.earlier = [*former.earlier, *former.numbers]
        job.trim_numbers()
        job.now.number = former.now.number + 1
        queue.removed += queue.dead.pop(new.id, None) is not None
    queue.jobs[new.id] = job
    queue.emitted += 1
    queue.notices.changed(new.id)
    return job


def _due_at_ms(new: NewJob, debounce: Debounce | None, now_ms: int) -> int | None:
    """When the job may start; `None`: at once."""
    if debounce is not None:
        due_at_ms = now_ms + debounce.window_ms
    else:
        due_at_ms = now_ms + new.delay_ms if new.delay_ms is not None else new.due_at_ms
    return None if due_at_ms is None or due_at_ms <= now_ms else due_at_ms


def _deadline_at_ms(new: NewJob, now_ms: int) -> int | None:
    return new.deadline_at_ms if new.deadline_ms is None else now_ms + new.deadline_ms
