"""Where the Sentinels are that know where a Redis server is: parsing only, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from trio_tasks.errors import ConfigurationError
from trio_tasks.redis_streams.address import Address, parse_address, split_hosts

__all__ = [
    "SENTINEL_SCHEMES",
    "SentinelAddress",
    "parse_sentinel_address",
    "refused_by_sentinel",
    "unknown",
]

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")

_PORT = 26_379


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelAddress:
    """A server that Sentinels watch, and those Sentinels.

    Attributes:
        sentinels: whom to ask. One that answers is enough.
        service: the name under which they know the server.
        server: how to be let in there; its `host` and `port` are for the Sentinels to tell.
    """

    sentinels: tuple[Address, ...]
    service: str
    server: Address

    @property
    def label(self) -> str:
        """The address as a URL without credentials, for logs and errors."""
        hosts = ",".join(
            each.label.partition("://")[2].rpartition("/")[0] for each in self.sentinels
        )
        scheme = SENTINEL_SCHEMES[self.server.tls is not None]
        return f"{scheme}://{hosts}/{self.service}/{self.server.db}"


def parse_sentinel_address(url: str) -> SentinelAddress:
    """Read `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db][?…]`.

    User, password and database are the server's; the Sentinels' own are the arguments
    `sentinel_username` and `sentinel_password`. The other arguments are those of `parse_address`
    and, like the TLS of `rediss+sentinel://`, are for both.

    Raises:
        ConfigurationError: the URL is wrong; its text is not repeated, as it may hold a password.
    """
    called = SENTINEL_SCHEMES[url[:6].lower() == "rediss"]
    servers: list[Address] = []
    sentinels: list[Address] = []
    service = ""
    for one in split_hosts(url):
        head, _, query = one.partition("?")
        authority, _, path = head.partition("://")[2].partition("/")
        service, _, database = path.partition("/")
        arguments = dict(parse_qsl(query, keep_blank_values=True))
        user = arguments.pop("sentinel_username", None)
        password = arguments.pop("sentinel_password", None)
        plain = f"{called.partition('+')[0]}://{authority}/{database}?{urlencode(arguments)}"
        server = parse_address(plain, called=called)
        port = server.port if re.search(r":\d+$", authority) else _PORT
        servers.append(server)
        sentinels.append(replace(server, port=port, db=0, username=user, password=password))
    if not re.fullmatch(r"[A-Za-z0-9._-]+", service):
        raise ConfigurationError(
            f"a {called}:// address needs the name of the server that the Sentinels watch, as in"
            f" {called}://host:{_PORT}/mymaster"
        )
    return SentinelAddress(
        sentinels=tuple(sentinels),
        service=service,
        server=replace(servers[0], must_be_primary=True),
    )


def unknown(address: SentinelAddress) -> ConfigurationError:
    """All Sentinels have answered, and none knows the name."""
    return ConfigurationError(
        f"no Sentinel of {address.label} knows a server named {address.service!r}: its name is"
        " behind the slash, as in redis+sentinel://host:26379/mymaster"
    )


def refused_by_sentinel(refused: ConfigurationError) -> ConfigurationError:
    """A Sentinel wants other credentials, and none has told."""
    error = ConfigurationError(
        f"{refused} (a Sentinel's own are the arguments sentinel_username and sentinel_password)"
    )
    error.__cause__ = refused
    return error
