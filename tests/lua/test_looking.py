"""Listing and counting: in pages, in order, and where nothing is there yet."""

from __future__ import annotations

import pytest

from tests.lua.desk import Desk
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die, Release, Retry
from trio_tasks.redis_streams import calls


def test_an_untouched_queue_is_empty(desk: Desk) -> None:
    counts = desk.counts()

    assert counts.queued == counts.running == counts.delayed == counts.emitted == 0
    assert not counts.paused
    for state in calls.LISTED_STATES:
        assert desk.listed(state) == []
    assert desk.ask(calls.schedules(desk.keys)) == []
    assert desk.is_gone("nobody")
    assert desk.words("KEYS", f"{desk.keys.prefix}*") == [], "looking makes nothing"


def test_a_total_that_somebody_has_spoilt_begins_anew(desk: Desk) -> None:
    desk.do("HSET", desk.keys.meta, "em", "many")
    desk.sound = False

    desk.send(desk.job(), desk.job())

    assert desk.counts().emitted == 2


def test_jobs_can_be_seen_before_any_worker_made_the_groups(desk: Desk) -> None:
    ids = [desk.emit(), desk.emit()]

    assert desk.listed(JobState.QUEUED) == ids
    assert (desk.counts().queued, desk.counts().running) == (2, 0)
    assert desk.cancel(ids[0]).value == "cancelled"


def test_queued_and_running_jobs_are_told_apart_over_many_pages(desk: Desk) -> None:
    clerk = desk.clerk()
    ids = [desk.emit() for _ in range(350)]
    deliveries = clerk.take(230)
    for delivery in deliveries[::2]:
        clerk.end(delivery, Release(counted=False, began=True))
    released = [delivery.token.job_id for delivery in deliveries[::2]]
    running = [delivery.token.job_id for delivery in deliveries[1::2]]

    assert desk.listed(JobState.QUEUED, limit=1000) == [*released, *ids[230:]]
    assert desk.listed(JobState.RUNNING, limit=1000) == running
    assert (desk.counts().queued, desk.counts().running) == (235, 115)


def test_higher_levels_are_listed_first(desk: Desk) -> None:
    clerk = desk.clerk()
    low, high = desk.emit(priority=0), desk.emit(priority=9)
    assert desk.listed(JobState.QUEUED) == [high, low]

    clerk.take(2)

    assert desk.listed(JobState.RUNNING) == [high, low]


@pytest.mark.parametrize("state", ["queued", "running", "delayed", "dead"])
def test_pages_follow_one_another(desk: Desk, state: str) -> None:
    clerk = desk.clerk()
    delay_ms = 60_000 if state == "delayed" else None
    ids = [desk.emit(priority=1 - place // 3, delay_ms=delay_ms) for place in range(5)]
    if state == "delayed":
        for place, job_id in enumerate(ids):
            desk.do("ZADD", desk.keys.due, desk.now_ms() + 10_000 + place, job_id)
    if state in ("running", "dead"):
        for delivery in clerk.take(5):
            if state == "dead":
                clerk.end(delivery, Die("x"))
                desk.do(
                    "ZADD",
                    desk.keys.dlq,
                    1000 + len(desk.listed(JobState.DEAD)),
                    delivery.token.job_id,
                )
    wanted = JobState(state)

    first = desk.listed(wanted, limit=2)
    second = desk.listed(wanted, limit=2, after=first[-1])
    third = desk.listed(wanted, limit=2, after=second[-1])

    assert [*first, *second, *third] == ids
    assert desk.listed(wanted, after=ids[-1]) == []
    assert desk.listed(wanted, limit=2, after="nobody") == ids[:2]
    assert desk.listed(wanted, limit=0) == []


def test_more_jobs_are_listed_than_one_look_brings(desk: Desk) -> None:
    ids = {desk.emit(delay_ms=60_000) for _ in range(250)}

    assert set(desk.listed(JobState.DELAYED, limit=1000)) == ids
    assert len(desk.listed(JobState.DELAYED, limit=120)) == 120


def test_jobs_in_other_states_are_not_listed(desk: Desk) -> None:
    with pytest.raises(ValueError, match="completed"):
        calls.jobs(desk.keys, JobState.COMPLETED, limit=1)


def test_a_running_job_shows_when_it_started_and_its_attempt(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    job_id = dead.start().token.job_id
    dead.die()
    heir.take_one()

    stored = desk.read(job_id)

    assert (stored.state, stored.attempt) == (JobState.RUNNING, 2)
    assert stored.started_at_ms is not None
    assert 0 <= desk.now_ms() - stored.started_at_ms < 60_000


def test_a_start_of_a_minute_ago_is_shown_then_and_after_its_end(desk: Desk) -> None:
    clerk = desk.clerk()
    plain, retried, many = clerk.start(), clerk.start(), [clerk.start() for _ in range(3)]
    clerk.end(retried, Retry(0))
    retried = clerk.take_one()
    for delivery in (plain, retried, *many):
        desk.began(delivery.token, ago_ms=60_000)

    def started_ago() -> set[int | None]:
        ids = [delivery.token.job_id for delivery in (plain, retried, *many)]
        now_ms = desk.now_ms()
        return {(now_ms - (desk.read(job_id).started_at_ms or 0)) // 10_000 for job_id in ids}

    assert started_ago() == {6}
    clerk.end(plain)
    clerk.end(retried)
    clerk.commit(*(clerk.outcome(delivery) for delivery in many))
    assert started_ago() == {6}


def test_more_than_two_pages_of_delayed_jobs_are_listed(desk: Desk) -> None:
    ids = [desk.emit(delay_ms=60_000 + 10 * number) for number in range(250)]

    assert desk.listed(JobState.DELAYED, limit=1000) == ids
    assert desk.listed(JobState.DELAYED, limit=1000, after=ids[120]) == ids[121:]
