"""Asking a cluster: requests go to the node that has their key, wherever that is by now.

Theory of operation
-------------------
A `ClusterLink` is for a cluster what a `Link` is for one server. It has a link to each primary that
was needed so far, a map of the slots (topology.py), and sends each call to the node that has the
slot of its first key. All keys of a queue lie in one slot, so a call never needs two nodes.

The map is read anew by whoever notices that it may be wrong: a request that was answered `MOVED`,
and each link before it connects again. A node that is a primary no more loses its link.

What a node may answer instead of doing what was asked:

* `MOVED`: the slot is elsewhere. The map is read from the very node that knows it, and the request
  goes to the right one. Nothing had happened, so this is for all requests, repeatable or not;
* `TRYAGAIN`, `ASK`: the slot is being moved key by key, and not all keys of the queue are in one
  place. Nothing has happened, and nothing may: a script that saw half of a queue would take the
  other half for lost. (So each script names one key that never exists, see `QueueKeys`; that is
  what makes the node refuse.) It is tried again, with growing pauses, until the deadline. Following
  `ASK` would not help: the new node, too, refuses requests of several keys until all are there;
* `CLUSTERDOWN`: nobody has the slot now. The same.

These concern one slot; the connection stays, as other queues use it. Errors that concern the node
(`LOADING`, …), lost connections and time-outs are its link's, as with one server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.abc

from trio_tasks.control_c import protected
from trio_tasks.environment import jitter, loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import OUTAGES
from trio_tasks.redis_streams.cluster_address import Node, SlotMap, key_slot
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.outage_log import OutageLog
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.topology import Topology
from trio_tasks.redis_streams.wire import Command, Connection, RedisReplyError, Reply

__all__ = ["NODE_OUTAGES", "SLOT_OUTAGES", "ClusterLink"]

T = TypeVar("T")

_OF_SLOTS: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})

NODE_OUTAGES: Final = OUTAGES - _OF_SLOTS
"""Errors that concern a node, for a link which is used for many slots."""

SLOT_OUTAGES: Final = OUTAGES | _OF_SLOTS
"""Errors after which a link that is used for one slot looks for it anew."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5


class _NodeLink:
    """A link to a primary, which can be given up."""

    __slots__ = ("link", "scope", "tried")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.tried = False
        self.link: Link

    async def run(self) -> None:
        with self.scope:
            await self.link.run()


class ClusterLink:
    """Links to the primaries of a cluster. Its methods are those of `Link`; see there.

    Attributes:
        timeout: seconds that a call may take unless it says otherwise.
        topology: knows which node has which slot.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        *,
        timeout: float,
        tasks: anyio.abc.TaskGroup,
        outage_log: OutageLog,
        on_connect: Callable[[Node, Connection], Awaitable[None]],
        on_moved: Callable[[Callable[[int], bool]], None],
    ) -> None:
        """Nothing is connected before `open`.

        Args:
            seeds: nodes that know the others, with the settings for all.
            timeout: seconds that a call may take.
            tasks: runs the links.
            outage_log: is told of lost nodes.
            on_connect: prepares a new connection to a node.
            on_moved: is told, by a function of the slot, which slots have another node now.
        """
        self.timeout = timeout
        self.topology = Topology(
            seeds, timeout=timeout, connected=self._connected, on_change=self._adopt
        )
        self._tasks = tasks
        self._on_connect = on_connect
        self._on_moved = on_moved
        self._outage_log = outage_log
        self._nodes: dict[Node, _NodeLink] = {}
        self._over = False

    def __repr__(self) -> str:
        state = "connected" if self.connected else self.last_error or "never connected"
        return f"<ClusterLink to {len(self._nodes)} node(s), {state}>"

    @property
    def connected(self) -> bool:
        """Whether all nodes that were needed so far can be asked."""
        return bool(self._nodes) and all(node.link.connected for node in self._nodes.values())

    @property
    def last_error(self) -> str | None:
        """Why some node cannot be asked; `None` while all can."""
        for node in self._nodes.values():
            if not node.link.connected and node.link.last_error is not None:
                return node.link.last_error
        return self.topology.last_error

    @property
    def over(self) -> bool:
        """Whether there will be no connection any more."""
        return self._over

    async def run(self) -> None:
        """Wait until cancelled; with it, all is over."""
        try:
            await anyio.sleep_forever()
        finally:
            self._over = True

    async def open(self, deadline: float) -> list[Link]:
        """Find the nodes; links to all primaries, which are about to be connected.

        Raises:
            BrokerUnavailableError: none of the seeds answered in time.
            ConfigurationError: they are no cluster, or refuse us.
        """
        while True:
            try:
                await self.topology.refresh()
            except BrokerUnavailableError as error:
                if loop_time() >= deadline:
                    raise error from None  # the text tells the cause
            if nodes := self.topology.map.nodes:
                return [self._link_to(node) for node in nodes]
            if loop_time() >= deadline:
                raise BrokerUnavailableError(f"{self.topology.label}: the cluster has no slots yet")
            await anyio.sleep(_FIRST_PAUSE)

    async def connected_by(self, deadline: float) -> None:
        """Wait until the nodes that were needed so far can be asked."""
        for node in list(self._nodes.values()):
            await node.link.connected_by(deadline)

    def _adopt(self, before: SlotMap, found: SlotMap) -> None:
        for node in self._nodes.keys() - found.nodes:
            self._nodes.pop(node).scope.cancel()
        if found != before:
            self._on_moved(lambda slot: before.node_of(slot) != found.node_of(slot))

    def _connected(self) -> dict[Node, Link]:
        return {node: each.link for node, each in self._nodes.items() if each.link.connected}

    # -- the nodes -------------------------------------------------------------------------------

    def _link_to(self, node: Node) -> Link:
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = _NodeLink()
            known.link = Link(
                partial(self._locate_node, node, known),
                name="cmd",
                label=self.topology.address_of(node).label,
                timeout=self.timeout,
                on_connect=partial(self._on_connect, node),
                outage_log=self._outage_log,
                outages=NODE_OUTAGES,
            )
            self._tasks.start_soon(protected(known.run))
        return known.link

    async def _locate_node(self, node: Node, known: _NodeLink) -> Address:
        if known.tried:
            with suppress(BrokerUnavailableError):
                # Gives this very link up if the node has lost its slots.
                await self.topology.refresh()
        known.tried = True
        return self.topology.address_of(node)

    async def link_at(self, slot: int, deadline: float) -> Link:
        """The link to the node that has a slot, once it is connected.

        Raises:
            BrokerUnavailableError: it was not in time.
        """
        while True:
            node = self.topology.map.node_of(slot)
            if node is None:
                await self._pause(_LONGEST_PAUSE / 2, deadline, f"nobody has slot {slot}")
                with suppress(BrokerUnavailableError):
                    await self.topology.refresh()
                continue
            link = self._link_to(node)
            if link.connected:
                return link
            try:
                await link.connected_by(deadline)
            except BrokerUnavailableError:
                if not link.over or self._over or loop_time() >= deadline:
                    raise
                # The node was given up; somebody else has the slot.

    def is_connected_at(self, slot: int) -> bool:
        """Whether the node that has a slot can be asked now."""
        node = self.topology.map.node_of(slot)
        return node in self._nodes and self._nodes[node].link.connected

    # -- asking ----------------------------------------------------------------------------------

    async def call(
        self, call: Call[T], *, deadline: float | None = None, repeat: bool = False
    ) -> T:
        """Run a script on the node that has its keys."""
        (answer,) = await self._calls_at(key_slot(call.keys[0]), (call,), deadline, repeat)
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    async def calls(
        self, calls: Sequence[Call[T]], *, deadline: float | None = None, repeat: bool = False
    ) -> list[T | BrokerError]:
        """Run scripts, those of one slot in this order; each one's answer or its error.

        Where several slots are concerned, one that is out of reach is the error of its calls.
        """
        by_slot: dict[int, list[int]] = {}
        for index, call in enumerate(calls):
            by_slot.setdefault(key_slot(call.keys[0]), []).append(index)
        if len(by_slot) == 1:
            return await self._calls_at(next(iter(by_slot)), calls, deadline, repeat)
        answers: dict[int, T | BrokerError] = {}

        async def ask(slot: int, places: list[int]) -> None:
            try:
                some = [calls[place] for place in places]
                answers.update(
                    zip(places, await self._calls_at(slot, some, deadline, repeat), strict=True)
                )
            except BrokerUnavailableError as error:
                answers.update(dict.fromkeys(places, error))

        async with anyio.create_task_group() as tasks:
            for slot, places in by_slot.items():
                tasks.start_soon(protected(ask), slot, places)
        return [answers[index] for index in range(len(calls))]

    async def _calls_at(
        self, slot: int, calls: Sequence[Call[T]], deadline: float | None, repeat: bool
    ) -> list[T | BrokerError]:
        answers: dict[int, T | BrokerError] = {}
        left = list(range(len(calls)))

        async def ask(link: Link, deadline: float) -> RedisReplyError | None:
            nonlocal left
            some = [calls[index] for index in left]
            answers.update(zip(left, await link.calls(some, deadline=deadline), strict=True))
            refused = [index for index in left if _refused(answers[index])]
            # Those behind the first one are asked again too where that is harmless: for the order.
            left = (
                [index for index in left if index >= refused[0]] if repeat and refused else refused
            )
            return _refused(answers[left[0]]) if left else None

        await self._until_done(slot, ask, deadline, repeat)
        return [answers[index] for index in range(len(calls))]

    async def request(
        self,
        *commands: Command,
        deadline: float | None = None,
        blocks: float = 0.0,
        repeat: bool = False,
    ) -> list[Reply]:
        """Send plain commands; the second word of each is a key, all in one slot."""
        replies: list[Reply] = []

        async def ask(link: Link, deadline: float) -> RedisReplyError | None:
            try:
                replies[:] = await link.request(*commands, deadline=deadline, blocks=blocks)
            except RedisReplyError as error:
                if error.code not in _OF_SLOTS:
                    raise
                return error
            return None

        slots = {key_slot(str(command[1])) for command in commands}
        assert len(slots) == 1, "commands of several slots"
        await self._until_done(slots.pop(), ask, deadline, repeat)
        return replies

    async def _until_done(
        self,
        slot: int,
        ask: Callable[[Link, float], Awaitable[RedisReplyError | None]],
        deadline: float | None,
        repeat: bool,
    ) -> None:
        """Let `ask` ask the node that has the slot until it is not refused for its place."""
        if deadline is None:
            deadline = loop_time() + self.timeout
        pause = _FIRST_PAUSE
        while True:
            link = await self.link_at(slot, deadline)
            try:
                refusal = await ask(link, deadline)
            except BrokerUnavailableError:
                if not repeat or self._over or loop_time() >= deadline:
                    raise
                continue
            if refusal is None:
                return
            if refusal.code == "MOVED":
                before = self.topology.map.node_of(slot)
                with suppress(BrokerUnavailableError):
                    await self.topology.refresh(known_by=link)
                if self.topology.map.node_of(slot) != before:
                    continue
            await self._pause(pause, deadline, str(refusal))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _pause(self, seconds: float, deadline: float, why: str) -> None:
        """Rest a while, unless there is no time for that.

        Raises:
            BrokerUnavailableError: there is none.
        """
        if self._over or loop_time() + seconds >= deadline:
            raise BrokerUnavailableError(
                f"{self.topology.label}: the cluster cannot serve this queue now: {why}"
            )
        await anyio.sleep(seconds * (1 + jitter()) / 2)


def _refused(answer: object) -> RedisReplyError | None:
    """The answer, if it says that the slot is elsewhere or not to be had."""
    if isinstance(answer, RedisReplyError) and answer.code in _OF_SLOTS:
        return answer
    return None
