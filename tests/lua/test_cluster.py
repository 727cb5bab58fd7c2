"""On a cluster every script stays in its queue's slot, whatever keys it makes up itself."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import redis

from tests.lua.conftest import PATIENCE
from tests.lua.desk import Desk
from tests.servers import start_server
from trio_tasks.broker import RECORD_VERSION, Applied, Debounce, Record, ScheduleRecord
from trio_tasks.processor.decisions import Die, Release, Retry
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.keys import QueueKeys


@pytest.fixture
def clustered() -> Generator[Desk]:
    """A queue on a cluster of one node that has all slots."""
    with (
        start_server("--cluster-enabled", "yes") as server,
        redis.Redis(
            unix_socket_path=server.socket_path,
            socket_timeout=PATIENCE,
            single_connection_client=True,
            protocol=2,
        ) as client,
    ):
        desk = Desk(client, "ns")
        desk.do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while "cluster_state:ok" not in str(desk.do("CLUSTER", "INFO")):
            pass
        yield desk
        assert desk.defects() == []


def test_all_keys_of_a_queue_lie_in_one_slot(clustered: Desk) -> None:
    keys = QueueKeys("ns", "some-queue")
    names = [*keys.fixed, keys.stream(3), keys.job("a@1"), keys.log("a"), keys.debounce("d")]
    names += [keys.schedule("nightly"), keys.prefix]

    assert len({clustered.number("CLUSTER", "KEYSLOT", name) for name in names}) == 1


def test_every_script_runs_on_a_cluster(clustered: Desk) -> None:
    desk = clustered
    clerk = desk.clerk()
    trailing = Debounce("trailing", 0, "key")
    for debounce in (None, trailing):
        desk.emit(debounce=debounce, priority=2)
    first, second = clerk.take(2)
    clerk.debounce(first)
    clerk.debounce(second, edge="trailing")
    clerk.log(first, b"1")
    child = desk.job("child")
    assert (
        clerk.commit(
            clerk.outcome(first, children=[child], logged=True),
            clerk.outcome(second, Release(counted=False, began=True)),
        )
        == [Applied.APPLIED] * 2
    )
    clerk.end(clerk.take_one(), Retry(delay_ms=0))
    clerk.end(clerk.take_one(), Die("x"))
    desk.ask(calls.requeue(desk.keys, second.token.job_id, generation=0))
    desk.cancel("child")
    desk.emit("later", delay_ms=60_000)
    desk.cancel("later")
    desk.ask(calls.pause(desk.keys, paused=True, number=1))
    schedule = ScheduleRecord(
        queue="q",
        name="nightly",
        definition=b"{}",
        template=Record(RECORD_VERSION, "work", b"null"),
        next_at_ms=desk.now_ms() + 60_000,
    )
    desk.ask(calls.declare(desk.keys, schedule, replace=False))
    desk.ask(calls.due_schedules(desk.keys))
    desk.ask(calls.tick(desk.keys, schedule, next_at_ms=None, job=None))
    desk.ask(calls.remove_schedule(desk.keys, "nightly"))
    desk.ask(calls.relay_read(desk.keys))
    desk.ask(calls.relay_done(desk.keys, ["1-1"]))
    desk.ask(calls.set_aside(desk.keys, ["1-1"]))
    clerk.beat()
    clerk.leave()

    assert desk.counts().queued == 1
