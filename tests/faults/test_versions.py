"""A rolling deploy: records of the next release are in the queue beside those of today."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest

from tests.faults.site import Site
from tests.faults.worker import TOMORROW
from tests.servers import ServerProcess, timed
from tests.workshop import eventually
from trio_tasks.broker import NewJob, Record
from trio_tasks.environment import Ids
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@timed(30)
async def test_jobs_of_the_next_release_wait_for_its_workers_and_todays_jobs_run_everywhere(
    server: ServerProcess, tmp_path: Path
) -> None:
    ids = Ids()
    with Site.on(server.url, tmp_path) as site:
        namespace = site.settings.namespace
        async with (
            site.onlooker() as tasks,
            RedisBroker(parse_address(server.url), namespace=namespace) as behind,
        ):
            (old,) = await site.workers("old", unknown_event_grace=1)
            records = [Record(TOMORROW, "parent", b"%d" % n) for n in range(20)]
            await behind.emit([NewJob(id=ids.job_id(), queue="main", record=r) for r in records])
            await site.emit(tasks, range(20, 40))
            await eventually(lambda: len(site.runs()) == 60)
            stats = await tasks.queue("main").stats()
            assert (stats.delayed, stats.dead) == (20, 0)
            await site.workers("new", tomorrow=True, unknown_event_grace=1)
            old.signal(SIGTERM)
            assert (await old.stopped())[0] == 0
            await eventually(lambda: len(site.runs()) == 120, within=5)
            await site.idle(tasks)
            await site.check(tasks, 40)
            assert {run.worker for run in site.runs() if run.data < 20} == {"new"}
            assert {run.attempt for run in site.runs()} == {1}
