"""Finding the server that is the primary now, by asking Sentinels.

Theory of operation
-------------------
A link asks `Sentinels` before each connect, so a failover is seen as what it is for a client: a
connection that is lost, and a server that is elsewhere when it comes back. A Sentinel may be wrong
for some seconds, so what it says is checked where it counts: the connection itself refuses a
server that says of itself that it is a replica (`Address.must_be_primary`). Then the link asks
again, and another Sentinel first.

A primary that is demoted while we are connected has its connections closed by Sentinel, or answers
`READONLY`, which drops them too.

The Sentinels are asked on the engine's own connections and not through redis-py, whose client for
them blocks a thread that cannot be cancelled.
"""

from __future__ import annotations

from dataclasses import replace

import anyio

from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.asking import in_words
from trio_tasks.redis_streams.sentinel_address import SentinelAddress, refused_by_sentinel, unknown
from trio_tasks.redis_streams.wire import Reply, open_connection

__all__ = ["Sentinels"]


class Sentinels:
    """Tells where the primary is: a `Locate`."""

    def __init__(self, address: SentinelAddress) -> None:
        """Nobody is asked before it is called."""
        self._address = address
        self._first = 0

    def __repr__(self) -> str:
        return f"<Sentinels {self._address.label}>"

    async def __call__(self) -> Address:
        """Ask one Sentinel after the other, all within the address's `connect_timeout`.

        Raises:
            BrokerUnavailableError: none has told in time.
            ConfigurationError: all have answered, and none knows the name; or one refuses us, and
                no other has told.
        """
        address = self._address
        order = address.sentinels[self._first :] + address.sentinels[: self._first]
        self._first = (self._first + 1) % len(order)
        ends_at = loop_time() + address.server.connect_timeout
        failure: Exception | None = None
        refused: ConfigurationError | None = None
        for index, sentinel in enumerate(order):
            share = max(0.0, ends_at - loop_time()) / (len(order) - index)
            try:
                with anyio.fail_after(share):
                    found = await self._ask(sentinel)
            except ConfigurationError as error:
                failure = refused = error
                continue
            except (BrokerError, TimeoutError) as error:
                failure = error
                continue
            if found is not None:
                host, port = found
                return replace(address.server, host=host, port=port)
        if failure is None:
            raise unknown(address)
        if refused is not None:
            raise refused_by_sentinel(refused)
        raise BrokerUnavailableError(
            f"no Sentinel has told where {address.service!r} is: {address.label}"
            f" ({in_words(failure)})"
        ) from failure

    async def _ask(self, sentinel: Address) -> tuple[str, int] | None:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
        async with open_connection(sentinel, name="trio_tasks:locate") as connection:
            reply: Reply = await connection.request(question)
        match reply:
            case [bytes() as host, bytes() as port]:
                return host.decode(), int(port)
            case _:
                return None
