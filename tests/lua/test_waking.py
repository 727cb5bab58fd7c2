"""Waking: at most one token, pushed by whatever makes a job startable, passed on when filled."""

from __future__ import annotations

import pytest

from tests.lua.desk import Desk
from trio_tasks.broker import RECORD_VERSION, Outcome, Record, ScheduleRecord, TakeStatus
from trio_tasks.processor.decisions import Die, Release, Retry
from trio_tasks.redis_streams import calls


def test_there_is_never_more_than_one_token(desk: Desk) -> None:
    for _ in range(5):
        desk.emit()

    assert desk.tokens() == 1


def test_a_delayed_emit_wakes_only_if_it_is_the_earliest(desk: Desk) -> None:
    desk.emit(delay_ms=60_000)
    assert desk.pop_token()

    desk.emit(delay_ms=90_000)
    assert not desk.pop_token()

    desk.emit(delay_ms=30_000)
    assert desk.pop_token()


def test_a_repeated_emit_wakes_nobody(desk: Desk) -> None:
    job = desk.job()
    desk.send(job)
    desk.pop_token()

    desk.send(job)

    assert not desk.pop_token()


@pytest.mark.parametrize("verdict", [Release(counted=False, began=True), Retry(delay_ms=60_000)])
def test_a_commit_wakes_who_may_have_to_start_what_it_gave_back(
    desk: Desk, verdict: Release | Retry
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.pop_token()

    clerk.end(delivery, verdict)

    assert desk.pop_token()


def test_a_plain_commit_wakes_nobody(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.pop_token()

    clerk.end(delivery)

    assert not desk.pop_token()


def test_a_step_that_takes_all_it_made_ready_wakes_nobody(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.pop_token()

    clerk.step([clerk.outcome(delivery, Retry(0), children=[])], want=2)

    assert not desk.pop_token()


def test_a_retry_that_is_due_first_wakes_who_waits_though_its_step_takes(desk: Desk) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()
    desk.pop_token()

    clerk.step([clerk.outcome(first, Retry(60_000))], want=1)
    assert desk.pop_token(), "a wait may have begun before, also one of the worker that steps"

    clerk.step([clerk.outcome(second, Retry(120_000))], want=1)
    assert not desk.pop_token(), "it is not the earliest"


def test_what_is_given_back_to_a_paused_queue_wakes_nobody(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.ask(calls.pause(desk.keys, paused=True, number=1))
    desk.pop_token()

    clerk.step([clerk.outcome(delivery, Release(counted=False, began=True))], want=1)

    assert not desk.pop_token()


def test_a_take_that_leaves_startable_jobs_behind_passes_the_token_on(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit()
    desk.emit()
    desk.pop_token()

    clerk.take(1)
    assert desk.pop_token()
    clerk.take(1)
    assert not desk.pop_token(), "nothing was left"


def test_a_take_that_leaves_a_lower_level_unseen_passes_the_token_on(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit(priority=5)
    desk.emit(priority=0)
    desk.pop_token()

    clerk.take(1)

    assert desk.pop_token()


def test_a_take_that_leaves_released_jobs_behind_passes_the_token_on(desk: Desk) -> None:
    clerk = desk.clerk()
    deliveries = [clerk.start(), clerk.start()]
    for delivery in deliveries:
        clerk.end(delivery, Release(counted=False, began=True))
    desk.pop_token()

    clerk.take(1)

    assert desk.pop_token()


def test_a_take_that_is_filled_passes_on_who_times_the_next_due_job(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit(delay_ms=60_000)
    desk.emit()
    desk.pop_token()

    clerk.take(1)
    assert desk.pop_token()

    clerk.take(1)
    assert not desk.pop_token(), "who has a free slot times it himself"


def test_resume_requeue_and_leave_wake(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, Die("x"))
    desk.pop_token()

    desk.ask(calls.requeue(desk.keys, delivery.token.job_id, generation=0))
    assert desk.pop_token()

    desk.ask(calls.pause(desk.keys, paused=True, number=1))
    assert not desk.pop_token()
    desk.ask(calls.pause(desk.keys, paused=False, number=2))
    assert desk.pop_token()

    clerk.leave()
    assert desk.pop_token()


def test_a_ready_job_wakes_whatever_comes_with_it(desk: Desk) -> None:
    desk.emit(delay_ms=1_000)
    desk.pop_token()

    desk.send(desk.job(), desk.job(delay_ms=60_000))

    assert desk.pop_token()


def test_a_death_wakes_whoever_has_declared_it(desk: Desk) -> None:
    gone, dead = desk.clerk("gone:1"), desk.clerk("dead:1")
    dead.start()
    gone.leave()
    dead.die()
    desk.pop_token()

    assert gone.taken().status is TakeStatus.DEAD

    assert desk.pop_token(), "somebody else may take over"


def test_a_schedule_wakes_only_if_it_is_the_earliest(desk: Desk) -> None:
    for name, in_ms, wakes in (("a", 60_000, True), ("b", 90_000, False), ("c", 30_000, True)):
        schedule = ScheduleRecord(
            queue=desk.keys.queue,
            name=name,
            definition=b"{}",
            template=Record(RECORD_VERSION, "work", b"null"),
            next_at_ms=desk.now_ms() + in_ms,
        )
        desk.ask(calls.declare(desk.keys, schedule, replace=False))

        assert desk.pop_token() is wakes, name


def test_a_child_wakes(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.pop_token()
    outcome: Outcome = clerk.outcome(delivery, children=[desk.job()])

    clerk.commit(outcome)

    assert desk.pop_token()
