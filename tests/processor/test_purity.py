"""The pure core does no I/O, reads no clock, and is never lucky; its data never change."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import trio_tasks.processor
from trio_tasks.processor import decisions, facts, inputs
from trio_tasks.processor.lifecycle import TABLE
from trio_tasks.processor.repeat import Repeat

FORBIDDEN = {
    "anyio",
    "asyncio",
    "logging",
    "os",
    "random",
    "redis",
    "secrets",
    "socket",
    "threading",
    "time",
    "trio",
    "uuid",
}
ENGINES = {"anyio", "asyncio", "redis", "trio"}
MODULES = sorted(Path(trio_tasks.processor.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_of_the_core_imports_what_is_not_pure(module: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            imported.add(node.module.partition(".")[0])
    assert not imported & FORBIDDEN


@pytest.mark.parametrize("module", [decisions, facts, inputs], ids=lambda module: module.__name__)
def test_what_goes_in_and_what_comes_out_never_changes(module: ModuleType) -> None:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    values = [kind for kind in kinds if kind.__module__ == module.__name__]
    assert values
    for kind in values:
        assert issubclass(kind, msgspec.Struct)
        assert kind.__struct_config__.frozen, kind


@pytest.mark.parametrize(("value", "name"), [(TABLE[0], "target"), (Repeat(every=1), "every")])
def test_rows_of_the_lifecycle_and_schedules_never_change(value: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)


def test_importing_the_core_brings_in_no_event_loop_and_no_redis() -> None:
    names = [f"trio_tasks.processor.{m.stem}" for m in MODULES if m.stem != "__init__"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(answer.stdout.split())
    assert "trio_tasks.processor.processor" in loaded
    assert not loaded & ENGINES
