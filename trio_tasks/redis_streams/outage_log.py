"""What the log says of a broker's servers: a line when one is lost, and a line when it is back.

Several connections lead to a server, and each is lost for itself and tried again and again; who
reads the log wants to know of the server. So connections report here, and the first loss and the
last return are said aloud, the rest at DEBUG. A reason that no patience mends (the password was
changed, say) is said too when it turns up in the middle of an outage: people have to do something.
"""

from __future__ import annotations

import logging

from trio_tasks.errors import ConfigurationError

__all__ = ["OutageLog"]

log = logging.getLogger("trio_tasks.broker")


class _Server:
    __slots__ = ("known", "lost", "said")

    def __init__(self) -> None:
        self.known = False  # whether it was ever reached
        self.lost: set[object] = set()  # connections that are being tried again
        self.said = ""


class OutageLog:
    """Of one broker. Connections are any objects; servers are told apart by their labels."""

    def __init__(self) -> None:
        """Nothing is known of any server."""
        self._servers: dict[str, _Server] = {}

    def lost(self, connection: object, label: str, error: Exception, text: str) -> None:
        """A connection was lost, or could not be made; it will be tried again."""
        server = self._servers.setdefault(label, _Server())
        is_news = not server.lost
        server.lost.add(connection)
        if isinstance(error, ConfigurationError) and text != server.said:
            is_news = True
        if is_news:
            server.said = text
        level = logging.WARNING if is_news else logging.DEBUG
        log.log(level, "no connection to the server, trying again: %s", text)

    def found(self, connection: object, label: str) -> None:
        """A connection was made."""
        server = self._servers.setdefault(label, _Server())
        was_lost = bool(server.lost)
        server.lost.discard(connection)
        is_news = not server.lost and (was_lost or not server.known)
        again = " again" if server.known else ""
        server.known = True
        log.log(logging.INFO if is_news else logging.DEBUG, "connected to %s%s", label, again)

    def forget(self, connection: object, label: str) -> None:
        """A connection is not wanted any more."""
        if label in self._servers:
            self._servers[label].lost.discard(connection)
