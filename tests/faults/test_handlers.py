"""Handlers that do what a handler must not, in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.site import Site
from tests.servers import ServerProcess, timed
from tests.workshop import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@timed(20)
async def test_systemexit_or_a_swallowed_cancelled_in_a_handler_concerns_its_own_job_alone(
    server: ServerProcess, tmp_path: Path
) -> None:
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            (worker,) = await site.workers("w")
            exits = await tasks.emit("exits", 1, queue="main")
            swallows = await tasks.emit("swallows", 2, queue="main")
            await site.emit(tasks, range(20))
            await site.idle(tasks)
            died = await exits.info()
            assert (died.state, died.error and died.error.type) == ("dead", "SystemExit")
            assert await swallows.result(timeout=1) == "swallowed"
            assert len([run for run in site.runs() if run.data in range(20)]) >= 60
            assert worker.is_alive


@timed(20)
async def test_a_handler_that_blocks_the_loop_for_longer_than_the_lease_gives_up_what_it_holds(
    server: ServerProcess, tmp_path: Path
) -> None:
    jobs = 40
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            (blocked,) = await site.workers("blocked", lease=0.6, work=0.05, concurrency=8)
            ref = await tasks.emit("blocks", 0, queue="main", priority=9)
            await eventually(lambda: len(site.runs()) == 1)
            await site.workers("other", lease=0.6, work=0.05, concurrency=8)
            await site.emit(tasks, range(jobs))
            await site.idle(tasks)
            info = await ref.info()
            assert info.state == "completed"
            assert info.attempt > 1
            # The blocked one sees what has happened, says so, and takes jobs again.
            await site.emit(tasks, range(jobs, 2 * jobs))
            await eventually(
                lambda: any(run.worker == "blocked" and run.data >= jobs for run in site.runs()),
                within=5,
            )
            await site.idle(tasks)
            assert blocked.is_alive
            done = {run.data for run in site.runs() if run.event == "child"}
            assert done == set(range(2 * jobs))
