"""`processor/lifecycle.py`: the table, and that nothing moves but by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tasks.job import FINAL_STATES, JobState
from trio_tasks.processor.lifecycle import (
    LETTERS,
    STATE_OF_LETTER,
    TABLE,
    IllegalTransitionError,
    Step,
    legal_moves,
    mermaid,
    transition,
)

states = st.none() | st.sampled_from(JobState)
steps = st.sampled_from(Step)

LEGAL = {
    "-": "qdwz",  # emitted, or relayed too late
    "q": "rx",
    "d": "qsx",
    "w": "qx",
    "r": "cdqrzxs",
    "c": "qd",  # a chosen id emitted anew
    "s": "qd",
    "x": "qd",
    "z": "qd",  # requeued, or emitted anew
}
"""The moves of the semantics, written down a second time."""


@given(states, steps)
def test_a_step_moves_a_job_as_its_row_says_or_raises(state: JobState | None, step: Step) -> None:
    rows = [row for row in TABLE if row.source is state and row.step is step]
    if rows:
        assert transition(state, step) is rows[0].target
    else:
        with pytest.raises(IllegalTransitionError) as caught:
            transition(state, step, job_id="j-17")
        message = str(caught.value)
        assert "'j-17'" in message
        assert ("absent" if state is None else state.value) in message
        assert repr(step.value) in message


def test_the_moves_are_those_of_the_semantics() -> None:
    assert legal_moves() == sorted(
        source + target for source, targets in LEGAL.items() for target in targets
    )


@given(st.lists(steps, max_size=60))
def test_a_final_state_is_left_only_by_requeue_or_a_new_life(walk: list[Step]) -> None:
    state: JobState | None = None
    for step in walk:
        try:
            target = transition(state, step)
        except IllegalTransitionError:
            continue
        if state in FINAL_STATES:
            assert step in {Step.REQUEUE, Step.REVIVE, Step.REVIVE_DELAYED}
            assert step is not Step.REQUEUE or state is JobState.DEAD
        if target is JobState.RUNNING:
            assert state in {JobState.QUEUED, JobState.RUNNING}
        state = target


def test_every_state_can_be_reached_and_left_or_is_final() -> None:
    targets = {row.target for row in TABLE}
    assert targets == set(JobState)
    for state in JobState:
        onward = {row.step for row in TABLE if row.source is state}
        assert onward
        assert state.is_final == (onward <= {Step.REQUEUE, Step.REVIVE, Step.REVIVE_DELAYED})


def test_letters_and_states_are_one_to_one() -> None:
    assert len(set(LETTERS.values())) == len(LETTERS) == len(JobState) + 1
    assert {state: LETTERS[state] for state in JobState} == {
        state: letter for letter, state in STATE_OF_LETTER.items()
    }


def test_the_diagram_has_every_row_of_the_table() -> None:
    arrows: dict[tuple[str, str], set[str]] = {}
    for line in mermaid().splitlines()[1:]:
        ends, _, labels = line.strip().partition(": ")
        source, _, target = ends.partition(" --> ")
        arrows[source, target] = set(labels.split(" / "))
    rows = {
        ("[*]" if row.source is None else row.source.value, row.target.value, row.step.value)
        for row in TABLE
    }
    assert {(*ends, label) for ends, labels in arrows.items() for label in labels} == rows
