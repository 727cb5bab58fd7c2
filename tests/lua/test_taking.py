"""Take: levels, take-over, promotion, defects; and what the group holds afterwards."""

from __future__ import annotations

from tests.lua.desk import LEASE_MS, Desk
from trio_tasks.broker import Applied, TakeStatus
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Die, Release, Retry
from trio_tasks.redis_streams import calls

UNBEGUN = Release(counted=False, began=False)


def test_every_hand_out_counts_even_if_the_worker_never_heard_of_it(desk: Desk) -> None:
    job_id = desk.emit()
    for attempt in (1, 2, 3):
        clerk = desk.clerk(f"w:{attempt}")
        assert clerk.take_one().attempt == attempt
        clerk.die()

    heir = desk.clerk("heir:1")
    delivery = heir.take_one()

    assert (delivery.token.job_id, delivery.attempt, delivery.token.deliveries) == (job_id, 4, 4)
    heir.end(delivery, Die("exhausted"))
    assert desk.read(job_id).attempt == 4


def test_a_taken_over_job_completes_with_its_attempts_used(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    job_id = dead.start().token.job_id
    dead.die()

    heir.end(heir.take_one())

    assert desk.read(job_id).attempt == 2


def test_levels_in_use_are_set_by_who_adds_and_cleared_by_who_finds_them_empty(
    desk: Desk,
) -> None:
    clerk = desk.clerk()
    for level in (3, 9, 0, 5, 3):
        desk.emit(priority=level)
    assert desk.meta("lv") == "9530"

    deliveries = clerk.take(5)
    clerk.take(1)
    assert [d.token.level for d in deliveries] == [9, 5, 3, 3, 0]
    assert desk.meta("lv") == "9530", "running jobs are in their streams"

    clerk.commit(*(clerk.outcome(delivery) for delivery in deliveries))
    clerk.take(1)
    assert desk.meta("lv") == ""


def test_a_level_that_was_cleared_is_served_again(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.end(clerk.start(priority=7))
    clerk.take(1)

    assert clerk.start(priority=7).token.level == 7


def test_in_a_level_old_entries_of_the_dead_and_released_come_first_the_oldest_first(
    desk: Desk,
) -> None:
    ids = [desk.emit() for _ in range(5)]
    a, b, heir = desk.clerk("a:1"), desk.clerk("b:1"), desk.clerk("heir:1")
    first, second = a.take(1)[0], b.take(1)[0]
    third = a.take(1)[0]
    fourth = b.take(1)[0]
    b.end(second, UNBEGUN)
    b.end(fourth, UNBEGUN)
    a.die()
    high = desk.emit(priority=1)
    assert [d.token.job_id for d in (first, second, third, fourth)] == ids[:4]

    assert heir.take_ids(2) == [high, ids[0]]
    assert heir.take_ids(4) == ids[1:]


def test_entries_are_as_old_as_their_ids_say(desk: Desk) -> None:
    ids = [desk.emit() for _ in range(6)]
    desk.do("DEL", desk.keys.stream(0))
    entries = ("9-10", "10-2", "10-3", "10-4", "10-10", "10-11")
    for entry, job_id in zip(entries, ids, strict=True):
        desk.do("XADD", desk.keys.stream(0), entry, "i", job_id)
        desk.do("HSET", desk.keys.job(job_id), "e", entry)
    dead = [desk.clerk(name) for name in ("c:1", "f:1", "a:1", "e:1", "b:1", "d:1")]
    for clerk in dead:
        clerk.take_one()
    for clerk in dead:
        clerk.die()

    assert desk.clerk("heir:1").take_ids(6) == ids


def test_dead_consumers_are_deleted_once_they_own_nothing(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    for _ in range(3):
        dead.start()
    dead.start(priority=2)
    dead.die()

    heir.take(2)
    assert desk.pending(0) == {heir.name: 1, dead.name: 2}
    assert desk.pending(2) == {heir.name: 1}
    assert dead.name not in desk.consumers(2)

    heir.take(2)
    assert desk.pending(0) == {heir.name: 3}
    assert dead.name not in desk.consumers(0)


def test_what_is_left_behind_is_looked_for_only_while_there_is_something(desk: Desk) -> None:
    """XINFO and XPENDING per level and take would cost idle workers and busy ones alike."""
    clerk = desk.clerk()
    clerk.end(clerk.start(), UNBEGUN)
    assert desk.meta("o") == "1"

    clerk.take(2)

    assert desk.meta("o") is None


def test_what_is_left_behind_is_not_forgotten_by_a_take_that_was_filled(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    ids = {dead.start(priority=level).token.job_id for level in (4, 4, 1)}
    dead.die()

    taken = {heir.take_one().token.job_id for _ in range(3)}

    assert taken == ids
    heir.take(1)
    assert desk.meta("o") is None


def test_what_is_left_in_a_higher_level_is_not_forgotten_for_a_lower_one(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    ids = {dead.start(priority=4).token.job_id for _ in range(2)}
    dead.die()
    desk.emit(priority=1)

    taken = {heir.take_one().token.job_id for _ in range(2)}

    assert taken == ids


def test_an_entry_without_a_job_is_dropped_and_counted(desk: Desk) -> None:
    clerk, ghost, job_id = desk.clerk(), desk.emit(), desk.emit()
    desk.do("DEL", desk.keys.job(ghost))
    desk.sound = False

    assert clerk.take_ids(5) == [job_id]

    assert (desk.length(), desk.pending(), desk.meta("df")) == (1, {clerk.name: 1}, "1")


def test_a_claimed_entry_that_its_job_does_not_name_is_dropped_and_counted(desk: Desk) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    job_id = dead.start().token.job_id
    desk.do("HSET", desk.keys.job(job_id), "e", "1-1")
    dead.die()
    desk.sound = False

    assert heir.take() == []

    assert (desk.length(), desk.pending(), desk.meta("df")) == (0, {}, "1")


def test_an_entry_of_an_ended_job_is_not_started_where_the_record_is_read(desk: Desk) -> None:
    clerk = desk.clerk()
    job_id = desk.emit(deadline_ms=60_000)
    desk.do("HSET", desk.keys.job(job_id), "s", "x")
    desk.sound = False

    assert clerk.take() == []

    assert (desk.length(), desk.pending(), desk.meta("df")) == (0, {}, "1")


def test_rare_fields_come_with_the_start(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start(deadline_ms=60_000)

    left_ms = (delivery.deadline_at_ms or 0) - desk.now_ms()
    assert 0 < left_ms <= 60_000
    clerk.end(delivery, Retry(0))
    assert clerk.take_one().deadline_at_ms == delivery.deadline_at_ms


def test_a_start_that_was_taken_over_and_has_nothing_rare_says_so(desk: Desk) -> None:
    dead, clerk = desk.clerk("dead:1"), desk.clerk()
    first = dead.start()
    dead.die()

    delivery = clerk.take_one()

    assert (delivery.record, delivery.attempt) == (first.record, 2)
    assert (delivery.deadline_at_ms, delivery.unknown_since_ms) == (None, None)
    assert (delivery.interruptions, delivery.generation, delivery.requeued) == (0, 0, False)


def test_a_due_job_moves_into_its_stream_and_out_of_the_delayed(desk: Desk) -> None:
    clerk, job_id = desk.clerk(), desk.emit(delay_ms=60_000, priority=6)
    assert clerk.take() == []
    desk.make_due(job_id)

    assert clerk.take_ids(1) == [job_id]

    assert desk.length(6) == 1
    assert desk.do("ZCARD", desk.keys.due) == 0
    stored = desk.read(job_id)
    assert (stored.due_at_ms, stored.why) == (None, None)


def test_many_due_jobs_are_promoted_in_portions(desk: Desk) -> None:
    clerk = desk.clerk()
    ids = [desk.emit(delay_ms=60_000) for _ in range(260)]
    for place, job_id in enumerate(ids):
        desk.make_due(job_id, ago_ms=1000 - place)

    taken = clerk.taken(2)
    assert [d.token.job_id for d in taken.deliveries] == ids[:2]
    assert taken.next_due_in_ms == 0
    assert desk.do("ZCARD", desk.keys.due) == 10
    assert clerk.take_ids(300) == ids[2:]


def test_an_instant_without_a_delayed_job_is_a_defect(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.do("ZADD", desk.keys.due, 1, "nobody")

    assert clerk.taken().next_due_in_ms is None

    assert desk.meta("df") == "1"


def test_a_paused_queue_hands_nothing_out_takes_nothing_over_and_promotes_nothing(
    desk: Desk,
) -> None:
    dead, heir = desk.clerk("dead:1"), desk.clerk("heir:1")
    running, due, ready = dead.start(), desk.emit(delay_ms=60_000), desk.emit()
    desk.make_due(due)
    dead.die()
    assert desk.ask(calls.pause(desk.keys, paused=True, number=1)).applied

    taken = heir.taken(5)

    assert (taken.status, taken.deliveries, taken.next_due_in_ms) == (TakeStatus.PAUSED, [], 0)
    assert desk.pending() == {dead.name: 1}
    assert desk.state(due) is JobState.DELAYED
    assert desk.ask(calls.pause(desk.keys, paused=False, number=2)).applied
    assert set(heir.take_ids(5)) == {running.token.job_id, due, ready}


def test_a_late_pause_does_not_undo_a_resume(desk: Desk) -> None:
    assert desk.ask(calls.pause(desk.keys, paused=True, number=1)).applied
    assert desk.ask(calls.pause(desk.keys, paused=False, number=2)).applied

    for number in (0, 1, 2):
        reply = desk.ask(calls.pause(desk.keys, paused=True, number=number))
        assert (reply.applied, reply.number) == (False, 2)

    assert not desk.counts().paused


def test_a_group_that_was_destroyed_is_told_and_register_makes_it_anew(desk: Desk) -> None:
    clerk, job_id = desk.clerk(), desk.emit()
    desk.do("XGROUP", "DESTROY", desk.keys.stream(0), "g")

    assert clerk.taken().status is TakeStatus.DEAD

    assert desk.clerk("w:2").take_ids(1) == [job_id]


def test_a_group_that_was_destroyed_is_told_though_something_was_left_behind(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, UNBEGUN)
    desk.do("XGROUP", "DESTROY", desk.keys.stream(0), "g")

    assert clerk.taken().status is TakeStatus.DEAD

    assert desk.clerk("w:2").take_ids(1) == [delivery.token.job_id]


def test_what_was_handed_out_already_is_told_before_a_missing_group_is(desk: Desk) -> None:
    clerk, high, _ = desk.clerk(), desk.emit(priority=1), desk.emit()
    desk.do("XGROUP", "DESTROY", desk.keys.stream(0), "g")

    assert clerk.take_ids(5) == [high]
    assert clerk.taken(5).status is TakeStatus.DEAD
    desk.clerk("w:2")


def test_a_step_takes_what_it_has_just_made_ready(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    reply = clerk.step([clerk.outcome(delivery, Retry(0))], want=1)

    assert reply.applied == [Applied.APPLIED]
    assert reply.taken is not None
    assert [d.attempt for d in reply.taken.deliveries] == [2]


def test_a_step_that_wants_nothing_needs_no_membership(desk: Desk) -> None:
    clerk, heir = desk.clerk("w:1"), desk.clerk("heir:1")
    delivery = clerk.start()
    clerk.die()
    heir.beat()

    reply = clerk.step([clerk.outcome(delivery)])

    assert (reply.applied, reply.taken) == ([Applied.APPLIED], None)
    assert heir.take() == []
    assert clerk.name not in desk.consumers(), "the next take has tidied up"


def test_a_namesake_is_told(desk: Desk) -> None:
    assert desk.clerk("mail:1").namesakes == 0
    assert desk.clerk("mail:2").namesakes == 1
    assert desk.clerk("other:1").namesakes == 0


def test_a_job_whose_event_lives_only_among_the_dead_is_not_served(desk: Desk) -> None:
    clerk = desk.clerk("w:1", events=["wor", "works"])
    knew = desk.clerk("knew:1", events=["work", "a"])
    knew.die()

    verdict = Die("no_handler", unless_served=True)

    assert clerk.end(clerk.start(), verdict) is Applied.APPLIED
    desk.clerk("knows:1", events=["b", "work"], lease_ms=LEASE_MS)
    delivery = clerk.start()
    assert clerk.end(delivery, verdict) is Applied.PARKED
    stored = desk.read(delivery.token.job_id)
    assert (stored.state, stored.why, stored.attempt) == (JobState.DELAYED, "parked", 0)
    assert stored.unknown_since_ms is not None
    assert abs(stored.unknown_since_ms - desk.now_ms()) < 60_000


def test_a_lease_ends_at_its_instant_for_all_who_ask(desk: Desk) -> None:
    """Whom a take would declare dead now serves no event now."""
    clerk = desk.clerk("w:1", events=[])
    desk.clerk("knew:1", events=["work"])

    for _ in range(20):  # the outcome mostly comes in the millisecond in which the lease ends
        delivery = clerk.start()
        desk.do("ZADD", desk.keys.leases, "XX", desk.now_ms(), "knew:1")
        assert clerk.end(delivery, Die("x", unless_served=True)) is Applied.APPLIED
        desk.do("ZADD", desk.keys.leases, desk.now_ms() + LEASE_MS, "knew:1")


def test_a_consumers_name_or_host_is_no_event(desk: Desk) -> None:
    clerk = desk.clerk("work:1", events=["other"])

    assert clerk.end(clerk.start(), Die("x", unless_served=True)) is Applied.APPLIED
