"""The Producer: emits jobs from programs without an event loop, and asks what became of them.

It has the emitter of a `TaskManager` and the refs' reading of what is stored; its own is the I/O,
which blocks (`redis_streams/blocking.py`). It runs nothing and ticks no schedule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from math import inf
from types import TracebackType
from typing import Any, Final, Never, Protocol, Self, assert_never, overload

from typing_extensions import TypeVar, Unpack

from trio_tasks.broker import CancelAnswer, Stored
from trio_tasks.callables import (
    AsyncHandler,
    AsyncPlainHandler,
    Event,
    SyncHandler,
    SyncPlainHandler,
    shown_as,
)
from trio_tasks.connect import Database, blocking_broker_for
from trio_tasks.emitter import Emit, Emitter
from trio_tasks.environment import monotonic
from trio_tasks.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from trio_tasks.handlers import Handlers, Registry
from trio_tasks.job import JobInfo, JobState
from trio_tasks.options import (
    Duration,
    EmitOptions,
    check_id,
    check_int,
    check_name,
    duration_ms,
    refuse_unknown,
)
from trio_tasks.payloads import PayloadCodec
from trio_tasks.plans import Declaration, EmitPlan, SchedulePlan, occurrence_id
from trio_tasks.redis_streams.blocking_broker import BlockingBroker
from trio_tasks.refs import POLL, BaseRef, checked_reason, info_of

__all__ = ["BlockingEmitFunction", "BlockingJobRef", "Producer"]

R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True, default=Any)

_RETENTION_MS: Final = 300_000
"""How long a job that is cancelled through a ref is kept: a manager's default."""


class BlockingEmitFunction(Protocol):
    """The type of `Producer.emit`: as `EmitFunction`, but the job is durable when it returns."""

    @overload
    def __call__(
        self, event: str, data: object = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[Any]: ...
    @overload
    def __call__(
        self, event: AsyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...
    @overload
    def __call__(
        self, event: AsyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...
    @overload
    def __call__(
        self, event: AsyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncPlainHandler[R], data: None = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncHandler[None, R], data: None = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...
    @overload
    def __call__(
        self, event: SyncHandler[T, R], data: T, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[R]: ...


class Producer:
    """Emits jobs from programs without an event loop: web applications, scripts, notebooks.

    ```python
    with Producer(db="redis://localhost:6379/1") as producer:
        producer.include(mails)  # so that emit knows the handlers' types; they do not run here
        ref = producer.emit(send_email, Mail(to="a@b.c"))
        print(ref.result(timeout=10))  # if anybody waits for it
    ```

    Thread-safe: one is enough for a program, and each thread that calls has a connection for
    itself meanwhile. A forked child may go on with it: it makes connections of its own. Every call
    blocks its thread; inside an event loop use a `TaskManager`.
    """

    def __init__(
        self,
        db: Database = None,
        *,
        namespace: str = "tt",
        max_data_bytes: int = 524_288,
        **unknown: Never,
    ) -> None:
        """Make a producer. Nothing is opened before it is entered.

        Args:
            db: a URL (`redis://`, `rediss://`, `unix://`, `redis+sentinel://`) or a redis-py
                client whose settings are borrowed; `embedded:///path` to attach to the server that
                a `TaskManager` runs there; default: `$TRIO_TASKS_DB`. See "Addresses" in
                docs/deploying.md.
            namespace: first part of all keys, as the workers have it.
            max_data_bytes: the largest data, as JSON.
            **unknown: refused, with the name that was probably meant.

        Raises:
            ConfigurationError: an argument is wrong; there is no address; or it is that of a
                server whose jobs would end with this program (`memory://`, `embedded://`).
        """
        refuse_unknown("Producer", unknown, ("db", "namespace", "max_data_bytes"))
        self._new_broker = blocking_broker_for(db, namespace=namespace)
        self._namespace = check_name("namespace", namespace)
        self._handlers = Handlers[Any]()
        self._registry = Registry(self._handlers)
        self._emitter = Emitter(
            self._registry, max_data_bytes=check_int("max_data_bytes", max_data_bytes, least=1)
        )
        self._broker: BlockingBroker | None = None
        self._exit = ExitStack()
        self._pid = 0

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Connect, so that a wrong address is known at once. May be entered again after leaving.

        Raises:
            BrokerUnavailableError: Redis cannot be reached within the deadline (default 5 s; the
                URL's `socket_timeout`), or nobody runs the embedded server.
            ConfigurationError: the server refuses us (user, password, rights, number of the
                database) or cannot be used (its version, its eviction policy); said at once.
                Once a connection was let in, a refused one is an outage like any other.
            RuntimeError: it is entered already.
        """
        if self._broker is not None:
            raise RuntimeError("this Producer is entered already")
        with ExitStack() as stack:
            try:
                broker = stack.enter_context(self._new_broker())
                broker.check()
            except (BrokerError, ConfigurationError) as error:
                raise error from None  # the text tells the cause; its tracebacks are our own code
            self._exit = stack.pop_all()
        self._broker, self._pid = broker, os.getpid()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections. A call that another thread makes meanwhile still gets its answer.

        A thread that waits for a result gets a `RuntimeError` within a second.
        """
        self._broker = None
        if self._pid == os.getpid():  # a forked child leaves alone what its parent uses
            self._exit.close()

    def __repr__(self) -> str:
        state = "not entered" if self._broker is None else "entered"
        return f"<Producer {self._namespace!r}, {state}, {len(self._registry)} handler(s)>"

    def _open(self, what: str) -> BlockingBroker:
        broker = self._broker
        if broker is None:
            raise RuntimeError(
                f"{what} on a Producer that is not entered, or was left: use it inside its block,\n"
                "    with Producer(db=…) as producer:\n        producer.emit(…)"
            )
        return broker

    # -- emitting --------------------------------------------------------------------------------

    def include(self, *handlers: Handlers[Any]) -> None:
        """Make handlers known: `emit` takes their functions and checks data against their types.

        It knows their queues and trailing debounces too. They do not run here, and their
        schedules do not tick. What is added to them later counts.

        Raises:
            ConfigurationError: a queue would have two handlers of one event.
        """
        self._handlers.include(*handlers)

    @property
    def emit(self) -> BlockingEmitFunction:
        """Emit a job: `producer.emit(function, data, **options)`, or an event's name.

        It is durable when it returns. With `repeat=` a schedule is stored, and the ref is that of
        its next occurrence; whoever serves the queue ticks it. See `EmitOptions`.

        Raises (at the call):
            ConfigurationError: a wrong event or option.
            SerializationError: data that are not strict JSON, do not fit, or are too large.
            BrokerUnavailableError: Redis could not be reached in time; `.ids` has the job's id.
            QueueFullError: the server's memory is full; `.ids` too.
            RuntimeError: the producer is not entered, or was left.
        """
        return self._emit

    @shown_as("Producer.emit")
    def _emit(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> BlockingJobRef[Any]:
        broker = self._open("emit()")
        plan = self._emitter.plan(event, data, options)
        if isinstance(plan, SchedulePlan):
            return self._declare(broker, plan)
        (emitted,) = broker.emit([plan.job])
        return self._ref(plan, created=emitted.created)

    def _declare(self, broker: BlockingBroker, plan: SchedulePlan) -> BlockingJobRef[Any]:
        schedule, declaration = plan.schedule, Declaration(plan)
        while True:
            now_ms = broker.time_ms(schedule.queue)
            stored = broker.declare(declaration.proposal(now_ms), replace=True)
            if declaration.accepted(stored):
                return BlockingJobRef(
                    occurrence_id(schedule.name, stored.next_at_ms),
                    schedule.queue,
                    self._open,
                    codec=plan.result,
                    appears=True,
                )

    def emit_many(self, emits: Iterable[Emit[R]]) -> list[BlockingJobRef[R]]:
        """Emit any number of jobs; the whole batch is checked before anything is sent.

        They are stored in atomic steps of up to 250 per queue. If it raises
        `BrokerUnavailableError`, some may be stored; `.ids` has those of which that is not known,
        and emitting these again is harmless.

        Raises:
            As `emit`; the error's note says which element it came from.
        """
        broker = self._open("emit_many()")
        plans = self._emitter.plan_many(emits)
        emitted = broker.emit([plan.job for plan in plans])
        return [
            self._ref(plan, created=answer.created)
            for plan, answer in zip(plans, emitted, strict=True)
        ]

    def _ref(self, plan: EmitPlan, *, created: bool) -> BlockingJobRef[Any]:
        job = plan.job
        return BlockingJobRef(
            job.id, job.queue, self._open, created=created, codec=plan.result, number=job.number
        )

    # -- looking ---------------------------------------------------------------------------------

    @overload
    def ref(self, handler: Callable[..., Awaitable[R]], id: str) -> BlockingJobRef[R]: ...
    @overload
    def ref(self, handler: Callable[..., R], id: str) -> BlockingJobRef[R]: ...
    def ref(self, handler: Callable[..., Any], id: str) -> BlockingJobRef[Any]:  # noqa: A002
        """A ref to a job whose id is known, without I/O.

        Args:
            handler: the function that handles it; its return annotation is what `result()`
                converts to.
            id: the job's id.

        Raises:
            ConfigurationError: the function is not included here, or the id is malformed.
        """
        entry = self._registry.of_function(handler)
        return BlockingJobRef(
            check_id("id", id, minted=True), entry.queue, self._open, codec=entry.result
        )


class BlockingJobRef(BaseRef[R_co]):
    """A job that a `Producer` emitted, or one whose id is known. Making one costs no I/O.

    Attributes:
        id: the job's id.
        queue: its queue.
        created: `False` if the emit met an unfinished job of that id; `None` where that is not
            known: for a ref that was made from an id or with `repeat=`.
    """

    __slots__ = ("_open",)

    def __init__(
        self,
        id: str,  # noqa: A002 - the public attribute's name
        queue: str,
        broker: Callable[[str], BlockingBroker],
        *,
        created: bool | None = None,
        codec: PayloadCodec | None = None,
        number: str | None = None,
        appears: bool = False,
    ) -> None:
        """Refer to a job.

        Args:
            id: the job's id.
            queue: its queue.
            broker: gives the open broker, or raises `RuntimeError` in the name of its argument.
            created, codec, number, appears: see `BaseRef`.
        """
        super().__init__(id, queue, created=created, codec=codec, number=number, appears=appears)
        self._open = broker

    def __repr__(self) -> str:
        return f"<BlockingJobRef {self.id!r} in {self.queue!r}>"

    def info(self) -> JobInfo:
        """The job as it is now, with its log lines.

        Raises:
            JobNotFoundError: there is no such job, it has ended and its retention has passed, its
                id was emitted anew since, or (with `repeat=`) it is not due yet.
            BrokerUnavailableError: Redis could not be reached in time.
            RuntimeError: the producer is not entered, or was left.
        """
        stored = self._open("info()").read(self.queue, self.id, logs=True)
        return info_of(self._found(stored))

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait until the job has ended; what its handler returned.

        A ref that was made from the handler's function converts the value to the type that the
        function's annotation names; one made from a name gives plain JSON. One made with
        `repeat=` waits for its job to appear first. Results live for the job's `retention`
        (default 300 s).

        Args:
            timeout: seconds, or a `timedelta`; 0 looks once; default: no limit.

        Raises:
            JobFailedError: the job is dead, cancelled or skipped.
            TimeoutError: it has not ended in time.
            JobNotFoundError: as in `info()`.
            SerializationError: the result does not fit the function's return annotation.
            BrokerUnavailableError: Redis could not be reached in time. Calling again is safe.
            RuntimeError: as in `info()`.
        """
        return self._value(self._ended(timeout))

    def cancel(self, reason: str | None = None, wait: bool = False) -> bool:
        """Cancel the job.

        A job that has not started never will. A running one gets its scope cancelled within a
        third of its worker's lease.

        Args:
            reason: shown as `info().reason`, at most 1000 characters; default "user".
            wait: if the job runs, return only when its handler has unwound.

        Returns:
            `True`: it is cancelled. `False`: it had ended already, or (with `wait`) ended
            otherwise, or (without) it runs and the request is noted: `result()` tells.

        Raises:
            JobNotFoundError, BrokerUnavailableError, RuntimeError: as in `info()`.
            ConfigurationError: `reason` is not such a text.
        """
        answer = self._open("cancel()").cancel(
            self.queue,
            self.id,
            number=self._number,
            reason=checked_reason(reason),
            retention_ms=_RETENTION_MS,
        )
        match answer:
            case CancelAnswer.CANCELLED:
                return True
            case CancelAnswer.FINAL:
                return False
            case CancelAnswer.MISSING:
                raise self._not_found()
            case CancelAnswer.NOTED:
                return wait and self._ended(None).state is JobState.CANCELLED
            case _:
                assert_never(answer)

    def _ended(self, timeout: Duration | None) -> Stored:
        seconds = math.inf if timeout is None else duration_ms("timeout", timeout) / 1000
        if seconds == 0:
            ended = self._look(inf)
        else:
            ends_at = monotonic() + seconds
            try:
                ended = self._wait(ends_at)
            except BrokerUnavailableError as error:
                if monotonic() < ends_at:
                    raise
                raise self._late(seconds) from error
        if ended is None:
            raise self._late(seconds)
        return ended

    def _wait(self, ends_at: float) -> Stored | None:
        """Look, watch, look again, and then whenever the job may have changed; see refs.py."""
        ended = self._look(ends_at)
        if ended is None:
            changes = self._open("result()").changes(self.queue, self.id, deadline=ends_at)
            while monotonic() < ends_at and (ended := self._look(ends_at)) is None:
                changes.wait(min(POLL, ends_at - monotonic()))
        return ended

    def _look(self, deadline: float) -> Stored | None:
        """The job if it has ended."""
        stored = self._open("result()").read(self.queue, self.id, deadline=deadline)
        return self._if_ended(stored)
