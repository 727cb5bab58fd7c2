"""Emitting and relaying.

`enqueue`, `enqueue_plain`, `relay_read`, `relay_deliver`, `dead_letter`, `relay_done`, `set_aside`.

A new job crosses the border as three arguments: its id, its blob, and `options`, one string that
is empty for a plain job (ready at once, priority 0, minted id) and else has eight words:

    level number due deadline digest window retention mode

`number`, `due`, `deadline`, `digest` are `-` where there is none; `due` and `deadline` are `+ms`
(from now on) or `=ms` (an instant); `retention` is that of a job which this one replaces; `mode`
is `e` (emitted), `r` (relayed) or `l` (relayed too late: it arrives dead). Where all jobs of a step
are plain, `enqueue_plain` takes two arguments for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from trio_tasks.broker import RELAY_TOO_LATE_MS, TOMBSTONE_MS, Emitted, NewJob
from trio_tasks.options import check_id, check_name
from trio_tasks.redis_streams.calls.values import items, raw, text, whole
from trio_tasks.redis_streams.codec import decode_record, encode_record
from trio_tasks.redis_streams.keys import QueueKeys, dead_letter_key
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = [
    "REPLACED_RETENTION_MS",
    "ChildRow",
    "DamagedRow",
    "DeadLetterRow",
    "OutRow",
    "dead_letter",
    "enqueue",
    "job_arguments",
    "relay_deliver",
    "relay_done",
    "relay_read",
    "set_aside",
]

REPLACED_RETENTION_MS = 300_000
"""How long a job that was replaced can be read, where its successor names no retention."""

_OUT_ROWS = 250

Argument: TypeAlias = str | bytes | int


class ChildRow(msgspec.Struct, frozen=True):
    """A child that is under way to the queue `queue`.

    Attributes:
        row: its name in the outbox.
        late: it has been under way for too long: it shall arrive dead.
    """

    row: str
    queue: str
    job_id: str
    blob: bytes
    options: str
    late: bool

    def __repr__(self) -> str:
        return f"<ChildRow {self.row} {self.job_id!r} to {self.queue!r}>"


class DeadLetterRow(msgspec.Struct, frozen=True):
    """A dead job that is under way to the stream `stream` of a `DeadLetterPolicy`."""

    row: str
    stream: str
    fields: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"<DeadLetterRow {self.row} to {self.stream!r}>"


class DamagedRow(msgspec.Struct, frozen=True):
    """A row that says neither what is under way nor where to: somebody else's, or spoilt."""

    row: str


OutRow: TypeAlias = ChildRow | DeadLetterRow | DamagedRow

_OPTIONS: Final = re.compile(r"\d \S+ \S+ \S+ \S+ \d+ \d+ [erl]")


def enqueue(
    keys: QueueKeys, jobs: Sequence[NewJob], *, tombstone_ms: int = TOMBSTONE_MS
) -> Call[list[Emitted]]:
    """Store up to `BATCH` jobs of one queue in one step. Refused (OOM) when memory is full."""
    args: list[Argument] = [keys.prefix]

    def parse(reply: Reply) -> list[Emitted]:
        return [
            Emitted(job.id, created=answer == _CREATED)
            for job, answer in zip(jobs, raw(reply), strict=True)
        ]

    if all(map(_is_plain, jobs)):
        for job in jobs:
            args += (job.id, encode_record(job.record))
        return Call(script("enqueue_plain"), keys.plain, args, parser("enqueue_plain", parse))
    args.append(tombstone_ms)
    for job in jobs:
        args += job_arguments(job)
    return Call(script("enqueue"), keys.fixed, args, parser("enqueue", parse))


_CREATED = ord("1")


def _is_plain(job: NewJob) -> bool:
    return (
        job.number is None
        and not job.priority
        and job.delay_ms is None
        and job.due_at_ms is None
        and job.deadline_ms is None
        and job.deadline_at_ms is None
        and job.record.debounce is None
    )


def job_arguments(job: NewJob) -> tuple[str, bytes, str]:
    """A new job's three arguments, as the head of this module describes them."""
    record = job.record
    if _is_plain(job):
        return job.id, encode_record(record), ""
    debounce = record.debounce
    digest, window_ms = "-", 0
    if debounce is not None and debounce.edge == "trailing" and debounce.digest is not None:
        digest, window_ms = debounce.digest, debounce.window_ms
    retention_ms = REPLACED_RETENTION_MS if record.retention_ms is None else record.retention_ms
    options = (
        f"{job.priority} {job.number or '-'} {_instant(job.delay_ms, job.due_at_ms)}"
        f" {_instant(job.deadline_ms, job.deadline_at_ms)} {digest} {window_ms} {retention_ms} e"
    )
    return job.id, encode_record(record), options


def _instant(from_now_ms: int | None, at_ms: int | None) -> str:
    if from_now_ms is not None:
        return f"+{from_now_ms}"
    return "-" if at_ms is None else f"={at_ms}"


def relay_read(
    keys: QueueKeys, limit: int = _OUT_ROWS, *, after: str | None = None
) -> Call[list[OutRow]]:
    """The oldest rows of the outbox, or the oldest after one of them."""

    def parse(reply: Reply) -> list[OutRow]:
        now, rows = items(reply)
        return [_out_row(keys.queue, whole(now), row) for row in items(rows)]

    args = [keys.prefix, limit, "-" if after is None else f"({after}"]
    return Call(script("relay_read"), keys.fixed, args, parser("relay_read", parse))


def _out_row(queue: str, now_ms: int, reply: Reply) -> OutRow:
    name, flat = items(reply)
    row, words = text(name), iter([raw(word) for word in items(flat)])
    fields = {text(key): value for key, value in zip(words, words, strict=True)}
    try:
        if "q" in fields:
            return _child_row(row, now_ms, fields)
        return _dead_letter_row(row, queue, fields)
    except (LookupError, ValueError):  # of names: ConfigurationError, which is one
        return DamagedRow(row)


def _child_row(row: str, now_ms: int, fields: Mapping[str, bytes]) -> ChildRow:
    options = fields["o"].decode()
    if not _OPTIONS.fullmatch(options):
        raise ValueError(options)
    return ChildRow(
        row,
        check_name("queue", fields["q"].decode()),
        check_id("id", fields["i"].decode(), minted=True),
        fields["b"],
        options,
        late=now_ms - int(row.partition("-")[0]) > RELAY_TOO_LATE_MS,
    )


def _dead_letter_row(row: str, queue: str, fields: Mapping[str, bytes]) -> DeadLetterRow:
    blob = fields["b"]
    record, _version = decode_record(blob)
    return DeadLetterRow(
        row,
        check_name("stream", fields["s"].decode()),
        {
            "id": fields["i"],
            "generation": fields["g"],
            "queue": queue.encode(),
            "event": fields["v"],
            "reason": fields["w"],
            "attempts": fields["a"],
            "at_ms": fields["t"],
            "error": fields["er"],
            "data": blob if record is None else record.data,
        },
    )


def relay_deliver(
    keys: QueueKeys, rows: Sequence[ChildRow], *, tombstone_ms: int = TOMBSTONE_MS
) -> Call[None]:
    """Store children that come from another queue's outbox; `keys` are those of *their* queue.

    Repeating it is harmless. A row that is late becomes a dead job, unless its id is taken.
    """
    args: list[Argument] = [keys.prefix, tombstone_ms]
    for row in rows:
        options = f"{row.options[:-1]}l" if row.late else row.options
        args += (row.job_id, row.blob, options)
    return Call(script("relay_deliver"), keys.fixed, args, parser("relay_deliver", _nothing))


def dead_letter(row: DeadLetterRow) -> Call[None]:
    """Append a dead job to the stream that its row names. Repeating it appends once more."""
    args: list[Argument] = []
    for key, value in row.fields.items():
        args += (key, value)
    key = dead_letter_key(row.stream)
    return Call(script("dead_letter"), (key,), args, parser("dead_letter", _nothing))


def relay_done(keys: QueueKeys, rows: Sequence[str]) -> Call[int]:
    """Remove rows from the outbox once their targets have answered; how many were there."""
    args = [keys.prefix, *rows]
    return Call(script("relay_done"), keys.fixed, args, parser("relay_done", whole))


def set_aside(keys: QueueKeys, rows: Sequence[str]) -> Call[int]:
    """Move unreadable rows to the stream `keys.aside`, which keeps about the last 1000."""
    args = [keys.prefix, *rows]
    return Call(script("set_aside"), keys.fixed, args, parser("set_aside", whole))


def _nothing(reply: Reply) -> None:
    if reply is not None:
        raise TypeError(type(reply))
