"""Redis refuses a move that is not in the table of the lifecycle, whoever asks for it."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import pytest
from msgspec.structs import replace

from tests.lua.desk import Desk
from trio_tasks.broker import Applied, Debounce, Outcome, StepReply
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Complete, Die, Park, Release, Retry, Skip, Verdict
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.calls import Call, RequeueAnswer

T = TypeVar("T")


def without(call: Call[T], move: str) -> Call[T]:
    """The same call by a script whose table lacks a move."""
    source = call.script.source.replace(f"'{move} ", "'").replace(f" {move}", "")
    assert source != call.script.source
    sha = hashlib.sha1(source.encode()).hexdigest()
    return replace(call, script=replace(call.script, source=source, sha=sha))


@pytest.mark.parametrize(
    ("verdict", "move"),
    [
        (Retry(delay_ms=0), "rd"),
        (Park(delay_ms=0, since_ms=1), "rd"),
        (Release(counted=False, began=True), "rq"),
        (Die("x"), "rz"),
        (Skip("x"), "rs"),
    ],
)
def test_an_outcome_is_refused_and_another_may_follow(
    desk: Desk, verdict: Verdict, move: str
) -> None:
    clerk = desk.clerk()
    delivery = clerk.start()
    before = desk.record(delivery.token.job_id)

    reply = desk.ask(without(step_of(desk, clerk.outcome(delivery, verdict)), move))

    assert reply.applied == [Applied.REFUSED]
    assert desk.record(delivery.token.job_id) == before
    assert desk.pending() == {clerk.name: 1}
    assert clerk.end(delivery, Complete()) is Applied.APPLIED


def step_of(desk: Desk, *outcomes: Outcome) -> Call[StepReply]:
    return calls.step(
        desk.keys, incarnation="w:1", ordinal=1, outcomes=outcomes, want=0, lease_ms=1
    )


def test_an_emit_is_refused(desk: Desk) -> None:
    jobs = [desk.job(), desk.job(priority=1)]

    made = desk.ask(without(calls.enqueue(desk.keys, jobs), "-q"))

    assert [emitted.created for emitted in made] == [False, False]
    assert desk.words("KEYS", f"{desk.keys.prefix}*") == []


def test_a_new_life_is_refused(desk: Desk) -> None:
    clerk = desk.clerk()
    desk.emit("nightly")
    clerk.end(clerk.take_one())

    desk.ask(without(calls.enqueue(desk.keys, [desk.job("nightly")]), "cq"))

    assert desk.state("nightly") is JobState.COMPLETED


def test_a_replacement_is_refused(desk: Desk) -> None:
    debounce = Debounce("trailing", 60_000, "key")
    first = desk.emit(debounce=debounce)

    desk.ask(without(calls.enqueue(desk.keys, [desk.job(debounce=debounce)]), "ds"))

    assert desk.state(first) is JobState.DELAYED


def test_a_cancel_and_a_requeue_are_refused(desk: Desk) -> None:
    clerk = desk.clerk()
    dead, waiting = clerk.start(), desk.emit()
    clerk.end(dead, Die("x"))
    cancel = calls.cancel(desk.keys, waiting, number=None, reason="x", retention_ms=1)
    requeue = calls.requeue(desk.keys, dead.token.job_id, generation=0)

    assert desk.ask(without(cancel, "qx")).value == "final"
    assert desk.ask(without(requeue, "zq")) is RequeueAnswer.NOT_DEAD

    assert desk.state(waiting) is JobState.QUEUED
    assert desk.listed(JobState.DEAD) == [dead.token.job_id]


def test_a_promotion_is_refused(desk: Desk) -> None:
    clerk, job_id = desk.clerk(), desk.emit(delay_ms=60_000)
    desk.make_due(job_id)
    desk.sound = False
    call = calls.step(
        desk.keys, incarnation=clerk.name, ordinal=1, outcomes=[], want=1, lease_ms=30_000
    )

    reply = desk.ask(without(call, "dq"))

    assert reply.taken is not None
    assert (reply.taken.deliveries, desk.length()) == ([], 0)
