"""Bugs to plant into the engine: each breaks one thing that the simulation is there to see.

Each function is given pytest's `pytest.MonkeyPatch` and spoils one line or so, as a mistake would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trio_tasks.broker import Beat, NewJob, Outcome, TickAnswer
from trio_tasks.consumer import attempt
from trio_tasks.consumer.committer import Outcomes
from trio_tasks.consumer.feeder import Feed
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.slots import Slots
from trio_tasks.job import JobState
from trio_tasks.memory import committing, debouncing, ending, members, scheduling, taking
from trio_tasks.memory import outbox as outbox_of
from trio_tasks.memory.hints import Hint
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.decisions import Complete

__all__ = ["BUGS", "Bug"]

Bug = Callable[[pytest.MonkeyPatch], None]

BUGS: list[Bug] = []


def _bug(plant: Bug) -> Bug:
    BUGS.append(plant)
    return plant


class _Never:
    """An attribute that is `False`, whatever it is set to."""

    def __get__(self, instance: object, owner: object) -> bool:
        return False

    def __set__(self, instance: object, value: bool) -> None:
        pass


@_bug
def children_of_a_second_attempt_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    commit: Any = committing.commit

    def spoiled(queue: QueueStore, outcome: Outcome, now_ms: int) -> object:
        if outcome.attempt > 1:
            outcome = msgspec.structs.replace(outcome, children=())
        return commit(queue, outcome, now_ms)

    monkeypatch.setattr(committing, "commit", spoiled)


@_bug
def children_of_a_second_attempt_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    end: Any = attempt.Attempts._end

    def spoiled(self: object, held: Held, *args: object, **kwargs: object) -> None:
        if held.delivery.attempt > 1:
            held.children = ()
        end(self, held, *args, **kwargs)

    monkeypatch.setattr(attempt.Attempts, "_end", spoiled)


@_bug
def an_outcome_needs_no_present_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: QueueStore, token: Any) -> object:
        job = self.jobs.get(token.job_id)
        return job if job is not None and job.state is JobState.RUNNING else None

    monkeypatch.setattr(QueueStore, "started", spoiled)


@_bug
def a_take_over_is_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    start: Any = taking._start

    def spoiled(queue: QueueStore, entry: Any, job: Any, *args: object) -> object:
        job.now.uncounted += job.state is JobState.RUNNING
        return start(queue, entry, job, *args)

    monkeypatch.setattr(taking, "_start", spoiled)


@_bug
def an_outcome_that_was_not_received_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: object, entries: object) -> None:
        del self, entries

    monkeypatch.setattr(Outcomes, "put_back", spoiled)


@_bug
def a_retry_is_acked_and_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    add: Any = QueueStore.add_delay

    def spoiled(self: QueueStore, job: Any, due_at_ms: int, why: str) -> None:
        add(self, job, due_at_ms, why)
        if why == "retry" and job.attempt > 1:
            del self.jobs[job.id]

    monkeypatch.setattr(QueueStore, "add_delay", spoiled)


@_bug
def a_debounce_window_is_not_reopened(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(queue: object, job: object) -> None:
        del queue, job

    monkeypatch.setattr(ending, "_reopen", spoiled)


@_bug
def a_debounce_window_lets_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_debounce: Any = debouncing.ask_debounce

    def spoiled(queue: QueueStore, ask: Any, now_ms: int) -> object:
        answer = ask_debounce(queue, ask, now_ms)
        return ask.token.job_id if ask.edge == "leading" else answer

    monkeypatch.setattr(debouncing, "ask_debounce", spoiled)


@_bug
def old_data_runs_after_new(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_debounce: Any = debouncing.ask_debounce

    def spoiled(queue: QueueStore, ask: Any, now_ms: int) -> object:
        answer = ask_debounce(queue, ask, now_ms)
        return ask.token.job_id if ask.edge == "trailing" else answer

    monkeypatch.setattr(debouncing, "ask_debounce", spoiled)


@_bug
def a_delay_is_two_seconds_short(monkeypatch: pytest.MonkeyPatch) -> None:
    next_due: Any = QueueStore.next_due

    def spoiled(self: QueueStore, now_ms: int) -> object:
        return next_due(self, now_ms + 2000)

    monkeypatch.setattr(QueueStore, "next_due", spoiled)


@_bug
def a_give_back_uses_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back: Any = committing._give_back

    def spoiled(queue: QueueStore, job: Any, release: Any) -> None:
        give_back(queue, job, msgspec.structs.replace(release, counted=True))

    monkeypatch.setattr(committing, "_give_back", spoiled)


@_bug
def a_request_to_cancel_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    beat: Any = members.beat

    def spoiled(queue: QueueStore, incarnation: str, now_ms: int) -> Beat:
        return msgspec.structs.replace(beat(queue, incarnation, now_ms), cancels=())

    monkeypatch.setattr(members, "beat", spoiled)


@_bug
def a_request_to_cancel_is_forgotten_by_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    commit: Any = committing.commit

    def spoiled(queue: QueueStore, outcome: Outcome, now_ms: int) -> object:
        if not isinstance(outcome.verdict, Complete):
            queue.cancels.pop(outcome.token.job_id, None)
        return commit(queue, outcome, now_ms)

    monkeypatch.setattr(committing, "commit", spoiled)


@_bug
def an_occurrence_becomes_two_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    tick: Any = scheduling.tick

    def spoiled(
        queue: QueueStore, schedule: Any, next_at_ms: int, job: NewJob | None, now_ms: int
    ) -> TickAnswer:
        answer = tick(queue, schedule, next_at_ms, job, now_ms)
        if answer is TickAnswer.TAKEN and job is not None:
            scheduling.enqueue(queue, msgspec.structs.replace(job, id=f"{job.id}-"), now_ms)
            return TickAnswer.CREATED
        return answer

    monkeypatch.setattr(scheduling, "tick", spoiled)


@_bug
def a_worker_that_stops_goes_on_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "draining", _Never(), raising=False)


@_bug
def what_a_worker_that_stops_is_given_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    started: Any = Feed._started

    def spoiled(self: Feed, *args: object) -> object:
        draining, self.draining = self.draining, False
        try:
            return started(self, *args)
        finally:
            self.draining = draining

    monkeypatch.setattr(Feed, "_started", spoiled)


@_bug
def leases_end_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    is_alive: Any = members.is_alive

    def spoiled(queue: QueueStore, member: Any, now_ms: int) -> bool:
        return bool(is_alive(queue, member, now_ms + 3 * member.lease_ms // 4))

    monkeypatch.setattr(members, "is_alive", spoiled)


@_bug
def handlers_outlive_their_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: Feed, jobs: object) -> None:
        del self, jobs

    monkeypatch.setattr(Feed, "give_up", spoiled)


@_bug
def a_paused_queue_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueStore, "paused", _Never(), raising=False)


@_bug
def deadlines_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    facts_of: Any = attempt.facts_of

    def spoiled(delivery: object) -> object:
        return msgspec.structs.replace(facts_of(delivery), deadline_at_ms=None)

    monkeypatch.setattr(attempt, "facts_of", spoiled)


@_bug
def low_levels_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "LEVELS", range(10))


@_bug
def a_hint_that_nobody_waits_for_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    push: Any = Hint.push

    def spoiled(self: Hint) -> None:
        if self._sleepers:
            push(self)

    monkeypatch.setattr(Hint, "push", spoiled)


@_bug
def a_slot_is_lost_with_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    release: Any = Slots.release

    def spoiled(self: Slots, count: int) -> None:
        release(self, min(count, 1))

    monkeypatch.setattr(Slots, "release", spoiled)


@_bug
def a_relay_carries_one_row_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    relay: Any = outbox_of.relay

    def spoiled(store: object, queue: QueueStore, now_ms: int) -> object:
        queue.out[:] = queue.out[:1]
        return relay(store, queue, now_ms)

    monkeypatch.setattr(outbox_of, "relay", spoiled)
