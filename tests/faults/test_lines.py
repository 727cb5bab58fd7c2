"""Bad lines between workers and server, under load; then every job and every key is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGTERM

import anyio
import pytest

from tests.faults.line import Line
from tests.faults.site import Site
from tests.servers import ServerProcess, timed
from tests.workshop import eventually

pytestmark = pytest.mark.anyio

JOBS = 150


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def resets(line: Line) -> None:
    for _ in range(8):
        await anyio.sleep(0.06)
        line.reset()


async def half_replies(line: Line) -> None:
    for size in (1, 7, 40, 200, 900, 3000):
        seen = line.connects
        line.cut_reply_after(size)
        await eventually(lambda seen=seen: line.connects > seen)


async def slow_bytes(line: Line) -> None:
    line.drip(0.0002)
    await anyio.sleep(1)
    line.drip(0)


async def silence_beyond_the_lease(line: Line) -> None:
    line.hold()
    await anyio.sleep(1.4)
    line.release()


@pytest.mark.parametrize(
    "trouble",
    [resets, half_replies, slow_bytes, silence_beyond_the_lease],
    ids=lambda trouble: trouble.__name__,
)
@timed(30)
async def test_a_bad_line_costs_time_and_no_job(
    trouble: Callable[[Line], Awaitable[None]], server: ServerProcess, tmp_path: Path
) -> None:
    with Site.on(server.url, tmp_path) as site:
        async with Line.laid_to(server.socket_path) as line, site.onlooker() as tasks:
            # Alone, so that nobody else does what it cannot.
            (worker,) = await site.workers("far", url=line.url, work=0.01, concurrency=8, lease=1)
            await site.emit(tasks, range(JOBS))
            await eventually(lambda: len(site.runs()) > 20, every=0.01)
            await trouble(line)
            seen = len(site.runs())
            await site.emit(tasks, range(JOBS, 2 * JOBS))
            await eventually(lambda: len(site.runs()) > seen, within=2.5, every=0.01)
            await site.idle(tasks)
            await site.check(tasks, 2 * JOBS)
            assert max(run.attempt for run in site.runs()) == 1
            worker.signal(SIGTERM)
            assert (await worker.stopped())[0] == 0
