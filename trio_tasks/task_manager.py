"""The TaskManager: what people hold in their hands. It wires the layers and decides nothing.

What lives while it is entered is an `Engine`; this module checks arguments and states, and hands
on. Everything that emits goes through one `Emitter`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Never,
    Self,
    TypedDict,
    cast,
    overload,
)

import anyio
from typing_extensions import TypeVar, Unpack

from trio_tasks import environment
from trio_tasks.broker import Broker
from trio_tasks.callables import Event, shown_as
from trio_tasks.connect import Database, broker_for
from trio_tasks.consumer.events import Events, QueueCounters
from trio_tasks.context import AsyncEmitFunction, Context
from trio_tasks.emitter import Emit, Emitter
from trio_tasks.engine import OPEN, Engine, Settings, State, not_entered
from trio_tasks.errors import ConfigurationError
from trio_tasks.handlers import Handlers, Registry
from trio_tasks.job import JobEvent
from trio_tasks.lifespans import checked_lifespan, constant
from trio_tasks.options import (
    Duration,
    EmitOptions,
    ProcessorOptions,
    check_id,
    check_int,
    check_name,
    duration_ms,
    group_from,
    refuse_unknown,
)
from trio_tasks.outlet import ManagerAccess, ManagerOutlet
from trio_tasks.processor.processor import Processor
from trio_tasks.queues import Queue, QueueStatistics, Schedules, Statistics, StopReport
from trio_tasks.refs import JobRef
from trio_tasks.serving import Signals, chosen_queues, listens, serve

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

__all__ = ["TaskManager"]

A = TypeVar("A", default=Any)
T = TypeVar("T")
R = TypeVar("R")


class ManagerOptions(TypedDict, total=False):
    """The keyword options of `TaskManager` beside `ctx` and `lifespan`; see there."""

    concurrency: int
    streamdb: Database
    processor: ProcessorOptions | Mapping[str, object] | None
    namespace: str
    consumer_id: str | None
    lease: Duration
    grace: Duration
    retention: Duration
    unknown_event_grace: Duration
    max_data_bytes: int


_OPTIONS: Final = ("db", "ctx", "lifespan", *ManagerOptions.__annotations__)


class TaskManager(Handlers[A], Generic[A]):
    """Registers handlers, emits jobs, and runs them.

    ```python
    tasks = TaskManager("redis://localhost:6379/1", ctx=AppContext(...), concurrency=4)


    @tasks.handler("send-mail")
    async def send_mail(job: Job[Mail], ctx: Context[AppContext]) -> None: ...


    async with tasks:  # connects; emit works, nothing is processed yet
        await tasks.start()  # consumers and schedulers run in the manager's own nursery
        await tasks.emit(send_mail, Mail(...))
        ...  # leaving the block stops gracefully
    ```

    A process that only runs jobs says `trio.run(tasks.run)`. Leaving the block by an exception
    or by cancellation cancels the handlers at once (their jobs are given back); leaving it
    normally lets them finish within `grace`. A manager may be entered again after it was left.
    """

    _instance: ClassVar[TaskManager[Any] | None] = None

    def __init__(
        self,
        db: Database = None,
        *,
        ctx: A | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[A]] | None = None,
        concurrency: int = 1,
        streamdb: Database = None,
        processor: ProcessorOptions | Mapping[str, object] | None = None,
        namespace: str = "tt",
        consumer_id: str | None = None,
        lease: Duration = 30.0,
        grace: Duration = 25.0,
        retention: Duration = 300.0,
        unknown_event_grace: Duration = 60.0,
        max_data_bytes: int = 524_288,
        **unknown: Never,
    ) -> None:
        """Make a manager. Nothing is opened before it is entered.

        Args:
            db: a URL (`redis://`, `rediss://`, `unix://`, `redis+sentinel://`,
                `redis+cluster://`, `embedded://`, `embedded:///path`, `memory://`,
                `memory://name`), a redis-py client whose settings are borrowed, or `None`:
                `$TRIO_TASKS_DB`, else a private embedded server that ends with this process. See
                "Addresses" in docs/deploying.md.
            ctx: any object or mapping; handlers get it as `ctx.app`.
            lifespan: in the place of `ctx`, a function that returns an async context manager,
                entered by `start()` and left when the last handler has ended; its value is
                `ctx.app`. A process that never starts never enters it.
            concurrency: handlers running at once in this process, over all queues, ≥ 1.
            streamdb: a second address of the *same* keyspace, for the connection that waits.
            processor: the policies, see `ProcessorOptions`.
            namespace: first part of all keys.
            consumer_id: a stable label of this process in listings; default: made from the host.
            lease: seconds after which a silent worker's jobs go to others, ≥ 0.5.
            grace: seconds that handlers may go on at a stop; `math.inf`: until they have ended.
                The default of 25 is below the 30 after which Kubernetes kills.
            retention: seconds that an ended job, and its result, can be looked at. 0: not at all.
            unknown_event_grace: seconds that a job is parked whose event no worker knows.
            max_data_bytes: the largest data or result, as JSON.
            **unknown: refused, with the name that was probably meant.

        Raises:
            ConfigurationError: an argument is wrong.
        """
        super().__init__()
        refuse_unknown("TaskManager", unknown, _OPTIONS)
        if ctx is not None and lifespan is not None:
            raise ConfigurationError("ctx= and lifespan= are both given: give one of them")
        options = group_from(
            ProcessorOptions, "processor", ProcessorOptions() if processor is None else processor
        )
        self._ctx = ctx
        self._lifespan = constant(ctx) if lifespan is None else checked_lifespan(lifespan)
        self._settings = Settings(
            concurrency=check_int("concurrency", concurrency, least=1),
            consumer_id=(
                environment.Ids().consumer_id()
                if consumer_id is None
                else check_name("consumer_id", consumer_id)
            ),
            lease_ms=duration_ms("lease", lease, least=0.5),
            retention_ms=duration_ms("retention", retention),
            grace=_grace("grace", grace),
            max_data_bytes=check_int("max_data_bytes", max_data_bytes, least=1),
        )
        self._processor = Processor(
            options,
            unknown_event_grace_ms=duration_ms("unknown_event_grace", unknown_event_grace),
        )
        self._new_broker: Callable[[], Broker] = broker_for(
            db, streamdb=streamdb, namespace=check_name("namespace", namespace)
        )
        self._ids = environment.Ids()
        self._registry = Registry(self)
        self._emitter = Emitter(
            self._registry,
            max_data_bytes=self._settings.max_data_bytes,
            debounce=options.debounce_policy,
            ids=self._ids,
        )
        self._access = ManagerAccess(self._open, self._settings.retention_ms)
        self._outlet = ManagerOutlet(self._open, self._emitter, self._access)
        self._counters: dict[str, QueueCounters] = {}
        self._events = Events()
        self._engine: Engine | None = None

    # -- the process-wide one --------------------------------------------------------------------

    @overload
    @classmethod
    def init(cls) -> TaskManager[Any]: ...
    @overload
    @classmethod
    def init(
        cls, db: Database = None, *, ctx: T, **options: Unpack[ManagerOptions]
    ) -> TaskManager[T]: ...
    @overload
    @classmethod
    def init(
        cls,
        db: Database = None,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[T]],
        **options: Unpack[ManagerOptions],
    ) -> TaskManager[T]: ...
    @overload
    @classmethod
    def init(cls, db: Database = None, **options: Unpack[ManagerOptions]) -> TaskManager[Any]: ...
    @classmethod
    def init(cls, db: Database = None, **options: Any) -> TaskManager[Any]:
        """Make the manager of this process, or return it.

        Called without arguments it returns the one that lives, or makes one with the defaults. Its
        life ends when its block, or `run()`, has been left.

        Raises:
            ConfigurationError: an argument is wrong, or one lives already and arguments were
                given, which would otherwise be ignored in silence.
        """
        current = TaskManager._instance
        if current is not None:
            if db is None and not options:
                return current
            given = [name for name in ("db",) if db is not None] + list(options)
            raise ConfigurationError(
                f"init({', '.join(f'{name}=…' for name in given)}): the process-wide TaskManager"
                " exists already; call init() or instance() without arguments to get it"
            )
        made: TaskManager[Any] = cls(db, **options)
        TaskManager._instance = made
        return made

    @classmethod
    def instance(cls) -> TaskManager[Any]:
        """The manager of this process.

        Raises:
            RuntimeError: there is none; call `init()` first.
        """
        if TaskManager._instance is None:
            raise RuntimeError(
                "there is no process-wide TaskManager; call TaskManager.init() first"
            )
        return TaskManager._instance

    # -- life ------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """One of "new", "connected", "running", "stopping", "closed" or "crashed". Costs no I/O.

        "connected" again after `stop()` in an open block. For health checks.
        """
        return "new" if self._engine is None else self._engine.state

    async def __aenter__(self) -> Self:
        """Connect. `emit` works afterwards, nothing is processed before `start()`.

        Entering does not wait for a server that is away: it gives up after 5 s (the URL's
        `socket_timeout`), and whoever supervises the process starts it again. Once entered, the
        manager keeps trying for ever, and only calls that need an answer fail.

        Raises:
            BrokerUnavailableError: Redis cannot be reached within the deadline.
            ConfigurationError: the server refuses us (user, password, rights, number of the
                database) or cannot be used (its version, its eviction policy, a `streamdb` of
                another keyspace). Said at once: trying again would not help. In an entered
                manager a password that is refused is an outage, which ends when it is accepted.
            RuntimeError: it is entered already; or it was in an event loop that has ended without
                leaving it, or in the process of which this one is a fork.
        """
        if self.state not in ("new", "closed", "crashed"):
            home = None if self._engine is None else self._engine.home
            if home is not None and home.is_lost:
                raise home.why_not("entering it anew")
            raise RuntimeError(f"this TaskManager is entered already (state {self.state!r})")
        engine = Engine(
            self._new_broker(),
            self._settings,
            registry=self._registry,
            emitter=self._emitter,
            processor=self._processor,
            outlet=self._outlet,
            lifespan=self._lifespan,
            counters=self._counters,
            events=self._events,
        )
        self._engine = engine
        await engine.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._engine is not None
        try:
            return await self._engine.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 - bounded
        finally:
            self._registry.thaw()
            if TaskManager._instance is self:
                TaskManager._instance = None

    async def start(self, queues: Iterable[str] | None = None) -> None:
        """Begin to process jobs, in the manager's own nursery.

        Handlers can no longer be registered. After `stop()` in an open block it may be called
        again. Cancelled midway, nothing has been started.

        Args:
            queues: the queues to serve, a subset of those that have a handler here; default all.
                Schedules of other queues do not tick here.

        Raises:
            ConfigurationError: a queue has no handler here, or there is no handler at all.
            RuntimeError: outside the block, or it is running already.
            BrokerError: a queue could not be joined.
        """
        engine = self._open("start()")
        if engine.state != "connected":
            raise RuntimeError(f"start(): the TaskManager is {engine.state} already")
        served = self._served(queues)
        self._registry.freeze()
        await engine.start(served)

    async def stop(self, grace: Duration | None = None) -> StopReport:
        """Stop processing: drain within the grace, cancel what is left, give its jobs back.

        Takes at most `grace` + 2 s, unless an async handler shields itself from cancellation. The
        time that the lifespan takes for its own closing comes on top: bound what waits there.
        `emit` goes on working in the open block. A second call waits for the first.

        Args:
            grace: seconds that handlers may go on; default: the manager's; `math.inf`: all.

        Raises:
            RuntimeError: inside a handler, or in what it has started, before its end (it would
                wait for itself); or not entered.
        """
        engine = self._open("stop()")
        _refuse_inside_handler(engine, "stop()")
        return await engine.stop(self._settings.grace if grace is None else _grace("grace", grace))

    async def run(
        self,
        queues: Iterable[str] | None = None,
        handle_signals: bool | None = None,
        until_idle: bool = False,
        *,
        task_status: TaskStatus[TaskManager[A]] = anyio.TASK_STATUS_IGNORED,
    ) -> StopReport:
        """Enter, start, serve until cancelled, stopped or signalled, then stop gracefully.

        `trio.run(tasks.run)`, or `await nursery.start(tasks.run)`, which returns when it is ready.

        Args:
            queues: as in `start()`.
            handle_signals: whether SIGINT and SIGTERM stop it, from before it enters until all is
                closed. A second one skips the grace; one that comes while the lifespan closes
                cancels that. Default: yes when called plainly in the main thread, no when a
                nursery starts it.
            until_idle: end when nothing is left to do; see `until_idle()`.
            task_status: given by `nursery.start`.

        Raises:
            As entering and `start()`: in particular `BrokerUnavailableError` if Redis is away when
            it begins. Later outages do not end it.
        """
        plainly = task_status is anyio.TASK_STATUS_IGNORED
        signals = Signals(self._settings.grace)

        def started() -> None:
            signals.serving()
            task_status.started(self)

        with signals.heard(listens(handle_signals, plainly=plainly)):
            async with self:
                engine = self._open("run()")
                signals.entered(engine)
                return await serve(
                    engine,
                    start=lambda: self.start(queues),
                    started=started,
                    grace=self._settings.grace,
                    idle=(lambda: self.until_idle(queues)) if until_idle else None,
                )
        return StopReport()  # a signal came before there was anything to stop

    async def until_idle(self, queues: Iterable[str] | None = None) -> None:
        """Wait until no job of these queues is queued, running or due.

        Nor is any child of theirs on its way to another queue. Jobs delayed into the future do
        not count. If it has to wait and nothing was ever started here, one WARNING says so.

        Args:
            queues: default: the queues that are served; before `start()` all that have a handler.

        Raises:
            ConfigurationError: a queue has no handler here, or there is no handler at all.
            RuntimeError: inside a handler (it would wait for itself), or not entered.
            BrokerUnavailableError: Redis could not be reached in time.
        """
        engine = self._open("until_idle()")
        _refuse_inside_handler(engine, "until_idle()")
        if queues is None and engine.served:
            queues = engine.served
        await engine.until_idle(self._served(queues))

    def _served(self, queues: Iterable[str] | None) -> list[str]:
        return chosen_queues(self._registry.queues(), queues)

    def _open(self, what: str) -> Engine:
        engine = self._engine
        if engine is None:
            raise not_entered(what, "new")
        engine.check_usable(what)
        return engine

    # -- emitting --------------------------------------------------------------------------------

    @property
    def emit(self) -> AsyncEmitFunction:
        """Emit a job: `await tasks.emit(function, data, **options)`, or an event's name.

        It is durable when it returns. Concurrent emits share round trips. With `repeat=` a
        schedule is stored, and the ref is that of its next occurrence. See `EmitOptions`.
        Cancelled: it may have been stored all the same; to repeat it safely, give an `id`.

        Raises (at the call):
            ConfigurationError: a wrong event or option.
            SerializationError: data that are not strict JSON, do not fit, or are too large.
            BrokerUnavailableError: Redis could not be reached in time; `.ids` has the job's id.
            QueueFullError: the server's memory is full; `.ids` too.
            RuntimeError: the manager is not entered, was left or has crashed.
        """
        return self._emit

    @shown_as("TaskManager.emit")
    async def _emit(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]:
        return await self._outlet.send(event, data, options, None)

    async def emit_many(self, emits: Iterable[Emit[R]]) -> list[JobRef[R]]:
        """Emit any number of jobs; the whole batch is checked before anything is sent.

        They are stored in atomic steps of up to 250 per queue, pipelined. If it raises
        `BrokerUnavailableError`, some may be stored; `.ids` has all ids, and emitting those again
        is harmless.

        Raises:
            As `emit`; the error's note says which element it came from.
        """
        broker = self._open("emit_many()").broker
        plans = self._emitter.plan_many(emits)
        emitted = await broker.emit([plan.job for plan in plans])
        return [
            plan.ref(self._access, created=answer.created)
            for plan, answer in zip(plans, emitted, strict=True)
        ]

    def get_context(self) -> Context[A]:
        """A context outside any handler. Its `emit` sends soon, without waiting.

        Jobs emitted through it are sent by the manager's nursery and flushed when the block is
        left; those that could not be sent by then are logged with their ids, and after that moment
        `emit` is a RuntimeError. Its `app` is the `ctx=` of this manager, or `None` with
        `lifespan=`.
        """
        return Context(cast("A", self._ctx), self._outlet)

    # -- looking and steering --------------------------------------------------------------------

    @overload
    def ref(self, handler: Callable[..., Awaitable[R]], id: str) -> JobRef[R]: ...
    @overload
    def ref(self, handler: Callable[..., R], id: str) -> JobRef[R]: ...
    def ref(self, handler: Callable[..., Any], id: str) -> JobRef[Any]:  # noqa: A002
        """A ref to a job whose id is known, without I/O. `queue(name).ref(id)` does with names.

        Args:
            handler: the function that handles it; its return annotation is what `result()`
                converts to.
            id: the job's id.

        Raises:
            ConfigurationError: the function is not registered here, or the id is malformed.
        """
        entry = self._registry.of_function(handler)
        return JobRef(
            check_id("id", id, minted=True), entry.queue, self._access, codec=entry.result
        )

    def queue(self, name: str) -> Queue:
        """A queue, to look at and to steer. It need not exist yet."""
        return Queue(check_name("queue", name), self._access)

    async def queues(self) -> list[str]:
        """The names of all queues that were ever emitted to or served, sorted."""
        return await self._open("queues()").broker.queues()

    def schedules(self) -> Schedules:
        """The schedules of all queues."""
        return Schedules(self._access, self._ids, self._registry.queues)

    def events(self) -> AsyncIterator[JobEvent]:
        """What happens to jobs in this process, from now on.

        An iterator that loses the oldest events if 10,000 wait to be read, and ends when the
        manager is left.
        """
        if self.state in OPEN:
            self._open("events()")
        return self._events.listen()

    def statistics(self) -> Statistics:
        """A snapshot of what this process has done and does. Costs no I/O."""
        engine = self._engine
        consumer = None if engine is None else engine.consumer
        feeds = {} if consumer is None else consumer.feeds
        return Statistics(
            connected=engine is not None and engine.broker.connected,
            last_error=None if engine is None else engine.broker.last_error,
            queues={
                queue: QueueStatistics(
                    started=c.started,
                    completed=c.completed,
                    failed=c.failed,
                    retried=c.retried,
                    dead=c.dead,
                    in_flight=len(feeds[queue].held) if queue in feeds else 0,
                    last_error=c.last_error,
                )
                for queue, c in self._counters.items()
            },
        )

    def __repr__(self) -> str:
        return f"<TaskManager {self.state}, {len(self._registry)} handler(s)>"


def _refuse_inside_handler(engine: Engine, what: str) -> None:
    if engine.consumer is not None and engine.consumer.is_inside_handler():
        raise RuntimeError(f"{what} inside a handler would wait for itself")


def _grace(name: str, value: object) -> float:
    if isinstance(value, float) and value == math.inf:
        return math.inf
    return duration_ms(name, value) / 1000
