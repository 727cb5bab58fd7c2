"""The options that people set: frozen groups, checked when they are made.

Durations are seconds (`float`) or `timedelta`, instants are aware `datetime`. Each group accepts a
plain mapping with the same field names in its place, nested too; an unknown key is a
`ConfigurationError` that names the closest one. Ranges stand beside the fields and are checked by
the functions at the end of this module, which name argument, value and what is allowed.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, cast

from trio_tasks.errors import ConfigurationError
from trio_tasks.job import Millis

if TYPE_CHECKING:
    from trio_tasks.processor.repeat import Repeat

__all__ = [
    "DeadLetterPolicy",
    "DebounceKey",
    "DebouncePolicy",
    "Duration",
    "Edge",
    "EmitOptions",
    "HandlerOptions",
    "JobLike",
    "ProcessorOptions",
    "QueueOptions",
    "RetryPolicy",
    "attempts_from",
    "check_id",
    "check_instant",
    "check_int",
    "check_name",
    "check_number",
    "check_sync",
    "duration_ms",
    "group_from",
    "refuse_unknown",
    "shortened",
]

Duration: TypeAlias = float | timedelta
"""Seconds, or a `timedelta`."""

Edge: TypeAlias = Literal["leading", "trailing"]


class JobLike(Protocol):
    """What a debounce key function may look at."""

    @property
    def name(self) -> str:
        """The event."""
        ...

    @property
    def queue(self) -> str:
        """The queue."""
        ...

    @property
    def data(self) -> Any:
        """The data, as the handler's type has them or as plain JSON."""
        ...


DebounceKey: TypeAlias = str | Callable[[JobLike], str]


def _never(_error: BaseException, _attempt: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is tried again, and after how long.

    With the defaults a job runs at most four times: retries about 1, 2 and 4 seconds after each
    failure, each within ± 10 %. See `processor/retry.py` for the formula.

    Attributes:
        max_retries: runs after the first, ≥ 0; default 3.
        delay: seconds before the second run, ≥ 0; default 1.
        multiplier: each further delay is this many times longer, ≥ 1; default 2.
        max_delay: no delay before jitter is longer, seconds, ≥ `delay`; default 300.
        jitter: share of the delay by which it may be shorter or longer, 0 to 1; default 0.1.
        retry_on: only these exceptions are retried: a class or a tuple of them, kept as a tuple.
        give_up_on: these never are, even if `retry_on` names them.
        should_retry: a sync function, asked last, with the error and the attempt that failed; an
            exception inside it counts as no.
    """

    max_retries: int = 3
    delay: Duration = 1.0
    multiplier: float = 2.0
    max_delay: Duration = 300.0
    jitter: float = 0.1
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,)
    give_up_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    should_retry: Callable[[BaseException, int], bool] = field(default=_never, repr=False)

    def __post_init__(self) -> None:
        check_int("max_retries", self.max_retries, least=0)
        delay = duration_ms("delay", self.delay)
        check_number("multiplier", self.multiplier, least=1)
        if duration_ms("max_delay", self.max_delay) < delay:
            raise ConfigurationError(
                f"max_delay={self.max_delay!r} is shorter than delay={self.delay!r}:"
                " give max_delay ≥ delay"
            )
        check_number("jitter", self.jitter, least=0, most=1)
        for name in ("retry_on", "give_up_on"):
            value = _exceptions(name, getattr(self, name))
            object.__setattr__(self, name, value)
        if not callable(self.should_retry):
            raise ConfigurationError(
                f"should_retry={self.should_retry!r}: give a function of (error, attempt)"
            )
        check_sync("should_retry", self.should_retry)


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """What happens besides keeping a dead job in the DLQ of its queue.

    Attributes:
        stream: name of a Redis stream to which each dead job is also appended, for other
            programs; `None` (default): none. At least once each, with id and generation.
    """

    stream: str | None = None

    def __post_init__(self) -> None:
        if self.stream is not None:
            check_name("stream", self.stream)


@dataclass(frozen=True, slots=True)
class DebouncePolicy:
    """Jobs of one key that come close together run once.

    Attributes:
        window: seconds, ≥ 0.001.
        key: what counts as the same; default: the same queue, event and data. A string, or (on a
            handler or a processor) a function of the job's `.name`, `.queue` and `.data`.
        edge: "leading" (default): the first runs at once, others within the window of its start
            are skipped. "trailing": they replace each other, and the last runs `window` seconds
            after it was emitted.
    """

    window: Duration
    key: DebounceKey | None = None
    edge: Edge = "leading"

    def __post_init__(self) -> None:
        duration_ms("window", self.window, least=0.001)
        key = cast("object", self.key)
        if key is not None and not callable(key) and not isinstance(key, str):
            raise ConfigurationError(
                f"key={self.key!r}: give a string, a function of the job, or None"
            )
        if callable(key):
            check_sync("key", key)
        if self.edge not in ("leading", "trailing"):
            raise ConfigurationError(f"edge={self.edge!r}: give 'leading' or 'trailing'")

    @classmethod
    def from_value(cls, name: str, value: object) -> DebouncePolicy:
        """A policy from a policy, a mapping, or a bare window in seconds."""
        if isinstance(value, (int, float, timedelta)) and not isinstance(value, bool):
            duration_ms(name, value, least=0.001)
            return cls(window=value)
        return group_from(cls, name, value)


@dataclass(frozen=True, slots=True)
class ProcessorOptions:
    """The policies that decide a job's fate in the processes that run it.

    Attributes:
        retry: see `RetryPolicy`.
        dlq: see `DeadLetterPolicy`.
        debounce: for all jobs that have no debounce of their own; seconds or a `DebouncePolicy`;
            default none.
        ignore_config_errors: after `unknown_event_grace` a job whose event has no handler is
            skipped with the reason `no_handler` instead of dead-lettered.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    dlq: DeadLetterPolicy = field(default_factory=DeadLetterPolicy)
    debounce: DebouncePolicy | Duration | None = None
    ignore_config_errors: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "retry", group_from(RetryPolicy, "retry", self.retry))
        object.__setattr__(self, "dlq", group_from(DeadLetterPolicy, "dlq", self.dlq))
        if self.debounce is not None:
            debounce = DebouncePolicy.from_value("debounce", self.debounce)
            object.__setattr__(self, "debounce", debounce)
        if self.ignore_config_errors not in (True, False):
            raise ConfigurationError(
                f"ignore_config_errors={self.ignore_config_errors!r}: give True or False"
            )

    @property
    def debounce_policy(self) -> DebouncePolicy | None:
        """`debounce` after its normalisation."""
        debounce = self.debounce
        assert debounce is None or isinstance(debounce, DebouncePolicy)
        return debounce


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Limits of a queue. No field yet; the name is reserved."""


class HandlerOptions(TypedDict, total=False):
    """The keyword options of `handler()`, `register_handler()` and `Handlers()`.

    `queue`: default "default". `attempts`: total runs, or `retry`: a policy of its own. `repeat`:
    its schedule, named after its event. `debounce`: seconds, or a policy. `timeout`: seconds for
    one attempt. `retention`: seconds an ended job is kept. `max_logs`: log lines kept of a job,
    default 100.

    A sync function runs in a thread, which nobody can cancel: its `timeout`, a `ref.cancel()` and
    the end of the grace only set `ctx.cancel_reason`, for it to look at, and what it returns or
    raises afterwards counts.
    """

    queue: str
    attempts: int
    retry: RetryPolicy | Mapping[str, object]
    repeat: Repeat | str | Mapping[str, object]
    debounce: DebouncePolicy | Duration | Mapping[str, object]
    timeout: Duration
    retention: Duration
    max_logs: int


class EmitOptions(TypedDict, total=False):
    """The keyword options of `emit()`; each defaults to `None`, "not said".

    `queue`: for an emit by name, default "default". `priority`: 0 to 9, higher first. `delay`:
    seconds from now; `delay_until`: an aware instant. `attempts`: total runs; `retry_count`:
    `attempts - 1`. `retry_delay`: seconds before the second run, in the place of the policy's
    `delay`. `debounce`: a window in seconds, a policy, or a key for the policy that holds
    otherwise. `timeout`: seconds for one attempt (a sync handler only sees it in
    `ctx.cancel_reason`). `deadline`: seconds from now, or an aware instant, after which no attempt
    starts. `retention`: seconds the ended job is kept.

    `id`: a chosen id, without `@`; default: one that the engine makes. While a job of this id is
    queued, delayed or running in the queue, an emit returns that job as it is (`ref.created` is
    `False`); data and options of the repeat are dropped. Once it has ended, completed, dead,
    skipped or cancelled, an emit begins a new life under the same id, at once: `id` does not keep
    a job from running twice, one after the other. Once only within a time is `debounce` with a
    key; once only ever is for the handler, by a record of its own.

    `repeat`: stores a schedule in the queue, named by `id` or else by the event. One of that name
    is replaced: give an `id` where an event has several schedules. One that a handler declares
    cannot be: where this process knows the handler, that is a `ConfigurationError`; elsewhere the
    handler's comes back when one of its workers starts.
    """

    queue: str | None
    id: str | None
    priority: int | None
    delay: Duration | None
    delay_until: datetime | None
    retry_count: int | None
    attempts: int | None
    retry_delay: Duration | None
    repeat: Repeat | str | Mapping[str, object] | None
    debounce: DebouncePolicy | Duration | str | Mapping[str, object] | None
    timeout: Duration | None
    deadline: Duration | datetime | None
    retention: Duration | None


# --- checks -----------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
_LONGEST_MS = 10 * 366 * 86_400_000
"""Ten years: the longest duration that an option accepts. Beyond it a unit was mistaken."""

G = TypeVar("G")


def check_name(what: str, value: object) -> str:
    """A name of a queue, event, namespace, schedule, consumer or stream."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(
            f"{what}={shortened(value)}: give 1 to 128 characters out of A-Z a-z 0-9 _ . : -"
        )
    return value


def check_id(what: str, value: object, *, minted: bool = False) -> str:
    """A job id. A chosen one may not contain `@` (unless `minted` ones are allowed too)."""
    if not isinstance(value, str) or not (_ID if minted else _NAME).fullmatch(value):
        extra = "" if minted else ", without @"
        raise ConfigurationError(
            f"{what}={shortened(value)}: give 1 to 128 characters out of A-Z a-z 0-9 _ . : -{extra}"
        )
    return value


def check_int(what: str, value: object, *, least: int, most: int | None = None) -> int:
    """A whole number in a range; `True` and `1.0` are refused."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < least
        or (most is not None and value > most)
    ):
        raise ConfigurationError(
            f"{what}={shortened(value)}: give a whole number {_range(least, most)}"
        )
    return value


def check_number(what: str, value: object, *, least: float, most: float | None = None) -> float:
    """A finite number in a range."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value < least
        or (most is not None and value > most)
    ):
        raise ConfigurationError(f"{what}={shortened(value)}: give a number {_range(least, most)}")
    return float(value)


def duration_ms(what: str, value: object, *, least: float = 0.0) -> Millis:
    """Whole milliseconds of a duration in seconds or a `timedelta`; at most ten years.

    A duration above zero that is shorter than a millisecond becomes one millisecond.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise ConfigurationError(f"{what}={shortened(value)}: give seconds or a timedelta")
    if not math.isfinite(seconds) or seconds < least or seconds * 1000 > _LONGEST_MS:
        raise ConfigurationError(
            f"{what}={shortened(value)}: give seconds or a timedelta from {least:g} s to ten years"
        )
    return Millis(math.ceil(round(seconds * 1000, 6)) if seconds < 0.001 else round(seconds * 1000))


def check_instant(what: str, value: object) -> Millis:
    """Milliseconds since the epoch of an aware `datetime`; a naive one is refused."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError(
            f"{what}={shortened(value)}: give an aware datetime,"
            " for example datetime.now(timezone.utc) + timedelta(hours=1)"
        )
    elapsed = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    if elapsed < timedelta(0):
        raise ConfigurationError(f"{what}={shortened(value)}: give an instant after 1970")
    return Millis(elapsed // timedelta(milliseconds=1))


def check_sync(what: str, function: Callable[..., object]) -> None:
    """Refuse a function whose value is no answer, but a coroutine or generator, and so always true.

    Raises:
        ConfigurationError: it is such a function, a method or `partial` of one, or an object that
            is called like one.
    """
    call = getattr(type(function), "__call__", None)  # noqa: B004 - not "is it callable"
    for code in (function, call):
        if (
            inspect.iscoroutinefunction(code)
            or inspect.isasyncgenfunction(code)
            or inspect.isgeneratorfunction(code)
        ):
            raise ConfigurationError(
                f"{what}={shortened(function)} is asynchronous or a generator, and nobody awaits it"
                " or iterates over it: give an ordinary function that returns the answer"
            )


def attempts_from(attempts: object, retry_count: object = None) -> int | None:
    """Total runs, from `attempts` or `retry_count` (= attempts - 1); both must agree."""
    total = None if attempts is None else check_int("attempts", attempts, least=1, most=10**6)
    if retry_count is None:
        return total
    retries = check_int("retry_count", retry_count, least=0, most=10**6 - 1)
    if total is not None and total != retries + 1:
        raise ConfigurationError(
            f"attempts={total!r} and retry_count={retries!r} disagree:"
            " attempts counts the first run too, so retry_count = attempts - 1; give one of them"
        )
    return retries + 1


def group_from(cls: type[G], name: str, value: object) -> G:
    """An option group from itself or from a mapping with its field names."""
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a {cls.__name__} or a mapping with its fields"
        )
    allowed = [f.name for f in fields(cls)]  # pyright: ignore[reportArgumentType]
    given = cast("Mapping[str, Any]", value)
    for key in given:
        if key not in allowed:
            raise ConfigurationError(
                f"{name}: {cls.__name__} has no field {key!r}{closest(key, allowed)}"
            )
    return cls(**given)


def refuse_unknown(what: str, given: Mapping[str, object], allowed: Sequence[str]) -> None:
    """Refuse keyword arguments that `what` does not have.

    Raises:
        ConfigurationError: there is one; it names what was probably meant, and all that is allowed.
    """
    for name, value in given.items():
        meant = next((word for word in _ELSEWHERE.get(name, ()) if word in allowed), None)
        if meant is None:
            hint = closest(name, allowed)
        else:
            hint = f"; did you mean {_SHOWN.get(meant, repr(meant))}?{_all(allowed)}"
        raise ConfigurationError(f"{name}={shortened(value)}: {what} has no such option{hint}")


_TRIES = ("attempts", "processor")

_ELSEWHERE: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("max_attempts", "max_retries", "max_tries", "retries", "retry"), _TRIES),
    "attempts": ("processor",),
    "countdown": ("delay",),
    **dict.fromkeys(("eta", "run_at", "schedule_at"), ("delay_until",)),
    **dict.fromkeys(("cron", "crontab"), ("repeat",)),
    "expires": ("deadline",),
    **dict.fromkeys(("job_id", "task_id"), ("id",)),
    "queue_name": ("queue",),
}
"""What other libraries call an option, and which of ours that is: the first that is allowed."""

_SHOWN = {"processor": 'processor={"retry": …}'}


def closest(word: object, allowed: Sequence[str]) -> str:
    """The end of a message: the allowed word that is nearest, and the list of all."""
    return did_you_mean(str(word), allowed) + _all(allowed)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?` with the nearest word, or nothing where none is near."""
    # A typo, else one that is part of the other (`retry_delay` for `delay`), else a resemblance.
    near = (
        typo_of(word, known)
        or max((name for name in known if name in word or word in name), key=len, default=None)
        or next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)
    )
    return "" if near is None else f"; did you mean {near!r}?"


def typo_of(word: str, known: Sequence[str]) -> str | None:
    """The known word that this one probably is, misspelt."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.8)), None)


def _all(allowed: Sequence[str]) -> str:
    return f" (allowed: {', '.join(allowed)})" if allowed else " (none is allowed)"


def _exceptions(name: str, value: object) -> tuple[type[BaseException], ...]:
    many = isinstance(value, (tuple, list))
    kinds: Sequence[object] = cast("Sequence[object]", value) if many else (value,)
    result: list[type[BaseException]] = []
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ConfigurationError(f"{name}={shortened(value)}: give exception classes")
        result.append(kind)
    return tuple(result)


def _range(least: float, most: float | None) -> str:
    return f"≥ {least:g}" if most is None else f"from {least:g} to {most:.15g}"


def shortened(value: object) -> str:
    """The `repr` of a value in at most 80 characters, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
