"""A cluster: each queue is found on its node, followed when it moves, and never seen in part."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.redis_streams.test_acl import rights
from tests.redis_streams.work import Work
from tests.servers import ServerProcess, free_port, in_step, start_cluster, start_server, timed
from tests.workshop import eventually
from trio_tasks import Job, TaskManager
from trio_tasks.broker import RECORD_VERSION, NewJob, Record, Registration
from trio_tasks.connect import blocking_broker_for, broker_for
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address, TlsOptions
from trio_tasks.redis_streams.cluster_address import (
    SlotMap,
    key_slot,
    parse_cluster_address,
)
from trio_tasks.redis_streams.keys import QueueKeys, queues_key

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])
on_both_loops = pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])


# --- Addresses and slots ----------------------------------------------------------------------


def test_a_cluster_address_names_some_of_its_nodes() -> None:
    one, other = parse_cluster_address("rediss+cluster://ann:p%40w@one,[::1]:7000?ssl_ca_certs=/ca")
    tls = TlsOptions(ca_file="/ca")
    assert one == Address(host="one", username="ann", password="p@w", tls=tls)
    assert other == Address(host="::1", port=7000, username="ann", password="p@w", tls=tls)
    assert parse_cluster_address("redis+cluster://h/0") == (Address(host="h"),)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis+cluster://:s3cret@h/1", "no database but 0"),
        ("redis+cluster://:s3cret@h?db=1", "no database but 0"),
        ("redis+cluster://:s3cret@a,,b", "empty name between its commas"),
        ("redis+cluster://:s3cret@h/jobs", "redis\\+cluster:// address is the number"),
        ("redis+cluster://:s3cret@h:port", "redis\\+cluster:// .*percent-encoded"),
    ],
)
def test_a_wrong_cluster_address_is_refused_without_its_password(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint) as refused:
        broker_for(url)
    assert "cret" not in str(refused.value)


def test_what_needs_one_server_says_so() -> None:
    with pytest.raises(ConfigurationError, match="leave streamdb out"):
        broker_for("redis+cluster://h", streamdb="redis://h")
    with pytest.raises(ConfigurationError, match="a Producer cannot use redis"):
        blocking_broker_for("redis+cluster://h")


def test_a_node_without_a_name_is_the_one_that_was_asked() -> None:
    rows: list[object] = [[0, 5, [None, 7000, b"id", []]], [6, 9, [b"b", 7001, b"id", []]]]
    found = SlotMap.read(rows, Address(host="a"))  # pyright: ignore[reportArgumentType]
    assert [found.node_of(slot) for slot in (0, 5, 6, 10)] == [("a", 7000)] * 2 + [
        ("b", 7001),
        None,
    ]


# --- A cluster without replicas ---------------------------------------------------------------


@dataclass
class Cluster:
    """Its nodes, each with a third of the slots, and names of queues on them."""

    nodes: list[ServerProcess]

    @property
    def url(self) -> str:
        # The first of these is none of its nodes.
        ports = (free_port(), *(node.tcp_port for node in self.nodes))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"redis+cluster://{hosts}?socket_timeout=3"

    def queues_on(self, index: int, count: int, namespace: str) -> list[str]:
        """Names of queues that lie on a node to begin with."""
        first, end = 16_384 * index // 3, 16_384 * (index + 1) // 3
        names = (f"{namespace}-{number}" for number in range(10_000))
        here = [name for name in names if first <= self.slot(name, namespace) < end]
        return here[:count]

    def slot(self, queue: str, namespace: str) -> int:
        return key_slot(QueueKeys(namespace, queue).prefix)

    def keys(self, node: ServerProcess, slot: int) -> int:
        return int(node.ask("CLUSTER", "COUNTKEYSINSLOT", slot))

    def epochs(self) -> tuple[set[str], set[str]]:
        """The newest epoch that each node has heard of, and those of the nodes themselves."""
        told = "".join(node.ask("CLUSTER", "INFO") for node in self.nodes)
        heard = set(re.findall(r"cluster_current_epoch:(\d+)", told))
        own = set(re.findall(r"cluster_my_epoch:(\d+)", told))
        return heard, own

    def agree(self) -> None:
        """Return when all nodes know of the last move.

        A target that has not heard of the last epoch would claim the slot with one that is taken.
        The nodes settle that among themselves, and the slot may go to the wrong one meanwhile.
        """
        gives_up_at = time.monotonic() + 10
        while [len(epochs) for epochs in self.epochs()] != [1, len(self.nodes)]:
            assert time.monotonic() < gives_up_at, self.epochs()
            time.sleep(0.005)

    def begin_move(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        self.agree()
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))

    def move_keys(self, slot: int, source: ServerProcess, target: ServerProcess, most: int) -> int:
        """Move some keys, in no order; how many."""
        found = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        names = [name.strip("'") for name in found.strip("[]").split(", ") if name]
        random.shuffle(names)
        for name in names[:most]:
            done = source.ask("MIGRATE", "127.0.0.1", target.tcp_port, name, 0, 5000)
            assert done in ("OK", "NOKEY"), done
        return len(names[:most])

    def end_move(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))

    def move(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        """Move a slot key by key, as `valkey-cli --cluster reshard` does."""
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target, 100):
            pass
        self.end_move(slot, source, target)

    def move_at_once(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        """Move a slot as a whole, if the server can do that."""
        words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE")
        if source.ask(*words, target.ask("CLUSTER", "MYID")) != "OK":
            return self.move(slot, source, target)
        while self.keys(source, slot) or not self.keys(target, slot):
            time.sleep(0.005)
        return None


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with start_cluster() as nodes:
        yield Cluster(nodes)


def test_slots_are_those_of_the_server(cluster: Cluster) -> None:
    for key in ("foo", "a{bar}c", "{}x", "x{a", "ns:{q}:m", "a{}{b}", "{{a}}b", "}a{b}"):
        assert str(key_slot(key)) == cluster.nodes[0].ask("CLUSTER", "KEYSLOT", key)


@pytest.mark.anyio
@on_both_loops
@timed(20)
async def test_jobs_and_their_children_run_wherever_their_queues_are(
    cluster: Cluster, anyio_backend: str
) -> None:
    namespace = f"all-{anyio_backend}"
    parents = [name for index in range(3) for name in cluster.queues_on(index, 2, namespace)]
    children = [name + ".c" for name in parents[:3]]
    dead = {"dlq": {"stream": "dead-letters"}, "retry": {"max_retries": 0}}
    work = Work(
        cluster.url, namespace=namespace, parents=parents, children=children, processor=dead
    )

    @work.tasks.handler("fail", queue=parents[0])
    async def fail() -> None:
        raise ValueError

    async with work.tasks as tasks:
        await tasks.start()
        ref = await tasks.emit("parent", 0, queue=parents[0])
        assert await ref.result(timeout=5) == "done"
        for number in range(20):
            for queue in parents:
                await work.emit(number, queue)
        await work.until_ran(range(20))
        assert await work.left() == [0] * 9
        assert await tasks.queues() == sorted(work.queues)
        await tasks.emit(fail, queue=parents[0])
        await tasks.until_idle()
    holds = [key_slot("dead-letters") * 3 // 16_384 == index for index in range(3)]
    found = [node.ask("XLEN", "dead-letters") for node in cluster.nodes]
    assert [int(n) > 0 if held else "MOVED" in n for n, held in zip(found, holds, strict=True)] == [
        True
    ] * 3


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_the_rights_in_the_text_are_enough(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert node.ask("ACL", "SETUSER", "jobs", *rights(), "+cluster|slots") == "OK"
    queues = [cluster.queues_on(index, 1, "tt")[0] for index in range(3)]
    url = cluster.url.replace("://", "://jobs:secret@")
    work = Work(url, namespace="tt", parents=queues[:2], children=queues[2:])
    async with work.tasks as tasks:
        await tasks.start()
        ref = await tasks.emit("parent", 0, queue=queues[0])
        assert await ref.result(timeout=5) == "done"
        await work.emit(0, queues[1])
        await work.until_ran([0])
        assert await tasks.queues() == sorted(queues)
    assert [node.ask("ACL", "LOG") for node in cluster.nodes] == ["[]"] * 3


@pytest.mark.anyio
@on_trio
@pytest.mark.parametrize("name", ["m", "s:0", "w", "ev", "c"])
@timed(30)
async def test_a_key_of_the_wrong_type_is_named_and_stops_its_queue_alone_until_it_is_gone(
    name: str, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_tasks.broker")
    namespace = f"spoilt-{name.replace(':', '-')}"
    spoilt, beside = cluster.queues_on(0, 2, namespace)
    (far,) = cluster.queues_on(1, 1, namespace)
    work = Work(cluster.url, namespace=namespace, parents=[spoilt, beside, far], children=[])
    key = QueueKeys(namespace, spoilt).prefix + name
    node = cluster.nodes[0]

    def told() -> list[str]:
        return [r.levelname for r in caplog.records if repr(key) in r.getMessage()]

    async with work.tasks as tasks:
        await tasks.start()
        for queue in work.queues:
            assert await (await tasks.emit("parent", 0, queue=queue)).result(timeout=5) == "done"
        kept = node.ask("RENAME", key, f"{key}-kept") == "OK"
        assert node.ask("SET", key, "somebody's") == "OK"
        while not told():
            with suppress(BrokerUnavailableError):
                await tasks.emit("parent", 1, queue=spoilt)
            await anyio.sleep(0.01)
        for queue in (beside, far):
            await work.emit(2, queue)
            await eventually(lambda queue=queue: (queue, 2) in work.ran)
        assert node.ask("GET", key) == "somebody's"
        assert node.ask("DEL", key) == "1"
        if kept:
            assert node.ask("RENAME", f"{key}-kept", key) == "OK"
        await work.emit(2, spoilt)
        await work.until_ran([0, 2])
        await eventually(lambda: len(told()) == 2)
    assert told() == ["ERROR", "INFO"]
    assert "WRONGTYPE" not in caplog.text


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_a_list_of_queues_of_the_wrong_type_is_named(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    key = queues_key("unlisted")
    node = cluster.nodes[key_slot(key) * 3 // 16_384]
    assert node.ask("SET", key, "somebody's") == "OK"
    async with TaskManager(cluster.url, namespace="unlisted") as tasks:
        await tasks.emit("parent", 0)
        with pytest.raises(BrokerUnavailableError, match=f"key '{key}' is of the type 'string'"):
            await tasks.queues()
    (record,) = caplog.records
    assert repr(key) in record.getMessage()


@pytest.mark.anyio
@on_trio
@timed(30)
async def test_slots_move_while_workers_run_and_every_job_runs(cluster: Cluster) -> None:
    namespace = "moving"
    parents = cluster.queues_on(0, 2, namespace) + cluster.queues_on(1, 1, namespace)
    children = cluster.queues_on(2, 1, namespace)
    work = Work(cluster.url, namespace=namespace, parents=parents, children=children)
    ahead = 0
    moved = anyio.Event()
    one_at_a_time = anyio.Lock()  # two nodes that send keys to each other wait for each other

    async def emit_on() -> None:
        nonlocal ahead
        while not moved.is_set():
            for queue in parents:
                await work.emit(ahead, queue)
            ahead += 1

    async def move(queue: str, path: list[int], how: str) -> None:
        slot = cluster.slot(queue, namespace)
        for source, target in pairwise(cluster.nodes[index] for index in path):
            step = cluster.move_at_once if how == "at once" else cluster.move
            async with one_at_a_time:
                await anyio.to_thread.run_sync(step, slot, source, target)

    async with work.tasks as tasks:
        await tasks.start()
        async with anyio.create_task_group() as running:
            running.start_soon(emit_on)
            await work.until_some_ran(20)
            async with anyio.create_task_group() as moves:
                moves.start_soon(move, parents[0], [0, 1, 2, 0], "key by key")
                moves.start_soon(move, parents[1], [0, 2, 1, 0], "at once")
                moves.start_soon(move, children[0], [2, 0, 2], "key by key")
            await work.until_some_ran(20)
            moved.set()
        assert ahead > 10
        await work.until_ran(range(ahead))
        assert await work.left() == [0] * 4
    # Nothing failed, so nothing ran twice but children of several parents.
    assert all(work.ran[queue, number] == 1 for queue in parents for number in range(ahead))
    assert all(work.ran[children[0], number] == len(parents) for number in range(ahead))


@pytest.mark.anyio
@on_trio
@timed(30)
async def test_no_script_runs_on_a_part_of_a_queue(cluster: Cluster) -> None:
    namespace = "parts"
    (queue,) = cluster.queues_on(0, 1, namespace)
    slot = cluster.slot(queue, namespace)
    source, target = cluster.nodes[:2]
    keys = QueueKeys(namespace, queue)
    job = NewJob(queue=queue, id="a@1", record=Record(RECORD_VERSION, "event", b"1"))
    hasty = cluster.url.replace("socket_timeout=3", "socket_timeout=1")
    async with broker_for(hasty, namespace=namespace)() as broker:
        await broker.emit([job])
        # All that scripts name is there: only the key that never exists tells that some is away.
        for name in (keys.leases, keys.due, keys.cron, keys.dlq):
            source.ask("ZADD", name, 10**15, "x")
        for name in (keys.incarnations, keys.cancels):
            source.ask("HSET", name, "x", "x")
        for name in (keys.out, keys.events):
            source.ask("XADD", name, "*", "i", "x")
        assert source.ask("EXISTS", *keys.fixed) == str(len(keys.fixed))

        cluster.begin_move(slot, source, target)
        source.ask("MIGRATE", "127.0.0.1", target.tcp_port, keys.job("a@1"), 0, 5000)
        with pytest.raises(BrokerUnavailableError, match="TRYAGAIN"):
            await broker.read(queue, ["a@1"])
        assert cluster.move_keys(slot, source, target, 10_000) > 0
        with pytest.raises(BrokerUnavailableError, match="ASK"):
            await broker.read(queue, ["a@1"])
        cluster.end_move(slot, source, target)
        assert [stored and stored.id for stored in await broker.read(queue, ["a@1"])] == ["a@1"]
        cluster.move(slot, target, source)


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_a_queue_that_has_moved_is_owned_anew_before_jobs_are_taken(
    cluster: Cluster,
) -> None:
    namespace = "owned"
    (queue,) = cluster.queues_on(0, 1, namespace)
    first, other = cluster.nodes[:2]
    registration = Registration(
        queue=queue, incarnation="c:1", consumer_id="c", host="h", events=["e"], lease_ms=10_000
    )
    incarnations = QueueKeys(namespace, queue).incarnations
    async with broker_for(cluster.url, namespace=namespace)() as broker:
        membership = await broker.register(registration, have=list, lost=lambda _: None)
        await membership.step((), 1)
        assert first.ask("HGET", incarnations, "c:1#") == "None"
        for source, target, times in ((first, other, "1"), (other, first, "2")):
            cluster.move(cluster.slot(queue, namespace), source, target)
            for _ in range(3):
                # The first one of them is told where the queue is now.
                await membership.step((), 1)
            assert target.ask("HGET", incarnations, "c:1#") == times


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_clusterdown_for_longer_than_a_lease_costs_nobody_an_attempt(
    cluster: Cluster,
) -> None:
    namespace, lease, jobs = "down", 0.5, 40
    (queue,) = cluster.queues_on(0, 1, namespace)
    node, slot = cluster.nodes[0], cluster.slot(queue, namespace)
    runs: list[tuple[int, int]] = []
    tasks: TaskManager[Any] = TaskManager(
        cluster.url, namespace=namespace, lease=lease, concurrency=4
    )

    @tasks.handler("job", queue=queue, attempts=1)
    async def job(job: Job[int]) -> None:
        runs.append((job.data, job.attempt))
        await anyio.sleep(0.02)

    async with tasks:
        await tasks.start()
        for number in range(jobs):
            await tasks.emit(job, number)
        while len(runs) <= 8:  # noqa: ASYNC110 - it looks at what handlers leave behind
            await anyio.sleep(0.001)
        node.ask("CLUSTER", "DELSLOTS", slot)
        assert "CLUSTERDOWN" in node.ask("EXISTS", QueueKeys(namespace, queue).meta)
        before = len(runs)
        await anyio.sleep(1.5 * lease)
        assert len(runs) <= before + 4, "nothing is handed out meanwhile"
        node.ask("CLUSTER", "ADDSLOTS", slot)
        await tasks.until_idle()
        stats = await tasks.queue(queue).stats()
    assert (stats.completed, stats.dead) == (jobs, 0)
    assert {number for number, _ in runs} == set(range(jobs))
    assert {attempt for _, attempt in runs} == {1}


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_a_server_that_is_no_cluster_is_refused_at_once() -> None:
    with start_server(tcp=True) as server:
        broker = broker_for(server.tcp_url.replace("redis", "redis+cluster"))()
        with pytest.raises(ConfigurationError, match="no node of a cluster"):
            await broker.__aenter__()


@pytest.mark.anyio
@on_both_loops
@timed(20)
async def test_without_any_node_entering_fails_in_time_and_shows_no_password() -> None:
    url = f"redis+cluster://ann:s3cret@127.0.0.1:{free_port()}?socket_timeout=0.3"
    broker = broker_for(url)()
    with pytest.raises(BrokerUnavailableError, match="no node of the cluster") as caught:
        await broker.__aenter__()
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {broker!r}"


# --- Failover ---------------------------------------------------------------------------------


@pytest.mark.anyio
@on_trio
@timed(40)
async def test_after_a_failover_every_stored_job_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with start_cluster(replica_of_first=True) as nodes:
        cluster = Cluster(nodes)
        primary, _, _, replica = nodes
        namespace = "failover"
        parents = cluster.queues_on(0, 1, namespace) + cluster.queues_on(1, 1, namespace)
        children = cluster.queues_on(0, 2, namespace)[1:] + cluster.queues_on(2, 1, namespace)
        work = Work(cluster.url, namespace=namespace, parents=parents, children=children, lease=3.0)
        async with work.tasks as tasks:
            await tasks.start()
            for number in range(100):
                for queue in parents:
                    await work.emit(number, queue)
            await work.until_ran(range(100))
            for number in range(100, 150):
                await work.emit(number, parents[0])
            await anyio.to_thread.run_sync(in_step, primary, replica)
            primary.kill()
            await work.emit(100, parents[1])  # the others go on
            async with anyio.create_task_group() as emitting:
                for number in range(100, 200):
                    emitting.start_soon(work.emit, number, parents[1])
                for number in range(150, 200):
                    emitting.start_soon(work.emit, number, parents[0])
            await work.until_ran(range(200))
            assert await work.left() == [0] * 4
            assert tasks.statistics().connected
        assert "role:master" in replica.ask("INFO", "replication")
        lost = [each for each in caplog.messages if "no connection to the server" in each]
        assert len(lost) == 1  # though each queue had a connection of its own
        assert f"redis://127.0.0.1:{primary.tcp_port}/0" in lost[0]
