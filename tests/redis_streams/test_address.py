"""Addresses: what a URL or a client says, what is refused, and what is never shown."""

from __future__ import annotations

import pickle
import ssl
from typing import cast

import pytest
import redis
import redis.asyncio
import redis.sentinel

from trio_tasks.errors import ConfigurationError
from trio_tasks.redis_streams.address import (
    Address,
    TlsOptions,
    address_of_client,
    parse_address,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address()),
        ("redis://example.org", Address(host="example.org")),
        ("REDIS://example.org:7000/3", Address(host="example.org", port=7000, db=3)),
        ("redis://[::1]:7000", Address(host="::1", port=7000)),
        ("redis://h/1?db=2", Address(host="h", db=2)),
        ("redis://:p%40ss%23@h", Address(host="h", password="p@ss#")),
        ("redis://ann:pw@h", Address(host="h", username="ann", password="pw")),
        ("redis://h?protocol=3&max_connections=9", Address(host="h")),
        (
            "redis://h?socket_timeout=1.5&socket_connect_timeout=2",
            Address(host="h", request_timeout=1.5, connect_timeout=2.0),
        ),
        ("unix:///run/r.sock", Address(path="/run/r.sock")),
        ("unix://:pw@/run/r.sock?db=4", Address(path="/run/r.sock", password="pw", db=4)),
        ("rediss://h", Address(host="h", tls=TlsOptions())),
        (
            "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/crt&ssl_keyfile=/key&ssl_password=kp",
            Address(
                host="h",
                tls=TlsOptions(ca_file="/ca", cert_file="/crt", key_file="/key", key_password="kp"),
            ),
        ),
        (
            "rediss://h?ssl_check_hostname=false&ssl_ca_path=/d&ssl_ca_data=pem",
            Address(host="h", tls=TlsOptions(check_hostname=False, ca_path="/d", ca_data="pem")),
        ),
        ("rediss://h?ssl_cert_reqs=none", Address(host="h", tls=TlsOptions(verify=False))),
    ],
)
def test_a_url_says_where_the_server_is_and_how_to_be_let_in(url: str, expected: Address) -> None:
    assert parse_address(url) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "redis://, rediss:// or unix://"),
        ("localhost:6379", "redis://, rediss:// or unix://"),
        ("http://h", "'http://'"),
        ("s3cret", "redis://, rediss:// or unix://"),
        ("redis://:s3#cret@h", "percent-encoded"),
        ("redis://:s3/cret@h", "percent-encoded"),
        ("redis://:s3cret@h:99999", "percent-encoded"),
        ("redis://:s3cret@h#frag", "%23"),
        ("redis://[::1", "percent-encoded"),
        ("redis://:s3cret@h/zero", "number of a database"),
        ("redis://:s3cret@h/1/2", "number of a database"),
        ("redis://:s3cret@h?db=x", "'db'"),
        ("redis://:s3cret@h?db=-1", "'db'"),
        ("redis://:s3cret@h?socket_timeout=0", "'socket_timeout'"),
        ("redis://:s3cret@h?socket_timeout=nan", "'socket_timeout'"),
        ("redis://:s3cret@h?socket_timout=1", "did you mean 'socket_timeout'?"),
        ("redis://:s3cret@h?frobnicate=1", "redis-py's names"),
        ("rediss://:s3cret@h?ssl_cert_reqs=perhaps", "'ssl_cert_reqs'"),
        ("unix://:s3cret@", "needs a path"),
        ("redis+cluster://:s3cret@h", "give the address of one server"),
        ("redis+sentinel://:s3cret@h/name", "give the address of one server"),
    ],
)
def test_a_wrong_url_is_refused_with_a_hint_and_without_its_password(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_address(url)
    assert hint in str(caught.value)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_neither_repr_nor_label_shows_credentials() -> None:
    address = parse_address("rediss://ann:s3cret@h:1/2?ssl_password=k3y&ssl_keyfile=/key")
    assert address.label == "rediss://h:1/2"
    for text in (repr(address), str(address), address.label, repr(address.tls)):
        assert not {"ann", "s3cret", "k3y"} & set(text.replace("'", " ").split())
        assert "s3cret" not in text
        assert "k3y" not in text


def test_labels_are_urls() -> None:
    assert Address(host="::1", db=3).label == "redis://[::1]:6379/3"
    assert Address(path="/run/r.sock").label == "unix:///run/r.sock?db=0"


def test_an_address_is_a_value() -> None:
    address = parse_address("rediss://ann:pw@h")
    assert pickle.loads(pickle.dumps(address)) == address
    assert hash(address) == hash(parse_address("rediss://ann:pw@h"))


def from_url(library: type[redis.Redis | redis.asyncio.Redis], url: str) -> redis.Redis:
    return cast("redis.Redis", library.from_url(url))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("library", [redis.Redis, redis.asyncio.Redis])
def test_the_settings_of_a_client_can_be_borrowed(
    library: type[redis.Redis | redis.asyncio.Redis],
) -> None:
    plain = library(host="h", port=7000, db=3, username="ann", password="pw", socket_timeout=1.5)
    assert address_of_client(plain) == Address(
        host="h", port=7000, db=3, username="ann", password="pw", request_timeout=1.5
    )
    assert address_of_client(library(unix_socket_path="/s", db=1)) == Address(path="/s", db=1)
    assert address_of_client(from_url(library, "redis://h/2")) == Address(host="h", db=2)


@pytest.mark.parametrize("library", [redis.Redis, redis.asyncio.Redis])
def test_the_tls_settings_of_a_client_can_be_borrowed(
    library: type[redis.Redis | redis.asyncio.Redis],
) -> None:
    assert address_of_client(library(host="h", ssl=True)) == Address(host="h", tls=TlsOptions())
    assert address_of_client(from_url(library, "rediss://h")) == Address(host="h", tls=TlsOptions())
    checked = library(host="h", ssl=True, ssl_ca_certs="/ca", ssl_check_hostname=False)
    assert address_of_client(checked).tls == TlsOptions(ca_file="/ca", check_hostname=False)
    for unchecked in ("none", ssl.CERT_NONE):
        client = library(host="h", ssl=True, ssl_cert_reqs=unchecked)
        assert address_of_client(client).tls == TlsOptions(verify=False)


def test_a_password_in_bytes_is_the_same_password() -> None:
    client = redis.Redis(connection_pool=redis.ConnectionPool(password=b"pw"))
    assert address_of_client(client).password == "pw"


def test_a_sentinel_client_cannot_be_borrowed() -> None:
    sentinel = redis.sentinel.Sentinel([("localhost", 1)])
    master = sentinel.master_for("name")  # pyright: ignore[reportUnknownMemberType]
    with pytest.raises(ConfigurationError, match="or a URL"):
        address_of_client(master)


def test_a_client_of_another_kind_cannot_be_borrowed() -> None:
    with pytest.raises(ConfigurationError, match="'object' cannot be borrowed"):
        address_of_client(object())  # pyright: ignore[reportArgumentType]


def test_a_client_whose_credentials_come_from_a_provider_cannot_be_borrowed() -> None:
    provider = redis.UsernamePasswordCredentialProvider("ann", "s3cret")
    with pytest.raises(ConfigurationError, match="credential_provider") as caught:
        address_of_client(redis.Redis(credential_provider=provider))
    assert "s3cret" not in str(caught.value)
