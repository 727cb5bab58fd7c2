"""Cancel: a job that has not started never starts; one that runs is asked to stop."""

from __future__ import annotations

import pytest

from tests.lua.desk import RETENTION_MS, TOMBSTONE_MS, Desk
from trio_tasks.broker import Applied, CancelAnswer
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


@pytest.mark.parametrize("stage", ["queued", "delayed", "released"])
def test_a_job_that_does_not_run_is_cancelled_with_all_that_belongs_to_it(
    desk: Desk, stage: str
) -> None:
    clerk = desk.clerk()
    if stage == "released":
        delivery = clerk.start()
        clerk.log(delivery, b"1")
        clerk.end(delivery, Release(counted=False, began=True))
        job_id = delivery.token.job_id
    else:
        job_id = desk.emit(delay_ms=60_000 if stage == "delayed" else None)

    assert desk.cancel(job_id) is CancelAnswer.CANCELLED

    stored = desk.read(job_id)
    assert (stored.state, stored.why) == (JobState.CANCELLED, "no more")
    assert (stored.started_at_ms, stored.finished_at_ms is None) == (None, False)
    assert (desk.length(), desk.pending(), desk.do("ZCARD", desk.keys.due)) == (0, {}, 0)
    for key in (desk.keys.job(job_id), desk.keys.log(job_id)):
        if key == desk.keys.job(job_id) or stage == "released":
            assert TOMBSTONE_MS < desk.ttl_ms(key) <= TOMBSTONE_MS + RETENTION_MS
    assert desk.events()[-1] == job_id
    assert desk.cancel(job_id) is CancelAnswer.FINAL
    assert clerk.take() == []
    assert desk.counts().cancelled == 1


def test_the_retention_of_a_cancelled_job_is_the_callers(desk: Desk) -> None:
    job_id = desk.emit()

    desk.cancel(job_id, retention_ms=0)

    assert desk.is_gone(job_id)
    assert 0 < desk.ttl_ms(desk.keys.job(job_id)) <= TOMBSTONE_MS


@pytest.mark.parametrize(
    "verdict",
    [
        Retry(delay_ms=10),
        Park(delay_ms=10, since_ms=1),
        Release(counted=False, began=False),
        Die("x"),
        Skip("x"),
    ],
)
def test_a_request_turns_every_outcome_but_a_completion_into_a_cancel(
    desk: Desk, verdict: Verdict
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    assert desk.cancel(delivery.token.job_id) is CancelAnswer.NOTED

    assert clerk.end(delivery, verdict) is Applied.CANCELLED

    stored = desk.read(delivery.token.job_id)
    assert (stored.state, stored.why) == (JobState.CANCELLED, "no more")
    assert (desk.length(), desk.pending()) == (0, {})
    assert desk.do("EXISTS", desk.keys.cancels) == 0
    assert desk.ttl_ms(desk.keys.job(delivery.token.job_id)) > 0
    assert clerk.end(delivery, verdict) is Applied.REPEATED


@pytest.mark.parametrize("verdict", [Complete(), Cancel("seen")])
def test_what_was_asked_for_or_is_done_is_applied_as_it_is(desk: Desk, verdict: Verdict) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.cancel(delivery.token.job_id)

    assert clerk.end(delivery, verdict) is Applied.APPLIED

    assert desk.do("EXISTS", desk.keys.cancels) == 0


def test_a_request_concerns_its_own_job_only(desk: Desk) -> None:
    clerk = desk.clerk()
    one, two = clerk.start(), clerk.start()
    desk.cancel(one.token.job_id)

    assert clerk.end(two, Retry(delay_ms=60_000)) is Applied.APPLIED
    assert clerk.end(one, Retry(delay_ms=60_000)) is Applied.CANCELLED


def test_who_takes_a_job_over_learns_of_the_request(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    job_id = dead.start().token.job_id
    desk.cancel(job_id)
    dead.die()

    delivery = heir.take_one()

    assert delivery.cancel_reason == "no more"
    heir.end(delivery, Cancel("no more"))


def test_a_reason_may_be_any_text(desk: Desk) -> None:
    from trio_tasks.redis_streams import calls

    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    job_id, reason = dead.start().token.job_id, " two  words, ümlaut\n| 'quote' "
    call = calls.cancel(desk.keys, job_id, number=None, reason=reason, retention_ms=1)
    desk.ask(call)
    assert dead.beat().cancels == [(job_id, reason)]
    dead.die()

    delivery = heir.take_one()
    assert delivery.cancel_reason == reason
    heir.end(delivery, Die("x"))
    assert desk.read(job_id).why == reason


def test_a_reason_that_utf8_cannot_say_is_kept_as_far_as_it_can(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    assert clerk.end(delivery, Die("half a \ud83d")) is Applied.APPLIED

    assert desk.read(delivery.token.job_id).why == "half a ?"


def test_a_running_job_that_was_given_back_is_cancelled_and_its_request_with_it(
    desk: Desk,
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.cancel(delivery.token.job_id)
    clerk.own([])  # the worker never heard of it
    assert desk.pending() == {"~released": 1}

    assert desk.cancel(delivery.token.job_id) is CancelAnswer.CANCELLED

    assert desk.do("EXISTS", desk.keys.cancels) == 0


def test_a_job_that_nobody_knows_is_missing(desk: Desk) -> None:
    assert desk.cancel("nobody") is CancelAnswer.MISSING


def test_a_dead_job_is_final(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, Die("x"))

    assert desk.cancel(delivery.token.job_id) is CancelAnswer.FINAL
