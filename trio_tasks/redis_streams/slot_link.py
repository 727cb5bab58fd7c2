"""A link to wherever one slot of a cluster is."""

from __future__ import annotations

from trio_tasks.redis_streams.cluster import ClusterLink
from trio_tasks.redis_streams.replies import Command, Reply

__all__ = ["SlotLink"]


class SlotLink:
    """A `ClusterLink`, as those see it who care for one slot."""

    def __init__(self, cluster: ClusterLink, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self.timeout = cluster.timeout

    @property
    def connected(self) -> bool:
        """Whether a request could be sent now."""
        return self._cluster.is_connected_at(self._slot)

    @property
    def over(self) -> bool:
        """Whether there will be no connection any more."""
        return self._cluster.over

    async def connected_by(self, deadline: float) -> None:
        """Wait until the slot's node can be asked."""
        await self._cluster.link_at(self._slot, deadline)

    async def request(
        self,
        *commands: Command,
        deadline: float | None = None,
        blocks: float = 0.0,
        repeat: bool = False,
    ) -> list[Reply]:
        """As `ClusterLink.request`."""
        return await self._cluster.request(
            *commands, deadline=deadline, blocks=blocks, repeat=repeat
        )
