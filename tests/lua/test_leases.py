"""Leases and connections: who is alive, what an outage proves, which connection may take."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from tests.lua.desk import LEASE_MS, Clerk, Desk
from trio_tasks.broker import Applied, TakeStatus
from trio_tasks.processor.decisions import Release, Retry
from trio_tasks.redis_streams.calls import OwnStatus


def lease_of(desk: Desk, clerk: Clerk) -> int | None:
    """How long a member's lease has left, in milliseconds."""
    score = desk.word("ZSCORE", desk.keys.leases, clerk.name)
    return None if score is None else int(float(score)) - desk.now_ms()


def test_only_a_member_may_take(desk: Desk) -> None:
    desk.emit()
    stranger = Clerk(desk, "stranger:1", LEASE_MS)

    taken = stranger.taken()

    assert (taken.status, taken.deliveries) == (TakeStatus.DEAD, [])
    assert desk.length() == 1


def test_a_beat_makes_nobody_a_member(desk: Desk) -> None:
    stranger = Clerk(desk, "stranger:1", LEASE_MS)

    assert not stranger.beat().alive

    assert desk.words("ZRANGE", desk.keys.leases, 0, -1) == []
    assert desk.meta("bt") is None, "nor does it count as a beat"


def test_who_joins_is_heard(desk: Desk) -> None:
    desk.clerk()
    first = desk.meta("bt")
    assert first is not None
    assert abs(int(first) - desk.now_ms()) < 10_000

    desk.last_beat(ago_ms=LEASE_MS // 3)
    desk.clerk("w:2")

    assert abs(int(desk.meta("bt") or 0) - desk.now_ms()) < 10_000


def test_a_beat_renews_the_lease_and_is_remembered(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.do("ZADD", desk.keys.leases, desk.now_ms() + 50, clerk.name)

    beat = clerk.beat()

    assert beat.alive
    assert LEASE_MS - 5_000 < (lease_of(desk, clerk) or 0) <= LEASE_MS
    assert desk.meta("bt") == str(beat.now_ms)


@pytest.mark.parametrize("by", ["beat", "take"])
def test_the_dead_are_declared_by_any_beat_or_take(desk: Desk, by: str) -> None:
    dead, other = desk.clerk("dead:1"), desk.clerk("other:1")
    dead.start()
    dead.die()
    desk.pop_token()

    if by == "beat":
        other.beat()
        assert desk.pop_token(), "there is something to be taken over"
    else:
        assert len(other.take(1)) == 1

    assert lease_of(desk, dead) is None
    assert desk.do("HEXISTS", desk.keys.incarnations, dead.name) == 0
    assert dead.taken().status is TakeStatus.DEAD
    assert not dead.beat().alive


def test_a_dead_consumer_without_entries_is_deleted_at_once(desk: Desk) -> None:
    dead, other = desk.clerk("dead:1"), desk.clerk("other:1")
    dead.end(dead.start())
    assert dead.name in desk.consumers()
    dead.die()

    other.beat()

    assert dead.name not in desk.consumers()


@pytest.mark.parametrize("by", ["beat", "take", "joining"])
def test_after_an_outage_everyone_gets_another_lease(desk: Desk, by: str) -> None:
    silent, other = desk.clerk("silent:1"), desk.clerk("other:1")
    silent.start()
    silent.die()
    desk.last_beat(ago_ms=LEASE_MS // 2 + 50)
    before = desk.meta("bt")

    if by == "beat":
        other.beat()
    elif by == "joining":
        desk.clerk("fresh:1")
    else:
        assert other.take() == []
        assert desk.meta("bt") == before, "a take stores nothing else"

    assert LEASE_MS - 5_000 < (lease_of(desk, silent) or 0) <= LEASE_MS
    assert desk.pending() == {silent.name: 1}


def test_half_a_lease_without_a_beat_is_no_outage(desk: Desk) -> None:
    silent, other = desk.clerk("silent:1"), desk.clerk("other:1")
    silent.start()
    silent.die()
    desk.last_beat(ago_ms=LEASE_MS // 2 - 1_000)

    assert len(other.take()) == 1


def test_a_clock_jump_on_the_server_backwards_renews_all_leases(desk: Desk) -> None:
    clerk, other = desk.clerk("w:1"), desk.clerk("other:1")
    desk.last_beat(ago_ms=-3_600_000)
    desk.do("ZADD", desk.keys.leases, desk.now_ms() + 3_600_000, other.name)

    clerk.take()

    assert (lease_of(desk, other) or 0) <= LEASE_MS


def test_an_outage_gives_each_member_a_lease_of_its_own_length(desk: Desk) -> None:
    short, long = desk.clerk("short:1", lease_ms=1_000), desk.clerk("long:1", lease_ms=90_000)
    desk.last_beat(ago_ms=600)

    short.take()

    assert 80_000 < (lease_of(desk, long) or 0) <= 90_000


@pytest.mark.parametrize("spoilt", ["no such line", None])
def test_an_outage_gives_who_has_no_lease_of_its_own_length_that_of_the_asker(
    desk: Desk, spoilt: str | None
) -> None:
    clerk, other = desk.clerk("w:1"), desk.clerk("other:1")
    if spoilt is None:
        desk.do("HDEL", desk.keys.incarnations, other.name)
    else:
        desk.do("HSET", desk.keys.incarnations, other.name, spoilt)
    other.die()
    desk.last_beat(ago_ms=LEASE_MS)

    assert clerk.beat().alive

    assert LEASE_MS - 5_000 < (lease_of(desk, other) or 0) <= LEASE_MS


def test_a_request_of_an_old_connection_executed_late_starts_nothing(desk: Desk) -> None:
    clerk = desk.clerk()
    assert clerk.own([], ordinal=3).status is OwnStatus.OWNED
    desk.emit()

    clerk.ordinal = 2

    assert clerk.own([], ordinal=2).status is OwnStatus.OLD
    taken = clerk.taken()
    assert (taken.status, taken.deliveries) == (TakeStatus.OLD, [])
    assert desk.pending() == {}
    clerk.ordinal = 3
    assert len(clerk.take()) == 1


def test_who_is_dead_owns_nothing(desk: Desk) -> None:
    assert Clerk(desk, "stranger:1", LEASE_MS).own([]).status is OwnStatus.DEAD


def test_starts_that_nobody_has_in_memory_are_given_back_uncounted(desk: Desk) -> None:
    clerk, ids = desk.clerk(), [desk.emit(priority=level) for level in (2, 0, 0)]
    kept = clerk.take(3)[1]
    desk.pop_token()

    reply = clerk.own([kept.token])

    assert (reply.status, reply.lost) == (OwnStatus.OWNED, [])
    assert desk.pending(0) == {clerk.name: 1, "~released": 1}
    assert desk.pending(2) == {"~released": 1}
    assert desk.pop_token()
    again = desk.clerk("other:1").take(5)
    assert [d.token.job_id for d in again] == [ids[0], ids[2]]
    assert [(d.attempt, d.token.deliveries, d.interruptions) for d in again] == [(1, 2, 0)] * 2
    assert clerk.end(kept) is Applied.APPLIED


def test_a_start_that_counted_before_still_counts_after_a_give_back(desk: Desk) -> None:
    dead, clerk = desk.clerk("dead:1"), desk.clerk("w:1")
    job_id = dead.start().token.job_id
    dead.die()
    assert clerk.take_one().attempt == 2

    clerk.own([])

    assert desk.read(job_id).attempt == 1
    assert clerk.take_one().attempt == 2


def test_give_backs_never_count_however_many(desk: Desk) -> None:
    clerk, job_id = desk.clerk(), desk.emit()
    for deliveries in range(1, 5):
        delivery = clerk.take_one()
        assert (delivery.attempt, delivery.token.deliveries) == (1, deliveries)
        clerk.own([])
        assert desk.read(job_id).attempt == 0


def test_who_registers_again_is_not_his_own_namesake(desk: Desk) -> None:
    desk.clerk("w:1")

    assert desk.clerk("w:1").namesakes == 0


def test_attempts_of_former_entries_count_after_a_give_back_too(desk: Desk) -> None:
    dead, clerk = desk.clerk("dead:1"), desk.clerk("w:1")
    first = dead.start()
    dead.end(first, Retry(0))
    assert dead.take_one().attempt == 2
    dead.die()
    assert clerk.take_one().attempt == 3

    clerk.own([])

    assert desk.read(first.token.job_id).attempt == 2
    assert clerk.take_one().attempt == 3


def test_a_first_start_that_is_given_back_leaves_no_attempt_in_the_record(desk: Desk) -> None:
    clerk = desk.clerk()
    job_id = clerk.start().token.job_id

    clerk.own([])

    assert set(desk.record(job_id)) == {"s", "e", "p", "gb"}


def test_own_drops_entries_without_a_job(desk: Desk) -> None:
    clerk = desk.clerk()
    ghost, stranger = clerk.start(), clerk.start()
    desk.do("DEL", desk.keys.job(ghost.token.job_id))
    desk.do("HSET", desk.keys.job(stranger.token.job_id), "e", "1-1")
    desk.sound = False

    assert clerk.own([]).status is OwnStatus.OWNED

    assert (desk.length(), desk.pending(), desk.meta("df")) == (0, {}, "2")
    assert desk.do("EXISTS", desk.keys.job(ghost.token.job_id)) == 0


def test_own_answers_where_a_group_is_gone(desk: Desk) -> None:
    clerk = desk.clerk()
    high, low = clerk.start(priority=1), clerk.start()
    desk.do("XGROUP", "DESTROY", desk.keys.stream(1), "g")

    reply = clerk.own([high.token, low.token])

    assert (reply.status, reply.lost) == (OwnStatus.FORGOTTEN, [high.token])
    desk.clerk("w:2")


def test_own_looks_through_any_number_of_starts(desk: Desk) -> None:
    clerk = desk.clerk()
    for _ in range(5):
        desk.send(*(desk.job() for _ in range(250)))
    tokens = [delivery.token for delivery in clerk.take(1250)]

    assert clerk.own(tokens[:1240]).lost == []

    assert desk.pending() == {clerk.name: 1240, "~released": 10}


def test_who_leaves_a_queue_without_streams_leaves(desk: Desk) -> None:
    clerk = desk.clerk()
    for level in range(10):
        desk.do("DEL", desk.keys.stream(level))

    assert clerk.leave()


def test_a_member_knows_the_version_of_the_queue(desk: Desk) -> None:
    desk.clerk()

    assert desk.meta("v") == "1"


def test_a_queue_whose_keys_are_of_another_kind_cannot_be_joined(desk: Desk) -> None:
    desk.do("SET", desk.keys.stream(4), "not a stream")
    desk.sound = False

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        desk.clerk()


def test_own_tells_which_tokens_are_lost(desk: Desk) -> None:
    clerk = desk.clerk()
    mine, released, ended = clerk.start(), clerk.start(), clerk.start()
    clerk.end(released, Release(counted=False, began=True))
    clerk.end(ended)

    reply = clerk.own([released.token, mine.token, ended.token])

    assert (reply.status, reply.lost) == (OwnStatus.OWNED, [released.token, ended.token])


def test_own_tells_if_a_token_may_come_again_that_the_server_has_forgotten(desk: Desk) -> None:
    clerk = desk.clerk()
    kept, delivery = clerk.start(), clerk.start()
    desk.forget(delivery.token)

    reply = clerk.own([kept.token, delivery.token])

    assert (reply.status, reply.lost) == (OwnStatus.FORGOTTEN, [delivery.token])
    assert clerk.take_one().token == delivery.token, "that is why"


def test_own_tells_if_the_token_of_a_later_start_may_come_again(desk: Desk) -> None:
    dead, clerk = desk.clerk("dead:1"), desk.clerk()
    dead.start()
    dead.die()
    delivery = clerk.take_one()
    entry, stream = delivery.token.entry, desk.keys.stream(0)
    desk.do("XCLAIM", stream, "g", dead.name, 0, entry, "RETRYCOUNT", 1, "JUSTID")

    reply = clerk.own([delivery.token])

    assert (reply.status, reply.lost) == (OwnStatus.FORGOTTEN, [delivery.token])


def test_a_token_does_not_come_again_if_somebody_else_has_the_job_meanwhile(desk: Desk) -> None:
    clerk, heir = desk.clerk("w:1"), desk.clerk("heir:1")
    delivery = clerk.start()
    desk.forget(delivery.token)
    heir.take_one()

    reply = clerk.own([delivery.token])

    assert (reply.status, reply.lost) == (OwnStatus.OWNED, [delivery.token])


def test_own_is_not_deceived_by_a_later_start_of_the_same_entry(desk: Desk) -> None:
    """The answer of the take that brought the later start was lost."""
    clerk = desk.clerk()
    first = clerk.start()
    clerk.end(first, Release(counted=False, began=True))
    clerk.take_one()

    reply = clerk.own([first.token])

    assert reply.lost == [first.token]
    assert desk.pending() == {"~released": 1}


def test_tokens_of_a_former_incarnation_are_lost(desk: Desk) -> None:
    former, clerk = desk.clerk("w:1"), desk.clerk("w:2")
    delivery = former.start()

    assert clerk.own([delivery.token]).lost == [delivery.token]
    assert desk.pending() == {former.name: 1}


def test_own_twice_answers_the_same(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    assert clerk.own([delivery.token], ordinal=5) == clerk.own([delivery.token], ordinal=5)

    assert desk.pending() == {clerk.name: 1}


def test_who_leaves_is_forgotten(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.end(clerk.start(priority=3))

    assert clerk.leave()

    assert desk.words("HKEYS", desk.keys.incarnations) == []
    assert desk.words("ZRANGE", desk.keys.leases, 0, -1) == []
    assert all(desk.consumers(level) == set() for level in range(10))
    assert clerk.leave(), "again is harmless"


def test_who_leaves_owning_jobs_is_left_to_its_lease(desk: Desk) -> None:
    leaver, heir = desk.clerk("leaver:1"), desk.clerk("heir:1")
    delivery = leaver.start()

    assert not leaver.leave()

    assert desk.pending() == {leaver.name: 1}
    assert lease_of(desk, leaver) is not None
    assert heir.take() == []
    assert leaver.end(delivery) is Applied.APPLIED
    assert leaver.leave()
    assert leaver.name not in desk.consumers()


def test_a_cancel_request_is_told_to_the_one_who_runs_the_job_until_it_ends(desk: Desk) -> None:
    one, two = desk.clerk("one:1"), desk.clerk("two:1")
    delivery, other = one.start(), two.start()
    for running in (delivery, other):
        assert desk.cancel(running.token.job_id).value == "noted"

    for _ in range(2):
        assert one.beat().cancels == [(delivery.token.job_id, "no more")]
    assert one.end(delivery, Release(counted=False, began=True)) is Applied.CANCELLED
    assert one.beat().cancels == []
    assert two.beat().cancels == [(other.token.job_id, "no more")]
    assert two.end(other) is Applied.APPLIED
    assert desk.do("EXISTS", desk.keys.cancels) == 0
