"""Which jobs count as the same, and for how long.

Jobs of one *digest* share a window. The window's state is kept by the broker, with server time;
here is decided which digest and which window a job asks for, from three sources: the emit, its
handler's policy, and the processor's policy for all jobs. The handler's replaces the processor's;
together they are called the *base* below. What the emit says comes before the base: a policy or a
bare window replaces its window and edge (and its key, if it names one), a bare string replaces its
key.

`leading` is decided when the job starts, by the process that runs it. `trailing` is decided when
it is emitted, by the process that emits it: a job that comes without that decision cannot be
debounced any more, and runs (`NotDebounced.TOO_LATE`).

Two kinds of jobs are exempt: requeued ones, because somebody wants them to run, and the
occurrences of schedules from the processor's policy, because their data are all the same.

The default key is the data, as JSON in a canonical form: objects whose members stand in another
order are equal, 1 and 1.0 are not.
"""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b
from typing import NamedTuple, Protocol, cast

import msgspec

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import DebounceKey, DebouncePolicy, Edge, JobLike, duration_ms

__all__ = [
    "Carried",
    "CarriedLike",
    "NotDebounced",
    "Window",
    "asked_from",
    "at_emit",
    "at_start",
    "digest_of",
]

_DIGEST_BYTES = 16


class Window(NamedTuple):
    """What a job asks the broker for: the key named by `digest`, for `window_ms`."""

    edge: Edge
    window_ms: int
    digest: str


class Carried(NamedTuple):
    """What a job carries from its emit; `digest` is `None` where the runner finds the key."""

    edge: Edge
    window_ms: int
    digest: str | None


class CarriedLike(Protocol):
    """A `Carried`, or a record with the same fields."""

    @property
    def edge(self) -> Edge:
        """Which edge the window has."""
        ...

    @property
    def window_ms(self) -> int:
        """How long it is."""
        ...

    @property
    def digest(self) -> str | None:
        """What it is called; `None` where the runner finds the key."""
        ...


class NotDebounced(Enum):
    """Why a job asks for no window when it starts."""

    UNASKED = "unasked"
    """No policy applies to it."""
    REQUEUED = "requeued"
    """It was requeued: it runs whatever its key says."""
    TOO_LATE = "too_late"
    """The policy is trailing, and whoever emitted the job did not know. Worth a warning."""
    NO_WINDOW = "no_window"
    """It came with a key, but no policy here has a window. Worth a warning."""


def asked_from(value: object) -> DebouncePolicy | str | None:
    """The `debounce=` of an emit, checked: a policy, a bare key, or `None`.

    Raises:
        ConfigurationError: neither a window in seconds, a policy, a mapping nor a string, or a
            policy with a function as its key (which only a handler or processor can have, since
            it would have to run in another process).
    """
    if value is None or isinstance(value, str):
        return value
    policy = DebouncePolicy.from_value("debounce", value)
    if callable(policy.key):
        raise ConfigurationError(
            "debounce: a function as key belongs to a handler or a processor;"
            " give emit the key itself, a string"
        )
    return policy


def at_emit(
    asked: DebouncePolicy | str | None, *, base: DebouncePolicy | None, job: JobLike, data: bytes
) -> tuple[Carried | None, str | None]:
    """What a job carries about debounce: a window, and a key that has no window of its own.

    Args:
        asked: from `asked_from`.
        base: the policy of its handler, if this process has it, else of the processor.
        job: what a key function may look at.
        data: the data as JSON bytes.

    Raises:
        ConfigurationError: a key function raised (that is the cause), or returned something else
            than a string.
    """
    if isinstance(asked, DebouncePolicy):
        if asked.edge == "leading" and asked.key is None:
            return Carried("leading", _window_ms(asked), None), None
        key = asked.key if asked.key is not None or base is None else base.key
        return Carried(*_window(asked, key, job, data)), None
    if base is None or base.edge == "leading":
        return None, asked
    return Carried(*_window(base, base.key if asked is None else asked, job, data)), None


def at_start(
    carried: CarriedLike | None,
    carried_key: str | None,
    *,
    base: DebouncePolicy | None,
    job: JobLike,
    data: bytes,
    requeued: bool,
) -> Window | NotDebounced:
    """The window that a job asks for when it starts, or why it asks for none.

    Args:
        carried: the first result of `at_emit`, as the job's record has it.
        carried_key: the second one.
        base: the policy of its handler, else of the processor.
        job: what a key function may look at.
        data: the data as JSON bytes.
        requeued: it was dead in this life, and somebody put it back.

    Raises:
        ConfigurationError: a key function raised (that is the cause), or returned something else
            than a string. It fails the attempt, and would fail each further one.
    """
    if requeued:
        return NotDebounced.REQUEUED
    if carried is not None:
        digest = carried.digest
        if digest is None:
            key = None if base is None else base.key
            digest = digest_of(carried.edge, job.queue, job.name, _key_of(key, job), data)
        return Window(carried.edge, carried.window_ms, digest)
    if base is None:
        return NotDebounced.UNASKED if carried_key is None else NotDebounced.NO_WINDOW
    if base.edge == "trailing":
        return NotDebounced.TOO_LATE
    return _window(base, base.key if carried_key is None else carried_key, job, data)


def digest_of(edge: Edge, queue: str, event: str, key: str | None, data: bytes) -> str:
    """The name of a debounce window: 32 hexadecimal digits.

    Args:
        edge: windows of different edges are different windows.
        queue: the job's queue.
        event: the job's event.
        key: `None`: the data are the key.
        data: JSON bytes; not looked at where there is a key.
    """
    kind, content = ("data", _canonical(data)) if key is None else ("key", _encoded(key))
    # Names contain no NUL, and the content comes last: different parts, different bytes.
    head = "\0".join((edge, queue, event, kind, ""))
    return blake2b(_encoded(head) + content, digest_size=_DIGEST_BYTES).hexdigest()


def _canonical(data: bytes) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(data), order="sorted")
    except (ValueError, RecursionError):
        return data  # not JSON that can be read: equal bytes are equal data


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _window(policy: DebouncePolicy, key: DebounceKey | None, job: JobLike, data: bytes) -> Window:
    digest = digest_of(policy.edge, job.queue, job.name, _key_of(key, job), data)
    return Window(policy.edge, _window_ms(policy), digest)


def _window_ms(policy: DebouncePolicy) -> int:
    return duration_ms("window", policy.window)


def _key_of(key: DebounceKey | None, job: JobLike) -> str | None:
    if key is None or isinstance(key, str):
        return key
    try:
        found = cast("object", key(job))  # a user's function: its type is a promise
    except Exception as error:
        raise ConfigurationError(
            f"the debounce key function of {job.name!r} raised {type(error).__qualname__}: it gets"
            " the .name, .queue and .data of a job, the data as the handler's type has them, and"
            " has to return a string"
        ) from error
    if not isinstance(found, str):
        raise ConfigurationError(
            f"the debounce key function of {job.name!r} returned a value of type"
            f" {type(found).__name__}: return a string"
        )
    return found
