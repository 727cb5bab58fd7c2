"""Schedules: compare-and-set of the next occurrence, by server time."""

from __future__ import annotations

from msgspec.structs import replace

from tests.lua.desk import Desk
from trio_tasks.broker import RECORD_VERSION, NewJob, Record, ScheduleRecord, TickAnswer
from trio_tasks.job import JobState
from trio_tasks.redis_streams import calls


def schedule(desk: Desk, name: str = "nightly", **fields: int | None) -> ScheduleRecord:
    fields.setdefault("next_at_ms", desk.now_ms() + 60_000)
    return ScheduleRecord(
        queue=desk.keys.queue,
        name=name,
        definition=b'{"every_ms":1}',
        template=Record(RECORD_VERSION, "work", b"null"),
        priority=fields.get("priority") or 0,
        deadline_ms=fields.get("deadline_ms"),
        expires_after_ms=fields.get("expires_after_ms"),
        next_at_ms=fields["next_at_ms"] or 0,
    )


def declare(desk: Desk, record: ScheduleRecord, *, again: bool = False) -> ScheduleRecord:
    return desk.ask(calls.declare(desk.keys, record, replace=again))


def overdue(desk: Desk, record: ScheduleRecord, ago_ms: int = 5) -> ScheduleRecord:
    """A declared schedule whose occurrence has come in the meantime."""
    declare(desk, record)
    at_ms = desk.now_ms() - ago_ms
    desk.do("ZADD", desk.keys.cron, at_ms, record.name)
    return replace(record, next_at_ms=at_ms)


def tick(
    desk: Desk, record: ScheduleRecord, next_at_ms: int | None, *, passed: bool = False
) -> TickAnswer:
    job = NewJob(
        id=f"{record.name}:{record.next_at_ms}", queue=record.queue, record=record.template
    )
    call = calls.tick(desk.keys, record, next_at_ms=next_at_ms, job=None if passed else job)
    return desk.ask(call)


def stored(desk: Desk, name: str = "nightly") -> ScheduleRecord:
    return next(s for s in desk.ask(calls.schedules(desk.keys)) if s.name == name)


def test_a_declared_schedule_is_kept_as_it_is(desk: Desk) -> None:
    record = schedule(desk, priority=3, deadline_ms=5_000)

    assert declare(desk, record) == record

    assert desk.ask(calls.schedules(desk.keys)) == [record]
    assert desk.ttl_ms(desk.keys.schedule("nightly")) == -1
    assert desk.pop_token(), "somebody may have to tick sooner"


def test_an_unchanged_definition_keeps_its_instants_even_if_overdue(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))

    assert declare(desk, schedule(desk)) == late
    assert declare(desk, schedule(desk, next_at_ms=1)) == late

    assert stored(desk) == late


def test_an_unchanged_definition_keeps_its_template_unless_told_otherwise(desk: Desk) -> None:
    record = schedule(desk)
    declare(desk, record)
    changed = replace(record, template=Record(RECORD_VERSION, "other", b"1"), priority=5)

    assert declare(desk, changed) == record
    assert declare(desk, changed, again=True) == changed
    assert stored(desk) == changed


def test_an_unchanged_definition_keeps_its_lifetime_unless_told_otherwise(desk: Desk) -> None:
    record, key = schedule(desk, expires_after_ms=50_000), desk.keys.schedule("nightly")
    declare(desk, record)

    declare(desk, replace(record, expires_after_ms=None))
    assert 40_000 < desk.ttl_ms(key) <= 50_000

    declare(desk, replace(record, expires_after_ms=None), again=True)
    assert desk.ttl_ms(key) == -1


def test_a_changed_definition_begins_later_than_now(desk: Desk) -> None:
    record = schedule(desk)
    declare(desk, record)
    past = replace(record, definition=b"other", next_at_ms=desk.now_ms() - 1)

    refused = declare(desk, past)

    assert (refused.next_at_ms, refused.last_at_ms) == (0, None)
    assert stored(desk) == record
    future = replace(record, definition=b"other", next_at_ms=desk.now_ms() + 90_000)
    assert declare(desk, future) == future


def test_a_changed_definition_begins_later_than_the_last_occurrence(desk: Desk) -> None:
    late = overdue(desk, schedule(desk), ago_ms=0)
    tick(desk, late, desk.now_ms() + 60_000)
    last = desk.now_ms() + 1_000_000  # the server's clock was turned back
    desk.do("HSET", desk.keys.schedule("nightly"), "last", last)

    refused = declare(desk, replace(late, definition=b"other", next_at_ms=last))

    assert (refused.next_at_ms, refused.last_at_ms) == (0, last)
    accepted = declare(desk, replace(late, definition=b"other", next_at_ms=last + 1))
    assert (accepted.next_at_ms, accepted.last_at_ms) == (last + 1, last)


def test_an_occurrence_becomes_one_job(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))
    following = desk.now_ms() + 60_000

    assert tick(desk, late, following) is TickAnswer.CREATED
    assert tick(desk, late, following) is TickAnswer.TAKEN

    assert desk.listed(JobState.QUEUED) == [f"nightly:{late.next_at_ms}"]
    now = stored(desk)
    assert (now.next_at_ms, now.last_at_ms) == (following, late.next_at_ms)
    assert desk.counts().emitted == 1


def test_an_occurrence_that_is_not_due_by_the_servers_clock_is_refused(desk: Desk) -> None:
    record = schedule(desk)
    declare(desk, record)

    assert tick(desk, record, record.next_at_ms + 1) is TickAnswer.EARLY

    assert stored(desk) == record
    assert desk.counts().emitted == 0


def test_an_occurrence_not_later_than_the_last_is_refused(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))
    desk.do("HSET", desk.keys.schedule("nightly"), "last", late.next_at_ms)

    assert tick(desk, late, desk.now_ms() + 1) is TickAnswer.TAKEN

    assert desk.counts().emitted == 0


def test_an_occurrence_that_is_not_the_next_one_is_refused(desk: Desk) -> None:
    late = overdue(desk, schedule(desk), ago_ms=500)

    assert tick(desk, replace(late, next_at_ms=late.next_at_ms + 100), 1) is TickAnswer.TAKEN

    assert stored(desk).next_at_ms == late.next_at_ms


def test_a_schedule_that_was_changed_or_removed_does_not_tick(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))

    assert tick(desk, replace(late, definition=b"other"), 1) is TickAnswer.TAKEN
    assert desk.ask(calls.remove_schedule(desk.keys, "nightly"))
    assert tick(desk, late, 1) is TickAnswer.TAKEN
    assert not desk.ask(calls.remove_schedule(desk.keys, "nightly"))

    assert desk.counts().emitted == 0
    assert desk.words("ZRANGE", desk.keys.cron, 0, -1) == []


def test_a_missed_occurrence_is_passed_over(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))

    assert tick(desk, late, desk.now_ms() + 5_000, passed=True) is TickAnswer.PASSED

    assert desk.counts().emitted == 0
    assert stored(desk).last_at_ms == late.next_at_ms


def test_the_last_occurrence_removes_its_schedule(desk: Desk) -> None:
    late = overdue(desk, schedule(desk))

    assert tick(desk, late, None) is TickAnswer.CREATED

    assert desk.ask(calls.schedules(desk.keys)) == []
    assert desk.do("EXISTS", desk.keys.schedule("nightly"), desk.keys.cron) == 0


def test_declare_and_tick_renew_a_schedules_lifetime(desk: Desk) -> None:
    record, key = schedule(desk, expires_after_ms=50_000), desk.keys.schedule("nightly")
    declare(desk, record)
    late = overdue(desk, record)
    for renew in (
        lambda: declare(desk, record),
        lambda: tick(desk, late, desk.now_ms() + 60_000),
    ):
        desk.do("PEXPIRE", key, 10_000)
        renew()
        assert 40_000 < desk.ttl_ms(key) <= 50_000


def test_a_schedule_whose_lifetime_is_over_is_forgotten(desk: Desk) -> None:
    clerk, record = desk.clerk(), schedule(desk)
    for forget in (clerk.taken, lambda: desk.ask(calls.due_schedules(desk.keys))):
        overdue(desk, record)
        desk.do("DEL", desk.keys.schedule("nightly"))  # as its TTL would
        assert desk.ask(calls.schedules(desk.keys)) == []

        forget()

        assert desk.do("EXISTS", desk.keys.cron) == 0
    assert clerk.taken().next_tick_in_ms is None


def test_due_schedules_tells_what_is_due_and_what_comes_next(desk: Desk) -> None:
    due = overdue(desk, schedule(desk, "b"))
    declare(desk, schedule(desk, "a", next_at_ms=desk.now_ms() + 90_000))

    answer = desk.ask(calls.due_schedules(desk.keys))

    assert answer.due == [due]
    assert 85_000 < (answer.next_in_ms or 0) <= 90_000


def test_a_take_tells_when_the_next_occurrence_comes(desk: Desk) -> None:
    clerk = desk.clerk()
    declare(desk, schedule(desk))

    assert 55_000 < (clerk.taken().next_tick_in_ms or 0) <= 60_000
    overdue(desk, schedule(desk))
    assert clerk.taken().next_tick_in_ms == 0
