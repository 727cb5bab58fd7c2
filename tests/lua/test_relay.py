"""Children: written with their parent's completion, and carried to other queues."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from tests.lua.desk import RETENTION_MS, TOMBSTONE_MS, Desk
from trio_tasks.broker import RELAY_TOO_LATE_MS, Applied, Debounce, NewJob
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die, Retry
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.calls import ChildRow, DamagedRow, DeadLetterRow


def rows_of(desk: Desk) -> list[ChildRow]:
    rows = desk.ask(calls.relay_read(desk.keys))
    assert all(isinstance(row, ChildRow) for row in rows)
    return [row for row in rows if isinstance(row, ChildRow)]


def deliver(other: Desk, *rows: ChildRow) -> None:
    other.ask(calls.relay_deliver(other.keys, rows, tombstone_ms=TOMBSTONE_MS))


def complete_with(desk: Desk, *children: NewJob) -> bool:
    """Complete a job that leaves these children; whether there are rows to relay."""
    clerk = desk.clerk()
    reply = clerk.step([clerk.outcome(clerk.start(), children=children)])
    assert reply.applied == [Applied.APPLIED]
    return reply.relay


def test_children_of_the_same_queue_appear_with_the_completion(desk: Desk) -> None:
    now, later = desk.job(priority=2), desk.job("chosen", delay_ms=60_000)

    assert not complete_with(desk, now, later)

    assert desk.state(now.id) is JobState.QUEUED
    assert desk.state("chosen") is JobState.DELAYED
    assert desk.read("chosen").numbers == [later.number]


def test_children_exist_only_if_their_parent_completed(desk: Desk) -> None:
    clerk = desk.clerk("w:1")
    delivery, child = clerk.start(), desk.job()
    clerk.end(delivery, Retry(delay_ms=0))
    second = clerk.take_one()

    stale = clerk.commit(clerk.outcome(delivery, children=[child]))
    assert desk.counts().emitted == 1
    done = clerk.commit(clerk.outcome(second, children=[child]))
    again = clerk.commit(clerk.outcome(second, children=[child]))

    assert (stale, done, again) == ([Applied.REPEATED], [Applied.APPLIED], [Applied.REPEATED])
    assert desk.counts().emitted == 2


def test_a_child_with_a_chosen_id_of_a_job_that_ended_begins_a_new_life(desk: Desk) -> None:
    """By id alone it was dropped as a duplicate."""
    clerk = desk.clerk("a:1")
    desk.emit("chosen")
    clerk.end(clerk.take_one())

    complete_with(desk, desk.job("chosen"))

    assert desk.state("chosen") is JobState.QUEUED


def test_a_child_for_another_queue_goes_through_the_outbox(desk: Desk, other: Desk) -> None:
    child = other.job("chosen", priority=3)

    assert complete_with(desk, child)

    assert desk.counts().outgoing == 1
    (row,) = rows_of(desk)
    assert (row.queue, row.job_id, row.late) == ("other", "chosen", False)
    deliver(other, row)
    assert other.state("chosen") is JobState.QUEUED
    assert other.read("chosen").numbers == [child.number]
    assert other.read("chosen").priority == 3
    assert other.read("chosen").record == child.record
    assert desk.ask(calls.relay_done(desk.keys, [row.row])) == 1
    assert desk.events()[-1] == "", "who waits until all is idle looks again"
    told = len(desk.events())
    assert desk.ask(calls.relay_done(desk.keys, [row.row])) == 0
    assert len(desk.events()) == told
    assert desk.counts().outgoing == 0


def test_a_plain_child_for_another_queue_is_plain_there(desk: Desk, other: Desk) -> None:
    child = other.job()
    complete_with(desk, child)

    deliver(other, *rows_of(desk))

    clerk = other.clerk("o:1")
    assert clerk.take_one().record == child.record


def test_delays_of_a_child_count_from_its_parents_completion(desk: Desk, other: Desk) -> None:
    complete_with(desk, other.job("chosen", delay_ms=60_000, deadline_ms=90_000))
    before_ms = desk.now_ms()

    (row,) = rows_of(desk)
    assert "+" not in row.options
    deliver(other, row)

    stored = other.read("chosen")
    assert 59_000 < (stored.due_at_ms or 0) - before_ms <= 60_000
    assert 89_000 < (stored.deadline_at_ms or 0) - before_ms <= 90_000


def test_a_row_that_is_delivered_again_finds_its_child(desk: Desk, other: Desk) -> None:
    complete_with(desk, other.job("chosen"), other.job())
    rows = rows_of(desk)
    deliver(other, *rows)
    clerk = other.clerk("o:1")
    for delivery in clerk.take(2):
        clerk.end(delivery, retention_ms=0)

    deliver(other, *rows)
    deliver(other, *(replace(row, late=True) for row in rows))

    counts = other.counts()
    assert (counts.emitted, counts.completed, counts.dead) == (2, 2, 0)


def test_the_record_of_a_relayed_child_waits_for_late_relays(desk: Desk, other: Desk) -> None:
    complete_with(desk, other.job())
    deliver(other, *rows_of(desk))
    clerk = other.clerk("o:1")
    relayed = clerk.take_one()
    own = clerk.start()

    clerk.commit(clerk.outcome(relayed), clerk.outcome(own))

    assert other.ttl_ms(other.keys.job(own.token.job_id)) <= RETENTION_MS + TOMBSTONE_MS
    left = other.ttl_ms(other.keys.job(relayed.token.job_id))
    assert 6 * TOMBSTONE_MS - 5_000 < left <= 6 * TOMBSTONE_MS


def test_a_relayed_child_is_kept_for_its_retention_where_that_is_longer(
    desk: Desk, other: Desk
) -> None:
    complete_with(desk, other.job())
    deliver(other, *rows_of(desk))
    clerk = other.clerk("o:1")
    relayed = clerk.take_one()

    clerk.end(relayed, retention_ms=60 * TOMBSTONE_MS)

    assert other.ttl_ms(other.keys.job(relayed.token.job_id)) > 60 * TOMBSTONE_MS


def test_more_rows_than_one_request_can_name_leave_the_outbox(desk: Desk) -> None:
    rows = [f"{number}-0" for number in range(1, 2501)]
    for row in rows:
        desk.do("XADD", desk.keys.out, row, "what", "ever")

    assert desk.ask(calls.relay_done(desk.keys, rows)) == len(rows)


def test_a_relayed_child_that_is_cancelled_or_requeued_waits_for_late_relays_too(
    desk: Desk, other: Desk
) -> None:
    complete_with(desk, other.job("cancelled"), other.job("requeued", priority=1))
    deliver(other, *rows_of(desk))
    clerk = other.clerk("o:1")
    clerk.end(clerk.take_one(), Die("x"))
    other.ask(calls.requeue(other.keys, "requeued", generation=0))

    clerk.end(clerk.take_one())
    other.cancel("cancelled")

    for job_id in ("cancelled", "requeued"):
        left = other.ttl_ms(other.keys.job(job_id))
        assert 6 * TOMBSTONE_MS - 5_000 < left <= 6 * TOMBSTONE_MS


def test_a_child_that_was_under_way_for_too_long_arrives_dead(desk: Desk, other: Desk) -> None:
    long_ago = desk.now_ms() - RELAY_TOO_LATE_MS - 1_000
    complete_with(desk, other.job("chosen"))
    (fresh,) = rows_of(desk)
    call = calls.relay_done(desk.keys, [fresh.row])
    desk.ask(call)
    row = ("q", fresh.queue, "i", fresh.job_id, "b", fresh.blob, "o", fresh.options)
    desk.do("DEL", desk.keys.out)
    desk.do("XADD", desk.keys.out, f"{long_ago}-0", *row)

    (late,) = rows_of(desk)
    assert late.late
    deliver(other, late)
    deliver(other, late)

    assert other.listed(JobState.DEAD) == ["chosen"]
    assert other.events() == ["chosen"]
    stored = other.read("chosen")
    assert (stored.why, stored.attempt) == ("relayed_late", 0)
    assert stored.finished_at_ms is not None
    assert other.ttl_ms(other.keys.job("chosen")) == -1
    answer = other.ask(calls.requeue(other.keys, "chosen", generation=0))
    assert answer is calls.RequeueAnswer.REQUEUED


def test_rows_that_nobody_can_read_are_set_aside_whole_and_hide_no_others(desk: Desk) -> None:
    spoilt = ("q", "no where", "what", b"\xff\x00")
    first = desk.word("XADD", desk.keys.out, "*", *spoilt) or ""
    second = desk.word("XADD", desk.keys.out, "*", *spoilt) or ""
    assert desk.ask(calls.relay_read(desk.keys)) == [DamagedRow(first), DamagedRow(second)]

    assert desk.ask(calls.set_aside(desk.keys, [first, second])) == 2
    told = desk.events()
    assert desk.ask(calls.set_aside(desk.keys, [first, second])) == 0

    assert told == desk.events() == [""], "who waits until all is idle looks again, once"
    assert desk.ask(calls.relay_read(desk.keys)) == []
    kept = cast("list[tuple[bytes, list[bytes]]]", desk.do("XRANGE", desk.keys.aside, "-", "+"))
    assert [fields for _, fields in kept] == [
        [b"row", row.encode(), b"q", b"no where", b"what", b"\xff\x00"] for row in (first, second)
    ]


def test_about_a_thousand_rows_that_nobody_can_read_are_kept(desk: Desk) -> None:
    for number in range(1, 1501):
        desk.do("XADD", desk.keys.out, f"{number}-0", "what", "ever")

    moved = desk.ask(calls.set_aside(desk.keys, [f"{number}-0" for number in range(1, 1501)]))

    assert moved == 1500
    assert desk.events() == [""]
    single = desk.word("XADD", desk.keys.out, "*", "what", "ever") or ""
    assert desk.ask(calls.set_aside(desk.keys, [single])) == 1
    assert desk.events() == ["", ""]
    assert desk.number("XLEN", desk.keys.out) == 0
    assert 1000 <= desk.number("XLEN", desk.keys.aside) < 1200


def test_a_late_child_replaces_no_job_of_its_debounce_key(desk: Desk, other: Desk) -> None:
    trailing = Debounce("trailing", 60_000, "key")
    waiting = other.emit(debounce=trailing)
    complete_with(desk, other.job("late", debounce=trailing))

    deliver(other, *(replace(row, late=True) for row in rows_of(desk)))

    assert (other.state(waiting), other.state("late")) == (JobState.DELAYED, JobState.DEAD)
    assert (other.word("GET", other.keys.debounce("key")) or "").startswith(waiting)


def test_a_late_child_never_begins_a_second_life(desk: Desk, other: Desk) -> None:
    clerk = other.clerk("o:1")
    other.emit("chosen")
    clerk.end(clerk.take_one())
    complete_with(desk, other.job("chosen"))

    deliver(other, *(replace(row, late=True) for row in rows_of(desk)))

    assert other.state("chosen") is JobState.COMPLETED


def test_a_dead_job_is_told_to_the_dead_letter_stream(desk: Desk, graveyard: str) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    reply = clerk.step(
        [
            clerk.outcome(
                delivery, Die("exhausted"), error=b'{"type":"E"}', dead_letter_stream=graveyard
            )
        ]
    )
    assert reply.relay

    (row,) = desk.ask(calls.relay_read(desk.keys))

    assert isinstance(row, DeadLetterRow)
    assert row.stream == graveyard
    desk.ask(calls.dead_letter(row))
    (fields,) = desk.rows(graveyard)
    at_ms = int(fields.pop("at_ms"))
    assert abs(at_ms - desk.now_ms()) < 60_000
    assert fields == {
        "id": delivery.token.job_id.encode(),
        "generation": b"0",
        "queue": b"q",
        "event": b"work",
        "reason": b"exhausted",
        "attempts": b"1",
        "error": b'{"type":"E"}',
        "data": b"{}",
    }


def test_a_dead_letter_stream_may_be_called_by_a_dash(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.commit(clerk.outcome(clerk.start(), Die("exhausted"), dead_letter_stream="-"))

    (row,) = desk.ask(calls.relay_read(desk.keys))

    assert isinstance(row, DeadLetterRow)
    assert row.stream == "-"


def test_an_undecodable_dead_job_is_told_with_its_raw_bytes(desk: Desk, graveyard: str) -> None:
    clerk, job_id = desk.clerk(), desk.emit()
    desk.do("HSET", desk.keys.job(job_id), "b", b"\xc1\xff")
    delivery = clerk.take_one()
    assert (delivery.record, delivery.raw) == (None, b"\xc1\xff")

    died = clerk.outcome(delivery, Die("undecodable"), dead_letter_stream=graveyard)
    assert clerk.commit(replace(died, event="")) == [Applied.APPLIED]

    (row,) = desk.ask(calls.relay_read(desk.keys))
    assert isinstance(row, DeadLetterRow)
    assert (row.fields["data"], row.fields["event"]) == (b"\xc1\xff", b"")
    assert desk.read(job_id).raw == b"\xc1\xff"


def test_a_job_that_does_not_die_tells_no_stream(desk: Desk, graveyard: str) -> None:
    clerk = desk.clerk()
    clerk.commit(clerk.outcome(clerk.start(), Retry(60_000), dead_letter_stream=graveyard))

    assert desk.ask(calls.relay_read(desk.keys)) == []
