"""Workers are killed, frozen and stopped under load; then every job and every key is counted."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import anyio
import pytest

from tests.faults.site import QUEUES, Site
from tests.servers import ServerProcess, start_server, timed
from tests.workshop import eventually
from trio_tasks import JobState

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@timed(30)
async def test_kill_9_of_one_of_two_workers_under_load_loses_and_doubles_nothing(
    server: ServerProcess, tmp_path: Path
) -> None:
    jobs = 2000
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            victim, survivor = await site.workers("victim", "survivor")
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > jobs, within=20, every=0.02)
            victim.signal(SIGKILL)
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            # Only what the victim had in its hands ran twice.
            assert 0 <= ran.total() - 3 * jobs <= 2 * site.settings.concurrency
            by = Counter(run.worker for run in site.runs())
            assert min(by.values()) > jobs / 10
            survivor.signal(SIGTERM)
            assert (await survivor.stopped())[0] == 0
            for queue in QUEUES:
                assert site.members(queue) == []
                assert site.consumers(queue) == set()


@timed(20)
async def test_sigterm_gives_jobs_back_at_once_and_exits_0(
    server: ServerProcess, tmp_path: Path
) -> None:
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            (worker,) = await site.workers("w", work=60, grace=0.2, lease=30, concurrency=8)
            await site.emit(tasks, range(20))
            await eventually(lambda: len(site.runs()) == 8)
            worker.signal(SIGTERM)
            began = time.monotonic()
            code, said = await worker.stopped()
            assert time.monotonic() - began < 2
            assert (code, "interrupted=8, released=8" in said) == (0, True)
            stats = await tasks.queue("main").stats()
            assert (stats.queued, stats.running) == (20, 0)
            for job in await tasks.queue("main").jobs(state=JobState.QUEUED):
                assert job.attempt == 0
            for queue in QUEUES:
                assert site.members(queue) == []
                assert site.consumers(queue) == set()
            await site.workers("heir")
            await site.idle(tasks)
            await site.check(tasks, 20)


@timed(30)
async def test_a_worker_that_was_frozen_for_longer_than_its_lease_does_no_harm(
    server: ServerProcess, tmp_path: Path
) -> None:
    jobs = 300
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            frozen, other = await site.workers("frozen", "other", work=0.05, concurrency=4)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > 40, within=10, every=0.01)
            frozen.signal(SIGSTOP)
            before = len([run for run in site.runs() if run.worker == "frozen"])
            await eventually(
                lambda: any(run.attempt > 1 for run in site.runs()), within=10, every=0.02
            )
            await anyio.sleep(0.5)
            assert len([run for run in site.runs() if run.worker == "frozen"]) == before
            frozen.signal(SIGCONT)
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            assert ran.total() - 3 * jobs <= 2 * 4
            # It works on, under a fresh name.
            other.signal(SIGKILL)
            await site.emit(tasks, range(jobs, jobs + 5))
            await site.idle(tasks)
            await site.check(tasks, jobs + 5)
            frozen.signal(SIGTERM)
            assert (await frozen.stopped())[0] == 0


@timed(40)
async def test_a_server_that_is_killed_and_comes_back_with_its_data_costs_nothing(
    tmp_path: Path,
) -> None:
    jobs = 400
    with (
        start_server("--appendonly", "yes", "--appendfsync", "always") as server,
        Site.on(server.url, tmp_path) as site,
    ):
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", work=0.01, lease=2)
            await site.emit(tasks, range(jobs))
            for wanted in (jobs, 2 * jobs):
                await eventually(lambda n=wanted: len(site.runs()) > n, within=20, every=0.02)
                await anyio.to_thread.run_sync(server.restart)
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            assert ran.total() - 3 * jobs <= 2 * 2 * site.settings.concurrency
            for worker in workers:
                worker.signal(SIGTERM)
                assert (await worker.stopped())[0] == 0
            for queue in QUEUES:
                assert site.members(queue) == []


@timed(30)
async def test_after_flushall_workers_join_anew_and_nobody_runs_hot(tmp_path: Path) -> None:
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", work=0.02, ticks=True)
            await site.emit(tasks, range(300))
            await eventually(lambda: len(site.runs()) > 50, every=0.01)
            site.ask("FLUSHALL")
            await anyio.sleep(1.5)
            seen = len(site.runs())
            ticks = len([run for run in site.runs() if run.event == "tick"])
            before = site.commands_processed()
            await anyio.sleep(1)
            after = site.commands_processed()
            # Five ticks a second, polls, beats of a lease of one second.
            assert after - before < 1000, "they run hot"
            assert len([run for run in site.runs() if run.event == "tick"]) > ticks + 2
            await site.emit(tasks, range(1000, 1020))
            await site.idle(tasks)
            again = [run for run in site.runs()[seen:] if run.data in range(1000, 1020)]
            assert Counter(run.event for run in again) == {"parent": 20, "sibling": 20, "child": 20}
            for worker in workers:
                worker.signal(SIGTERM)
                assert (await worker.stopped())[0] == 0


@timed(20)
async def test_two_processes_with_one_consumer_id_both_work(
    server: ServerProcess, tmp_path: Path
) -> None:
    jobs = 200
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", consumer_id="same", work=0.01, concurrency=4)
            await site.emit(tasks, range(jobs))
            await site.idle(tasks)
            ran = await site.check(tasks, jobs)
            assert ran.total() == 3 * jobs
            assert {run.worker for run in site.runs()} == {"one", "two"}
            for worker in workers:
                worker.signal(SIGTERM)
                code, _ = await worker.stopped()
                assert code == 0
            for queue in QUEUES:
                assert site.members(queue) == []
                assert site.consumers(queue) == set()


@timed(30)
async def test_a_server_that_is_frozen_for_longer_than_a_lease_costs_nobody_an_attempt(
    tmp_path: Path,
) -> None:
    jobs = 100
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            await site.workers("one", "two", work=0.05, concurrency=4)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) > 30, every=0.01)
            server.freeze()
            await anyio.sleep(2.5)
            server.thaw()
            await site.idle(tasks)
            await site.check(tasks, jobs)
            assert max(run.attempt for run in site.runs()) == 1
