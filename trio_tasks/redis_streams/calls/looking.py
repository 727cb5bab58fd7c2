"""Looking, without changing anything: `read`, `jobs`, `counts`."""

from __future__ import annotations

from collections.abc import Sequence

from trio_tasks.broker import Counts, Stored
from trio_tasks.job import FINAL_STATES, JobState
from trio_tasks.processor.lifecycle import LETTERS, STATE_OF_LETTER
from trio_tasks.redis_streams.calls.emitting import Argument
from trio_tasks.redis_streams.calls.values import items, raw, text, whole
from trio_tasks.redis_streams.codec import decode_record
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = ["LISTED_STATES", "counts", "jobs", "read"]

LISTED_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.DELAYED, JobState.DEAD})


def read(keys: QueueKeys, ids: Sequence[str], *, logs: bool = False) -> Call[list[Stored | None]]:
    """Jobs by id, `None` for those that are gone or past their retention."""

    def parse(reply: Reply) -> list[Stored | None]:
        return [None if row is None else _stored(keys.queue, items(row)) for row in items(reply)]

    args: list[Argument] = [keys.prefix, int(logs), *ids]
    return Call(script("read"), keys.fixed, args, parser("read", parse))


def jobs(
    keys: QueueKeys, state: JobState, *, limit: int, after: str | None = None
) -> Call[list[Stored]]:
    """Jobs in one of `LISTED_STATES`, in their order there, those behind `after`.

    An `after` that is no longer in that state starts from the beginning.

    Raises:
        ValueError: jobs in this state are not listed.
    """
    if state not in LISTED_STATES:
        raise ValueError(f"jobs in state {state.value!r} are not listed")

    def parse(reply: Reply) -> list[Stored]:
        return [_stored(keys.queue, items(row)) for row in items(reply)]

    args: list[Argument] = [keys.prefix, LETTERS[state], limit, after or ""]
    return Call(script("jobs"), keys.fixed, args, parser("jobs", parse))


def counts(keys: QueueKeys) -> Call[Counts]:
    """The queue in numbers."""

    def parse(reply: Reply) -> Counts:
        queued, running, delayed, due, dead, outgoing, paused, *totals = map(whole, items(reply))
        emitted, completed, skipped, cancelled, removed = totals
        return Counts(
            queued=queued,
            delayed=delayed,
            waiting=0,
            running=running,
            dead=dead,
            paused=bool(paused),
            due=due,
            outgoing=outgoing,
            emitted=emitted,
            completed=completed,
            skipped=skipped,
            cancelled=cancelled,
            removed=removed,
        )

    return Call(script("counts"), keys.fixed, [keys.prefix], parser("counts", parse))


def _stored(queue: str, row: Sequence[Reply]) -> Stored:
    job_id, letter, deliveries, started, flat, lines = row
    state = STATE_OF_LETTER[text(letter)]
    pairs = iter([raw(value) for value in items(flat)])
    fields = {name.decode(): value for name, value in zip(pairs, pairs, strict=True)}

    def number(name: str) -> int | None:
        value = fields.get(name)
        return None if value is None else int(value)

    def word(name: str) -> str | None:
        value = fields.get(name)
        return None if value is None else value.decode()

    blob = fields.get("b", b"")
    record, _version = decode_record(blob)
    attempt = number("a") or 0
    if state is JobState.RUNNING:
        attempt += whole(deliveries) - (number("gb") or 0)
    elif state is JobState.COMPLETED:
        attempt = attempt or 1
    started_at, finished_at, attempts = whole(started), None, number("mx")
    result = fields.get("r")
    if "f" in fields:
        finished, ran, _retention, limit, null, *_token = fields["f"].split(b" ")
        finished_at = int(finished)
        started_at = -1 if ran == b"-" else finished_at - int(ran)
        attempts = attempts if limit == b"-" else int(limit)
        result = b"null" if null == b"n" else result
    delayed = state is JobState.DELAYED
    return Stored(
        id=text(job_id),
        queue=queue,
        state=state,
        record=record,
        raw=b"" if record is not None else blob,
        priority=number("p") or 0,
        attempt=attempt,
        attempts=attempts,
        due_at_ms=number("due") if delayed else None,
        deadline_at_ms=number("dl"),
        started_at_ms=None if started_at == -1 else started_at,
        finished_at_ms=finished_at,
        # What stands there of a delay that is over is not cleared: it costs a request.
        why=word("why") if delayed or state in _ENDED_WITH_REASON else None,
        by=word("by"),
        result=result,
        error=fields.get("er"),
        numbers=_present_numbers(fields.get("n", b"")),
        generation=number("gen") or 0,
        interruptions=number("gi") or 0,
        unknown_since_ms=number("us"),
        logs=[_log_line(raw(line)) for line in items(lines)],
    )


_ENDED_WITH_REASON = FINAL_STATES - {JobState.COMPLETED}


def _present_numbers(numbers: bytes) -> list[str]:
    """The emit numbers of this life, the maker first (they are stored newest first)."""
    return numbers.decode().partition("|")[0].split()[::-1]


def _log_line(line: bytes) -> tuple[int, bytes]:
    at_ms, _, message = line.partition(b" ")
    return int(at_ms), message
