"""A manager belongs to the process and the event loop in which it was entered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.test_examples import environment

pytestmark = pytest.mark.parametrize("library", ["trio", "asyncio"])

LIMIT = 30.0  # seconds


def program(text: str, *arguments: str) -> list[str]:
    """What a program prints, which runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FORK = """
import anyio, os, sys
from trio_tasks import Job, TaskManager

tasks = TaskManager(sys.argv[1], concurrency=2)

@tasks.handler("double")
async def double(job: Job[int]) -> int:
    return 2 * job.data

async def in_the_child() -> None:
    for use in (lambda: tasks.emit(double, 1), tasks.stop, tasks.queues, tasks.__aenter__):
        try:
            await use()
            print("accepted", flush=True)
        except RuntimeError as error:
            print("forked" in str(error), flush=True)

async def main() -> None:
    with anyio.fail_after(20):
        async with tasks:
            await tasks.start()
            await (await tasks.emit(double, 1)).result()
            child = os.fork()
            if child == 0:
                try:
                    await in_the_child()
                finally:
                    os._exit(0)
            for n in range(20):
                assert await (await tasks.emit(double, n)).result() == 2 * n
            os.waitpid(child, 0)
            assert await (await tasks.emit(double, 7)).result() == 14
            assert tasks.statistics().last_error is None
    print("the parent is unharmed")

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("database", ["memory://", "embedded://"])
def test_a_forked_child_is_refused_and_its_parent_goes_on(library: str, database: str) -> None:
    lines = program(FORK, database, library)
    assert lines == [*(["True"] * 4), "the parent is unharmed"]


LIVES_ON = """
import anyio, os, sys
from trio_tasks.embedded import embedded_server

async def main() -> None:
    async with embedded_server() as server:
        directory = os.path.dirname(os.path.dirname(await server.ensure()))
        ready, say = os.pipe()
        if os.fork() == 0:
            os.close(1)
            os.close(2)
            os.write(say, b"x")
            os.read(int(sys.argv[2]), 1)  # until the test says so
            os._exit(0)
        os.read(ready, 1)
        print(directory, flush=True)
        os.kill(os.getpid(), 9)

anyio.run(main, backend=sys.argv[1])
"""


def test_a_forked_child_that_lives_on_does_not_keep_the_server_of_its_dead_parent(
    library: str,
) -> None:
    keeps, ends = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", LIVES_ON, library, str(keeps)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[keeps],
        ) as owner:
            directory = Path(owner.communicate(timeout=LIMIT)[0].strip())
        assert directory.name.startswith("trio-tasks-")
        trio.run(_removed, directory)
    finally:
        os.close(ends)
        os.close(keeps)


async def _removed(directory: Path) -> None:
    """Return when the shell between the server and its dead owner has cleaned up."""
    with trio.fail_after(LIMIT):
        while await trio.Path(directory).exists():  # noqa: ASYNC110 - nobody else tells
            await trio.sleep(0.01)


STALE = """
import anyio, asyncio, sys
from trio_tasks import TaskManager

tasks = TaskManager(sys.argv[1])

@tasks.handler("job")
async def job() -> None: ...

async def uses_up_its_cancel() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()
        await asyncio.sleep(0.2)

async def first() -> None:
    await tasks.__aenter__()
    await tasks.start()
    await tasks.emit(job)
    if sys.argv[2] == "asyncio":
        global others
        others = [asyncio.create_task(uses_up_its_cancel()) for _ in range(20)]

async def second() -> None:
    with anyio.fail_after(10):
        for use in (lambda: tasks.emit(job), tasks.stop, tasks.__aenter__):
            try:
                await use()
                print("accepted")
            except RuntimeError as error:
                print("which has ended without leaving it" in str(error))

if sys.argv[2] == "trio":
    try:
        anyio.run(first, backend="trio")
    except BaseException:
        pass  # Trio does not like it
else:
    asyncio.run(first())  # cancels whatever is left, and waits for it
anyio.run(second, backend=sys.argv[2])
"""


@pytest.mark.parametrize("database", ["memory://", "embedded://"])
def test_a_manager_whose_loop_has_ended_without_leaving_it_is_refused(
    library: str, database: str
) -> None:
    assert program(STALE, database, library) == ["True"] * 3
