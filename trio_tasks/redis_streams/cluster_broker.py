"""RedisBroker on a cluster: the session with all of its nodes.

A queue lies in one slot and so on one node, which may change. Requests find it by themselves
(`ClusterLink`). Commands that block refuse keys of several slots, so each queue that is waited for
has a `wake` connection of its own, and each that is watched an `ev` connection. Both look for the
slot anew whenever they are lost or told that it has moved.

Memberships move with their queue. On every new connection to a node, `own` is sent for those whose
queue is there; when a queue moves to a node that is connected already, its next step that takes
jobs is preceded by it: what a step may have taken on a node that was lost is in nobody's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from trio_tasks.broker import TOMBSTONE_MS
from trio_tasks.control_c import protected
from trio_tasks.environment import loop_time
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.broker import RedisBroker
from trio_tasks.redis_streams.checks import check_server, said_of
from trio_tasks.redis_streams.cluster import NODE_OUTAGES, SLOT_OUTAGES, ClusterLink
from trio_tasks.redis_streams.cluster_address import Node, cluster_label, key_slot
from trio_tasks.redis_streams.emits import Emits
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.membership import Memberships
from trio_tasks.redis_streams.misplaced import Naming
from trio_tasks.redis_streams.outage_log import OutageLog
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.session import Session, Settings
from trio_tasks.redis_streams.slot_link import SlotLink
from trio_tasks.redis_streams.wakes import Wakes
from trio_tasks.redis_streams.watches import QueueWatch, Watches
from trio_tasks.redis_streams.wire import Connection

__all__ = ["ClusterBroker"]

T = TypeVar("T")


class ClusterBroker(RedisBroker):
    """Keeps jobs on a Redis or Valkey cluster."""

    def __init__(
        self,
        nodes: Sequence[Address],
        *,
        called: str = "db",
        namespace: str = "tt",
        tombstone_ms: int = TOMBSTONE_MS,
    ) -> None:
        """See `RedisBroker`.

        Args:
            nodes: some nodes of the cluster; see `parse_cluster_address`.
            called, namespace, tombstone_ms: see `RedisBroker`.
        """
        super().__init__(
            nodes[0],
            label=cluster_label(nodes),
            called=called,
            namespace=namespace,
            tombstone_ms=tombstone_ms,
        )
        self._nodes = nodes

    def _new_session(self) -> Session:
        return ClusterSession(self._settings, self._nodes)


class ClusterSession(Session):
    """A session with the nodes of a cluster."""

    def __init__(self, settings: Settings, nodes: Sequence[Address]) -> None:
        super().__init__(settings)
        self._cluster = ClusterLink(
            nodes,
            timeout=settings.timeout,
            tasks=self._tasks,
            outage_log=OutageLog(),
            on_connect=self._prepare,
            on_moved=self._moved,
        )
        self.cmd = self._naming = Naming(self._cluster)
        self.memberships = Memberships(
            cmd=self.cmd, waits=self, tasks=self._tasks, tombstone_ms=settings.tombstone_ms
        )
        self.emits = Emits(self.cmd, self._tasks, self._enqueue)
        self._wakes: dict[str, Wakes] = {}
        self._watches: dict[str, Watches] = {}

    @property
    def last_error(self) -> str | None:
        """Why some node cannot be asked."""
        return self.cmd.last_error

    async def _connect(self) -> None:
        deadline = loop_time() + self._settings.timeout
        self._tasks.start_soon(protected(self._cluster.run))
        with said_of(self._settings.called):
            for link in await self._cluster.open(deadline):
                await link.opened_by(deadline)
                await check_server(link)

    def start_waking(self) -> None:
        """Nothing yet: each queue has a connection of its own, from the first wait on."""

    def watch(self, queue: str, job_id: str | None) -> AbstractAsyncContextManager[QueueWatch]:
        """See `Watches.watch`."""
        watches = self._watches.get(queue)
        if watches is None:
            watches = self._watches[queue] = Watches(
                tasks=self._tasks,
                cmd=self._naming,
                new_link=partial(self._new_link, queue, "ev"),
                keys=self.keys,
            )
        return watches.watch(queue, job_id)

    async def wait(self, queue: str, timeout: float) -> bool:
        """See `Wakes.wait`."""
        return await self._wakes_of(queue).wait(queue, timeout)

    async def wait_and_call(self, queue: str, timeout: float, call: Call[T]) -> T | None:
        """See `Wakes.wait_and_call`."""
        return await self._wakes_of(queue).wait_and_call(queue, timeout, call)

    def _wakes_of(self, queue: str) -> Wakes:
        wakes = self._wakes.get(queue)
        if wakes is None:
            link = self._new_link(queue, "wake")
            wakes = self._wakes[queue] = Wakes(
                wake=link,
                cmd=self._slot_link(queue),
                naming=self._naming,
                keys=self.keys,
                bell=None,
            )
            self._tasks.start_soon(protected(link.run))
            self._tasks.start_soon(protected(wakes.run))
        return wakes

    def _new_keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._settings.namespace, queue, whole=True)

    def _slot(self, queue: str) -> int:
        return key_slot(self.keys(queue).prefix)

    def _slot_link(self, queue: str) -> SlotLink:
        return SlotLink(self._cluster, self._slot(queue))

    def _new_link(self, queue: str, name: str) -> Link:
        return Link(
            partial(self._cluster.topology.locate, self._slot(queue)),
            name=name,
            label=self._settings.label,
            timeout=self._settings.timeout,
            outages=SLOT_OUTAGES,
        )

    async def _prepare(self, node: Node, connection: Connection) -> None:
        await self._load_scripts(connection)
        await self.memberships.own_all(
            connection,
            here=lambda queue: self._cluster.topology.map.node_of(self._slot(queue)) == node,
            outages=NODE_OUTAGES,
        )

    def _moved(self, away: Callable[[int], bool]) -> None:
        self.memberships.moved(lambda queue: away(self._slot(queue)))
