"""Running scripts on a connection: `EVALSHA`, and `EVAL` where the server does not know them.

`NOSCRIPT` means that nothing has happened, so the script is sent again, in full. Calls that are
sent together keep their order: the first of several is sent in full to begin with, lest an earlier
one meet a missing script and a later one, after somebody else has loaded it, overtake it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.wire import Command, Connection, RedisReplyError

__all__ = ["command_of", "evaluate"]

T = TypeVar("T")


async def evaluate(
    connection: Connection, calls: Sequence[Call[T]], *, timeout: float
) -> list[T | RedisReplyError]:
    """Run scripts in this order on this connection; each one's answer or error.

    Raises:
        BrokerUnavailableError: the connection broke before all answers had come.
    """
    several = len(calls) > 1
    commands = [command_of(call, in_full=several and not i) for i, call in enumerate(calls)]
    line = calls[0].line if len(calls) == 1 else None
    replies = await connection.pipeline(commands, timeout=timeout, line=line)
    missing = [
        index
        for index, reply in enumerate(replies)
        if isinstance(reply, RedisReplyError) and reply.code == "NOSCRIPT"
    ]
    if missing:
        in_full = [command_of(calls[index], in_full=True) for index in missing]
        again = await connection.pipeline(in_full, timeout=timeout, line=line)
        for index, reply in zip(missing, again, strict=True):
            replies[index] = reply
    return [
        reply if isinstance(reply, RedisReplyError) else call.parse(reply)
        for call, reply in zip(calls, replies, strict=True)
    ]


def command_of(call: Call[T], *, in_full: bool) -> Command:
    """The command that runs a script: by its SHA-1, or (`in_full`) with its source."""
    script = call.script
    head = ("EVAL", script.source) if in_full else ("EVALSHA", script.sha)
    return (*head, len(call.keys), *call.keys, *call.args)
