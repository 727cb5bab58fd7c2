"""Servers that lose, refuse or load their data, under load; then everything is counted."""

from __future__ import annotations

import time
from pathlib import Path
from signal import SIGTERM

import anyio
import anyio.to_thread
import pytest

from tests.faults.site import QUEUES, Site
from tests.servers import ServerProcess, start_server, timed
from tests.workshop import eventually

pytestmark = pytest.mark.anyio

AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def refusals(server: ServerProcess, code: str) -> int:
    """How often a server has answered with this error."""
    told = server.ask("INFO", "errorstats").partition(f"errorstat_{code}:count=")[2]
    return int(told.partition("\r")[0] or 0)


@timed(30)
async def test_a_server_restart_with_aof_repeats_no_job_and_costs_nobody_an_attempt(
    tmp_path: Path,
) -> None:
    jobs = 60
    with start_server(*AOF) as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.02, lease=30, concurrency=8)
            await site.emit(tasks, range(jobs))
            for share in (0.2, 0.5):
                await eventually(lambda n=share * 3 * jobs: len(site.runs()) > n, every=0.002)
                server.kill()
                await anyio.to_thread.run_sync(server.start)
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            # Steps whose answers were lost gave back what they had taken.
            assert ran == {"parent": jobs, "sibling": jobs, "child": jobs}
            assert {run.attempt for run in site.runs()} == {1}


@timed(30)
async def test_a_restart_without_aof_after_more_than_a_lease_is_served_again(
    tmp_path: Path,
) -> None:
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", work=0.02, lease=0.5, ticks=True)
            await site.emit(tasks, range(1000, 1200))
            await eventually(lambda: len(site.runs()) > 50, every=0.01)
            server.kill()
            await anyio.sleep(0.8)
            await anyio.to_thread.run_sync(server.start)
            back_at = time.monotonic()
            await site.emit(tasks, range(20))
            await eventually(
                lambda: (
                    {run.worker for run in site.runs() if run.at > back_at} == {"one", "two"}
                    and any(run.event == "tick" and run.at > back_at for run in site.runs())
                ),
                within=3,
            )
            await site.idle(tasks)
            again = [run for run in site.runs() if run.data in range(20)]
            assert len(again) == len({run.job_id for run in again}) == 60
            for worker in workers:
                worker.signal(SIGTERM)
                assert (await worker.stopped())[0] == 0
            for queue in QUEUES:
                assert (site.pending(queue), site.consumers(queue)) == (0, set())


@timed(30)
async def test_loading_for_longer_than_a_lease_costs_nobody_an_attempt(
    tmp_path: Path,
) -> None:
    jobs = 50
    # It answers after each 1024 commands that it has loaded.
    filler, slow_to_load = 1500, ("--key-load-delay", "300")
    with start_server(*AOF, *slow_to_load) as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.02, lease=0.5, concurrency=8)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > 30, every=0.01)
            site.ask("EVAL", f"for i = 1, {filler} do redis.call('SET', 'filler' .. i, i) end", 0)
            server.kill()
            gone_at = time.monotonic()
            await anyio.to_thread.run_sync(server.start)
            back_at = time.monotonic()
            assert back_at - gone_at > 0.5, "it loads for longer than a lease"
            assert refusals(server, "LOADING") > 0
            await eventually(lambda: site.runs()[-1].at > back_at, within=2.5)
            await site.idle(tasks)
            await site.check(tasks, jobs)
            assert max(run.attempt for run in site.runs()) == 1


@timed(30)
async def test_a_stop_is_bounded_with_a_frozen_server(tmp_path: Path) -> None:
    grace = 0.1
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("a", "b", work=60, grace=grace, concurrency=4, ticks=True)
            await site.emit(tasks, range(8))
            await eventually(lambda: len(site.runs()) >= 8)
            server.freeze()
            began = time.monotonic()
            for worker in workers:
                worker.signal(SIGTERM)
            for worker in workers:
                code, said = await worker.stopped()
                assert (code, "interrupted=4" in said) == (0, True)
            # One second for two interpreters to say goodbye.
            assert time.monotonic() - began < grace + 2 + 1
            server.kill()
