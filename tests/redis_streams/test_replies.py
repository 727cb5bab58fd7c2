"""Error replies: what is kept of their text, and what is not."""

from __future__ import annotations

import hiredis
import pytest

from trio_tasks.errors import BrokerError
from trio_tasks.redis_streams.replies import RedisReplyError


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("OOM command not allowed", "OOM", "OOM command not allowed"),
        ("NOGROUP", "NOGROUP", "NOGROUP"),
        ("MOVED 3999 127.0.0.1:6381", "MOVED", "MOVED 3999 127.0.0.1:6381"),
        (
            "ERR unknown command 'X', with args beginning with: 's3cret' ",
            "ERR",
            "ERR unknown command …",
        ),
        (
            "ERR unknown command `X`, with args beginning with: `s3cret`, ",
            "ERR",
            "ERR unknown command …",
        ),
        ("ERR can't do that to 's3cret', can't", "ERR", "ERR can't do that to …"),
        ('ERR bad value "s3cret"', "ERR", "ERR bad value …"),
        ("ERR bad value ('s3cret')", "ERR", "ERR bad value (…"),
        ("what a script said", "ERR", "ERR what a script said"),
        ("Ünexpected", "ERR", "ERR Ünexpected"),
        ("", "ERR", "ERR"),
        ("ERR two\n lines", "ERR", "ERR two lines"),
        ("ERR " + "x" * 10_000, "ERR", "ERR " + "x" * 200),
        ("A" * 10_000, "ERR", "ERR " + "A" * 200),
    ],
)
def test_an_error_keeps_its_code_and_loses_its_arguments(
    text: str, code: str, message: str
) -> None:
    error = RedisReplyError(text)
    assert error.code == code
    assert str(error) == message
    assert "s3cret" not in repr(error)


def test_an_error_reply_is_a_broker_error_and_known_to_those_who_know_hiredis() -> None:
    assert isinstance(RedisReplyError("ERR"), BrokerError)
    assert isinstance(RedisReplyError("ERR"), hiredis.ReplyError)
