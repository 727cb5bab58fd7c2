"""An environment of its own for each peer, made when it is first needed and kept in a cache.

So a peer's requirements never meet ours, nor each other's. A peer that cannot be installed here is
an `UnavailableError` that says why, and becomes a line in the report.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from examples.benchmarks.systems import OURS, System

__all__ = ["Environment", "UnavailableError", "cause", "default_cache", "prepare", "prepare_python"]

_PEERS = Path(__file__).parent / "peers"
_LIMIT = 600  # seconds for one installation


class UnavailableError(Exception):
    """A peer cannot run on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """How to run a system's script.

    Attributes:
        command: the arguments that come before the assignment.
        variables: environment variables, beside those of this process.
        version: of the system, and of what runs it.
    """

    command: tuple[str, ...]
    variables: dict[str, str]
    version: str


def default_cache() -> Path:
    """Where environments are kept: outside of the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "trio_tasks-benchmarks"


def prepare(system: System, cache: Path) -> Environment:
    """Make sure that a system can run, and say how.

    Raises:
        UnavailableError: it cannot be installed.
    """
    script = str(_PEERS / system.script)
    if system.language == "node":
        modules, released = _prepare_node(system, cache)
        node = _run(["node", "--version"])
        return Environment(
            ("node", script), {"NODE_PATH": str(modules)}, f"{released}, Node {node.lstrip('v')}"
        )
    if system.packages:
        python = prepare_python(system.name, system.packages, cache, system.python)
        package = _name(system.packages[0])
        ask = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
        released = _run([str(python), "-c", ask, package])
    else:
        python = Path(sys.executable)
        released = version(OURS) if system.ours else f"Trio {version('trio')}"
    runs_on = _run([str(python), "-c", "import platform; print(platform.python_version())"])
    return Environment((str(python), script), {}, f"{released}, Python {runs_on}")


def prepare_python(
    name: str, packages: tuple[str, ...], cache: Path, oldest: tuple[int, int] = (3, 11)
) -> Path:
    """The interpreter of a virtual environment that holds these packages.

    Raises:
        UnavailableError: no Python is new enough, or the packages cannot be installed.
    """
    place = cache / _slug(name)
    python = place / "bin" / "python"

    def install() -> None:
        _run([str(_find_python(oldest)), "-m", "venv", str(place)])
        _run([str(python), "-m", "pip", "install", "--quiet", *packages])

    _once(place, [*packages, f"Python >= {oldest[0]}.{oldest[1]}"], install)
    return python


def _prepare_node(system: System, cache: Path) -> tuple[Path, str]:
    """The directory of the modules, and the version of the first package."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise UnavailableError("node and npm are not on PATH")
    place = cache / _slug(system.name)

    def install() -> None:
        _run(
            ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place), *system.packages]
        )

    _once(place, system.packages, install)
    modules = place / "node_modules"
    described = (modules / _name(system.packages[0]) / "package.json").read_text()
    return modules, str(json.loads(described)["version"])


def _once(place: Path, packages: Sequence[str], install: Callable[[], object]) -> None:
    """Install unless that was done with the same packages; leave nothing half-made behind."""
    stamp, wanted = place / "installed.json", json.dumps(list(packages))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        install()
    except UnavailableError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    stamp.write_text(wanted)


def _find_python(oldest: tuple[int, int]) -> Path:
    """This Python if it is new enough, so that peers run on the same; else another one."""
    if sys.version_info[:2] >= oldest:
        return Path(sys.executable)
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = (shutil.which(f"python3.{minor}") for minor in range(oldest[1], 30))
    kept = sorted(root.glob("versions/*/bin/python3"))
    for candidate in [*filter(None, on_path), *map(str, kept)]:
        ask = f"import sys; sys.exit(sys.version_info[:2] < {oldest})"
        if subprocess.run([candidate, "-c", ask], capture_output=True, check=False).returncode == 0:
            return Path(candidate)
    raise UnavailableError(f"needs Python {oldest[0]}.{oldest[1]} or later, which is not here")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} took longer than {_LIMIT} s") from None
    if done.returncode:
        raise UnavailableError(cause(done.stderr or done.stdout))
    return done.stdout.strip()


def cause(output: str) -> str:
    """The line of a failed program's output that most likely says why."""
    lines = output.strip().splitlines() or ["no message"]
    errors = [line for line in lines if re.search(r"error\b", line, re.IGNORECASE)]
    return (errors or lines)[-1].strip()[:200]


def _name(requirement: str) -> str:
    """Of `saq[redis]~=0.26.4` or `bullmq@^6.7`: the package's name."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0]


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
