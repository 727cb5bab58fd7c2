"""Servers that lose, refuse or load their data, under load; then everything is counted."""

from __future__ import annotations

import time
from pathlib import Path
from signal import SIGTERM

import anyio
import anyio.to_thread
import pytest

from tests.faults.clock import FAKETIME, start_server_with_clock
from tests.faults.site import QUEUES, Site
from tests.servers import ServerProcess, free_port, start_server, timed
from tests.workshop import eventually
from trio_tasks import QueueFullError

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
async def test_a_server_that_comes_back_without_its_data_after_more_than_a_lease_is_served_again(
    tmp_path: Path,
) -> None:
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", work=0.02, ticks=True, concurrency=4)
            await site.emit(tasks, range(1000, 1200))
            await eventually(lambda: len(site.runs()) > 50, every=0.01)
            server.kill()
            await anyio.sleep(1.5)
            await anyio.to_thread.run_sync(server.start)
            back_at = time.monotonic()
            await site.emit(tasks, range(20))
            await eventually(
                lambda: {run.worker for run in site.runs() if run.at > back_at} == {"one", "two"}
                and any(run.event == "tick" and run.at > back_at for run in site.runs()),
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
async def test_when_memory_is_full_emits_are_refused_at_once_and_jobs_with_children_complete(
    tmp_path: Path,
) -> None:
    jobs = 100
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.emit(tasks, range(jobs))
            server.ask("CONFIG", "SET", "maxmemory", 1)
            began = time.monotonic()
            with pytest.raises(QueueFullError):
                await tasks.emit("parent", jobs, queue="main")
            assert time.monotonic() - began < 0.5
            server.ask("CONFIG", "SET", "maxmemory", 0)
            await site.workers("one", "two", work=0.02, concurrency=4)
            await eventually(lambda: len(site.runs()) > 10, every=0.01)
            server.ask("CONFIG", "SET", "maxmemory", 1)
            await site.idle(tasks)
            await site.check(tasks, jobs)
            assert max(run.attempt for run in site.runs()) == 1
            server.ask("CONFIG", "SET", "maxmemory", 0)
            await site.emit(tasks, range(jobs, jobs + 5))
            await site.idle(tasks)
            await site.check(tasks, jobs + 5)


@timed(30)
async def test_a_server_that_loads_its_data_for_longer_than_a_lease_costs_nobody_an_attempt(
    tmp_path: Path,
) -> None:
    jobs = 200
    slow_to_load = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    with start_server(*AOF, *slow_to_load) as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.02, concurrency=4)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > 100, every=0.01)
            await anyio.to_thread.run_sync(server.restart)
            back_at = time.monotonic()
            await eventually(lambda: site.runs()[-1].at > back_at, within=2.5)
            assert refusals(server, "LOADING") > 0
            await site.idle(tasks)
            await site.check(tasks, jobs)
            assert max(run.attempt for run in site.runs()) == 1


@timed(30)
async def test_a_server_that_is_made_a_replica_and_back_loses_nothing(tmp_path: Path) -> None:
    jobs = 200
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.02, concurrency=4)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > 50, every=0.01)
            server.ask("REPLICAOF", "127.0.0.1", free_port())
            await anyio.sleep(1.3)
            assert refusals(server, "READONLY") > 0
            server.ask("REPLICAOF", "NO", "ONE")
            back_at = time.monotonic()
            await eventually(lambda: site.runs()[-1].at > back_at, within=2.5)
            await site.idle(tasks)
            await site.check(tasks, jobs)
            assert max(run.attempt for run in site.runs()) == 1


@pytest.mark.parametrize("trouble", ["SCRIPT FLUSH", "CLIENT KILL TYPE normal"])
@timed(30)
async def test_orders_to_the_server_under_load_cost_no_job(
    trouble: str, server: ServerProcess, tmp_path: Path
) -> None:
    jobs = 200
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.01, concurrency=4)
            await site.emit(tasks, range(jobs))
            for times in range(1, 9):
                await eventually(lambda n=times: len(site.runs()) > 40 * n, every=0.005)
                server.ask(*trouble.split())
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            assert ran.total() == 3 * jobs


@pytest.mark.parametrize("server_is", ["gone", "frozen"])
@timed(30)
async def test_a_stop_is_bounded_whatever_the_server_is(server_is: str, tmp_path: Path) -> None:
    grace = 0.3
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("a", "b", work=60, grace=grace, concurrency=4, ticks=True)
            await site.emit(tasks, range(8))
            await eventually(lambda: len(site.runs()) >= 8)
            if server_is == "gone":
                server.kill()
            else:
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


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@timed(30)
async def test_a_servers_clock_that_jumps_by_an_hour_steals_no_job_and_silences_no_schedule(
    tmp_path: Path,
) -> None:
    jobs = 60
    with (
        start_server_with_clock(directory=tmp_path) as (server, clock),
        Site.on(server.url, tmp_path) as site,
    ):
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.1, long_work=1.5, concurrency=8, ticks=True)

            async def goes_on(since: float) -> None:
                await eventually(
                    lambda: any(r.event == "tick" and r.at > since for r in site.runs()), within=3
                )

            await goes_on(0)
            # Back, and to where it was: each occurrence once, so it is silent in between.
            for number, offset_s in enumerate((-3600, 0, 3600)):
                await site.emit(tasks, range(jobs * number, jobs * (number + 1)))
                await eventually(lambda n=3 * jobs * number: len(site.runs()) > n + 10)
                clock.turn_to(offset_s)
                turned_at = time.monotonic()
                await site.idle(tasks)
                if offset_s >= 0:
                    await goes_on(turned_at)
            await site.check(tasks, 3 * jobs)
            runs = [run for run in site.runs() if run.event != "tick"]
            assert len(runs) == 9 * jobs
            assert {run.attempt for run in runs} == {1}
            ticks = [run.data for run in site.runs() if run.event == "tick"]
            assert len(ticks) == len(set(ticks))
