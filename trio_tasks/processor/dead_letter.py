"""Why a job is dead or skipped, in one word each, and what is kept of its error."""

from __future__ import annotations

import traceback
from typing import Final

import msgspec

from trio_tasks.processor.groups import leaves, unwrapped
from trio_tasks.processor.texts import clipped

__all__ = [
    "DEBOUNCED",
    "EXHAUSTED",
    "EXPIRED",
    "INTERNAL",
    "INVALID_CALL",
    "INVALID_DATA",
    "INVALID_RESULT",
    "MESSAGE_BYTES",
    "NOT_RETRYABLE",
    "NO_HANDLER",
    "RELAYED_LATE",
    "SHOULD_RETRY_RAISED",
    "TRACEBACK_BYTES",
    "TYPE_BYTES",
    "UNDECODABLE",
    "UNSUPPORTED",
    "error_json",
]

EXHAUSTED: Final = "exhausted"
"""All its attempts are used up, by failures, `RetryLater`, or workers that died."""
EXPIRED: Final = "expired"
"""Its deadline passed before an attempt could start."""
NOT_RETRYABLE: Final = "not_retryable"
"""`retry_on`, `give_up_on` or `should_retry` said no."""
SHOULD_RETRY_RAISED: Final = "should_retry_raised"
"""`should_retry` raised an exception, which counts as no."""
INVALID_CALL: Final = "invalid_call"
"""Its handler used trio_tasks wrongly, and would again; see `retry.is_misuse`."""
INVALID_DATA: Final = "invalid_data"
"""Its data do not fit the type that the handler's annotation names."""
INVALID_RESULT: Final = "invalid_result"
"""Its handler returned something that cannot be encoded as JSON, or is too large."""
UNDECODABLE: Final = "undecodable"
"""The bytes of its record cannot be decoded."""
UNSUPPORTED: Final = "unsupported"
"""Its record was written by a newer version, and the grace for that has passed."""
NO_HANDLER: Final = "no_handler"
"""No living worker has a handler for its event, and the grace for that has passed."""
INTERNAL: Final = "internal"
"""The server refused what came of it. A defect: please report it."""
RELAYED_LATE: Final = "relayed_late"
"""A child that was under way to another queue for too long."""
DEBOUNCED: Final = "debounced"
"""(Skipped.) Another job stood in for it."""

TYPE_BYTES: Final = 256
MESSAGE_BYTES: Final = 1024
TRACEBACK_BYTES: Final = 8192

_MOST_LEAVES_NAMED = 10


def error_json(error: BaseException) -> bytes:
    """What is kept of an exception: JSON of `{"type", "message", "traceback"}`, valid UTF-8.

    `type` is qualified with its module unless it is a builtin, `message` is at most 1 KiB,
    `traceback` at most 8 KiB of which the end is kept. A group of one exception, at any depth, is
    that one; the message of a group of several names them too. Values of variables are not part
    of it: no job data beyond what the exception's text itself holds.

    Never raises, whatever the exception's own methods do. It reads the source lines of the
    traceback (through `linecache`); nothing is decided by them.
    """
    error = unwrapped(error)
    return msgspec.json.encode(
        {
            "type": clipped(_type_of(error), TYPE_BYTES),
            "message": clipped(_message_of(error), MESSAGE_BYTES),
            "traceback": clipped(_traceback_of(error), TRACEBACK_BYTES, keep_end=True),
        }
    )


def _type_of(error: BaseException) -> str:
    kind = type(error)
    module: object = kind.__module__  # a class may overwrite it with anything
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _message_of(error: BaseException) -> str:
    found = leaves(error)
    if found[0] is error:
        return _str_of(error)
    named = [f"{_type_of(leaf)}: {_str_of(leaf)}" for leaf in found[:_MOST_LEAVES_NAMED]]
    if len(found) > len(named):
        named.append(f"and {len(found) - len(named)} more")
    return f"{_str_of(error)}: {'; '.join(named)}"


def _str_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # the error's own method; the job's fate goes on
        return f"<no message: its __str__ raised {_type_of(broken)}>"


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:  # as above
        return f"<no traceback: formatting it raised {_type_of(broken)}>"
