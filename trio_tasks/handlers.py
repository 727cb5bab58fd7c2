"""The registry of handlers.

Theory of operation. Everything that can be wrong with a handler is found when it is registered:
its options here, its parameters and annotations in `signatures.py`. What is left is a frozen
`Registered`, which is all that emitting and running need.

`Handlers` form a graph: a manager includes groups, which may include others. Inclusion is by
reference, so what is added to a group before the manager starts counts. Each group knows who
includes it (weakly: groups in modules outlive the managers of a test-suite), so that a duplicate,
or a registration after the start, is an error at the line that causes it. The engine reads the
graph through a `Registry`, which keeps an index until something is added.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, cast
from weakref import WeakSet

from typing_extensions import TypeVar, Unpack

from trio_tasks.callables import Event, HandlerDecorator
from trio_tasks.context import Context
from trio_tasks.errors import ConfigurationError
from trio_tasks.job import Job, Millis
from trio_tasks.options import (
    DebouncePolicy,
    HandlerOptions,
    RetryPolicy,
    attempts_from,
    check_int,
    check_name,
    duration_ms,
    group_from,
    refuse_unknown,
)
from trio_tasks.payloads import PayloadCodec, codec_for
from trio_tasks.processor.repeat import Repeat
from trio_tasks.signatures import name_of, signature_of

__all__ = ["DEFAULT_QUEUE", "Handlers", "Registered", "Registry", "check_schedule_name"]

log = logging.getLogger("trio_tasks.handlers")

DEFAULT_QUEUE: Final = "default"
DEFAULT_MAX_LOGS: Final = 100
_MOST_LOGS: Final = 100_000
_LONGEST_SCHEDULE_NAME: Final = 114
"""An occurrence's job id is `<schedule>:<ms>`, and has at most 128 characters."""

A_contra = TypeVar("A_contra", contravariant=True, default=Any)
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Registered:
    """A handler with everything that was found out about it.

    Attributes:
        function: what is called. Compare by equality: bound methods are made anew at each access.
        event: the name that its jobs are emitted under.
        queue: the queue of its jobs.
        is_async: call and await it; else it runs in a worker thread.
        takes: how many positional arguments it gets: none, the job, or job and context.
        data: codec of the jobs' data; plain JSON where the annotation names no type.
        result: codec of what it returns.
        retry: its own retry policy; `None`: the processor's.
        attempts: total runs; `None`: `retry.max_retries + 1` of the policy that holds.
        repeat: its schedule.
        debounce: its own debounce policy; `None`: the processor's.
        timeout_ms: of one attempt; `None`: no limit.
        retention_ms: how long ended jobs are kept; `None`: as the manager says.
        max_logs: how many log lines are kept of a job.
    """

    function: Callable[..., object]
    event: str
    queue: str
    is_async: bool
    takes: int
    data: PayloadCodec
    result: PayloadCodec
    retry: RetryPolicy | None = None
    attempts: int | None = None
    repeat: Repeat | None = None
    debounce: DebouncePolicy | None = None
    timeout_ms: Millis | None = None
    retention_ms: Millis | None = None
    max_logs: int = DEFAULT_MAX_LOGS

    def __repr__(self) -> str:
        return f"<handler {name_of(self.function)} of {self.event!r} in {self.queue!r}>"


Key: TypeAlias = tuple[str, str]
"""Queue and event: what names a handler."""


class Handlers(Generic[A_contra]):
    """A group of handlers, for modules that have no manager at hand.

    ```python
    mails = Handlers[AppContext](queue="mails", attempts=8)


    @mails.handler("send-email")
    async def send_email(job: Job[Mail], ctx: Context[AppContext]) -> str: ...


    tasks.include(mails)
    ```

    Its options are the defaults of its handlers. It may be included in several managers, in a
    `Producer` and in other groups. `A` is the type of `ctx.app` that its handlers need.
    """

    __slots__ = (
        "__weakref__",
        "_defaults",
        "_frozen",
        "_included",
        "_includers",
        "_own",
        "_version",
    )

    def __init__(self, **options: Unpack[HandlerOptions]) -> None:
        """Make an empty group.

        Args:
            **options: defaults of its handlers; see `HandlerOptions`.

        Raises:
            ConfigurationError: an option is wrong.
        """
        self._defaults = _Options.checked(options)
        self._own: dict[Key, Registered] = {}
        self._included: list[Handlers[Any]] = []
        self._includers: WeakSet[Handlers[Any]] = WeakSet()
        self._frozen = False
        self._version = 0

    def handler(self, event: str, **options: Unpack[HandlerOptions]) -> HandlerDecorator:
        """Decorate a function that handles the jobs emitted as `event`.

        The function comes back unchanged, so tests can call it. Its parameters are `(job, ctx)`,
        `(job)` or none; the annotation `Job[T]` says what the data are converted to, the return
        annotation does that for `ref.result()`. A sync function runs in a worker thread, where no
        time-out or cancel can end it (see `HandlerOptions`).

        What it raises fails the attempt, `SystemExit` included, and the retry policy judges;
        `RetryLater`, `DeadLetter` and `Discard` say what is to become of the job.

        Args:
            event: the routing name.
            **options: see `HandlerOptions`.

        Raises:
            ConfigurationError: an option, the event, the function's parameters or annotations are
                wrong, or the queue has a handler of that event.
            RuntimeError: a manager that includes this group has started.
        """
        if callable(event):
            raise ConfigurationError(
                f"event={name_of(event)}: name the event, as in @handler('process-user')"
            )
        check_name("event", event)
        own = _Options.checked(options)

        def register(handler: F, /) -> F:
            self._register(handler, event, own)
            return handler

        return cast(HandlerDecorator, register)

    def register_handler(
        self,
        handler: Callable[[Job[Any], Context[A_contra]], object]
        | Callable[[Job[Any]], object]
        | Callable[[], object],
        *,
        event: str,
        **options: Unpack[HandlerOptions],
    ) -> None:
        """Register a function, method, `partial` or callable object; see `handler()`."""
        check_name("event", event)
        self._register(handler, event, _Options.checked(options))

    def include(self, *others: Handlers[A_contra]) -> None:
        """Take in the handlers of other groups, those that are added to them later too.

        Raises:
            ConfigurationError: a queue would have two handlers of one event, or a group would
                include itself.
            RuntimeError: a manager that includes this group has started.
        """
        for other in others:
            if not isinstance(other, Handlers):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"include: {other!r} is not a Handlers group")
            if self in other._groups():
                raise ConfigurationError("include: a group of handlers cannot include itself")
            for entry in other._entries().values():
                self._check_free(entry)
            self._included.append(other)
            other._includers.add(self)
            self._changed()

    def __repr__(self) -> str:
        return f"<Handlers of {', '.join(map(_label, self._entries())) or 'nothing'}>"

    def _register(self, handler: object, event: str, options: _Options) -> None:
        entry = _registered(handler, event, options.over(self._defaults))
        self._check_free(entry)
        if options.timeout_ms is not None and not entry.is_async and entry.takes < 2:
            log.warning(
                "%r has a timeout, but is a sync function, whose thread cannot be cancelled, and"
                " takes no context, whose cancel_reason could tell it; make it async or look there",
                entry,
            )
        self._own[entry.queue, entry.event] = entry
        self._changed()

    def _check_free(self, entry: Registered) -> None:
        for group in self._users():
            if group._frozen:
                raise RuntimeError(
                    f"{entry!r} comes too late: register and include handlers before start()"
                )
            other = group._entries().get((entry.queue, entry.event))
            if other is not None and other is not entry:
                raise ConfigurationError(
                    f"event={entry.event!r} in queue={entry.queue!r} has a handler already,"
                    f" {name_of(other.function)}; {name_of(entry.function)} needs another event"
                    " or queue"
                )

    def _changed(self) -> None:
        for group in self._users():
            group._version += 1

    def _groups(self) -> set[Handlers[Any]]:
        """This group and all that it includes."""
        return {self}.union(*(other._groups() for other in self._included))

    def _users(self) -> set[Handlers[Any]]:
        """This group and all that include it."""
        return {self}.union(*(other._users() for other in self._includers))

    def _entries(self) -> dict[Key, Registered]:
        entries = dict(self._own)
        for other in self._included:
            entries.update(other._entries())
        return entries


class _Index(NamedTuple):
    version: int
    by_key: dict[Key, Registered]
    by_function: dict[object, list[Registered]]
    by_queue: dict[str, list[str]]


class Registry:
    """What the engine asks of a group of handlers and of all that it includes."""

    __slots__ = ("_root", "_snapshot")

    def __init__(self, root: Handlers[Any]) -> None:
        self._root = root
        self._snapshot = _Index(-1, {}, {}, {})

    def freeze(self) -> None:
        """From now on registering is a `RuntimeError`: a manager has started."""
        self._root._frozen = True

    def thaw(self) -> None:
        """Registering is allowed again: the manager was left."""
        self._root._frozen = False

    @property
    def version(self) -> int:
        """Grows whenever something is registered or included."""
        return self._root._version

    def find(self, queue: str, event: str) -> Registered | None:
        """The handler of an event in a queue."""
        return self._index().by_key.get((queue, event))

    def of_function(self, function: Event, queue: str | None = None) -> Registered:
        """The one registration of a function, or its one registration in `queue`.

        Raises:
            ConfigurationError: there is none, or more than one; the text lists what there is.
        """
        index = self._index()
        try:
            found = index.by_function.get(function, [])
        except TypeError:  # a callable object without a hash
            found = [entry for entry in index.by_key.values() if entry.function == function]
        if queue is not None:
            elsewhere = found
            found = [entry for entry in found if entry.queue == queue]
            if elsewhere and not found:
                places = _listed((entry.queue, entry.event) for entry in elsewhere)
                raise ConfigurationError(
                    f"queue={queue!r}: {name_of(function)} is registered elsewhere: {places}"
                )
        if len(found) == 1:
            return found[0]
        if found:
            places = _listed((entry.queue, entry.event) for entry in found)
            raise ConfigurationError(
                f"event={name_of(function)} stands for several events ({places}):"
                " emit by name, with queue="
            )
        raise ConfigurationError(
            f"event={name_of(function)} is not registered here; registered: {_listed(index.by_key)}"
        )

    def queues_of(self, event: str) -> list[str]:
        """The queues in which an event has a handler, in order."""
        return sorted(queue for queue, name in self._index().by_key if name == event)

    def queues(self) -> list[str]:
        """The queues that have a handler, in order."""
        return sorted(self._index().by_queue)

    def events(self, queue: str) -> list[str]:
        """The events that have a handler in a queue, in order."""
        return list(self._index().by_queue.get(queue, ()))

    def __iter__(self) -> Iterator[Registered]:
        """All handlers."""
        return iter(list(self._index().by_key.values()))

    def __len__(self) -> int:
        return len(self._index().by_key)

    def _index(self) -> _Index:
        index = self._snapshot
        if index.version != self._root._version:
            index = _Index(self._root._version, self._root._entries(), {}, {})
            for (queue, event), entry in sorted(index.by_key.items()):
                index.by_queue.setdefault(queue, []).append(event)
                try:
                    index.by_function.setdefault(entry.function, []).append(entry)
                except TypeError:  # a callable object without a hash: found by a search
                    continue
            self._snapshot = index
        return index


# --- Options ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Options:
    """Handler options after their check; `None`: not said."""

    queue: str | None = None
    attempts: int | None = None
    retry: RetryPolicy | None = None
    repeat: Repeat | None = None
    debounce: DebouncePolicy | None = None
    timeout_ms: Millis | None = None
    retention_ms: Millis | None = None
    max_logs: int | None = None

    @classmethod
    def checked(cls, options: Mapping[str, object]) -> _Options:
        allowed = list(HandlerOptions.__annotations__)
        unknown = {name: value for name, value in options.items() if name not in allowed}
        refuse_unknown("a handler", unknown, allowed)
        given = {name: value for name, value in options.items() if value is not None}.get
        queue, retry, repeat, debounce = (
            given(n) for n in ("queue", "retry", "repeat", "debounce")
        )
        timeout, retention, max_logs = (given(n) for n in ("timeout", "retention", "max_logs"))
        attempts = attempts_from(given("attempts"))
        policy = None if retry is None else group_from(RetryPolicy, "retry", retry)
        if attempts is not None and policy is not None and attempts != policy.max_retries + 1:
            raise ConfigurationError(
                f"attempts={attempts!r} and retry=RetryPolicy(max_retries={policy.max_retries!r})"
                " disagree: attempts counts the first run too, so max_retries = attempts - 1"
            )
        return cls(
            queue=None if queue is None else check_name("queue", queue),
            attempts=attempts,
            retry=policy,
            repeat=None if repeat is None else Repeat.parse(cast(Any, repeat)),
            debounce=None if debounce is None else DebouncePolicy.from_value("debounce", debounce),
            timeout_ms=None if timeout is None else duration_ms("timeout", timeout, least=0.001),
            retention_ms=None if retention is None else duration_ms("retention", retention),
            max_logs=(
                None
                if max_logs is None
                else check_int("max_logs", max_logs, least=0, most=_MOST_LOGS)
            ),
        )

    def over(self, defaults: _Options) -> _Options:
        """These options, and those of `defaults` where nothing is said.

        Who says `retry` says how many attempts too, and it holds over the `attempts` of a group.
        """
        attempts = self.attempts
        if attempts is None and self.retry is None:
            attempts = defaults.attempts
        return _Options(
            queue=self.queue or defaults.queue,
            attempts=attempts,
            retry=self.retry or defaults.retry,
            repeat=self.repeat or defaults.repeat,
            debounce=self.debounce or defaults.debounce,
            timeout_ms=_first(self.timeout_ms, defaults.timeout_ms),
            retention_ms=_first(self.retention_ms, defaults.retention_ms),
            max_logs=_first(self.max_logs, defaults.max_logs),
        )


def _first(one: F | None, other: F | None) -> F | None:
    return other if one is None else one


def check_schedule_name(what: str, name: str) -> str:
    """The name of a schedule: short enough for the ids of its jobs."""
    if len(check_name(what, name)) > _LONGEST_SCHEDULE_NAME:
        raise ConfigurationError(
            f"{what}={name!r}: what repeats has a name of at most {_LONGEST_SCHEDULE_NAME}"
            " characters, because its jobs' ids are made of it"
        )
    return name


def _registered(handler: object, event: str, options: _Options) -> Registered:
    signature = signature_of(handler)
    name = name_of(signature.function)
    entry = Registered(
        function=signature.function,
        event=event,
        queue=options.queue or DEFAULT_QUEUE,
        is_async=signature.is_async,
        takes=signature.takes,
        data=_codec(signature.data, name),
        result=_codec(signature.result, name),
        retry=options.retry,
        attempts=options.attempts,
        repeat=options.repeat,
        debounce=options.debounce,
        timeout_ms=options.timeout_ms,
        retention_ms=options.retention_ms,
        max_logs=DEFAULT_MAX_LOGS if options.max_logs is None else options.max_logs,
    )
    if entry.repeat is not None:
        check_schedule_name("event", event)
        if not entry.data.accepts_none:
            raise ConfigurationError(
                f"repeat={options.repeat!r}: the data of a repeated job is None, which"
                f" {name} does not accept; annotate it as Job[None] or Job[... | None]"
            )
    return entry


def _codec(tp: Any, name: str) -> PayloadCodec:
    try:
        return codec_for(tp)
    except ConfigurationError as error:
        raise ConfigurationError(f"handler={name}: {error}") from error


def _label(key: Key) -> str:
    queue, event = key
    return f"{event!r} in {queue!r}"


def _listed(keys: Iterable[Key]) -> str:
    ordered = sorted(keys)
    more = f" and {len(ordered) - 20} more" if len(ordered) > 20 else ""
    return (", ".join(map(_label, ordered[:20])) or "nothing") + more
