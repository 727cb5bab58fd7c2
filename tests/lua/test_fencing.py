"""The fence: an outcome is applied once, and only while its start is the present one."""

from __future__ import annotations

import pytest

from tests.lua.desk import Clerk, Desk
from trio_tasks.broker import Applied, Delivery
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Die,
    Park,
    Release,
    Retry,
    Skip,
    Verdict,
)

VERDICTS: list[Verdict] = [
    Complete(),
    Retry(delay_ms=60_000),
    Park(delay_ms=60_000, since_ms=1),
    Release(counted=False, began=True),
    Die("x"),
    Skip("x"),
    Cancel("x"),
]


def superseded(desk: Desk) -> tuple[Clerk, Delivery, Delivery]:
    """A worker whose start was taken over, that start, and the present one."""
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    stale = dead.start()
    dead.die()
    return dead, stale, heir.take_one()


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_outcome_that_is_repeated_is_reported_and_not_applied_again(
    desk: Desk, verdict: Verdict
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    assert clerk.end(delivery, verdict) is Applied.APPLIED
    before = desk.record(delivery.token.job_id), desk.counts(), desk.pending()

    assert clerk.end(delivery, verdict) is Applied.REPEATED

    assert (desk.record(delivery.token.job_id), desk.counts(), desk.pending()) == before


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_outcome_that_comes_twice_in_one_step_is_applied_once(
    desk: Desk, verdict: Verdict
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    outcome = clerk.outcome(delivery, verdict)

    assert clerk.commit(outcome, outcome) == [Applied.APPLIED, Applied.REPEATED]


def test_a_completion_and_a_retry_of_one_start_in_one_step_are_one_outcome(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    applied = clerk.commit(clerk.outcome(delivery), clerk.outcome(delivery, Retry(0)))

    assert applied == [Applied.APPLIED, Applied.REPEATED]
    assert desk.state(delivery.token.job_id) is JobState.COMPLETED


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_outcome_of_a_start_that_was_taken_over_changes_nothing(
    desk: Desk, verdict: Verdict
) -> None:
    dead, stale, _ = superseded(desk)
    before = desk.record(stale.token.job_id), desk.counts(), desk.pending()

    assert dead.end(stale, verdict) is Applied.STALE

    assert (desk.record(stale.token.job_id), desk.counts(), desk.pending()) == before


@pytest.mark.parametrize("end", VERDICTS)
def test_an_outcome_of_a_start_that_was_taken_over_is_stale_after_the_job_has_ended(
    desk: Desk, end: Verdict
) -> None:
    dead, stale, present = superseded(desk)
    dead.end(present, end)

    assert dead.end(stale) is Applied.STALE


def test_a_stale_outcome_does_not_hide_the_present_one_in_the_same_step(desk: Desk) -> None:
    dead, stale, present = superseded(desk)

    applied = dead.commit(dead.outcome(stale), dead.outcome(present))

    assert applied == [Applied.STALE, Applied.APPLIED]


def test_who_got_the_job_back_is_not_mistaken_for_its_former_start(desk: Desk) -> None:
    """w1 → w2 → w1: an owner check alone would let the first start pass."""
    one, two = desk.clerk("one:1"), desk.clerk("two:1")
    first = one.start()
    one.end(first, Release(counted=False, began=True))
    two.end(two.take_one(), Release(counted=False, began=True))
    third = one.take_one()

    assert one.end(first) is Applied.STALE
    assert one.end(third) is Applied.APPLIED


def test_a_former_outcome_of_the_same_worker_does_not_vouch_for_a_later_start(
    desk: Desk,
) -> None:
    worker, heir = desk.clerk("worker:1"), desk.clerk("heir:1")
    worker.end(worker.start(), Retry(delay_ms=0))
    second = worker.take_one()
    worker.die()
    heir.take_one()

    assert worker.end(second) is Applied.STALE


def test_a_former_start_is_not_mistaken_for_one_of_a_later_entry(desk: Desk) -> None:
    """Both are first deliveries to the same worker, of one job."""
    one, two = desk.clerk("one:1"), desk.clerk("two:1")
    first = one.start()
    one.die()
    two.end(two.take_one(), Retry(0))
    one = desk.clerk("one:1")
    later = one.take_one()
    assert one.end(later) is Applied.APPLIED
    assert (first.token.deliveries, later.token.deliveries) == (1, 1)

    assert one.end(first) is Applied.STALE


def test_a_worker_whose_lease_ended_may_commit_while_nobody_has_the_job(desk: Desk) -> None:
    dead, other = desk.clerk("dead:1"), desk.clerk("other:1")
    delivery = dead.start()
    dead.die()
    other.beat()

    assert dead.end(delivery) is Applied.APPLIED
    assert other.take() == []


@pytest.mark.parametrize("result", [None, b"null", b'"a result"'])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_outcome_for_a_job_that_vanished_makes_no_ghost(
    desk: Desk, verdict: Verdict, result: bytes | None
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.do("DEL", desk.keys.job(delivery.token.job_id))
    desk.sound = False  # a job that was deleted behind our backs does not add up

    assert clerk.commit(clerk.outcome(delivery, verdict, result=result)) == [Applied.GONE]

    assert desk.do("EXISTS", desk.keys.job(delivery.token.job_id)) == 0
    assert (desk.length(), desk.pending(), desk.meta("df")) == (0, {}, "1")


def test_more_outcomes_than_one_request_can_name_are_all_applied(desk: Desk) -> None:
    clerk, number = desk.clerk(), 1003
    for _ in range(0, number, 250):
        desk.send(*(desk.job() for _ in range(250)))
    outcomes = [clerk.outcome(delivery) for delivery in clerk.take(number)]

    assert clerk.commit(*outcomes) == [Applied.APPLIED] * number

    assert desk.pending() == {}
    assert desk.counts().queued == desk.length() == 1250 - number


def test_after_flushall_outcomes_are_gone_and_takes_are_dead(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    for key in desk.words("KEYS", f"{desk.keys.prefix}*"):
        desk.do("DEL", key)

    assert clerk.end(delivery) is Applied.GONE
    assert clerk.taken().status == "dead"
    assert not clerk.beat().alive

    reborn, job_id = desk.clerk("w:2"), desk.emit()
    assert reborn.take_ids(1) == [job_id]


def test_one_request_fences_a_section_even_if_other_starts_lie_between(desk: Desk) -> None:
    clerk = desk.clerk()
    for _ in range(100):
        desk.emit()
    deliveries = clerk.take(100)
    wanted = [deliveries[0], deliveries[99], deliveries[50]]

    assert clerk.commit(*(clerk.outcome(d) for d in wanted)) == [Applied.APPLIED] * 3

    assert desk.pending() == {clerk.name: 97}
    assert {d.token.job_id for d in wanted}.isdisjoint(desk.listed(JobState.RUNNING))


def test_answers_come_in_the_order_of_the_outcomes_whatever_their_sections(desk: Desk) -> None:
    clerk = desk.clerk()
    ids = [desk.emit(priority=level) for level in (3, 0, 3, 0, 3)]
    by_id = {delivery.token.job_id: delivery for delivery in clerk.take(5)}
    clerk.end(by_id[ids[1]])

    applied = clerk.commit(
        clerk.outcome(by_id[ids[0]]),
        clerk.outcome(by_id[ids[1]]),
        clerk.outcome(by_id[ids[2]], Die("x")),
        clerk.outcome(by_id[ids[3]], Retry(delay_ms=60_000)),
        clerk.outcome(by_id[ids[4]]),
    )

    assert applied == [
        Applied.APPLIED,
        Applied.REPEATED,
        Applied.APPLIED,
        Applied.APPLIED,
        Applied.APPLIED,
    ]
    states = [desk.state(job_id).value for job_id in ids]
    assert states == ["completed", "completed", "dead", "delayed", "completed"]


def test_one_bad_element_does_not_fail_the_others(desk: Desk) -> None:
    clerk = desk.clerk()
    bad, good, worse = clerk.start(), clerk.start(), clerk.start()
    for spoiled in (bad, worse):
        desk.do("DEL", desk.keys.job(spoiled.token.job_id))
        desk.do("SET", desk.keys.job(spoiled.token.job_id), "not a hash")
    desk.sound = False

    applied = clerk.commit(clerk.outcome(bad), clerk.outcome(good), clerk.outcome(worse, Retry(0)))

    assert applied == [Applied.GONE, Applied.APPLIED, Applied.GONE]
    assert desk.pending() == {}, "a record that is none counts as absent"
