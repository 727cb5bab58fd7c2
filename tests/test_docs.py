"""What README and docs say is true: their code runs, their pictures are those of the table."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Awaitable
from itertools import pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple, cast

import pytest
import redis
import trio

from tests.servers import ServerProcess, start_server, timed
from tests.test_examples import ROOT, environment
from trio_tasks import Context, Job, JobFailedError, Producer, Repeat, TaskManager
from trio_tasks.processor import lifecycle

README = ROOT / "README.md"
DOCS = ROOT / "docs"
TEXTS = [README, *sorted(DOCS.glob("*.md"))]

SERVER = "redis://localhost:6379/1"
"""The address in the texts; tests put that of their own server in its place."""

LIMIT = 30.0  # seconds


class Block(NamedTuple):
    """A fenced block; `line` is the number of its first line, from 1."""

    language: str
    text: str
    line: int

    @property
    def is_program(self) -> bool:
        return self.language == "python" and "__main__" in self.text

    @property
    def is_test(self) -> bool:
        return self.language == "python" and "def test_" in self.text


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in found]


def compiled(block: Block, name: str) -> CodeType:
    source = "\n" * (block.line - 1) + block.text
    return compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def regenerate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regenerate", DOCS / "regenerate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_code_by_line_25() -> None:
    first = blocks(README)[0]
    assert first.language == "python"
    assert first.line <= 25


@pytest.mark.parametrize("path", [README, DOCS / "lifecycle.md"], ids=lambda path: path.name)
def test_the_diagram_is_that_of_the_table(path: Path) -> None:
    [diagram] = [block.text for block in blocks(path) if block.language == "mermaid"]
    assert diagram == lifecycle.mermaid() + "\n"


def test_every_legal_move_stands_in_the_docs_and_no_other() -> None:
    text = (DOCS / "lifecycle.md").read_text()
    shown = re.findall(r"^\| (\w*) \| `(\w+)` \| (\w+) \| (\w+) \| .+ \|$", text, re.MULTILINE)
    rows = [(r.source or "", r.step.value, r.target.value, r.by) for r in lifecycle.TABLE]
    assert shown == rows


def test_regenerating_the_docs_changes_nothing() -> None:
    module: Any = regenerate()
    for path in module.FILES:
        assert module.regenerated(path.read_text()) == path.read_text(), path


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_python_block_compiles(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python":
            compiled(block, str(path))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    for target in targets:
        assert (path.parent / target).exists(), target


# --- The lists of docs/invariants.md ------------------------------------------------------------

INVARIANTS = DOCS / "invariants.md"
NAMED_TEST = re.compile(r"`(\w+/[\w/]+\.py)::(test_\w+)(?:\[([^\]]+)\])?`")


def test_each_test_that_the_docs_name_exists() -> None:
    named = {found for path in TEXTS for found in NAMED_TEST.findall(path.read_text())}
    assert len(named) > 100
    for path, name, parameter in named:
        text = (ROOT / path).read_text()
        assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{path}::{name}"
        if parameter:
            around = "".join(each.read_text() for each in (ROOT / path).parent.glob("*.py"))
            assert f'"{parameter}"' in around, f"{path}::{name}[{parameter}]"


def test_each_invariant_names_its_tests_and_what_keeps_it() -> None:
    package = ROOT / "trio_tasks"
    scripts = sorted((package / "redis_streams" / "lua").glob("*.lua"))
    lua = "".join(script.read_text() for script in scripts)
    python = "".join(module.read_text() for module in package.rglob("*.py"))
    known = {script.name for script in scripts} | {script.stem for script in scripts}
    known |= {path.name for path in package.rglob("*.py")}
    known |= set(re.findall(r"^local function (\w+)", lua, re.MULTILINE))
    known |= set(re.findall(r"^ *def (\w+)", python, re.MULTILINE))

    listed = INVARIANTS.read_text().partition("## Invariants")[2].partition("## Faults")[0]
    entries = [entry for entry in listed.split("\n\n") if entry.startswith("**")]
    assert len(entries) >= 30
    for entry in entries:
        kept, _, tests = entry.partition("Kept ")[2].partition("Tests:")
        assert NAMED_TEST.search(tests), entry
        for keeper in re.findall(r"`([^`]+)`", kept):
            assert re.split(r"[./](?!py|lua)", keeper)[-1] in known, f"{keeper} in {entry}"


def test_each_fault_has_a_test_whose_name_is_that_fault() -> None:
    table = INVARIANTS.read_text().partition("## Faults")[2]
    rows = re.findall(r"^\| (.+?) \| .+? \| (.*`.*) \|$", table, re.MULTILINE)
    assert len(rows) == 20
    for faults, tests in rows:
        for fault in faults.split("; "):
            assert slug(re.sub(r"^an? ", "", fault)) in slug(tests), fault


def slug(text: str) -> str:
    """As it may be part of a function's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.replace("`", "").lower())


PROGRAMS = [
    (path, block, after)
    for path in TEXTS
    for block, after in pairwise([*blocks(path), Block("", "", 0)])
    if block.is_program
]


@pytest.mark.parametrize(
    ("path", "block", "after"), PROGRAMS, ids=lambda value: getattr(value, "name", None)
)
def test_every_program_prints_what_stands_below_it(
    path: Path, block: Block, after: Block, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert after.language == "text"
    assert done.stdout == after.text


@timed(LIMIT)
async def in_one_program(path: Path, server: ServerProcess) -> None:
    """Run the blocks of a text that are no programs one after the other, in one namespace."""
    namespace: dict[str, Any] = {"__name__": path.stem}
    for block in blocks(path):
        if block.language == "python" and not block.is_program and not block.is_test:
            code = compiled(block._replace(text=block.text.replace(SERVER, server.url)), str(path))
            if code.co_flags & inspect.CO_COROUTINE:
                await cast("Awaitable[object]", eval(code, namespace))
            else:
                exec(code, namespace)


@pytest.mark.parametrize("name", ["README.md", "docs/deploying.md"])
def test_the_code_in_the_text_runs_from_top_to_bottom_again_and_again(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_server() as server:
        for _ in range(2):
            trio.run(in_one_program, ROOT / name, server)
    assert "Traceback" not in capsys.readouterr().err


def test_the_tests_in_the_text_pass(tmp_path: Path) -> None:
    tests = [block for block in blocks(DOCS / "testing.md") if block.is_test]
    for number, block in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len(tests) > 2


def test_the_rights_in_the_text_are_enough() -> None:
    text = (DOCS / "deploying.md").read_text()
    [(user, rights)] = re.findall(r"^ACL SETUSER (\S+) (.*)$", text, re.MULTILINE)
    [password] = re.findall(r">(\S+)", rights)
    with start_server(tcp=True) as server:
        as_administrator(server, "ACL", "SETUSER", user, *rights.split())
        url = server.tcp_url.replace("redis://", f"redis://{user}:{password}@")
        trio.run(everything, url)
        with Producer(url) as producer:
            assert producer.emit("no-handler", queue="other").info().state == "queued"
        assert as_administrator(server, "ACL", "LOG") == []


@timed(LIMIT)
async def everything(url: str) -> None:
    """A little of all that asks the server for something."""
    tasks = TaskManager(
        url,
        concurrency=4,
        lease=0.5,
        streamdb=url,
        processor={"retry": {"delay": 0.01, "max_retries": 1}, "dlq": {"stream": "tt:dead"}},
    )

    @tasks.handler("parent", debounce=60)
    async def parent(job: Job[int], ctx: Context) -> None:
        await job.logger("a line")
        ctx.emit(child, job.data)

    @tasks.handler("child", queue="other")
    async def child(job: Job[int]) -> int:
        return 1 // job.data

    sleeps = trio.Event()

    @tasks.handler("sleep")
    async def sleep() -> None:
        sleeps.set()
        await trio.sleep_forever()

    @tasks.handler("tick", repeat=Repeat(every=0.1))
    async def tick() -> None: ...

    async with tasks:
        await tasks.start()
        await (await tasks.emit(parent, 1)).result()
        await tasks.emit(parent, 2, debounce={"window": 0.1, "edge": "trailing"})
        failing = await tasks.emit(child, 0)
        with pytest.raises(JobFailedError):
            await failing.result()
        assert await tasks.queue("other").requeue(failing.id)
        await tasks.queue("default").pause()
        await tasks.queue("default").resume()
        assert await (await tasks.emit(sleep, delay=3600)).cancel()
        sleeper = await tasks.emit(sleep)
        await sleeps.wait()
        assert await sleeper.cancel(wait=True)
        await tasks.until_idle()
        assert await tasks.queues() == ["default", "other"]
        assert await tasks.schedules().remove("tick")
        assert (await tasks.stop()).completed >= 2


def as_administrator(server: ServerProcess, *words: str) -> object:
    """Send the server one command."""
    with redis.Redis(unix_socket_path=server.socket_path) as client:
        return cast(Any, client).execute_command(*words)
