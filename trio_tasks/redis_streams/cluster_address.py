"""Where a cluster is, how to be let in, and which of its nodes has which key: no I/O."""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, cast

from trio_tasks.errors import ConfigurationError, InternalError
from trio_tasks.redis_streams.address import Address, parse_address, split_hosts
from trio_tasks.redis_streams.replies import Reply

__all__ = [
    "CLUSTER_SCHEMES",
    "Node",
    "SlotMap",
    "at",
    "cluster_label",
    "key_slot",
    "parse_cluster_address",
]

CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")

SLOTS: Final = 16_384

Node: TypeAlias = tuple[str, int]
"""Host and port of a node."""


def parse_cluster_address(url: str) -> tuple[Address, ...]:
    """Read `redis+cluster://[[user]:password@]host[:port][,host[:port]…][?…]`.

    Some of the cluster's nodes; one that answers is enough to find the others. User, password,
    arguments (those of `parse_address`) and the TLS of `rediss+cluster://` are for all of them.

    Raises:
        ConfigurationError: the URL is wrong; its text is not repeated, as it may hold a password.
    """
    called = CLUSTER_SCHEMES[url[:6].lower() == "rediss"]
    plain = called.partition("+")[0]
    nodes = tuple(
        parse_address(plain + one[one.index("://") :], called=called) for one in split_hosts(url)
    )
    if any(node.db for node in nodes):
        raise ConfigurationError(f"a {called}:// address has no database but 0")
    return nodes


def cluster_label(nodes: Sequence[Address]) -> str:
    """The address as a URL without credentials, for logs and errors."""
    hosts = ",".join(node.label.partition("://")[2].rpartition("/")[0] for node in nodes)
    return f"{CLUSTER_SCHEMES[nodes[0].tls is not None]}://{hosts}"


def key_slot(key: str | bytes) -> int:
    """The slot of a key: of what stands between its first braces, if it has such."""
    name = key.encode() if isinstance(key, str) else key
    tag = re.search(rb"\{([^}]+)\}", name[name.find(b"{") :] if b"{" in name else b"")
    if tag is not None and tag.start() == 0:
        name = tag[1]
    return crc_hqx(name, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Which node has which slot.

    Attributes:
        ranges: first and last slot, and their primary.
    """

    ranges: tuple[tuple[int, int, Node], ...] = ()

    @property
    def nodes(self) -> frozenset[Node]:
        """The primaries."""
        return frozenset(node for _, _, node in self.ranges)

    def node_of(self, slot: int) -> Node | None:
        """The primary that has a slot; `None`: nobody has it."""
        for first, last, node in self.ranges:
            if first <= slot <= last:
                return node
        return None

    @classmethod
    def read(cls, reply: Reply, asked: Address) -> SlotMap:
        """Read the reply to `CLUSTER SLOTS`; a node that it does not name is the one asked.

        Raises:
            InternalError: it has another shape.
        """
        try:
            rows = cast("list[tuple[int, int, list[bytes | int | None]]]", reply)
            ranges: list[tuple[int, int, Node]] = []
            for first, last, primary, *_replicas in rows:
                host = cast("bytes | None", primary[0])
                name = host.decode() if host not in (None, b"", b"?") else asked.host
                ranges.append((int(first), int(last), (name, int(cast("int", primary[1])))))
            return cls(tuple(sorted(ranges)))
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise InternalError("CLUSTER SLOTS answered in an unknown shape") from error


def at(template: Address, node: Node) -> Address:
    """The address of a node, with the settings of another one."""
    host, port = node
    return replace(template, host=host, port=port, path=None)
