"""What lives between entering a manager and leaving it: the nursery, the broker, the workers.

Theory of operation. Entering opens a nursery. In it lives, from entering to leaving, one task that
keeps the broker; it is shielded once connected, because outcomes must still go out while
everything around is being cancelled, and it ends when the engine is left. `start()` adds the task
that works: it enters the lifespan, makes the handlers runnable, and runs consumer and scheduler.
That one is not shielded: cancellation reaches the consumer, which stops without grace and bounded
(`consumer/consumer.py`), then the lifespan, which is left like any other context manager.

So, whatever happens, leaving ends all handlers, then the lifespan, then the connection. An engine
bug is not caught anywhere: it leaves through the nursery, like any exception of a child task.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Self, TypeAlias, cast

import anyio
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled

from trio_tasks.broker import Broker
from trio_tasks.consumer.consumer import ConsumerCore
from trio_tasks.consumer.events import Events, QueueCounters
from trio_tasks.context import Outlet
from trio_tasks.control_c import protected
from trio_tasks.emitter import Emitter
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, InternalError
from trio_tasks.handlers import Registry
from trio_tasks.homes import Home
from trio_tasks.lifespans import Lifespan
from trio_tasks.posting import Postbox
from trio_tasks.processor.processor import Processor
from trio_tasks.queues import StopReport
from trio_tasks.running import RunnableHandler
from trio_tasks.scheduler.scheduler import Scheduler
from trio_tasks.strays import cancellable_task, is_stray, say_owner, steadfast

if TYPE_CHECKING:
    import asyncio

    from anyio.abc import TaskGroup, TaskStatus

__all__ = ["LOOK_AGAIN_S", "OPEN", "Engine", "Settings", "State", "not_entered"]

log = logging.getLogger("trio_tasks.task_manager")

State: TypeAlias = Literal["new", "connected", "running", "stopping", "closed", "crashed"]

OPEN: Final[tuple[State, ...]] = ("connected", "running", "stopping")
"""The states in which a manager can be used."""

_WHY_NOT: Final[dict[State, str]] = {"closed": "was left", "crashed": "has crashed"}

FLUSH_S = 1.0
"""How long jobs that were posted outside handlers may take to be stored at a stop."""

MOST_EVENTS_NAMED = 5
"""Of a queue, in the line that a worker logs when it has started."""

LOOK_AGAIN_S = 0.25
"""How long `until_idle` waits for a sign of change before it looks again."""

_REST: Final = 3
"""It rests so many times as long as a look has taken: many queues take long to look at."""


_CANCELLED: Final = ", without grace"
"""How a worker stops that nobody has asked to: everything around it is being cancelled."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's options as the engine needs them."""

    concurrency: int
    consumer_id: str
    lease_ms: int
    retention_ms: int
    grace: float
    max_data_bytes: int


class Engine:
    """One life of a manager.

    Attributes:
        state: see `TaskManager.state`.
        served: the queues that it serves, or served last.
        broker: entered from "connected" on.
        consumer: the one that runs, or the last one that ran; `None` before the first start.
        counters: totals of this process, by queue.
        home: where it was entered, and may be used.
        postbox: jobs that are emitted without waiting, outside handlers.
    """

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        *,
        registry: Registry,
        emitter: Emitter,
        processor: Processor,
        outlet: Outlet,
        lifespan: Lifespan,
        counters: dict[str, QueueCounters],
        events: Events,
    ) -> None:
        self.state: State = "new"
        self.served: tuple[str, ...] = ()
        self.broker = broker
        self.consumer: ConsumerCore | None = None
        self.counters = counters
        self.postbox = Postbox()
        self.stopped = anyio.Event()
        self.stopped.set()
        self._settings = settings
        self._registry = registry
        self._emitter = emitter
        self._processor = processor
        self._outlet = outlet
        self._lifespan = lifespan
        self._events = events
        self.home: Home | None = None
        self._nursery: TaskGroup
        self._owner: asyncio.Task[object] | None = None
        self._leaving = False
        self._close = anyio.Event()
        self._starting: anyio.CancelScope | None = None
        self._closing = anyio.CancelScope()
        self._warned = False
        self._how_to_stop = _CANCELLED
        self._before: dict[str, tuple[int, int, int, int]] = {}

    # -- entering and leaving --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.home = Home()
        self._owner = cancellable_task()
        self._nursery = anyio.create_task_group()
        await self._nursery.__aenter__()
        try:
            # The keeper is shielded from here, when it is known to be there: of a cancel that comes
            # with its last step `start` would tell it, and wait for it, behind a shield for ever.
            keeper = await self._nursery.start(protected(self._keep_broker))
            await checkpoint_if_cancelled()  # it may have heard of a cancel already, and end
            keeper.shield = True
        except BaseException as error:
            self.state = "closed"
            self._leaving = True
            self._close.set()
            # The nursery is empty soon: it adds nothing to the error, and lets it out unwrapped.
            self._nursery.cancel_scope.cancel()
            await self._nursery.__aexit__(None, None, None)  # noqa: ASYNC102 - nobody is in it
            raise error
        self.state = "connected"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        error = exc
        self._leaving = True
        try:
            # Bounded: by the grace (none after an exception) and the limits of the stop protocol.
            with anyio.CancelScope(shield=True):
                await self.stop(self._settings.grace if exc is None else 0.0)
        except BaseException as interruption:  # noqa: ASYNC103 - goes out through the nursery
            # Ctrl-C. The nursery has to be left all the same.
            error = interruption
        finally:
            self._close.set()
            self._events.close()
        try:
            return await self._nursery.__aexit__(
                type(error) if error else None, error, error.__traceback__ if error else None
            )
        except BaseExceptionGroup as group:
            leaves = _leaves(group)
            if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
                # A lifespan can get Ctrl-C too, and at times so does what AnyIO wraps our tasks in.
                alone = leaves[0]
            elif error is not None and _is_all_of(error, group):
                alone = error
            else:
                raise
            if alone is exc:
                return False  # the block's own exception, and no other: as it was raised
            _raise_alone(alone)
        finally:
            if self.state != "crashed":
                self.state = "closed"

    def check_usable(self, what: str) -> None:
        """Refuse to be used while not open, in another event loop or thread, or in a forked child.

        A wait in another loop would never be woken, and would disturb what this one waits for; see
        `homes.py`.

        Args:
            what: what was called, for the message.

        Raises:
            RuntimeError: as said.
        """
        if self.state not in OPEN:
            raise not_entered(what, self.state)
        home = self.home
        if home is not None and not home.is_here():
            raise home.why_not(what)

    async def _keep_broker(self, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
        """Keep the broker until the engine is left. Gives the scope that is to be shielded."""
        say_owner(self._owner)
        with self._crashing("connected", "running", "stopping"), anyio.CancelScope() as scope:
            async with self.broker, anyio.create_task_group() as nursery:
                nursery.start_soon(protected(steadfast(self.postbox.run)), self.broker)
                try:
                    task_status.started(scope)
                    await steadfast(self._close.wait)()
                    await self.stopped.wait()  # it works still if leaving was cut short by Ctrl-C
                    with anyio.move_on_after(FLUSH_S):
                        await self.postbox.flush()
                finally:
                    self.postbox.close()
                nursery.cancel_scope.cancel()
            if not self._leaving:
                raise InternalError("the connection's tasks ended, and nobody has asked them to")

    # -- working ---------------------------------------------------------------------------------

    async def start(self, queues: Sequence[str]) -> None:
        """Begin to process jobs of these queues. Cancelled by a stop that comes meanwhile."""
        if self._starting is not None:
            raise RuntimeError("start(): the TaskManager is starting already")
        self.stopped = anyio.Event()
        self._how_to_stop = _CANCELLED
        self.served = tuple(queues)
        self._before = {queue: _totals(counters) for queue, counters in self.counters.items()}
        try:
            with anyio.CancelScope() as self._starting:
                await self._nursery.start(self._work, queues)
                return
        finally:
            self._starting = None
            if self.state not in ("running", "stopping"):
                self.stopped.set()
        raise RuntimeError("start(): the TaskManager was stopped or left meanwhile")

    async def _work(self, queues: Sequence[str], *, task_status: TaskStatus[None]) -> None:
        say_owner(self._owner)
        try:
            with self._crashing("running", "stopping"), anyio.CancelScope() as self._closing:
                async with self._lifespan() as app:
                    await self._consume(queues, app, task_status)
            if self._closing.cancelled_caught:
                log.warning("the lifespan's closing took too long for whoever stops: cancelled")
        finally:
            if self.state in ("running", "stopping"):
                self.state = "connected"
                self._report_end()
            self.stopped.set()

    @contextmanager
    def _crashing(self, *states: State) -> Generator[None]:
        """Notice an exception (no cancellation) that leaves a task of the engine once it works.

        A stray cancel is one: the nursery would take it for the wish to end, and say nothing.
        """
        try:
            yield
        except Exception:
            if self.state in states:
                self.state = "crashed"
            raise
        except BaseException as error:  # noqa: ASYNC103 - cancellation by a scope goes on
            if self._leaving or self.state == "stopping" or not is_stray(error):
                raise
            if self.state not in states:
                raise
            self.state = "crashed"
            raise InternalError(  # noqa: ASYNC104
                "a task of the TaskManager was cancelled with asyncio's task.cancel(), and nobody"
                " has asked the TaskManager to stop"
            ) from error

    async def _consume(
        self, queues: Sequence[str], app: object, task_status: TaskStatus[None]
    ) -> None:
        settings = self._settings
        handlers = {
            (entry.queue, entry.event): RunnableHandler(
                entry,
                processor=self._processor,
                app=app,
                outlet=self._outlet,
                retention_ms=settings.retention_ms,
                max_data_bytes=settings.max_data_bytes,
            )
            for entry in self._registry
            if entry.queue in queues
        }
        scheduler = Scheduler(
            self.broker,
            {
                queue: [
                    self._emitter.schedule_of(entry)
                    for entry in self._registry
                    if entry.queue == queue and entry.repeat is not None
                ]
                for queue in queues
            },
        )
        await scheduler.declare()
        consumer = ConsumerCore(
            self.broker,
            queues,
            lambda queue, event: handlers.get((queue, event)),
            processor=self._processor,
            concurrency=settings.concurrency,
            consumer_id=settings.consumer_id,
            lease_ms=settings.lease_ms,
            retention_ms=settings.retention_ms,
            events_of=self._registry.events,
            counters=self.counters,
            events=self._events,
            on_tick_hint=scheduler.hint,
            on_rejoined=scheduler.rejoined,
        )
        await consumer.join()
        self.consumer = consumer
        consumer.on_stop(partial(self._stop_begins, scheduler))
        async with anyio.create_task_group() as nursery:
            await nursery.start(protected(consumer.run))
            nursery.start_soon(protected(steadfast(scheduler.run)))
            self.state = "running"
            log.info(
                "worker %r has started: concurrency %d, %s",
                settings.consumer_id,
                settings.concurrency,
                "; ".join(_described(queue, self._registry.events(queue)) for queue in queues),
            )
            task_status.started()
            await consumer.closed.wait()
            nursery.cancel_scope.cancel()
        if not consumer.asked_to_stop:
            raise InternalError("the workers ended, and nobody has asked them to")

    def request_stop(self, grace: float, *, because_of: str = "") -> None:
        """Begin to stop processing, if it runs; a second request can skip the grace.

        Args:
            grace: seconds that handlers may go on.
            because_of: the name of the signal that has asked for it, if one has.
        """
        if self.consumer is not None and self.state in ("running", "stopping"):
            if self.state == "running":
                reason = f" because of {because_of}" if because_of else ""
                allowed = f"with a grace of {grace:g} s" if grace > 0 else "without grace"
                self._how_to_stop = f"{reason}, {allowed}"
            self.state = "stopping"
            self.consumer.request_stop(grace)
        elif self._starting is not None:
            # Not once it works: nothing may be left in `start()` that would hear of it.
            self._starting.cancel()

    def hurry(self) -> None:
        """Cut short what a stop is waiting for: the grace, then the closing of the lifespan."""
        if self.consumer is not None and self.consumer.closed.is_set():
            self._closing.cancel()
        else:
            self.request_stop(0.0)

    def _stop_begins(self, scheduler: Scheduler) -> None:
        scheduler.stop()
        log.info("worker %r stops%s", self._settings.consumer_id, self._how_to_stop)

    def _report_end(self) -> None:
        report = self._report()
        cut_short = report.interrupted or report.abandoned
        log.log(
            logging.WARNING if cut_short else logging.INFO,
            "worker %r has stopped: %r",
            self._settings.consumer_id,
            report,
        )

    async def stop(self, grace: float) -> StopReport:
        """Stop processing and wait for the end of it, the lifespan's included."""
        if self.consumer is None and self._starting is None:
            return StopReport()
        self.request_stop(grace)
        await self.stopped.wait()
        return self._report()

    def _report(self) -> StopReport:
        differences = [
            tuple(now - before for now, before in zip(_totals(c), before, strict=True))
            for queue, c in self.counters.items()
            for before in (self._before.get(queue, (0, 0, 0, 0)),)
        ]
        completed, interrupted, released, abandoned = (
            sum(column) for column in zip(*differences, (0, 0, 0, 0), strict=True)
        )
        return StopReport(
            completed=completed,
            interrupted=interrupted,
            released=released,
            abandoned=abandoned,
        )

    def waits(self, what: str, *queues: str) -> None:
        """Say once that nothing is processed here, if `start()` may have been forgotten.

        Args:
            what: what waits, for the message.
            *queues: for whose jobs.
        """
        if self.served or self._warned or not {*queues} & {*self._registry.queues()}:
            return
        self._warned = True
        log.log(
            # Where others can do the work, a process that only emits is nothing unusual.
            logging.WARNING if self.broker.private else logging.INFO,
            "%s waits for jobs, but this TaskManager has handlers and was never started: nothing"
            " is processed here before `await tasks.start()`%s",
            what,
            ", and nobody else can reach its jobs"
            if self.broker.private
            else "; this is meant where other processes do it",
        )

    # -- being idle ------------------------------------------------------------------------------

    async def until_idle(self, queues: Sequence[str]) -> None:
        """Wait until nothing is queued, running, due or on its way in these queues."""
        failed: BrokerError | None = None
        changed = anyio.Event()

        async def watch(queue: str, *, task_status: TaskStatus[None]) -> None:
            async with self.broker.watch(queue) as watch:
                task_status.started()
                while True:
                    await watch.wait(LOOK_AGAIN_S)
                    changed.set()

        async with anyio.create_task_group() as nursery:
            try:
                for queue in queues:
                    await nursery.start(watch, queue)
                while True:
                    changed, began = anyio.Event(), loop_time()
                    if await self._is_idle(queues):
                        break
                    took_s = loop_time() - began
                    self.waits("until_idle()", *queues)
                    await changed.wait()
                    await anyio.sleep(_REST * took_s)
            except BrokerError as error:
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _is_idle(self, queues: Sequence[str]) -> bool:
        """Whether there was a moment in which all queues were empty.

        They are looked at one after another, and a child may slip from one that has yet to be
        looked at into one that has been. So they are looked at twice: if each was empty both times
        and none has got a job in between, all were empty at the moment between the two rounds.
        """
        if not self._owes_nothing():
            return False  # without asking the broker
        emitted = await self._emitted_if_empty(queues)
        return (
            emitted is not None
            and emitted == await self._emitted_if_empty(queues)
            and self._owes_nothing()
        )

    async def _emitted_if_empty(self, queues: Sequence[str]) -> list[int] | None:
        """How many jobs each queue has ever got; `None`: one has something to do."""
        emitted: list[int] = []
        for queue in queues:
            counts = await self.broker.counts(queue)
            if counts.queued or counts.running or counts.due or counts.outgoing:
                return None
            emitted.append(counts.emitted)
        return emitted

    def _owes_nothing(self) -> bool:
        return self.consumer is None or self.stopped.is_set() or self.consumer.idle()


def _described(queue: str, events: Sequence[str]) -> str:
    """A queue and its events, or their number if they are many."""
    if len(events) > MOST_EVENTS_NAMED:
        return f"queue {queue!r} ({len(events)} events)"
    return f"queue {queue!r} ({', '.join(map(repr, events))})"


def not_entered(what: str, state: State) -> RuntimeError:
    """The error of who uses a manager outside its block."""
    return RuntimeError(
        f"{what} needs a TaskManager that is entered, and this one"
        f" {_WHY_NOT.get(state, 'is not')}:\n    async with tasks:\n        ..."
    )


def _totals(counters: QueueCounters) -> tuple[int, int, int, int]:
    return (counters.completed, counters.interrupted, counters.released, counters.left_behind)


def _is_all_of(error: BaseException, group: BaseExceptionGroup) -> bool:
    """Whether a nursery's group holds what its block has raised, and nothing else.

    Of a group that the block has raised Trio holds a copy.
    """
    return len(group.exceptions) == 1 and _leaves(group.exceptions[0]) == _leaves(error)


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions themselves, without the groups that they are in."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for each in group.exceptions for leaf in _leaves(each)]


def _raise_alone(error: BaseException) -> NoReturn:
    """Raise it without the group that it came in, but with what it came after: a block's error."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
