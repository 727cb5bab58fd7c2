"""Where a Redis server is and how to be let in: parsing only, no I/O.

`parse_address` reads a URL with redis-py's own parser, so a URL that works there means the same
here, and `address_of_client` borrows the settings of a client that the user already has. Both are
stricter than redis-py where it guesses: a database that is not a number, a path with several
parts or an argument that nobody knows is refused instead of ignored.

URLs that name several servers, for which redis-py has no form, are read in `sentinel_address.py`
and `cluster_address.py`, one server at a time (`split_hosts`) with the same parser.

No text made here (errors, `repr`, `label`) holds a user name or a password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from redis.connection import (
    parse_url,  # pyright: ignore[reportUnknownVariableType] - redis-py gives no types here
)

from trio_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = ["Address", "TlsOptions", "address_of_client", "parse_address", "split_hosts"]

_T = TypeVar("_T")

_SCHEMES = ("redis", "rediss", "unix")
_SCHEMES_OF_SEVERAL = tuple(
    f"{plain}+{kind}" for plain in ("redis", "rediss") for kind in ("cluster", "sentinel")
)

_CONNECTION_ARGUMENTS = frozenset(
    {"host", "port", "path", "db", "username", "password", "socket_connect_timeout"}
    | {"socket_timeout", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile"}
    | {"ssl_keyfile", "ssl_password", "ssl_check_hostname", "ssl_cert_reqs"}
)
"""Arguments that say something about the connection, by redis-py's names."""

_CLIENT_ARGUMENTS = frozenset(
    {"protocol", "decode_responses", "encoding", "encoding_errors", "max_connections", "timeout"}
    | {"health_check_interval", "retry_on_timeout", "retry_on_error", "client_name"}
    | {"socket_keepalive", "socket_read_size", "legacy_responses"}
)
"""Arguments that tune redis-py's own client; accepted in a URL that is shared with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How the server's certificate is checked, and ours.

    Attributes:
        ca_file: file of certificates to trust, PEM; without `ca_*` the system's are trusted.
        ca_path: directory of certificates to trust.
        ca_data: certificates to trust, as PEM text.
        cert_file: our certificate, where the server asks for one.
        key_file: its private key, if not in `cert_file`.
        key_password: the private key's password.
        check_hostname: the certificate must name the host that we connect to.
        verify: the certificate must be signed by somebody whom we trust. `False` encrypts
            without knowing for whom, and checks no host name either.
    """

    ca_file: str | None = None
    ca_path: str | None = None
    ca_data: str | None = field(default=None, repr=False)
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One Redis server, as one connection needs to know it.

    Attributes:
        host: name or IP address; not used when `path` is given.
        port: TCP port.
        path: path of a unix socket, or `None` for TCP.
        db: number of the database.
        username: user of an ACL, or `None` for the default user. Not shown in `repr`.
        password: not shown in `repr`.
        tls: TLS settings, or `None` for plain TCP.
        connect_timeout: seconds to connect, and again to be let in.
        request_timeout: seconds until an answer must have come, unless the request says otherwise.
        must_be_primary: a server that is a replica is refused when it is connected to.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    connect_timeout: float = 5.0
    request_timeout: float = 5.0
    must_be_primary: bool = False

    @property
    def label(self) -> str:
        """The address as a URL without credentials, for logs and errors."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'redis' if self.tls is None else 'rediss'}://{host}:{self.port}/{self.db}"


def parse_address(url: str, *, called: str | None = None) -> Address:
    """Read a `redis://`, `rediss://` or `unix://` URL; arguments by redis-py's names.

    `redis://[[user]:password@]host[:port][/db][?argument=…]`, `unix://[…@]/path[?db=…]`. Special
    characters of a password are percent-encoded. Times are seconds.

    Args:
        url: the address.
        called: the scheme that errors speak of, where the URL was made from another one.

    Raises:
        ConfigurationError: the URL is wrong; its text is not repeated, as it may hold a password.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in _SCHEMES_OF_SEVERAL:
        raise ConfigurationError(
            f"a {scheme}:// address cannot be used here; give the address of one server"
        )
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            "the address of a Redis server must begin with redis://, rediss:// or unix://"
            + (f", not with {scheme + '://'!r}" if scheme.isalpha() else "")
        )
    called = called or scheme
    try:
        settings: dict[str, object] = dict(
            cast("Callable[[str], dict[str, object]]", parse_url)(scheme + url[len(scheme) :])
        )
        parts = urlsplit(url)
        database = parts.path.strip("/")
    except ValueError as error:
        # Its text is shown only where it surely holds no part of a password
        # ("Port could not be cast to integer value as 's3cret'").
        raise ConfigurationError(
            f"the {called}:// address cannot be read: {error}"
            if str(error).startswith("Invalid value for ")
            else f"the {called}:// address cannot be read: is the port a number up to 65535, and"
            " are special characters in user name and password percent-encoded?"
        ) from None
    if parts.fragment:
        raise ConfigurationError(
            f"the {called}:// address contains a '#'; in a password it is written %23"
        )
    settings.pop("connection_class", None)
    for argument in settings.keys() - _CONNECTION_ARGUMENTS - _CLIENT_ARGUMENTS:
        raise ConfigurationError(_unknown_argument(called, argument))
    if scheme != "unix" and database and not database.isdecimal():
        raise ConfigurationError(
            f"the path of a {called}:// address is the number of a database, as in /0"
        )
    if scheme == "unix" and "path" not in settings:
        raise ConfigurationError("a unix:// address needs a path, as in unix:///run/redis.sock")
    return _address(settings, tls=scheme == "rediss")


def split_hosts(url: str) -> list[str]:
    """A URL for each server of one that names several: `x://user:pw@a:1,b:2/p` is `…@a:1/p`, ….

    Raises:
        ConfigurationError: there is nothing between two commas.
    """
    scheme, _, rest = url.partition("://")
    authority = re.match("[^/?#]*", rest)
    assert authority is not None
    credentials, at, hosts = authority[0].rpartition("@")
    names = hosts.split(",")
    if len(names) > 1 and not all(name.strip() for name in names):
        raise ConfigurationError(
            f"the {scheme.lower()}:// address has an empty name between its commas"
        )
    tail = rest[authority.end() :]
    return [f"{scheme}://{credentials}{at}{name.strip()}{tail}" for name in names]


def address_of_client(client: redis.Redis | redis.asyncio.Redis) -> Address:
    """Borrow the settings of a client: server, database, credentials, TLS and time-outs.

    The client itself is neither used nor kept.

    Raises:
        ConfigurationError: it is not a plain client of one server, or gets its credentials from
            a provider.
    """
    pool: object = getattr(client, "connection_pool", None)
    settings = cast("object", getattr(pool, "connection_kwargs", None))
    kinds = getattr(cast("object", getattr(pool, "connection_class", None)), "__mro__", ())
    names = {cast("type", kind).__name__ for kind in cast("tuple[object, ...]", kinds)}
    if not isinstance(settings, Mapping) or "SentinelManagedConnection" in names:
        raise ConfigurationError(
            f"the settings of a {type(client).__name__!r} cannot be borrowed: give a redis.Redis"
            " or redis.asyncio.Redis of one server, or a URL"
        )
    settings = cast("Mapping[str, object]", settings)
    if settings.get("credential_provider") is not None:
        raise ConfigurationError(
            "the settings of a client with a credential_provider cannot be borrowed; give it"
            " username and password"
        )
    return _address(settings, tls="SSLConnection" in names)


def _address(settings: Mapping[str, object], *, tls: bool) -> Address:
    def setting(name: str, convert: Callable[[str], _T], default: _T) -> _T:
        value = settings.get(name)
        if value is None:
            return default
        try:
            return convert(value.decode() if isinstance(value, bytes) else str(value))
        except ValueError:
            raise ConfigurationError(f"the Redis setting {name!r} has a wrong value") from None

    def text(name: str) -> str | None:
        return setting(name, str, None)

    defaults = Address()
    return Address(
        host=setting("host", str, defaults.host),
        port=setting("port", _integer(1, 65_535), defaults.port),
        path=text("path"),
        db=setting("db", _integer(0, 2**31 - 1), defaults.db),
        username=text("username"),
        password=text("password"),
        connect_timeout=setting("socket_connect_timeout", _positive, defaults.connect_timeout),
        request_timeout=setting("socket_timeout", _positive, defaults.request_timeout),
        tls=None
        if not tls
        else TlsOptions(
            ca_file=text("ssl_ca_certs"),
            ca_path=text("ssl_ca_path"),
            ca_data=text("ssl_ca_data"),
            cert_file=text("ssl_certfile"),
            key_file=text("ssl_keyfile"),
            key_password=text("ssl_password"),
            check_hostname=setting("ssl_check_hostname", lambda flag: flag == "True", True),
            verify=setting("ssl_cert_reqs", _certificate_required, "ssl_cert_reqs" not in settings),
        ),
    )


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def convert(value: str) -> int:
        if not lowest <= int(value) <= highest:
            raise ValueError
        return int(value)

    return convert


def _positive(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise ValueError
    return seconds


def _certificate_required(value: str) -> bool:
    """redis-py's words and the numbers of `ssl.CERT_*`; "optional" is "required" in a client."""
    allowed = {"required": True, "optional": True, "none": False, "2": True, "1": True, "0": False}
    if value.lower() not in allowed:
        raise ValueError
    return allowed[value.lower()]


def _unknown_argument(scheme: str, argument: str) -> str:
    close = difflib.get_close_matches(argument, _CONNECTION_ARGUMENTS | _CLIENT_ARGUMENTS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "arguments have redis-py's names"
    return f"the {scheme}:// address has an unknown argument {argument[:60]!r}; {hint}"
