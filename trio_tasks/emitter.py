"""From (name or function, data, options) to one checked, encoded job with its id: the only way in.

`tasks.emit`, `ctx.emit`, `ctx.emit_now`, `Producer.emit`, `emit_many` and the schedules all come
through an `Emitter`. It does no I/O: what it makes, an `EmitPlan` or a `SchedulePlan`, is sent by
whoever asked. So a batch can be checked whole before any of it is sent, and the same code serves
event loops and threads.

Two things are decided here rather than where the job runs. Its *identity*: a minted id, or for a
chosen one the number of this emit call, so that the engine may repeat a send whose answer was
lost. And a *trailing debounce*, whose window starts at the emit; the emitter knows of it if the
emit says so, if this process includes the handler, or from the processor's policy.

Each event (or function) is looked up once; what was found is kept until something is registered.
That is the moment to notice an event that was probably misspelt, or goes to the wrong queue, at no
cost to the emits that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, Generic, overload

import msgspec
from typing_extensions import TypeVar, Unpack

from trio_tasks.broker import RECORD_VERSION, Debounce, NewJob, Record, ScheduleRecord
from trio_tasks.callables import (
    AsyncHandler,
    AsyncPlainHandler,
    Event,
    SyncHandler,
    SyncPlainHandler,
)
from trio_tasks.choices import Choices
from trio_tasks.context import Attempt, add_child
from trio_tasks.environment import Ids, wall_clock_ms
from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.handlers import DEFAULT_QUEUE, Registered, Registry, check_schedule_name
from trio_tasks.options import DebouncePolicy, EmitOptions, check_name, typo_of
from trio_tasks.payloads import PayloadCodec, codec_for
from trio_tasks.plans import EmitPlan, SchedulePlan
from trio_tasks.processor.debounce import at_emit
from trio_tasks.processor.repeat import Repeat
from trio_tasks.refs import BrokerAccess, JobRef
from trio_tasks.signatures import name_of

__all__ = ["Emit", "Emitter"]

log = logging.getLogger("trio_tasks.emitter")

R_co = TypeVar("R_co", covariant=True, default=Any)
R = TypeVar("R")
T = TypeVar("T")

_KEPT_TARGETS: Final = 4096
"""Events whose look-up is kept; a program that invents names must not grow without bound."""

_NO_OPTIONS: Final[EmitOptions] = {}


class Emit(Generic[R_co]):
    """One element of `emit_many`: what would be the arguments of `emit`.

    ```python
    await tasks.emit_many([Emit(send_email, Mail(to="a@b.c")), Emit("report", delay=5)])
    ```

    Options are checked when it is made; the event and the data when it is emitted.

    Attributes:
        event: a name, or the function that handles it.
        data: the data.
        options: the options as they were given.
        choices: the options after their check; for the engine.

    Raises:
        ConfigurationError: an option is wrong.
    """

    __slots__ = ("choices", "data", "event", "options")

    event: Event
    data: object
    options: EmitOptions
    choices: Choices

    @overload
    def __init__(
        self: Emit[Any], event: str, data: object = None, **options: Unpack[EmitOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R],
        event: AsyncPlainHandler[R],
        data: None = None,
        **options: Unpack[EmitOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R],
        event: AsyncHandler[None, R],
        data: None = None,
        **options: Unpack[EmitOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R], event: AsyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R],
        event: SyncPlainHandler[R],
        data: None = None,
        **options: Unpack[EmitOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R],
        event: SyncHandler[None, R],
        data: None = None,
        **options: Unpack[EmitOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Emit[R], event: SyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> None: ...
    def __init__(self, event: Event, data: object = None, **options: Unpack[EmitOptions]) -> None:
        self.event = event
        self.data = data
        self.options = options
        self.choices = Choices.checked(options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Emit):
            return NotImplemented
        return (
            self.event == other.event and self.data == other.data and self.options == other.options
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        event = repr(self.event) if isinstance(self.event, str) else name_of(self.event)
        return f"<Emit {event} with {', '.join(self.options) or 'no options'}>"


# --- The emitter --------------------------------------------------------------------------------


class _Target(msgspec.Struct, frozen=True):
    """Where an event goes, and what is known of its handler here."""

    event: str
    queue: str
    handler: Registered | None
    result: PayloadCodec | None
    data: PayloadCodec
    debounce: DebouncePolicy | None


class _JobView:
    """What a debounce key function may look at: as where the job runs, the data as `T`."""

    __slots__ = ("_codec", "_raw", "name", "queue")

    def __init__(self, target: _Target, raw: bytes) -> None:
        self.name = target.event
        self.queue = target.queue
        self._codec = target.data
        self._raw = raw

    @property
    def data(self) -> Any:
        return self._codec.decode(self._raw)


class Emitter:
    """Makes plans of what is to be emitted. Thread-safe."""

    __slots__ = ("_debounce", "_doubted", "_ids", "_max_data_bytes", "_registry", "_targets")

    def __init__(
        self,
        registry: Registry,
        *,
        max_data_bytes: int,
        debounce: DebouncePolicy | None = None,
        ids: Ids | None = None,
    ) -> None:
        """Prepare to emit.

        Args:
            registry: the handlers that this process knows.
            max_data_bytes: the largest data, as JSON.
            debounce: the processor's policy.
            ids: where ids come from; default: fresh ones.
        """
        self._registry = registry
        self._max_data_bytes = max_data_bytes
        self._debounce = debounce
        self._ids = Ids() if ids is None else ids
        self._doubted: set[str | tuple[str, str]] = set()
        # One attribute, so that a thread never sees the targets of another version.
        self._targets: tuple[int, dict[object, _Target]] = (-1, {})

    def plan(
        self,
        event: Event,
        data: object = None,
        options: EmitOptions = _NO_OPTIONS,
        *,
        parent_id: str | None = None,
    ) -> EmitPlan | SchedulePlan:
        """Check, encode and name one emit.

        Args:
            event: a name, or the function that handles it.
            data: the data.
            options: see `EmitOptions`.
            parent_id: the job whose handler emits.

        Raises:
            ConfigurationError: a wrong event or option.
            SerializationError: data that are not strict JSON, do not fit the handler's type, or
                are too large.
        """
        choices = Choices.checked(options)
        if choices.repeat is not None:
            return self._schedule(event, data, choices, choices.repeat)
        return self._job(event, data, choices, parent_id)

    def plan_job(
        self,
        event: Event,
        data: object = None,
        options: EmitOptions = _NO_OPTIONS,
        *,
        parent_id: str | None = None,
    ) -> EmitPlan:
        """As `plan`, where a schedule cannot be: in the outcome of a handler.

        Raises:
            ConfigurationError, SerializationError: as `plan`; also for `repeat=`.
        """
        choices = Choices.checked(options)
        if choices.repeat is not None:
            raise ConfigurationError(
                f"repeat={choices.repeat!r}: ctx.emit makes jobs, not schedules;"
                " use `await ctx.emit_now(...)`"
            )
        return self._job(event, data, choices, parent_id)

    def plan_many(self, emits: Iterable[Emit[Any]]) -> list[EmitPlan]:
        """Plans for a whole batch, or an error that has a note of the element it came from.

        Raises:
            ConfigurationError, SerializationError: as `plan`; also for `repeat=`.
        """
        plans: list[EmitPlan] = []
        for place, emit in enumerate(emits):
            try:
                if not isinstance(emit, Emit):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise ConfigurationError(
                        f"emit_many: a value of type {type(emit).__qualname__} is no Emit(...)"
                    )
                choices = emit.choices
                if choices.repeat is not None:
                    raise ConfigurationError(
                        f"repeat={choices.repeat!r}: a batch holds jobs, not schedules;"
                        " give it to emit(...)"
                    )
                plans.append(self._job(emit.event, emit.data, choices, None))
            except (ConfigurationError, SerializationError) as error:
                error.add_note(f"element {place} of emit_many, {emit!r}; nothing was sent")
                raise
        return plans

    def child(
        self,
        attempt: Attempt,
        access: BrokerAccess,
        event: Event,
        data: object,
        options: EmitOptions,
    ) -> JobRef[Any]:
        """Make a job part of the outcome of an attempt (`ctx.emit` in a handler).

        Raises:
            ConfigurationError, SerializationError: as `plan_job`.
            RuntimeError: the handler has returned, or has too many children.
        """
        plan = self.plan_job(event, data, options, parent_id=attempt.job_id)
        add_child(attempt, plan.job)
        return plan.early_ref(access, attempt)

    def schedule_of(self, handler: Registered) -> SchedulePlan:
        """The schedule of a handler that was registered with `repeat=`; named after its event."""
        assert handler.repeat is not None
        target = self._target(handler.event, handler.queue)
        return self._schedule_plan(
            handler.event, target, None, _NO_CHOICES, handler.repeat, expires=True
        )

    # -- making ----------------------------------------------------------------------------------

    def _job(self, event: Event, data: object, choices: Choices, parent_id: str | None) -> EmitPlan:
        target = self._target(event, choices.queue)
        raw = target.data.encode(data, max_bytes=self._max_data_bytes, exact=True)
        now_ms = wall_clock_ms()
        debounce, key = self._debounced(target, target.debounce, choices, raw)
        delay_ms, due_at_ms = choices.delay_ms, choices.due_at_ms
        if debounce is not None and debounce.edge == "trailing":
            delay_ms = due_at_ms = None  # the window says when
        job_id, number = choices.id, None
        if job_id is None:
            job_id = self._ids.job_id()
        elif not choices.id_is_minted:
            number = self._ids.emit_number()
        record = Record(
            RECORD_VERSION,
            target.event,
            raw,
            choices.attempts,
            choices.timeout_ms,
            choices.retention_ms,
            choices.retry_delay_ms,
            parent_id,
            now_ms,
            due_at_ms if delay_ms is None else now_ms + delay_ms,
            debounce,
            key,
        )
        job = NewJob(
            id=job_id,
            queue=target.queue,
            record=record,
            number=number,
            priority=choices.priority,
            delay_ms=delay_ms,
            due_at_ms=due_at_ms,
            deadline_ms=choices.deadline_ms,
            deadline_at_ms=choices.deadline_at_ms,
        )
        return EmitPlan(job, target.result)

    def _schedule(
        self, event: Event, data: object, choices: Choices, repeat: Repeat
    ) -> SchedulePlan:
        target = self._target(event, choices.queue)
        if choices.id is None:
            name = check_schedule_name("event", target.event)
        else:
            name = check_schedule_name("id", choices.id)
        owner = self._registry.find(target.queue, name)
        if owner is not None and owner.repeat is not None:
            raise ConfigurationError(
                f"repeat={repeat!r}: the schedule {name!r} of queue {target.queue!r} is that of a"
                f" handler, {name_of(owner.function)}, which puts it back whenever a worker starts;"
                " give id= to name another one"
            )
        return self._schedule_plan(name, target, data, choices, repeat, expires=False)

    def _schedule_plan(
        self,
        name: str,
        target: _Target,
        data: object,
        choices: Choices,
        repeat: Repeat,
        *,
        expires: bool,
    ) -> SchedulePlan:
        raw = target.data.encode(data, max_bytes=self._max_data_bytes, exact=True)
        # The processor's window is not for schedules: the data of their jobs are all the same.
        base = None if target.handler is None else target.handler.debounce
        debounce, key = self._debounced(target, base, choices, raw)
        template = Record(
            version=RECORD_VERSION,
            event=target.event,
            data=raw,
            attempts=choices.attempts,
            timeout_ms=choices.timeout_ms,
            retention_ms=choices.retention_ms,
            retry_delay_ms=choices.retry_delay_ms,
            debounce=debounce,
            debounce_key=key,
            schedule=name,
        )
        schedule = ScheduleRecord(
            queue=target.queue,
            name=name,
            definition=repeat.to_json(),
            template=template,
            priority=choices.priority,
            deadline_ms=choices.deadline_ms,
        )
        return SchedulePlan(schedule, repeat, expires, target.result)

    @staticmethod
    def _debounced(
        target: _Target, base: DebouncePolicy | None, choices: Choices, raw: bytes
    ) -> tuple[Debounce | None, str | None]:
        asked = choices.debounce
        if asked is None and (base is None or base.edge == "leading"):
            return None, None
        carried, key = at_emit(asked, base=base, job=_JobView(target, raw), data=raw)
        if carried is None:
            return None, key
        return Debounce(carried.edge, carried.window_ms, carried.digest), key

    # -- looking up ------------------------------------------------------------------------------

    def _target(self, event: Event, queue: str | None) -> _Target:
        version, targets = self._targets
        if version != self._registry.version:
            targets = {}
            self._targets = (self._registry.version, targets)
        key = event if queue is None else (event, queue)
        try:
            found = targets.get(key)
        except TypeError:  # a callable object without a hash
            return self._find(event, queue)
        if found is None:
            found = self._find(event, queue)
            if len(targets) < _KEPT_TARGETS:
                targets[key] = found
                if found.handler is None:
                    self._doubt(found.event, found.queue)
        return found

    def _find(self, event: Event, queue: str | None) -> _Target:
        if isinstance(event, str):
            handler, queue = self._by_name(check_name("event", event), queue)
            name, result = event, None
            data = _PLAIN if handler is None else handler.data
        elif callable(event):
            handler = self._registry.of_function(event, queue)
            name, queue, result = handler.event, handler.queue, handler.result
            data = handler.data if handler.takes else _NO_DATA  # which nobody would read
        else:
            raise ConfigurationError(
                f"event: a value of type {type(event).__qualname__} is neither a name nor a handler"
            )
        return _Target(
            event=name,
            queue=queue,
            handler=handler,
            result=result,
            data=data,
            debounce=(handler.debounce if handler else None) or self._debounce,
        )

    def _doubt(self, event: str, queue: str) -> None:
        """Say once of an event that nobody may run as it is emitted, if this may be a mistake.

        Often it is none: others have the handlers. So where nothing similar is registered here,
        which is so in a process without handlers, nothing is said.
        """
        elsewhere = self._registry.queues_of(event)
        doubted = (event, queue) if elsewhere else event
        if doubted in self._doubted:
            return
        if elsewhere:
            log.warning(
                "event %r is emitted to queue %r, and has its handler here in %s: its job waits"
                " until another process serves it",
                event,
                queue,
                ", ".join(map(repr, elsewhere)),
            )
        elif meant := typo_of(event, sorted({handler.event for handler in self._registry})):
            log.warning(
                "event %r is emitted to queue %r, and has no handler here; did you mean %r?",
                event,
                queue,
                meant,
            )
        else:
            return
        self._doubted.add(doubted)

    def _by_name(self, event: str, queue: str | None) -> tuple[Registered | None, str]:
        if queue is not None:
            return self._registry.find(queue, event), queue
        handler = self._registry.find(DEFAULT_QUEUE, event)
        if handler is None and (elsewhere := self._registry.queues_of(event)):
            raise ConfigurationError(
                f"queue was not given, and {event!r} has its handler in"
                f" {', '.join(map(repr, elsewhere))}, not in {DEFAULT_QUEUE!r}:"
                " give queue=, or emit the function"
            )
        return handler, DEFAULT_QUEUE


_PLAIN: Final = codec_for(object)
_NO_DATA: Final = codec_for(type(None))
_NO_CHOICES: Final = Choices()
