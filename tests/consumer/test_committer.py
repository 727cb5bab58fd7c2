"""The commit buffer: what goes out together, by count and by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from trio_tasks.broker import STEP_BYTES, NewJob, Outcome, Record, StartToken
from trio_tasks.consumer.committer import BATCH_OUTCOMES, Outcomes
from trio_tasks.consumer.held import Held
from trio_tasks.processor.decisions import Complete

NONE: Sequence[NewJob] = ()


def child(size: int = 4) -> NewJob:
    return NewJob(id="c@1", queue="q", record=Record(1, "work", b"x" * size))


def buffer_of(*outcomes: tuple[int, Sequence[NewJob]]) -> Outcomes:
    """Outcomes with results of these sizes and these children."""
    buffer = Outcomes()
    for number, (size, children) in enumerate(outcomes):
        token = StartToken("q", f"{number}@1", "w:1", "1-1", 0, 1)
        outcome = Outcome(
            token=token,
            event="work",
            attempt=1,
            verdict=Complete(),
            result=b"x" * size,
            children=children,
        )
        buffer.waiting.append((cast("Held", None), outcome))
    return buffer


def sizes(buffer: Outcomes) -> list[int]:
    """How many outcomes go out in each step."""
    drawn: list[int] = []
    while buffer.waiting:
        drawn.append(len(buffer.draw()))
    return drawn


def test_small_outcomes_go_out_in_batches_of_a_fixed_number() -> None:
    assert sizes(buffer_of(*[(4, NONE)] * (2 * BATCH_OUTCOMES + 1))) == [128, 128, 1]


def test_children_count_towards_the_batch() -> None:
    assert sizes(buffer_of(*[(4, [child()] * 63)] * 4)) == [2, 2]


def test_large_results_and_children_go_out_in_small_batches() -> None:
    assert sizes(buffer_of(*[(STEP_BYTES // 4, NONE)] * 9)) == [4, 4, 1]
    assert sizes(buffer_of(*[(0, [child(STEP_BYTES // 4)] * 2)] * 5)) == [2, 2, 1]


def test_what_is_too_large_by_itself_goes_alone() -> None:
    large = (2 * STEP_BYTES, NONE)
    assert sizes(buffer_of((1, NONE), large, large, (1, NONE), (1, NONE))) == [1, 1, 1, 2]
    assert sizes(buffer_of((1, [child()] * 200), (1, NONE))) == [1, 1]
