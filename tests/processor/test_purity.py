"""The pure core imports nothing that could do I/O, read a clock, or be lucky."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trio_tasks.processor

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


def test_importing_the_core_brings_in_no_event_loop_and_no_redis() -> None:
    names = [f"trio_tasks.processor.{m.stem}" for m in MODULES if m.stem != "__init__"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(answer.stdout.split())
    assert "trio_tasks.processor.processor" in loaded
    assert not loaded & ENGINES
