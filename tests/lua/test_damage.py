"""What somebody has spoilt under a queue's keys counts as absent, and hinders nobody else.

`tests/faults/test_garbage.py` does worse, to workers that run; here it is said field by field.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from redis.exceptions import ResponseError

from tests.lua.desk import Desk
from trio_tasks.broker import (
    RECORD_VERSION,
    Applied,
    Debounce,
    Record,
    ScheduleRecord,
    StartToken,
)
from trio_tasks.job import JobState
from trio_tasks.options import Edge
from trio_tasks.processor.decisions import Die, Release
from trio_tasks.redis_streams import calls

KEY = "key"


@pytest.fixture(autouse=True)
def _unsound(desk: Desk) -> None:
    """Nothing adds up here."""
    desk.sound = False


# --- Records and entries ------------------------------------------------------------------------


@pytest.mark.parametrize("given_back", [False, True])
def test_an_entry_of_a_record_that_is_none_is_dropped(desk: Desk, given_back: bool) -> None:
    clerk, spoilt = desk.clerk(), desk.emit()
    if given_back:
        clerk.end(clerk.take_one(), Release(counted=False, began=False))
    desk.do("SET", desk.keys.job(spoilt), "text")
    good = desk.emit()

    assert clerk.take_ids(5) == [good]

    assert desk.meta("df") == "1"
    assert desk.length() == 1


@pytest.mark.parametrize("level", [None, "", "x", "10", "-1"])
def test_a_delayed_job_without_a_level_is_not_promoted(desk: Desk, level: str | None) -> None:
    clerk, spoilt, good = desk.clerk(), desk.emit(delay_ms=60_000), desk.emit(delay_ms=60_000)
    if level is None:
        desk.do("HDEL", desk.keys.job(spoilt), "p")
    else:
        desk.do("HSET", desk.keys.job(spoilt), "p", level)
    desk.make_due(spoilt)
    desk.make_due(good)

    assert clerk.take_ids(5) == [good]

    assert desk.meta("df") == "1"
    assert desk.do("ZCARD", desk.keys.due) == 0


def test_a_job_that_is_not_delayed_is_not_promoted(desk: Desk) -> None:
    clerk, queued = desk.clerk(), desk.emit()
    desk.do("ZADD", desk.keys.due, 1, queued)

    assert clerk.take_ids(5) == [queued]

    assert desk.length() == 1
    assert desk.meta("df") == "1"


@pytest.mark.parametrize("field", ["a", "gb", "dl", "us", "gi", "gen", "rq"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "1" * 16, "9" * 30])
def test_a_start_takes_a_spoilt_number_for_none(desk: Desk, field: str, value: str) -> None:
    dead, clerk, job_id = desk.clerk("dead:1"), desk.clerk(), desk.emit()
    dead.take_one()
    dead.die()
    desk.do("HSET", desk.keys.job(job_id), field, value)

    delivery = clerk.take_one()

    assert (delivery.attempt, delivery.token.deliveries) == (2, 2)
    assert (delivery.deadline_at_ms, delivery.unknown_since_ms) == (None, None)
    assert (delivery.interruptions, delivery.generation, delivery.requeued) == (0, 0, False)
    assert delivery.record is not None


@pytest.mark.parametrize("have", [False, True])
def test_a_start_whose_entry_is_gone_is_not_given_back(desk: Desk, have: bool) -> None:
    clerk = desk.clerk()
    lost, kept = clerk.start(), clerk.start()
    desk.do("XDEL", desk.keys.stream(0), lost.token.entry)

    reply = clerk.own([kept.token, *([lost.token] if have else [])])

    assert reply.status == "owned"
    assert desk.pending() == {clerk.name: 1 + have}


def test_a_dead_job_that_has_lost_its_record_is_told_without_data(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    desk.do("HDEL", desk.keys.job(delivery.token.job_id), "b")

    applied = clerk.commit(clerk.outcome(delivery, Die("x"), dead_letter_stream="dead"))

    assert applied == [Applied.APPLIED]
    (row,) = desk.ask(calls.relay_read(desk.keys))
    assert isinstance(row, calls.DeadLetterRow)
    assert row.fields["data"] == b""


def test_a_list_shows_only_jobs_in_its_state(desk: Desk) -> None:
    queued, delayed = desk.emit(), desk.emit(delay_ms=60_000)
    for key in (desk.keys.due, desk.keys.dlq):
        desk.do("ZADD", key, 1, queued, 1, "nobody@0")

    assert desk.listed(JobState.DELAYED) == [delayed]
    assert desk.listed(JobState.DEAD) == []


def test_a_list_leaves_out_starts_whose_entry_is_gone(desk: Desk) -> None:
    clerk = desk.clerk()
    gone, there = clerk.start(), clerk.start()
    desk.do("XDEL", desk.keys.stream(0), gone.token.entry)

    assert desk.listed(JobState.RUNNING) == [there.token.job_id]


# --- Members ------------------------------------------------------------------------------------


def test_a_last_beat_that_is_no_instant_proves_nothing(desk: Desk) -> None:
    clerk, dead = desk.clerk(), desk.clerk("dead:1")
    dead.die()
    desk.do("HSET", desk.keys.meta, "bt", "yesterday")

    assert clerk.beat().alive

    assert desk.words("ZRANGE", desk.keys.leases, 0, -1) == [clerk.name]


def test_a_member_of_whom_nothing_is_known_serves_no_event_and_is_no_namesake(desk: Desk) -> None:
    ghost, clerk = desk.clerk("ghost:1"), desk.clerk()
    desk.do("HDEL", desk.keys.incarnations, ghost.name)
    desk.do("HDEL", desk.keys.incarnations, clerk.name)
    delivery = clerk.start()

    assert clerk.end(delivery, Die("no_handler", unless_served=True)) is Applied.APPLIED
    assert desk.clerk("ghost:2").namesakes == 0


def test_a_job_of_no_event_is_served_by_nobody(desk: Desk) -> None:
    clerk = desk.clerk()
    outcome = clerk.outcome(clerk.start(), Die("no_handler", unless_served=True))

    assert clerk.commit(replace(outcome, event="")) == [Applied.APPLIED]


@pytest.mark.parametrize("spoilt", ["no job", "no entry", "no start"])
def test_a_cancel_request_for_nothing_is_told_to_nobody(desk: Desk, spoilt: str) -> None:
    clerk = desk.clerk()
    lost, kept = clerk.start().token, clerk.start().token
    for token in (lost, kept):
        assert desk.cancel(token.job_id).value == "noted"
    match spoilt:
        case "no job":
            desk.do("DEL", desk.keys.job(lost.job_id))
        case "no entry":
            desk.do("HDEL", desk.keys.job(lost.job_id), "e")
        case _:
            forget_start(desk, lost)

    assert [job_id for job_id, _ in clerk.beat().cancels] == [kept.job_id]


def forget_start(desk: Desk, token: StartToken) -> None:
    assert desk.do("XACK", desk.keys.stream(token.level), "g", token.entry) == 1


# --- Schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, None) for field in ("d", "b", "p", "dl", "ttl")),
        *((field, "x") for field in ("p", "dl", "ttl", "last")),
        *((field, "1.5") for field in ("p", "dl", "ttl", "last")),
    ],
)
def test_a_schedule_that_nobody_can_read_is_not_listed_and_forgotten_when_it_is_due(
    desk: Desk, field: str, value: str | None
) -> None:
    declare(desk, "spoilt")
    good = declare(desk, "good")
    key = desk.keys.schedule("spoilt")
    if value is None:
        desk.do("HDEL", key, field)
    else:
        desk.do("HSET", key, field, value)
    desk.do("ZADD", desk.keys.cron, 1, "spoilt")

    assert desk.ask(calls.schedules(desk.keys)) == [good]
    assert desk.ask(calls.due_schedules(desk.keys)).due == []
    assert desk.words("ZRANGE", desk.keys.cron, 0, -1) == ["good"]


def test_a_schedule_whose_name_is_none_is_not_listed(desk: Desk) -> None:
    good, key = declare(desk, "good"), desk.keys.schedule("spoilt")
    declare(desk, "spoilt")
    desk.do("RENAME", key, f"{key} {{no name}}")
    desk.do("ZADD", desk.keys.cron, 1, "spoilt {no name}")

    assert desk.ask(calls.schedules(desk.keys)) == [good]


@pytest.mark.parametrize("instant", ["1.5", "inf", "-inf"])
def test_a_schedule_whose_occurrence_is_no_instant_is_not_listed(desk: Desk, instant: str) -> None:
    declare(desk, "spoilt")
    desk.do("ZADD", desk.keys.cron, instant, "spoilt")

    assert desk.ask(calls.schedules(desk.keys)) == []


def declare(desk: Desk, name: str) -> ScheduleRecord:
    schedule = ScheduleRecord(
        queue=desk.keys.queue,
        name=name,
        definition=b"{}",
        template=Record(RECORD_VERSION, "work", b"null"),
        next_at_ms=desk.now_ms() + 60_000,
    )
    return desk.ask(calls.declare(desk.keys, schedule, replace=False))


# --- Keys of another type -----------------------------------------------------------------------


@pytest.mark.parametrize("spoilt", ["text", "a b", ""])
@pytest.mark.parametrize("edge", ["leading", "trailing"])
def test_a_debounce_key_that_is_none_of_ours_counts_as_absent(
    desk: Desk, spoilt: str, edge: Edge
) -> None:
    clerk = desk.clerk()
    if edge == "trailing":
        spoil(desk, desk.keys.debounce(KEY), spoilt)
        desk.make_due(desk.emit(debounce=Debounce("trailing", 60_000, KEY)))
    else:
        desk.emit()
    delivery = clerk.take_one()
    if edge == "leading":
        spoil(desk, desk.keys.debounce(KEY), spoilt)

    assert clerk.debounce(delivery, edge=edge) == delivery.token.job_id

    holder = desk.word("GET", desk.keys.debounce(KEY)) or ""
    assert holder.startswith(delivery.token.job_id)


def test_a_job_dies_though_its_debounce_key_is_something_else(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.debounce(delivery)
    spoil(desk, desk.keys.debounce(KEY), "")

    assert clerk.commit(clerk.outcome(delivery, Die("x"))) == [Applied.APPLIED]

    assert desk.do("TYPE", desk.keys.debounce(KEY)) == b"list", "it was not ours to delete"
    assert desk.pending() == {}


def test_an_emit_of_an_id_whose_record_is_something_else_is_told_the_key(desk: Desk) -> None:
    desk.do("SET", desk.keys.job("chosen"), "text")

    with pytest.raises(ResponseError, match=f"MISPLACED key {desk.keys.job('chosen')} is not"):
        desk.emit("chosen")

    assert desk.word("GET", desk.keys.job("chosen")) == "text"
    desk.do("DEL", desk.keys.job("chosen"))
    desk.emit("chosen")
    assert desk.clerk().take_ids(5) == ["chosen"]


def test_a_list_leaves_out_records_that_are_none_and_shows_jobs_whose_log_is_none(
    desk: Desk,
) -> None:
    spoilt, good = desk.emit(delay_ms=60_000), desk.emit(delay_ms=60_000)
    desk.do("SET", desk.keys.job(spoilt), "text")
    desk.do("SET", desk.keys.log(good), "text")

    assert desk.listed(JobState.DELAYED) == [good]
    first, second = desk.ask(calls.read(desk.keys, [spoilt, good], logs=True))
    assert first is None
    assert second is not None
    assert list(second.logs) == []


def spoil(desk: Desk, key: str, text: str) -> None:
    """Put a text there, or, for none, a list."""
    desk.do("DEL", key)
    if text:
        desk.do("SET", key, text)
    else:
        desk.do("RPUSH", key, "an element")
