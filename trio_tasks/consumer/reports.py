"""What the log says of attempts and jobs: one line each, which tells where to look further.

An exception's text may hold job data, so it is never logged: its type is, and where in the code it
was raised. The text and the whole traceback are kept with the job, and the line says how to see
them. At DEBUG the frames of the traceback follow, which hold code and no values.

A handler that failed is a WARNING, retried or not: it may be a typo that no retry mends. One that
asked for what comes (`RetryLater`, `Discard`) is INFO. Each job that ends in the dead-letter queue
is one WARNING: that of its last attempt, at once, or where it is dead without one, when the broker
has stored it.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Final

from trio_tasks.broker import RECORD_VERSION, Outcome
from trio_tasks.options import did_you_mean
from trio_tasks.processor.dead_letter import (
    EXHAUSTED,
    EXPIRED,
    INTERNAL,
    NO_HANDLER,
    UNDECODABLE,
    UNSUPPORTED,
)
from trio_tasks.processor.decisions import Die, Retry, Skip, Verdict
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.groups import leaves, unwrapped
from trio_tasks.processor.inputs import AskedDeadLetter, AskedDiscard, AskedRetry, Input, TimedOut
from trio_tasks.processor.texts import clipped

if TYPE_CHECKING:
    from trio_tasks.consumer.held import Held
    from trio_tasks.processor.processor import Processor

__all__ = ["from_handler", "report_attempt", "report_death", "report_unknown"]

log = logging.getLogger("trio_tasks.consumer")

_MACHINERY: Final = ("trio_tasks", "trio", "anyio", "asyncio", "concurrent", "outcome")
"""Packages whose frames lie between a slot and the handler's own first frame."""

_WHY_DEAD: Final = {
    EXHAUSTED: "all its attempts are used up, and the last one ended without an outcome: its worker"
    " died, or was silent for longer than its lease",
    EXPIRED: "its deadline passed before an attempt could start",
    UNDECODABLE: "its record cannot be decoded",
    UNSUPPORTED: "its record was written by a newer release, and no worker that can read it came",
    NO_HANDLER: "no living worker has a handler for its event",
    INTERNAL: "the server refused what came of its attempt",
}
"""In words: the reasons for which a job is dead without a failure of its handler."""

_MOST_UNKNOWN: Final = 1000
"""Unknown events of a queue that are told of; somebody may invent names."""

_MOST_LEAVES: Final = 3
_MOST_BYTES: Final = 128


def report_attempt(
    facts: JobFacts, attempts: int, happened: Input, decision: Verdict, error: BaseException
) -> None:
    """One line for an attempt that did not end well.

    Args:
        facts: the job.
        attempts: how many it may have.
        happened: what the Processor was told.
        decision: what it has answered.
        error: what the handler raised, or stands for what went wrong.
    """
    place = _look_at(facts.queue, facts.id)
    match decision:
        case Retry():
            level = logging.INFO if isinstance(happened, AskedRetry) else logging.WARNING
            ending = f"again in {decision.delay_ms / 1000:.3f} s"
        case Die():
            level = logging.WARNING
            # The reason that a handler gives is an exception's text like any other.
            told = not isinstance(happened, AskedDeadLetter)
            ending = f"dead: {decision.reason}" if told else f"dead (why: {place}.reason)"
        case Skip():
            level, ending = logging.INFO, f"skipped (why: {place}.reason)"
        case _:
            return  # a cancel request has turned it into something else
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "job %r (%r in queue %r): attempt %d of %d %s, %s%s",
        facts.id,
        _plain(facts.event),
        facts.queue,
        facts.attempt,
        attempts,
        _what_happened(happened, error),
        ending,
        "" if level == logging.INFO else f"; its text and traceback: {place}.error.traceback",
    )
    if level == logging.WARNING and log.isEnabledFor(logging.DEBUG):
        log.debug("job %r: attempt %d:\n%s", facts.id, facts.attempt, _frames(error))


def report_death(outcome: Outcome, verdict: Die) -> None:
    """One line for a job that is dead without a failed attempt that was told of."""
    queue, job_id = outcome.token.queue, outcome.token.job_id
    log.warning(
        "job %r (%r in queue %r) is dead: %s (%s); look at it: %s",
        job_id,
        _plain(outcome.event),
        queue,
        verdict.reason,
        _WHY_DEAD.get(verdict.reason, "see docs/lifecycle.md"),
        _look_at(queue, job_id),
    )


def report_unknown(held: Held, processor: Processor) -> None:
    """One line for an event, not for each of its jobs, that cannot be run here and is parked."""
    delivery, feed = held.delivery, held.feed
    record = delivery.record
    event = "" if record is None else _plain(record.event)
    told = feed.counters.unknown
    if event in told or len(told) >= _MOST_UNKNOWN:
        return
    told.add(event)
    grace_s = processor.unknown_event_grace_ms / 1000
    if record is None:
        log.warning(
            "queue %r: a job's record is of version %s, newer than version %d, which is ours; such"
            " jobs are parked for workers of a newer release, and without one for %.15g s are dead",
            feed.queue,
            delivery.version,
            RECORD_VERSION,
            grace_s,
        )
        return
    known = () if feed.registration is None else feed.registration.events
    log.warning(
        "queue %r: no handler for event %r here; its jobs are parked for workers that have one,"
        " and without one for %.15g s are %s%s",
        feed.queue,
        event,
        grace_s,
        "skipped" if processor.options.ignore_config_errors else "dead",
        did_you_mean(event, known),
    )


def _look_at(queue: str, job_id: str) -> str:
    """The expression by which a program looks at a job."""
    return f"(await tasks.queue({queue!r}).job({job_id!r}))"


def from_handler(error: BaseException) -> BaseException:
    """The exception with a traceback that begins in the handler, not with what led there."""
    frames = error.__traceback__
    while frames is not None:
        if not _is_machinery(frames):
            return error.with_traceback(frames)
        frames = frames.tb_next
    return error  # raised by the machinery itself


def _is_machinery(frame: TracebackType) -> bool:
    """Whether a frame belongs to the engine or to an event loop."""
    module: object = frame.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] in _MACHINERY


def _what_happened(happened: Input, error: BaseException) -> str:
    """Such as `failed with NameError at mail.py:29 in send_email`."""
    match happened:
        case TimedOut():
            return f"ran longer than its timeout of {happened.timeout_ms / 1000:.15g} s"
        case AskedRetry() | AskedDiscard() | AskedDeadLetter():
            return f"ended with {_raised_at(error)}"
        case _:
            return f"failed with {_raised_at(error)}"


def _raised_at(error: BaseException) -> str:
    """An exception's type and where it was raised; of a group of several, those of its leaves."""
    error = unwrapped(error)
    found = leaves(error)
    if found[0] is error:
        return _located(error)
    named = [_located(leaf) for leaf in found[:_MOST_LEAVES]]
    if len(found) > len(named):
        named.append(f"{len(found) - len(named)} more")
    return f"{_plain(type(error).__qualname__)} ({', '.join(named)})"


def _located(error: BaseException) -> str:
    kind = _plain(type(error).__qualname__)
    innermost: TracebackType | None = None
    frames = error.__traceback__
    while frames is not None:
        if not _is_machinery(frames):
            innermost = frames
        frames = frames.tb_next
    if innermost is None:
        return kind
    code = innermost.tb_frame.f_code
    file = _plain(code.co_filename.replace("\\", "/").rpartition("/")[2])
    return f"{kind} at {file}:{innermost.tb_lineno} in {_plain(code.co_name)}"


def _plain(name: str) -> str:
    """A name that somebody may have made up: short, and no second line."""
    return clipped("".join(c if c.isprintable() else "?" for c in name), _MOST_BYTES)


def _frames(error: BaseException) -> str:
    """The traceback without the exception's text: frames, and the type."""
    parts: list[str] = []
    for leaf in leaves(unwrapped(error))[:_MOST_LEAVES]:
        try:
            parts += traceback.format_tb(leaf.__traceback__)
        except Exception:  # a module's own loader; what becomes of the job does not depend on it
            parts.append("  (its frames cannot be shown)\n")
        parts.append(f"{_plain(type(leaf).__qualname__)}\n")
    return "".join(parts).rstrip()
