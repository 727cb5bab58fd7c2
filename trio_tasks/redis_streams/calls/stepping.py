"""`step`: commit what starts have come to, then take new ones; the call of the steady state.

Outcomes travel in sections, because most of them have nearly everything in common. A section `C`
holds plain completions, which are first attempts on first deliveries without children:

    C incarnation level retention attempts first last n
    id entry result                         n times

and a section `O` any other outcomes:

    O incarnation level deliveries first last n
    id entry words reason body              n times, each followed by
    queue id blob options                   for each of its children

where `words` are what `lua/_outcome.lua` lists, `~` for what there is not: `-` is a name. `first`
and `last` are the first and the last of a section's entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never, cast

from trio_tasks.broker import (
    TOMBSTONE_MS,
    Applied,
    Delivery,
    Outcome,
    StartToken,
    StepReply,
    Taken,
    TakeStatus,
)
from trio_tasks.processor.decisions import (
    Cancel,
    Complete,
    Die,
    Park,
    Release,
    Retry,
    Skip,
)
from trio_tasks.redis_streams.calls.emitting import Argument, job_arguments
from trio_tasks.redis_streams.calls.values import (
    encoded,
    found,
    items,
    optional_ms,
    raw,
    text,
    whole,
)
from trio_tasks.redis_streams.codec import decode_record
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Call, parser, script

__all__ = ["step"]

_APPLIED: Final = {
    ord("A"): Applied.APPLIED,
    ord("R"): Applied.REPEATED,
    ord("X"): Applied.CANCELLED,
    ord("P"): Applied.PARKED,
    ord("S"): Applied.STALE,
    ord("G"): Applied.GONE,
    ord("E"): Applied.REFUSED,
}

# (kind, incarnation, level, then retention and attempts, or deliveries and nothing)
_Section = tuple[str, str, int, int, int | None]


def step(
    keys: QueueKeys,
    *,
    incarnation: str,
    ordinal: int,
    outcomes: Sequence[Outcome],
    want: int,
    lease_ms: int,
    tombstone_ms: int = TOMBSTONE_MS,
) -> Call[StepReply]:
    """Apply outcomes, then hand out up to `want` jobs to `incarnation`; all in one script.

    Applying is idempotent; taking is not: a step with `want > 0` is never sent again.

    Args:
        ordinal: `g` of the connection on which this is sent (see `own`).
        outcomes: of this incarnation or others, each of a start of its own.
        want: 0: nothing is taken, and neither lease nor pause matter.
    """
    args: list[Argument] = [keys.prefix, tombstone_ms, incarnation, ordinal, want, lease_ms]
    order = _sections(args, keys.queue, outcomes)

    def parse(reply: Reply) -> StepReply:
        answers, relay, *taken = items(reply)
        letters = raw(answers)
        if letters == b"A" * len(outcomes):  # as nearly always
            applied = [Applied.APPLIED] * len(outcomes)
        else:
            applied = [Applied.STALE] * len(outcomes)
            for index, letter in zip(order, letters, strict=True):
                applied[index] = _APPLIED[letter]
        took = _taken(keys.queue, incarnation, taken) if want else None
        return StepReply(applied, took, relay=found(relay))

    # Two takes that are answered together would hand out their jobs crosswise.
    line = keys.prefix if want else None
    return Call(script("step"), keys.fixed, args, parser("step", parse), line)


def _sections(args: list[Argument], queue: str, outcomes: Sequence[Outcome]) -> list[int]:
    """Append the sections of some outcomes; the indices of the outcomes, in their order there."""
    sections: dict[_Section, tuple[list[int], list[Argument]]] = {}
    last: _Section | None = None
    indices: list[int] = []
    rows: list[Argument] = []
    for index, outcome in enumerate(outcomes):
        token = outcome.token
        plain = (
            isinstance(outcome.verdict, Complete)
            and outcome.attempt == 1
            and token.deliveries == 1
            and not outcome.generation
            and not outcome.children
            and not outcome.logged
        )
        section: _Section = (
            ("C", token.incarnation, token.level, outcome.retention_ms, outcome.attempts)
            if plain
            else ("O", token.incarnation, token.level, token.deliveries, None)
        )
        if section != last:
            last = section
            indices, rows = sections.setdefault(section, ([], []))
        indices.append(index)
        if plain:
            rows += (token.job_id, token.entry, outcome.result or b"")
        else:
            rows += _full_row(queue, outcome)

    args.append(len(sections))
    order: list[int] = []
    for (kind, owner, level, number, attempts), (indices, rows) in sections.items():
        args += (kind, owner, level, number)
        if kind == "C":
            args.append("-" if attempts is None else attempts)
        entries = [outcomes[index].token.entry for index in indices]
        args += (*_bounds(entries), len(entries))
        args += rows
        order += indices
    return order


def _full_row(queue: str, outcome: Outcome) -> list[Argument]:
    """A row of a section `O`."""
    delay_ms, since_ms, unless, by, reason = 0, None, 0, None, ""
    body = outcome.error
    match outcome.verdict:
        case Complete():
            kind, body = "c", outcome.result
        case Retry(delay_ms=delay_ms):
            kind, reason = "t", "retry"
        case Park(delay_ms=delay_ms, since_ms=since):
            kind, reason, since_ms = "k", "parked", since
        case Release(counted=counted, began=began):
            kind = "v" if counted else "i" if began else "u"
        case Die(reason=reason, unless_served=served):
            kind, unless = "z", int(served)
        case Skip(reason=reason, by=by, unless_served=served):
            kind, unless = "s", int(served)
        case Cancel(reason=reason):
            kind = "x"
        case _:
            assert_never(outcome.verdict)
    children = outcome.children if kind == "c" else ()
    words = (
        f"{kind} {outcome.attempt} {outcome.retention_ms} {_word(outcome.attempts)} {delay_ms}"
        f" {_word(since_ms)} {_word(by)} {_word(outcome.dead_letter_stream)}"
        f" {outcome.generation} {unless} {_word(outcome.event or None)}"
        f" {int(outcome.logged)} {len(children)} {int(outcome.ran)}"
    )
    token = outcome.token
    row: list[Argument] = [token.job_id, token.entry, words, encoded(reason), body or b""]
    for child in children:
        row.append("" if child.queue == queue else child.queue)
        row += job_arguments(child)
    return row


def _bounds(entries: list[str]) -> tuple[str, str]:
    """The first and the last of some entries.

    As text they compare by their milliseconds, which have 13 digits; within one, by length first.
    """
    first, last = min(entries).partition("-")[0], max(entries).partition("-")[0]
    firsts = [entry for entry in entries if entry.startswith(first)]
    shortest = min(map(len, firsts))
    lasts = firsts if first == last else [entry for entry in entries if entry.startswith(last)]
    longest = max(map(len, lasts))
    return (
        min(entry for entry in firsts if len(entry) == shortest),
        max(entry for entry in lasts if len(entry) == longest),
    )


def _word(value: str | int | None) -> str:
    return "~" if value is None else str(value)


def _taken(queue: str, incarnation: str, reply: Sequence[Reply]) -> Taken:
    status, now, due, tick, *levels = reply
    deliveries: list[Delivery] = []
    for level_reply in levels:
        number, flat = items(level_reply)
        level = whole(number)
        rows = iter(cast("list[bytes]", items(flat)))
        for entry, name, blob, extra in zip(rows, rows, rows, rows, strict=True):
            record, version = decode_record(blob)
            try:
                job_id = name.decode()
            except UnicodeDecodeError:
                job_id = name.decode("utf-8", "replace")
            if not extra:  # a first delivery that had to read nothing but the blob
                token = StartToken(queue, job_id, incarnation, entry.decode(), level, 1)
                if record is not None:
                    deliveries.append(Delivery(token, 1, record))
                else:
                    deliveries.append(Delivery(token, 1, None, blob, version))
                continue
            attempt, deliveries_, deadline, unknown, interruptions, generation, requeued, reason = (
                extra.decode().split(" ", 7)
            )
            token = StartToken(queue, job_id, incarnation, entry.decode(), level, int(deliveries_))
            deliveries.append(
                Delivery(
                    token,
                    int(attempt),
                    record,
                    raw=b"" if record is not None else blob,
                    version=version,
                    deadline_at_ms=_maybe(deadline),
                    unknown_since_ms=_maybe(unknown),
                    interruptions=int(interruptions),
                    generation=int(generation),
                    requeued=requeued == "1",
                    cancel_reason=reason[1:] if reason else None,
                )
            )
    return Taken(
        TakeStatus(text(status)), whole(now), optional_ms(due), optional_ms(tick), deliveries
    )


def _maybe(word: str) -> int | None:
    return None if word == "-" else int(word)
