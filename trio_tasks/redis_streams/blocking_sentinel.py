"""Finding the server that is the primary now, for threads: as sentinel.py, on blocking.py."""

from __future__ import annotations

from dataclasses import replace

from trio_tasks.environment import monotonic
from trio_tasks.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from trio_tasks.redis_streams.address import Address
from trio_tasks.redis_streams.blocking_connection import BlockingConnection
from trio_tasks.redis_streams.sentinel_address import SentinelAddress, refused_by_sentinel, unknown
from trio_tasks.redis_streams.transport import tls_context

__all__ = ["BlockingSentinels"]


class BlockingSentinels:
    """Tells where the primary is, to any thread."""

    def __init__(self, address: SentinelAddress) -> None:
        """Nobody is asked before it is called.

        Raises:
            ConfigurationError: the TLS settings cannot be used.
        """
        if address.server.tls is not None:
            tls_context(address.server.tls)
        self._address = address

    def __call__(self, within: float) -> Address:
        """Ask one Sentinel after the other, all within so many seconds.

        Raises:
            BrokerUnavailableError: none has told in time.
            ConfigurationError: all have answered, and none knows the name; or one refuses us, and
                no other has told.
        """
        address = self._address
        ends_at = monotonic() + min(within, address.server.connect_timeout)
        failure: Exception | None = None
        refused: ConfigurationError | None = None
        for index, sentinel in enumerate(address.sentinels):
            left = max(0.0, ends_at - monotonic())
            try:
                found = self._ask(sentinel, left / (len(address.sentinels) - index))
            except ConfigurationError as error:
                failure = refused = error
            except BrokerError as error:
                failure = error
            else:
                if found is not None:
                    host, port = found
                    return replace(address.server, host=host, port=port)
        if failure is None:
            raise unknown(address)
        if refused is not None:
            raise refused_by_sentinel(refused)
        raise BrokerUnavailableError(
            f"no Sentinel has told where {address.service!r} is: {address.label} ({failure})"
        ) from failure

    def _ask(self, sentinel: Address, within: float) -> tuple[str, int] | None:
        answer_by = monotonic() + within
        connection = BlockingConnection(sentinel, within)
        try:
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            match connection.ask(question, answer_by):
                case [bytes() as host, bytes() as port]:
                    return host.decode(), int(port)
                case _:
                    return None
        finally:
            connection.close()
