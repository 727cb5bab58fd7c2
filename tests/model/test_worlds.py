"""The small worlds, explored to the last state; `make model` explores the large ones, too."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from tests.model.explore import Report, explore
from tests.model.invariants import Invariant
from tests.model.rules import Rule
from tests.model.specs import Spec
from tests.model.world import WorldModel
from tests.model.worlds import LIFECYCLES, LOSSY, SHORT, WEAKENED
from trio_tasks.job import JobState
from trio_tasks.processor.lifecycle import TABLE, Step

ALL_ON = frozenset[Rule]()
SPECS = (*SHORT, *LOSSY)
ABOUT = {rule: (spec, damage) for spec in SPECS for rule, damage in spec.about.items()}
EXCUSED = [
    (spec, Invariant(invariant))
    for spec in LOSSY
    if spec.setting is not None
    for invariant in sorted(spec.setting.excused)
]


@cache
def _lifecycle(name: str) -> tuple[Report, set[tuple[JobState | None, Step]]]:
    model = LIFECYCLES[name]()
    return explore(model), model.rows


@pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
def test_no_invariant_is_broken_and_every_job_can_end(spec: Spec) -> None:
    report = explore(spec.make(ALL_ON))

    assert report.broken is None, str(report)
    assert report.ends > 0


@pytest.mark.parametrize("rule", list(Rule), ids=[rule.name.lower() for rule in Rule])
def test_without_the_rule_the_model_finds_the_damage(rule: Rule) -> None:
    spec, damage = ABOUT[rule]

    report = explore(spec.make(frozenset({rule})))

    assert report.broken is not None, f"nothing comes of leaving out: {rule.value}"
    assert report.broken.startswith(damage), str(report)
    assert report.trace


@pytest.mark.parametrize(
    ("spec", "invariant"), EXCUSED, ids=[f"{i.name.lower()}: {s.name}" for s, i in EXCUSED]
)
def test_a_lost_write_breaks_what_is_said_to_be_weakened(spec: Spec, invariant: Invariant) -> None:
    assert spec.setting is not None
    alone = replace(spec.setting, excused=frozenset(set(Invariant) - {invariant}))

    report = explore(WorldModel(alone))

    assert report.broken is not None, "it need not be excused"
    assert report.broken.startswith(invariant)


def test_each_weakened_invariant_is_shown_to_be() -> None:
    assert {invariant for _, invariant in EXCUSED} == WEAKENED


@pytest.mark.parametrize("name", LIFECYCLES)
def test_the_processor_keeps_to_the_table_and_every_job_can_end(name: str) -> None:
    report, _ = _lifecycle(name)

    assert report.broken is None, str(report)
    assert report.ends > 0


def test_every_row_of_the_table_is_used_but_those_that_need_other_jobs() -> None:
    used = {row for name in LIFECYCLES for row in _lifecycle(name)[1]}

    unused = [row for row in TABLE if (row.source, row.step) not in used]
    other_jobs = {Step.EMIT_WAITING, Step.READY, Step.EMIT_LATE, Step.REPLACE}
    assert {row.step for row in unused} <= other_jobs | {Step.CANCEL}
    assert all(row.source == "waiting" for row in unused if row.step is Step.CANCEL)


def test_a_trace_tells_how_a_job_is_stuck() -> None:
    spec, _ = ABOUT[Rule.OWN_FENCES]

    text = str(explore(spec.make(frozenset({Rule.OWN_FENCES}))))

    assert "VIOLATED: from here not all jobs can end" in text
    assert "the connection of A breaks   (fault)" in text
    assert "server, late: A's step" in text
