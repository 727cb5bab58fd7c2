"""Which node of a cluster has which slot: a map that is read from the nodes, and read again.

Any node knows, so those are asked first to which there is a connection, then the others that were
ever heard of, each with a fair share of the time; another one is first each time. Whoever doubts
the map asks for a reading; those who doubt it at the same time share one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio

from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import in_words
from trio_tasks.redis_streams.cluster_address import Node, SlotMap, at, cluster_label
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.wire import RedisReplyError, open_connection

__all__ = ["Topology"]


class Topology:
    """The map of one cluster.

    Attributes:
        label: the cluster's address without credentials.
        map: as it was read last.
        last_error: why the last reading failed, or `None`.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        *,
        timeout: float,
        connected: Callable[[], Mapping[Node, Link]],
        on_change: Callable[[SlotMap, SlotMap], None],
    ) -> None:
        """Nothing is known before `refresh`.

        Args:
            seeds: nodes that know the others, with the settings for all.
            timeout: seconds that a reading may take.
            connected: tells which nodes can be asked without connecting first.
            on_change: is told of each reading: the map before, and the one that was read.
        """
        self.label = cluster_label(seeds)
        self.map = SlotMap()
        self.last_error: str | None = None
        self._seeds = seeds
        self._timeout = timeout
        self._connected = connected
        self._on_change = on_change
        self._reading = anyio.Lock()
        self._read_from = 0.0
        self._turn = 0

    def address_of(self, node: Node) -> Address:
        """How to connect to a node."""
        return at(self._seeds[0], node)

    async def locate(self, slot: int) -> Address:
        """Where a slot is now, asked anew.

        Raises:
            BrokerUnavailableError: no node could be asked, or nobody has it.
            ConfigurationError: as in `refresh`.
        """
        await self.refresh()
        node = self.map.node_of(slot)
        if node is None:
            raise BrokerUnavailableError(f"{self.label}: no node of the cluster has slot {slot}")
        return self.address_of(node)

    async def refresh(self, known_by: Link | None = None) -> None:
        """Read the map anew, or wait for somebody who has begun to do so since this was called.

        Args:
            known_by: the link to a node that surely knows.

        Raises:
            BrokerUnavailableError: no node could be asked in time.
            ConfigurationError: it is no cluster, or refuses us; only before the first reading
                that succeeded: later it is an outage, which may pass.
        """
        asked_at = loop_time()
        async with self._reading:
            if self._read_from >= asked_at:
                return
            begun_at = loop_time()
            try:
                found = await self._read(known_by)
            except (BrokerError, ConfigurationError) as error:
                self.last_error = str(error)
                raise
            self.last_error = None
            self._read_from = begun_at
            before, self.map = self.map, found
            self._on_change(before, found)

    async def _read(self, known_by: Link | None) -> SlotMap:
        asks = self._in_turn(known_by)
        ends_at = loop_time() + self._timeout
        failure: Exception | None = None
        refused: ConfigurationError | None = None
        for index, ask in enumerate(asks):
            share = max(0.0, ends_at - loop_time()) / (len(asks) - index)
            try:
                with anyio.fail_after(share):
                    return await ask(share)
            except RedisReplyError as error:
                if "cluster support disabled" in str(error):
                    failure = refused = ConfigurationError(
                        f"{self.label}: the server is no node of a cluster: give its address as"
                        " redis://"
                    )
                else:
                    failure = error
            except ConfigurationError as error:
                failure = refused = error
            except (BrokerError, TimeoutError) as error:
                failure = error
        if refused is not None and not self.map.nodes:
            raise refused
        raise BrokerUnavailableError(
            f"{self.label}: no node of the cluster can be asked ("
            f"{'no answer' if failure is None else in_words(failure)})"
        ) from failure

    def _in_turn(self, known_by: Link | None) -> list[Callable[[float], Awaitable[SlotMap]]]:
        connected = self._connected()
        asks: list[Callable[[float], Awaitable[SlotMap]]] = [
            partial(self._ask_over, node, link) for node, link in connected.items()
        ]
        strangers = {(seed.host, seed.port) for seed in self._seeds} | self.map.nodes
        asks += [
            partial(self._ask_from_afar, node) for node in sorted(strangers - connected.keys())
        ]
        self._turn = (self._turn + 1) % len(asks)
        asks = asks[self._turn :] + asks[: self._turn]
        for node, link in connected.items():
            if link is known_by:
                asks.insert(0, partial(self._ask_over, node, link))
        return asks

    async def _ask_over(self, node: Node, link: Link, share: float) -> SlotMap:
        (reply,) = await link.request(("CLUSTER", "SLOTS"), deadline=loop_time() + share)
        return SlotMap.read(reply, self.address_of(node))

    async def _ask_from_afar(self, node: Node, _share: float) -> SlotMap:
        address = self.address_of(node)
        async with open_connection(address, name="trio_tasks:locate") as connection:
            return SlotMap.read(await connection.request(("CLUSTER", "SLOTS")), address)
