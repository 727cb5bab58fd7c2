"""The programs for the type checkers, as far as running them says something.

What the checkers think of them is checked by `make check`.
"""

from __future__ import annotations

from pathlib import Path

from tests.typing import good_contexts, good_emits, good_manager, good_producers
from trio_tasks.handlers import Registry

FOLDER = Path(__file__).parent / "typing"


def test_what_the_good_programs_register_is_registered() -> None:
    assert len(Registry(good_emits.handlers)) == 10
    assert len(Registry(good_producers.handlers)) == 6
    assert Registry(good_contexts.app).queues() == ["app", "mails"]
    assert Registry(good_manager.tasks).events("default") == ["daily-report", "resize"]
    assert Registry(good_manager.tasks).of_function(good_manager.archive).queue == "group"


def test_every_wrong_statement_expects_its_own_error() -> None:
    for program in FOLDER.glob("wrong_*.py"):
        text = program.read_text()
        assert "\n# mypy: ignore-errors\n" in text
        assert "type: ignore" not in text, "an ignore without a rule would hide any error"
        assert text.count("# pyright: ignore[") >= 20
