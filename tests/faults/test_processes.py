"""Workers are killed, frozen and stopped under load; then every job and every key is counted."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGTERM

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


@timed(20)
async def test_after_kill_9_of_a_worker_its_jobs_run_again_after_the_lease_and_the_attempt_counts(
    server: ServerProcess, tmp_path: Path
) -> None:
    lease, jobs = 0.6, 4
    with Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            (victim,) = await site.workers("victim", work=60, lease=lease, concurrency=jobs)
            await site.emit(tasks, range(jobs))
            await eventually(lambda: len(site.runs()) == jobs)
            await site.workers("heir", lease=lease)
            victim.signal(SIGKILL)
            killed_at = time.monotonic()
            await site.idle(tasks)
            await site.check(tasks, jobs)
            again = [run for run in site.runs() if run.worker == "heir" and run.event == "parent"]
            assert {run.data: run.attempt for run in again} == dict.fromkeys(range(jobs), 2)
            # It was renewed a third of a lease before, and it takes a poll to see its end.
            waited = [run.at - killed_at for run in again]
            assert lease / 3 < min(waited) <= max(waited) < lease + 1 + 1


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
async def test_after_flushall_workers_join_anew_and_nobody_runs_hot(tmp_path: Path) -> None:
    with start_server() as server, Site.on(server.url, tmp_path) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", work=0.02, ticks=True, lease=0.6)
            await site.emit(tasks, range(300))
            await eventually(lambda: len(site.runs()) > 50, every=0.01)
            site.ask("FLUSHALL")
            await anyio.sleep(0.8)
            seen = len(site.runs())
            ticks = len([run for run in site.runs() if run.event == "tick"])
            before = site.commands_processed()
            await anyio.sleep(0.6)
            after = site.commands_processed()
            # Five ticks a second, polls, beats of a lease of 0.6 seconds.
            assert after - before < 600, "they run hot"
            assert len([run for run in site.runs() if run.event == "tick"]) > ticks + 1
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
    jobs = 100
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
