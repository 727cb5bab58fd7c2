"""Everything at once: cancels anywhere, connections killed, scripts forgotten; then count."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Generator, Sequence

import anyio
import pytest

from tests.contract.backdoors import RedisBackdoor
from tests.contract.world import Worker, World
from tests.redis_streams.admin import Admin
from tests.servers import ServerProcess, start_server, timed
from trio_tasks.broker import Applied, Outcome
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerUnavailableError
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"]),
]

QUEUES = ("a", "b", "c")


@pytest.fixture
def server() -> Generator[ServerProcess]:
    with start_server() as server:
        yield server


class Chaos:
    """Emitters and workers who are cancelled now and then, and what has become of their jobs."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.emitted: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.attempts: set[int] = set()
        self.is_over = False
        self._progress = anyio.Event()

    async def until_all_have_ended(self) -> None:
        while not self.emitted <= self.ended.keys():
            self._progress = anyio.Event()
            await self._progress.wait()

    def patience(self, short: float) -> anyio.CancelScope:
        """A scope that is often cancelled at an unlucky moment."""
        unlucky = self.luck.random() < 0.25
        return anyio.CancelScope(deadline=loop_time() + short if unlucky else math.inf)

    async def emit(self, world: World) -> None:
        for _ in range(40):
            queue = self.luck.choice(QUEUES)
            jobs = [world.job(queue=queue) for _ in range(self.luck.choice([1, 1, 3, 300]))]
            stored = False
            while not stored:
                with self.patience(0.001):
                    await world.broker.emit(jobs)
                    stored = True
            self.emitted.update(job.id for job in jobs)

    async def work(self, world: World, queue: str) -> None:
        worker = await world.worker(queue=queue)
        outcomes: list[Outcome] = []
        while outcomes or not self.is_over:
            want = self.luck.choice([0, 20, 20])
            try:
                with self.patience(0.0005):
                    reply = await worker.membership.step(outcomes, want)
                    self._note(worker, outcomes, reply.applied)
                    outcomes = []
                    for delivery in reply.taken.deliveries if reply.taken is not None else ():
                        worker.held.append(delivery.token)
                        self.attempts.add(delivery.attempt)
                        outcomes.append(worker.outcome(delivery))
                if not outcomes:
                    with self.patience(0.01):
                        await worker.membership.wait(0.2)
            except BrokerUnavailableError:
                pass  # a step that takes is never repeated by the broker: by us, then
        await worker.leave()

    def _note(self, worker: Worker, outcomes: list[Outcome], answers: Sequence[Applied]) -> None:
        for outcome, applied in zip(outcomes, answers, strict=True):
            assert applied in (Applied.APPLIED, Applied.REPEATED)
            self.ended[outcome.token.job_id] += 1
            worker.held.remove(outcome.token)
        self._progress.set()

    async def break_things(self, admin: Admin) -> None:
        for _ in range(12):
            await anyio.sleep(self.luck.random() / 5)
            if self.luck.random() < 0.25:
                admin.do("SCRIPT", "FLUSH")
            else:
                admin.kill(self.luck.choice(["trio_tasks:cmd", "trio_tasks:wake"]))


@timed(60)
async def test_every_job_ends_once_and_no_attempt_is_lost(server: ServerProcess) -> None:
    chaos = Chaos(seed=1)
    address = parse_address(server.url)
    backdoor = RedisBackdoor(server.url, "tt")
    async with RedisBroker(address) as here, RedisBroker(address) as there:
        async with anyio.create_task_group() as workers:
            for broker in (here, there):
                for queue in QUEUES:
                    workers.start_soon(chaos.work, World(broker, backdoor), queue)
            async with anyio.create_task_group() as emitters:
                for _ in range(5):
                    emitters.start_soon(chaos.emit, World(here, backdoor))
                with Admin(server.url) as admin:
                    await chaos.break_things(admin)
            with anyio.fail_after(20):
                await chaos.until_all_have_ended()
            chaos.is_over = True
        for queue in QUEUES:
            counts = await here.counts(queue)
            assert (counts.queued, counts.running) == (0, 0)
            assert counts.completed == counts.emitted
        assert await backdoor.defects() == []
    assert set(chaos.ended.values()) == {1}
    assert chaos.attempts == {1}
