"""What lies in Redis at each stage of a job's life: keys, fields, TTLs."""

from __future__ import annotations

import pytest

from tests.lua.desk import RETENTION_MS, TOMBSTONE_MS, Desk
from trio_tasks.broker import Applied
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

UNBEGUN = Release(counted=False, began=False)
BEGUN = Release(counted=False, began=True)
COUNTED = Release(counted=True, began=True)


def test_a_waiting_job_is_a_blob_and_three_fields(desk: Desk) -> None:
    job_id = desk.emit()

    record = desk.record(job_id)

    assert {**record, "e": ""} == {"s": "q", "p": "0", "e": ""}
    assert desk.do("HEXISTS", desk.keys.job(job_id), "b") == 1
    assert desk.length() == 1


def test_nothing_is_written_to_the_record_when_a_job_starts(desk: Desk) -> None:
    job_id = desk.emit()
    before = desk.record(job_id)

    clerk = desk.clerk()
    clerk.take_one()

    assert desk.record(job_id) == before
    assert desk.pending() == {clerk.name: 1}


def test_a_plain_completion_writes_one_field_and_one_ttl(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    before = desk.record(delivery.token.job_id)

    assert clerk.commit(clerk.outcome(delivery, attempts=4, result=b"null")) == [Applied.APPLIED]

    after = desk.record(delivery.token.job_id)
    finished, ran, retention, attempts, null, *token = after.pop("f").split()
    assert after == {**before, "s": "c"}
    assert 0 <= desk.now_ms() - int(finished) < 60_000
    assert 0 <= int(ran) < 60_000
    assert int(retention) == RETENTION_MS
    assert (attempts, null, token) == ("4", "n", ["1", clerk.name])
    stored = desk.read(delivery.token.job_id)
    assert (stored.result, stored.attempts, stored.attempt) == (b"null", 4, 1)


def test_a_small_record_stays_in_its_compact_form_when_its_job_completes(desk: Desk) -> None:
    clerk = desk.clerk(name="host-0123456789:abcdefghijkl")
    delivery = clerk.start()

    clerk.commit(clerk.outcome(delivery, attempts=26, result=b"null"))

    encoding = desk.word("OBJECT", "ENCODING", desk.keys.job(delivery.token.job_id))
    assert encoding == "listpack"


def test_a_result_is_kept_as_it_is(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.commit(clerk.outcome(delivery, result=b'{"n":12345678901234567890}'))

    assert desk.read(delivery.token.job_id).result == b'{"n":12345678901234567890}'


def test_a_result_may_look_like_the_words_of_an_outcome(desk: Desk) -> None:
    clerk, result = desk.clerk(), b'"c 1 0 ~ 0 ~ ~ ~ 0 0 ~ 0 7 1"'
    deliveries = [clerk.start() for _ in range(3)]

    applied = clerk.commit(*(clerk.outcome(delivery, result=result) for delivery in deliveries))

    assert applied == [Applied.APPLIED] * 3
    assert [desk.read(d.token.job_id).result for d in deliveries] == [result] * 3


def test_without_a_result_none_is_kept(desk: Desk) -> None:
    clerk = desk.clerk()
    first, other = clerk.start(), clerk.start()
    clerk.end(first)
    clerk.end(other, Retry(0))
    clerk.end(clerk.take_one())

    for delivery in (first, other):
        assert desk.read(delivery.token.job_id).result is None
        assert "r" not in desk.record(delivery.token.job_id)


@pytest.mark.parametrize("verdict", [Complete(), Skip("x"), Cancel("x")])
@pytest.mark.parametrize("again", [False, True])
def test_an_ended_job_has_one_ttl_of_retention_and_tombstone(
    desk: Desk, verdict: Complete | Skip | Cancel, again: bool
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    if again:
        clerk.end(delivery, Retry(delay_ms=0))
        delivery = clerk.take_one()

    clerk.end(delivery, verdict)

    left = desk.ttl_ms(desk.keys.job(delivery.token.job_id))
    assert TOMBSTONE_MS < left <= RETENTION_MS + TOMBSTONE_MS
    assert desk.length() == 0


def test_a_later_attempts_result_is_kept_like_a_firsts(desk: Desk) -> None:
    clerk = desk.clerk()
    for result, retention_ms, kept in ((b'"x"', 9, True), (b"null", 9, False), (b'"x"', 0, False)):
        first = clerk.start()
        retry = clerk.outcome(first, Retry(0), attempts=7, error=b'"no"')
        clerk.commit(retry)
        assert desk.read(first.token.job_id).attempts == 7
        second = clerk.take_one()
        clerk.commit(clerk.outcome(second, result=result, retention_ms=retention_ms))

        key = desk.keys.job(first.token.job_id)
        assert desk.number("HEXISTS", key, "r") == kept
        assert desk.word("HGET", key, "er") == ('"no"' if retention_ms else None)


def test_a_null_result_of_a_later_attempt_is_null(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.end(clerk.start(), Retry(0))
    delivery = clerk.take_one()
    clerk.commit(clerk.outcome(delivery, result=b"null"))

    stored = desk.read(delivery.token.job_id)
    assert (stored.result, stored.error, stored.attempt) == (b"null", None, 2)


def test_a_skipped_job_names_who_stood_in(desk: Desk) -> None:
    clerk = desk.clerk()
    first, second = clerk.start(), clerk.start()
    clerk.commit(
        clerk.outcome(first, Skip("debounced", by="other")), clerk.outcome(second, Skip("x"))
    )

    assert desk.read(first.token.job_id).by == "other"
    assert desk.read(second.token.job_id).by is None


def test_a_retry_without_an_error_stores_none(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, Retry(60_000))

    assert "er" not in desk.record(delivery.token.job_id)


def test_a_job_without_retention_leaves_only_its_tombstone(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    clerk.commit(clerk.outcome(delivery, result=b'"big"', retention_ms=0))

    assert desk.is_gone(delivery.token.job_id)
    assert set(desk.record(delivery.token.job_id)) == {"s", "e", "p", "f"}
    assert desk.do("HEXISTS", desk.keys.job(delivery.token.job_id), "b") == 0
    assert 0 < desk.ttl_ms(desk.keys.job(delivery.token.job_id)) <= TOMBSTONE_MS
    assert clerk.end(delivery) is Applied.REPEATED


def test_a_tombstone_is_no_job_for_readers_but_answers_emits_and_outcomes(desk: Desk) -> None:
    clerk = desk.clerk()
    job = desk.job()
    desk.send(job)
    delivery = clerk.take_one()

    clerk.end(delivery, retention_ms=1)
    finished = desk.record(job.id)["f"].split()
    finished[2] = "0"
    desk.do("HSET", desk.keys.job(job.id), "f", " ".join(finished))

    assert desk.is_gone(job.id)
    assert desk.cancel(job.id).value == "missing"
    desk.send(job)
    assert desk.is_gone(job.id)
    assert clerk.end(delivery) is Applied.REPEATED


def test_a_dead_job_has_no_ttl_and_is_in_the_dlq(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    clerk.end(delivery, Die("exhausted"), error=b'{"type":"E"}', logged=True)

    job_id = delivery.token.job_id
    assert desk.ttl_ms(desk.keys.job(job_id)) == -1
    assert desk.listed(JobState.DEAD) == [job_id]
    stored = desk.read(job_id)
    assert (stored.why, stored.error, stored.attempt) == ("exhausted", b'{"type":"E"}', 1)
    assert desk.length() == 0


def test_a_retry_says_when_and_why_and_how_many_attempts_are_used(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    clerk.end(delivery, Retry(delay_ms=9_000), error=b'"no"')

    record = desk.record(delivery.token.job_id)
    assert (record["s"], record["a"], record["why"], record["er"]) == ("d", "1", "retry", '"no"')
    assert float(desk.word("ZSCORE", desk.keys.due, delivery.token.job_id) or 0) == int(
        record["due"]
    )
    assert 0 < int(record["due"]) - desk.now_ms() <= 9_000
    assert desk.length() == 0
    assert desk.pending() == {}


def test_instants_are_written_as_whole_milliseconds(desk: Desk) -> None:
    """A plain `tostring` in Lua makes 1.79e+12 of them."""
    clerk = desk.clerk()
    desk.emit("later", delay_ms=10_000, deadline_ms=20_000)
    delivery = clerk.start()
    clerk.end(delivery)

    assert int(desk.record("later")["due"]) > 1_600_000_000_000
    assert int(desk.record("later")["dl"]) > 1_600_000_000_000
    assert desk.record(delivery.token.job_id)["f"].split()[0].isdecimal()


def test_a_parked_job_has_used_no_attempt_and_knows_since_when(desk: Desk) -> None:
    clerk = desk.clerk()
    clerk.end(clerk.start(), Park(delay_ms=10, since_ms=111))
    (job_id,) = desk.listed(JobState.DELAYED)
    desk.make_due(job_id)

    again = clerk.take_one()
    clerk.end(again, Park(delay_ms=10, since_ms=222))

    assert (again.attempt, again.unknown_since_ms) == (1, 111)
    record = desk.record(job_id)
    assert record["us"] == "111"
    assert "a" not in record
    assert record["why"] == "parked"


def test_a_release_keeps_the_entry_and_its_count_of_deliveries(desk: Desk) -> None:
    clerk = desk.clerk()
    first = clerk.start()

    clerk.end(first, UNBEGUN)

    assert desk.pending() == {"~released": 1}
    assert desk.state(first.token.job_id) is JobState.QUEUED
    second = clerk.take_one()
    assert second.token.entry == first.token.entry
    assert (first.token.deliveries, second.token.deliveries) == (1, 2)
    assert (first.attempt, second.attempt) == (1, 1)
    assert clerk.end(first, UNBEGUN) is Applied.REPEATED
    assert desk.pending() == {clerk.name: 1}


def test_attempts_are_used_plus_deliveries_less_those_that_do_not_count(desk: Desk) -> None:
    clerk, job_id = desk.clerk(), desk.emit()
    seen: list[tuple[int, int]] = []
    for verdict in (UNBEGUN, BEGUN, COUNTED, UNBEGUN, Retry(0), BEGUN, Retry(0)):
        delivery = clerk.take_one()
        seen.append((delivery.attempt, delivery.interruptions))
        clerk.end(delivery, verdict)
        used = delivery.attempt - (verdict in (UNBEGUN, BEGUN))
        assert desk.read(job_id).attempt == used

    assert seen == [(1, 0), (1, 0), (1, 1), (2, 1), (2, 1), (3, 1), (3, 2)]
    delivery = clerk.take_one()
    assert delivery.attempt == 4
    clerk.end(delivery)
    assert desk.read(job_id).attempt == 4


def test_the_first_attempt_that_was_given_back_before_completes_as_attempt_one(
    desk: Desk,
) -> None:
    clerk = desk.clerk()
    clerk.end(clerk.start(), BEGUN)

    delivery = clerk.take_one()
    clerk.end(delivery)

    record = desk.record(delivery.token.job_id)
    assert record["a"] == "1"
    assert "gb" not in record


def test_a_log_lives_as_long_as_its_record(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    assert clerk.log(delivery, b'"one"', b'{"two":2}')
    key = desk.keys.log(delivery.token.job_id)
    assert desk.ttl_ms(key) == -1

    clerk.end(delivery, logged=True)

    assert TOMBSTONE_MS < desk.ttl_ms(key) <= RETENTION_MS + TOMBSTONE_MS
    lines = desk.read(delivery.token.job_id, logs=True).logs
    assert [line for _, line in lines] == [b'"one"', b'{"two":2}']
    assert all(0 <= desk.now_ms() - at_ms < 60_000 for at_ms, _ in lines)


@pytest.mark.parametrize("end", [BEGUN, Retry(0)])
def test_a_log_of_a_former_attempt_gets_its_ttl_from_the_last_outcome(
    desk: Desk, end: Verdict
) -> None:
    clerk = desk.clerk()
    first = clerk.start()
    clerk.log(first, b"1")
    clerk.end(first, end)

    clerk.end(clerk.take_one())

    assert desk.ttl_ms(desk.keys.log(first.token.job_id)) > 0


def test_a_log_of_a_former_generation_gets_its_ttl_from_the_last_outcome(desk: Desk) -> None:
    clerk = desk.clerk()
    first = clerk.start()
    clerk.log(first, b"1")
    clerk.end(first, Die("x"), logged=True)
    requeue(desk, first.token.job_id)

    clerk.end(clerk.take_one())

    assert desk.ttl_ms(desk.keys.log(first.token.job_id)) > 0


def test_more_lines_than_one_request_can_carry_are_logged_in_order(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()

    clerk.log(delivery, *(b"%d" % number for number in range(2500)), max_lines=5000)

    logs = desk.read(delivery.token.job_id, logs=True).logs
    assert [line for _, line in logs] == [b"%d" % number for number in range(2500)]


def test_the_oldest_lines_of_a_log_are_dropped(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.log(delivery, b"1", b"2", max_lines=3)
    clerk.log(delivery, b"3", b"4", max_lines=3)

    lines = desk.read(delivery.token.job_id, logs=True).logs
    assert [line for _, line in lines] == [b"2", b"3", b"4"]


def test_a_superseded_start_writes_no_log(desk: Desk) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    clerk.end(delivery, UNBEGUN)

    assert not clerk.log(delivery, b"ghost")

    assert desk.do("EXISTS", desk.keys.log(delivery.token.job_id)) == 0


def test_outcomes_of_many_jobs_are_one_event(desk: Desk) -> None:
    clerk = desk.clerk()
    ids = [desk.emit() for _ in range(3)]
    verdicts = [Complete(), Retry(60_000), Die("x")]
    deliveries = clerk.take(3)
    clerk.commit(
        *(
            clerk.outcome(delivery, verdict)
            for delivery, verdict in zip(deliveries, verdicts, strict=True)
        )
    )

    assert [set(batch.split()) for batch in desk.events()] == [set(ids)]


def requeue(desk: Desk, job_id: str) -> None:
    from trio_tasks.redis_streams import calls

    call = calls.requeue(desk.keys, job_id, generation=desk.read(job_id).generation)
    assert desk.ask(call) is calls.RequeueAnswer.REQUEUED
