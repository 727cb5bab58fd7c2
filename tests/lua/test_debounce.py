"""Debounce keys: who holds one, for how long, and what a new emit replaces."""

from __future__ import annotations

import pytest

from tests.lua.desk import RETENTION_MS, TOMBSTONE_MS, Desk
from trio_tasks.broker import Applied, Debounce
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Cancel, Complete, Die, Release, Retry, Skip, Verdict
from trio_tasks.redis_streams import calls

KEY = "key"
TRAILING = Debounce("trailing", 60_000, KEY)
AT_ONCE = Debounce("trailing", 0, KEY)


def holder(desk: Desk) -> list[str]:
    """Job, emit number and instant that the key names."""
    return (desk.word("GET", desk.keys.debounce(KEY)) or "").split()


def test_a_leading_key_lasts_for_its_window_from_the_first_start(desk: Desk) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()

    assert clerk.debounce(first, window_ms=10_000) == first.token.job_id
    assert 0 < desk.ttl_ms(desk.keys.debounce(KEY)) <= 10_000
    assert clerk.debounce(second, window_ms=90_000) == first.token.job_id
    assert clerk.debounce(first, window_ms=90_000) == first.token.job_id
    assert desk.ttl_ms(desk.keys.debounce(KEY)) <= 10_000


def test_a_leading_key_names_one_life_of_its_job(desk: Desk) -> None:
    clerk = desk.clerk()
    first = desk.job("nightly")
    desk.send(first)
    delivery = clerk.take_one()
    clerk.debounce(delivery)
    clerk.end(delivery)
    desk.emit("nightly")

    again = clerk.take_one()

    assert clerk.debounce(again) == f"nightly@{first.number}", "an earlier life is another job"
    clerk.end(again, Die("x"))
    assert holder(desk)[:2] == ["nightly", first.number]


def test_a_later_attached_emit_does_not_change_the_life(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit("nightly")
    delivery = clerk.take_one()
    clerk.debounce(delivery)
    desk.send(desk.job("nightly"))

    assert clerk.debounce(delivery) == "nightly"


@pytest.mark.parametrize(
    ("verdict", "reopened"),
    [
        (Die("x"), True),
        (Cancel("x"), True),
        (Complete(), False),
        (Skip("x"), False),
        (Retry(delay_ms=60_000), False),
        (Release(counted=False, began=True), False),
    ],
)
def test_the_window_reopens_when_its_holder_ends_dead_or_cancelled(
    desk: Desk, verdict: Verdict, reopened: bool
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.debounce(delivery)

    clerk.end(delivery, verdict)

    assert (holder(desk) == []) is reopened


def test_only_the_record_of_a_holder_names_its_key(desk: Desk) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()

    clerk.debounce(first)
    clerk.debounce(second)

    assert desk.record(first.token.job_id)["dg"] == KEY
    assert "dg" not in desk.record(second.token.job_id)


@pytest.mark.parametrize("begins_anew", ["requeue", "a new life"])
def test_a_record_that_begins_anew_names_no_key(desk: Desk, begins_anew: str) -> None:
    clerk = desk.clerk()
    desk.emit("nightly")
    delivery = clerk.take_one()
    clerk.debounce(delivery)
    clerk.end(delivery, Die("x"))

    if begins_anew == "requeue":
        desk.ask(calls.requeue(desk.keys, "nightly", generation=0))
    else:
        desk.emit("nightly")

    record = desk.record("nightly")
    assert (record["s"], record["gen"]) == ("q", "1")
    assert "dg" not in record


def test_a_start_whose_record_is_gone_gets_no_key_and_leaves_no_ghost(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.do("DEL", desk.keys.job(delivery.token.job_id))
    desk.sound = False

    assert clerk.debounce(delivery) is None

    assert holder(desk) == []
    assert desk.is_gone(delivery.token.job_id)


def test_only_the_holder_reopens_a_window(desk: Desk) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()
    clerk.debounce(first)

    clerk.end(second, Die("x"))

    assert holder(desk)[0] == first.token.job_id


@pytest.mark.parametrize("end", ["outcome", "cancel"])
def test_a_former_holder_whose_window_is_over_leaves_the_present_one_alone(
    desk: Desk, end: str
) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()
    clerk.debounce(first)
    desk.do("DEL", desk.keys.debounce(KEY))  # as when its time is over
    clerk.debounce(second)

    if end == "cancel":
        clerk.end(first, Retry(delay_ms=60_000))
        desk.cancel(first.token.job_id)
    else:
        clerk.end(first, Die("x"))

    assert desk.record(first.token.job_id)["dg"] == KEY
    assert holder(desk)[0] == second.token.job_id


def test_a_former_holder_may_die_when_nobody_holds_the_key(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.debounce(delivery)
    desk.do("DEL", desk.keys.debounce(KEY))  # as when its time is over

    assert clerk.end(delivery, Die("x")) is Applied.APPLIED


@pytest.mark.parametrize("verdict", [Retry(delay_ms=60_000), Release(counted=False, began=True)])
def test_the_window_reopens_when_a_holder_that_waits_is_cancelled(
    desk: Desk, verdict: Verdict
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.debounce(delivery)
    clerk.end(delivery, verdict)

    assert desk.cancel(delivery.token.job_id).value == "cancelled"

    assert holder(desk) == []


@pytest.mark.parametrize("edge", ["leading", "trailing"])
def test_a_superseded_start_gets_no_key(desk: Desk, edge: str) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, Release(counted=False, began=True))

    assert clerk.debounce(delivery, edge="trailing" if edge == "trailing" else "leading") is None

    assert holder(desk) == []


def test_a_trailing_job_is_due_after_its_window_whatever_delay_it_asked_for(desk: Desk) -> None:
    job_id = desk.emit(debounce=TRAILING, delay_ms=5)

    stored = desk.read(job_id)
    assert stored.due_at_ms is not None
    assert 55_000 < stored.due_at_ms - desk.now_ms() <= 60_000
    assert stored.why == "debounce"


def test_a_later_trailing_emit_replaces_the_job_that_waits(desk: Desk) -> None:
    first, second = desk.job(debounce=TRAILING), desk.job(debounce=TRAILING, retention_ms=700)
    desk.send(first)
    desk.do("SET", desk.keys.debounce(KEY), f"{first.id} - 1000", "KEEPTTL")
    desk.send(second)

    record = desk.record(first.id)
    assert (record["s"], record["why"], record["by"]) == ("s", "debounced", second.id)
    assert desk.words("ZRANGE", desk.keys.due, 0, -1) == [second.id]
    assert desk.ttl_ms(desk.keys.job(first.id)) <= 700 + TOMBSTONE_MS
    assert holder(desk) == [second.id, "-", "1000"], "the burst began with the first"
    assert desk.events() == [first.id]
    assert desk.counts().skipped == 1


def test_a_burst_begins_anew_when_none_waits(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit(debounce=AT_ONCE)
    clerk.end(clerk.take_one())
    desk.do("SET", desk.keys.debounce(KEY), f"{holder(desk)[0]} - 1000", "KEEPTTL")

    desk.emit(debounce=TRAILING)

    assert int(holder(desk)[2]) > 1_000


def test_a_trailing_retry_is_replaced_by_newer_data(desk: Desk) -> None:
    clerk = desk.clerk()
    first = desk.emit(debounce=AT_ONCE)
    clerk.end(clerk.take_one(), Retry(delay_ms=60_000))

    second = desk.emit(debounce=TRAILING)

    assert desk.read(first).by == second


@pytest.mark.parametrize("stage", ["queued", "running", "ended"])
def test_a_trailing_emit_leaves_a_job_that_does_not_wait_alone(desk: Desk, stage: str) -> None:
    clerk = desk.clerk()
    first = desk.emit(debounce=AT_ONCE)
    if stage != "queued":
        delivery = clerk.take_one()
        if stage == "ended":
            clerk.end(delivery)
    before = desk.state(first)

    desk.emit(debounce=TRAILING)

    assert desk.state(first) is before


def test_a_trailing_job_learns_at_its_start_that_it_is_not_the_last(desk: Desk) -> None:
    clerk = desk.clerk()
    first = desk.emit(debounce=AT_ONCE)
    delivery = clerk.take_one()
    assert clerk.debounce(delivery, edge="trailing") == first

    second = desk.emit(debounce=TRAILING)

    assert clerk.debounce(delivery, edge="trailing") == second


def test_a_trailing_key_outlives_promote_finish_and_cancel(desk: Desk) -> None:
    clerk = desk.clerk()
    first = desk.emit(debounce=TRAILING)
    desk.make_due(first)
    clerk.end(clerk.take_one(), Cancel("x"))
    assert holder(desk)[0] == first

    second = desk.emit(debounce=TRAILING)
    desk.cancel(second)
    assert holder(desk)[0] == second


def test_a_trailing_keys_ttl_is_renewed_at_emit_and_start(desk: Desk) -> None:
    clerk, key = desk.clerk(), desk.keys.debounce(KEY)
    desk.emit(debounce=AT_ONCE)
    assert 0 < desk.ttl_ms(key) <= TOMBSTONE_MS
    delivery = clerk.take_one()
    desk.do("PEXPIRE", key, 500)

    clerk.debounce(delivery, edge="trailing", window_ms=1_000)

    assert TOMBSTONE_MS < desk.ttl_ms(key) <= TOMBSTONE_MS + 1_000


def test_a_trailing_key_that_nobody_knows_holds_nobody_back(desk: Desk) -> None:
    clerk = desk.clerk()

    delivery = clerk.start()

    assert clerk.debounce(delivery, edge="trailing") == delivery.token.job_id

    assert holder(desk) == []


def test_a_repeated_trailing_emit_replaces_nothing(desk: Desk) -> None:
    first, second = desk.job(debounce=TRAILING), desk.job("named", debounce=TRAILING)
    desk.send(first, second)

    assert desk.send(first, second) == [True, True]

    assert desk.state(second.id) is JobState.DELAYED
    assert holder(desk)[:2] == ["named", second.number]


def test_a_new_life_under_a_trailing_key_does_not_replace_itself(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit("nightly", debounce=AT_ONCE)
    clerk.end(clerk.take_one())

    desk.emit("nightly", debounce=TRAILING)

    assert desk.state("nightly") is JobState.DELAYED
    assert desk.counts().skipped == 0


def test_a_waiting_job_of_another_life_is_not_replaced(desk: Desk) -> None:
    """The key names a life that has ended; the present one came without this debounce."""
    clerk = desk.clerk()
    desk.emit("nightly", debounce=AT_ONCE)
    clerk.end(clerk.take_one(), retention_ms=RETENTION_MS)
    desk.emit("nightly", delay_ms=60_000)

    desk.emit(debounce=TRAILING)

    assert desk.state("nightly") is JobState.DELAYED
