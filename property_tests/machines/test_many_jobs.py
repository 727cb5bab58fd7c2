"""Many jobs at once, in a tiny pure world, whatever may happen to them in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from property_tests import strategies
from property_tests.machines.world import RUNNABLE, World, WorldJob
from trio_tasks.job import JobState
from trio_tasks.options import ProcessorOptions, RetryPolicy
from trio_tasks.processor.decisions import Run
from trio_tasks.processor.inputs import Input, Interrupted, LeaseLost
from trio_tasks.processor.processor import Processor

maybe = st.none() | st.integers(0, 20_000)
deadlines = st.none() | st.integers(0, 300_000)

KINDS = [*["plain"] * 6, "new event", "unreadable", "unsupported"]
"""Most jobs can be run; the others are poison, at least for a while."""


class ManyJobs(RuleBasedStateMachine):
    """Emitters, users, workers and time, one step after another."""

    world: World

    @initialize(
        retry=strategies.retry_policies(most_retries=4, most_ms=30_000) | st.just(RetryPolicy()),
        ignore=st.booleans(),
        grace_ms=st.integers(0, 60_000),
    )
    def begin(self, retry: RetryPolicy, ignore: bool, grace_ms: int) -> None:
        options = ProcessorOptions(retry=retry, ignore_config_errors=ignore)
        self.world = World(Processor(options, unknown_event_grace_ms=grace_ms))

    # Time can always pass: a machine with nothing left to do would be an error.
    @rule(passed_ms=st.integers(1, 10_000) | st.integers(1, 10**6))
    def advance_clock(self, passed_ms: int) -> None:
        self.world.now_ms += passed_ms

    @rule(
        kind=st.sampled_from(KINDS),
        data=st.binary(max_size=3),
        attempts=st.none() | st.integers(1, 4),
        retry_delay_ms=maybe,
        deadline_ms=deadlines,
        delay_ms=maybe,
    )
    def emit(
        self,
        kind: str,
        data: bytes,
        attempts: int | None,
        retry_delay_ms: int | None,
        deadline_ms: int | None,
        delay_ms: int | None,
    ) -> None:
        world = self.world
        job = WorldJob(
            id=f"job-{len(world.jobs)}",
            event="new" if kind == "new event" else RUNNABLE,
            data=data,
            readable=kind != "unreadable",
            supported=kind != "unsupported",
            attempts=attempts,
            retry_delay_ms=retry_delay_ms,
            deadline_at_ms=None if deadline_ms is None else world.now_ms + deadline_ms,
        )
        world.emit(job, delay_ms)

    @precondition(lambda self: bool(self.world.jobs))
    @rule(data=st.data(), delay_ms=maybe)
    def emit_a_chosen_id_again(self, data: st.DataObject, delay_ms: int | None) -> None:
        self.world.emit_again(pick(data, list(self.world.jobs.values())), delay_ms)

    @precondition(lambda self: bool(self.world.jobs))
    @rule(data=st.data(), reason=strategies.texts)
    def cancel(self, data: st.DataObject, reason: str) -> None:
        self.world.cancel(pick(data, list(self.world.jobs.values())), reason)

    @precondition(lambda self: bool(self.world.jobs))
    @rule(data=st.data())
    def requeue_twice(self, data: st.DataObject) -> None:
        job = pick(data, list(self.world.jobs.values()))
        was_dead = job.state is JobState.DEAD
        assert self.world.requeue(job) == was_dead
        assert not self.world.requeue(job)

    @rule()
    def deploy_or_withdraw_the_new_handler(self) -> None:
        self.world.known ^= {"new"}

    @precondition(lambda self: bool(self.world.due()))
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        self.world.promote(pick(data, self.world.due()))

    @precondition(lambda self: bool(self.world.in_state(JobState.QUEUED)))
    @rule(
        data=st.data(),
        holder=st.sampled_from([None, None, None, "itself", "another"]),
        stopping=st.sampled_from([False, False, False, True]),
    )
    def hand_out(self, data: st.DataObject, holder: str | None, stopping: bool) -> None:
        job = pick(data, self.world.in_state(JobState.QUEUED))
        holder = job.id if holder == "itself" else holder
        self.world.hand_out(job, debounced_by=holder, stopping=stopping)

    @precondition(lambda self: bool(self.world.in_state(JobState.QUEUED)))
    @rule(data=st.data(), times=st.integers(1, 14))
    def hand_out_and_interrupt(self, data: st.DataObject, times: int) -> None:
        job = pick(data, self.world.in_state(JobState.QUEUED))
        for _ in range(times):
            if job.state is JobState.QUEUED and self.world.hand_out(job) == Run():
                self.world.finish(job, Interrupted(began=True))

    @precondition(lambda self: bool(self.world.running(began=True)))
    @rule(data=st.data(), outcome=strategies.outcomes)
    def finish(self, data: st.DataObject, outcome: Input) -> None:
        if isinstance(outcome, Interrupted | LeaseLost):
            outcome = type(outcome)(began=True)  # as all have that are picked here
        self.world.finish(pick(data, self.world.running(began=True)), outcome)

    @precondition(lambda self: bool(self.world.running(began=True)))
    @rule(data=st.data())
    def kill_a_worker(self, data: st.DataObject) -> None:
        self.world.kill_worker(pick(data, self.world.running(began=True)))

    @precondition(lambda self: bool(self.world.orphans()))
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        self.world.hand_out(pick(data, self.world.orphans()))

    @precondition(lambda self: bool(self.world.jobs))
    @rule(failing=st.booleans())
    def work_until_all_is_done(self, failing: bool) -> None:
        self.world.drain(failing=failing)

    @invariant()
    def all_invariants_hold(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain(failing=True)


def pick(data: st.DataObject, jobs: list[WorldJob]) -> WorldJob:
    """One of the jobs; small examples pick the oldest."""
    return data.draw(st.sampled_from(jobs), label="job")


def test_the_invariants_hold_in_every_life_of_many_jobs() -> None:
    examples = 2 * settings().max_examples  # its steps are cheap
    run_state_machine_as_test(ManyJobs, settings=settings(max_examples=examples))
