"""A consumer's life in a queue: `register`, `own`, `beat`, `debounce`, `log`, `leave`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from trio_tasks.broker import TOMBSTONE_MS, Beat, DebounceAsk, Registration, StartToken
from trio_tasks.redis_streams.calls.emitting import Argument
from trio_tasks.redis_streams.calls.values import found, items, text, whole
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = [
    "BeatReply",
    "OwnReply",
    "OwnStatus",
    "Registered",
    "beat",
    "debounce",
    "leave",
    "log",
    "own",
    "register",
]


class Registered(msgspec.Struct, frozen=True):
    """The answer to `register`.

    Attributes:
        namesakes: how many other members bear the same consumer id.
        defects: how many entries without a job and the like were dropped in this queue so far.
    """

    namesakes: int
    defects: int


class BeatReply(msgspec.Struct, frozen=True):
    """The answer to `beat`; `defects` as in `Registered`."""

    beat: Beat
    defects: int


class OwnStatus(StrEnum):
    """How a connection was received."""

    OWNED = "owned"
    """It is the newest of its incarnation now."""
    FORGOTTEN = "forgotten"
    """As `OWNED`, but the server has lost a start that the worker holds, and may give its token to
    another: take nothing more under this name."""
    OLD = "old"
    """A newer one has been received already. Nothing was changed."""
    DEAD = "dead"
    """The incarnation is no longer known: cancel its handlers and register anew."""


class OwnReply(msgspec.Struct, frozen=True):
    """The answer to `own`.

    Attributes:
        lost: the tokens of `have` that are no longer ours.
    """

    status: OwnStatus
    lost: Sequence[StartToken] = ()


def register(keys: QueueKeys, registration: Registration) -> Call[Registered]:
    """Join the queue under a fresh name.

    Creates the groups of all levels. Repeating it is harmless.
    """
    args: list[Argument] = [
        keys.prefix,
        registration.incarnation,
        registration.lease_ms,
        registration.consumer_id,
        registration.host,
        *registration.events,
    ]

    def parse(reply: Reply) -> Registered:
        namesakes, defects = items(reply)
        return Registered(whole(namesakes), whole(defects))

    return Call(script("register"), keys.fixed, args, parser("register", parse))


def own(
    keys: QueueKeys, *, incarnation: str, ordinal: int, have: Sequence[StartToken]
) -> Call[OwnReply]:
    """Announce a new connection; it precedes the first `step` with `want > 0` on it.

    All starts of the incarnation that are not in `have` are given back, uncounted.

    Args:
        ordinal: `g`, one more than that of the connection before.
        have: the tokens in memory; those of former incarnations come back in `lost`.
    """
    args: list[Argument] = [keys.prefix, incarnation, ordinal]
    mine = [token for token in have if token.incarnation == incarnation]
    for token in mine:
        args += (token.level, token.entry, token.deliveries)

    def parse(reply: Reply) -> OwnReply:
        word, *missing = items(reply)
        status = OwnStatus(text(word))
        if status in (OwnStatus.OLD, OwnStatus.DEAD):
            return OwnReply(status)
        lost = [token for token in have if token.incarnation != incarnation]
        return OwnReply(status, [*lost, *(mine[whole(index) - 1] for index in missing)])

    return Call(script("own"), keys.fixed, args, parser("own", parse))


def beat(keys: QueueKeys, *, incarnation: str, lease_ms: int) -> Call[BeatReply]:
    """Renew the lease, declare others dead, report cancel requests. Repeating it is harmless."""

    def parse(reply: Reply) -> BeatReply:
        alive, now, defects, *flat = items(reply)
        words = iter([text(word) for word in flat])
        cancels = list(zip(words, words, strict=True))
        return BeatReply(Beat(found(alive), whole(now), cancels), whole(defects))

    args = [keys.prefix, incarnation, lease_ms]
    return Call(script("beat"), keys.fixed, args, parser("beat", parse))


def debounce(
    keys: QueueKeys, asks: Sequence[DebounceAsk], *, tombstone_ms: int = TOMBSTONE_MS
) -> Call[list[str | None]]:
    """Who holds each key; see `Membership.debounce`. Repeating it is harmless.

    A leading key that is held by an *earlier life* of the asker's own id is answered as
    `<id>@<emit number>`, which no job of a chosen id is called: it is another job's.
    """
    args: list[Argument] = [keys.prefix, tombstone_ms]
    for ask in asks:
        token = ask.token
        args += (token.job_id, token.incarnation, token.level, token.entry, token.deliveries)
        args += (ask.edge, ask.window_ms, ask.digest)

    def parse(reply: Reply) -> list[str | None]:
        return [None if holder is None else text(holder) for holder in items(reply)]

    return Call(script("debounce"), keys.fixed, args, parser("debounce", parse))


def log(
    keys: QueueKeys, token: StartToken, lines: Sequence[bytes], *, max_lines: int
) -> Call[bool]:
    """Keep log lines with a job; whether it still runs under this token.

    Repeating it doubles the lines. Refused (OOM) when memory is full.
    """
    args: list[Argument] = [keys.prefix, token.job_id, token.incarnation, token.level]
    args += (token.entry, token.deliveries, max_lines, *lines)
    return Call(script("log"), keys.fixed, args, parser("log", found))


def leave(keys: QueueKeys, *, incarnation: str) -> Call[bool]:
    """Leave the queue; `False`: it owns jobs still, and is left to its lease.

    Repeating it is harmless.
    """
    return Call(script("leave"), keys.fixed, [keys.prefix, incarnation], parser("leave", found))
