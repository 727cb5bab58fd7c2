"""What a handler is given beside its job, and the two emit functions as type checkers see them.

Theory of operation of `ctx.emit`. Children are part of the parent's outcome: `ctx.emit` checks
and encodes a job, gives it its id, and appends it to a list that travels with the outcome, so that
the broker stores all of them in the step that completes the parent, or none. No I/O happens,
which is why it is not awaited. The list belongs to the attempt. A sync handler calls `ctx.emit`
from its thread while the loop may be ending the attempt, so appending and ending exclude each
other: a child is in the outcome, or its `ctx.emit` has raised.

A `Context` is made for each job. It has three slots, everything else is looked up when asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Generic, Protocol, cast, overload

from typing_extensions import TypeVar, Unpack

from trio_tasks.broker import SAME_STEP_CHILDREN, NewJob
from trio_tasks.callables import (
    AsyncHandler,
    AsyncPlainHandler,
    Event,
    SyncHandler,
    SyncPlainHandler,
    shown_as,
)
from trio_tasks.job import Job
from trio_tasks.options import EmitOptions
from trio_tasks.refs import JobRef

__all__ = [
    "AsyncEmitFunction",
    "Attempt",
    "CancelReason",
    "Context",
    "EmitFunction",
    "Outlet",
    "add_child",
    "end_attempt",
]

A_co = TypeVar("A_co", covariant=True, default=Any)
T = TypeVar("T")
R = TypeVar("R")


class CancelReason(StrEnum):
    """Why an attempt is being cancelled. A `str`: `ctx.cancel_reason == "timeout"` works."""

    USER = "user"
    """Somebody called `cancel()`."""
    SHUTDOWN = "shutdown"
    """This process stops; the job is given back."""
    TIMEOUT = "timeout"
    """The attempt has run longer than its timeout: a failure."""
    DEADLINE = "deadline"
    """The job's deadline has passed."""
    LEASE_LOST = "lease_lost"
    """This process was silent for too long; somebody else owns the job, or soon will."""
    PARENT = "parent"
    """A job that this one depends on has failed."""


class EmitFunction(Protocol):
    """The type of `ctx.emit`: `emit(function, data, **options)` or `emit("name", data, **options)`.

    It does not wait, so its result is not awaited.
    """

    @overload
    def __call__(
        self, event: str, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]: ...
    @overload
    def __call__(
        self, event: AsyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    def __call__(
        self, event: AsyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    def __call__(
        self, event: AsyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...


class AsyncEmitFunction(Protocol):
    """The type of `tasks.emit` and `ctx.emit_now`: as `EmitFunction`, but awaited.

    The job is durable when it returns.
    """

    @overload
    async def __call__(
        self, event: str, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]: ...
    @overload
    async def __call__(
        self, event: AsyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    async def __call__(
        self, event: AsyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    async def __call__(
        self, event: AsyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    async def __call__(
        self, event: SyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    async def __call__(
        self, event: SyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...
    @overload
    async def __call__(
        self, event: SyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> JobRef[R]: ...


class Attempt(Protocol):
    """What a context, and the emits inside it, need of the attempt that it belongs to.

    Attributes:
        ended: the handler has returned; set by `end_attempt` only.
        children: the jobs that `ctx.emit` collected.
    """

    ended: bool
    children: tuple[NewJob, ...]

    @property
    def job_id(self) -> str:
        """Of which job it is one."""
        ...

    @property
    def cause(self) -> CancelReason | None:
        """Why the attempt is being cancelled; `None`: it is not."""
        ...


class Outlet(Protocol):
    """What the contexts of one manager emit through."""

    def child(
        self, attempt: Attempt, event: Event, data: object, options: EmitOptions
    ) -> JobRef[Any]:
        """Make a job part of the outcome of `attempt`. Called from any thread."""
        ...

    def post(self, event: Event, data: object, options: EmitOptions) -> JobRef[Any]:
        """Check and encode now, send soon. Outside a handler."""
        ...

    async def send(
        self, event: Event, data: object, options: EmitOptions, parent_id: str | None
    ) -> JobRef[Any]:
        """Send; durable when it returns."""
        ...


class Context(Generic[A_co]):
    """What a handler is given beside its job.

    The user's own things, those given as `ctx=` or made by `lifespan=`, are `ctx.app`, and their
    attributes (or, of a mapping, their keys) can be read from the context itself: `ctx.db`,
    `ctx["db"]`. The engine's names come first as attributes; the names `jobs`, `nursery`, `fence`
    and `deadline` are kept for the engine too. `ctx["nursery"]` and `ctx.app.nursery` always
    reach the user's.
    """

    __slots__ = ("_app", "_attempt", "_job", "_outlet")

    def __init__(
        self,
        app: A_co,
        outlet: Outlet,
        attempt: Attempt | None = None,
        job: Job[Any] | None = None,
    ) -> None:
        """A context of a manager, or of one attempt and what its handler was given."""
        self._app = app
        self._outlet = outlet
        self._attempt = attempt
        self._job = job

    @property
    def app(self) -> A_co:
        """What was given as `ctx=`, or the value of the `lifespan=`; else `None`."""
        return self._app

    @property
    def job(self) -> Job[Any]:
        """The job that the handler was given.

        Raises:
            RuntimeError: outside a handler.
        """
        if self._job is None:
            raise RuntimeError("ctx.job: this context belongs to no handler, so there is no job")
        return self._job

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why this attempt is being cancelled; `None` while it is not, and outside a handler."""
        return None if self._attempt is None else self._attempt.cause

    @property
    def emit(self) -> EmitFunction:
        """Emit a child: a job that comes into being when, and only if, this handler completes.

        Called like `tasks.emit`, but not awaited. The children of an attempt that fails, is
        cancelled or loses its lease are dropped with it. Thread-safe, so sync handlers use it too.
        At most 250 children an attempt. `repeat=` is for `emit_now`.

        It returns a `JobRef` at once; its `info()`, `result()` and `cancel()` are for after this
        handler. Outside a handler (`tasks.get_context()`) the job is sent at once by the manager's
        nursery.

        Raises (at the call of what it returns):
            ConfigurationError: a wrong event or option.
            SerializationError: data that are not JSON, do not fit the handler's type or are too
                large.
            RuntimeError: the handler has returned, or has 250 children already.
        """
        return self._emit

    @property
    def emit_now(self) -> AsyncEmitFunction:
        """Emit at once and durably, whatever becomes of this handler: `await ctx.emit_now(...)`.

        A handler that runs again emits again; give an `id` to make that harmless.

        Raises (at the call of what it returns):
            ConfigurationError, SerializationError: as `emit`.
            BrokerUnavailableError, QueueFullError: as `tasks.emit`.
        """
        return self._emit_now

    @shown_as("Context.emit")
    def _emit(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]:
        attempt = self._attempt
        if attempt is None:
            return self._outlet.post(event, data, options)
        return self._outlet.child(attempt, event, data, options)

    @shown_as("Context.emit_now")
    async def _emit_now(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]:
        parent_id = None if self._attempt is None else self._attempt.job_id
        return await self._outlet.send(event, data, options, parent_id)

    # Typed for mappings and bare contexts only: on a `Context[AppContext]` a checker then sees
    # the typo in `ctx.emti`, and `ctx.app.db` is the typed way.
    def __getattr__(self: Context[Mapping[str, Any]], name: str) -> Any:
        if name in _RESERVED:
            raise AttributeError(
                f"ctx.{name} is kept for the engine; use ctx[{name!r}] or ctx.app for your own",
                name=name,
                obj=self,
            )
        if name.startswith("__") or name in Context.__slots__:
            raise AttributeError(name, name=name, obj=self)  # asked by protocols such as copy
        try:
            return _look_up(self._app, name)
        except _MissingNameError as error:
            raise AttributeError(str(error), name=name, obj=self) from error.__cause__

    def __getitem__(self, name: str) -> Any:
        """An attribute or a key of the user's `app`, whatever the engine calls its own.

        Raises:
            KeyError: it has none of that name.
        """
        return _look_up(self._app, name)

    def __repr__(self) -> str:
        return "<Context of no job>" if self._job is None else f"<Context of {self._job!r}>"


_RESERVED = frozenset({"jobs", "nursery", "fence", "deadline"})


class _MissingNameError(KeyError):
    """A `KeyError` whose text is a sentence (`KeyError` shows the `repr` of its argument)."""

    def __str__(self) -> str:
        return str(self.args[0])


def _look_up(app: object, name: str) -> Any:
    if app is None:
        raise _MissingNameError(f"no {name!r} in the context: no ctx= and no lifespan= was given")
    try:
        if isinstance(app, Mapping):
            return cast("Mapping[str, Any]", app)[name]
        return getattr(app, name)
    except (KeyError, AttributeError) as error:
        kind = type(cast(object, app)).__qualname__
        # Chained: it may come from inside a property of the user's.
        raise _MissingNameError(f"no {name!r} in the context: the {kind} given has none") from error


# --- Children -----------------------------------------------------------------------------------

_children_lock = threading.Lock()
"""One for all attempts: it is held for a tenth of a microsecond, and a lock per job costs more."""


def add_child(attempt: Attempt, job: NewJob) -> None:
    """Make `job` part of the outcome of `attempt`.

    Raises:
        RuntimeError: the handler has returned, or has as many children as an outcome may carry.
    """
    with _children_lock:
        if attempt.ended:
            raise RuntimeError(
                "ctx.emit: this handler has already returned, so nothing can become part of its"
                " outcome; use tasks.emit(...)"
            )
        if len(attempt.children) >= SAME_STEP_CHILDREN:
            raise RuntimeError(
                f"ctx.emit: a handler may have {SAME_STEP_CHILDREN} children, which are stored in"
                " one step with its outcome; send more with `await ctx.emit_now(...)`"
            )
        attempt.children += (job,)


def end_attempt(attempt: Attempt) -> None:
    """From now on `attempt.children` is complete, and `add_child` raises."""
    with _children_lock:
        attempt.ended = True
