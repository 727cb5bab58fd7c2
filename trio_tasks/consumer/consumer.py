"""The Consumer: fetch, run, ack. It wires slots, feeds, leases, time-outs and logs together.

Theory of operation: all its tasks live in one nursery inside `run()`, which is shielded from the
cancellation of its surroundings. That sounds like the opposite of structured concurrency and is
what makes it clean: a task beside the shield is *not* shielded, and when the cancellation reaches
it, it asks for a stop without grace. So handlers are cancelled at once, their jobs are given back
while the connection still lives, and `run()` ends within two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from trio_tasks import environment, payloads
from trio_tasks.broker import Broker, DebounceAsk, Delivery, Record, Registration
from trio_tasks.consumer.attempt import Attempts, in_handler
from trio_tasks.consumer.events import Events, QueueCounters
from trio_tasks.consumer.feeder import Feed
from trio_tasks.consumer.handling import Handling, Lookup
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.lease_keeper import renew, watch
from trio_tasks.consumer.logs import JobLogs
from trio_tasks.consumer.pulse import Pulse
from trio_tasks.consumer.shutdown import shut_down
from trio_tasks.consumer.slots import Slots
from trio_tasks.consumer.timeouts import Timeouts
from trio_tasks.control_c import protected
from trio_tasks.errors import BrokerError
from trio_tasks.job import Job
from trio_tasks.options import Duration, check_int, check_name, duration_ms
from trio_tasks.processor.processor import Processor
from trio_tasks.strays import is_stray, steadfast

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

__all__ = ["Consumer", "ConsumerCore"]


GIVE_UP_JOINING_S = 1.0
"""How long leaving the queues may take that were joined before one that could not be."""

AFTER_FAILED_RELAY_S = 0.2


class ConsumerCore:
    """Runs the jobs of some queues with the handlers that `lookup` finds.

    Attributes:
        counters: per queue; may be shared over several lives of a consumer.
        events: what happens, for listeners.
        closed: set when `run()` has ended.
        asked_to_stop: whether a stop was requested; a cancellation is no request.
    """

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[str],
        lookup: Lookup,
        *,
        processor: Processor,
        concurrency: int,
        consumer_id: str,
        lease_ms: int,
        retention_ms: int,
        events_of: Callable[[str], Sequence[str]],
        counters: dict[str, QueueCounters] | None = None,
        events: Events | None = None,
        on_tick_hint: Callable[[str, int | None], None] = lambda _queue, _in_ms: None,
        on_rejoined: Callable[[str], None] = lambda _queue: None,
    ) -> None:
        """Wire a consumer; see `Consumer` for one with fewer parts.

        Args:
            broker: an entered broker.
            queues: the queues to serve.
            lookup: finds the handling of (queue, event).
            processor: decides about jobs without a handling.
            concurrency: jobs at once, over all queues.
            consumer_id: a label.
            lease_ms: how long it may be silent.
            retention_ms: of jobs without a handling.
            events_of: the events that it has handlers for, by queue.
            counters: totals to go on with.
            events: listeners to go on with.
            on_tick_hint: told when the next occurrence of a queue's schedules comes.
            on_rejoined: told when a queue was joined anew.
        """
        self.queues = tuple(queues)
        self.counters = {} if counters is None else counters
        self.events = Events() if events is None else events
        self.feeds: dict[str, Feed] = {}
        self._broker = broker
        self._lookup = lookup
        self._processor = processor
        self._concurrency = concurrency
        self._consumer_id = consumer_id
        self._lease_ms = lease_ms
        self._retention_ms = retention_ms
        self._events_of = events_of
        self._on_tick_hint = on_tick_hint
        self._on_rejoined = on_rejoined
        self._ids = environment.Ids()
        self._relay_wanted: dict[str, None] = {}  # unlike a set, in the same order each time
        self._relaying = False
        self._relay_changed = Pulse()
        self._stop_wanted = anyio.Event()
        self._skip_grace = anyio.Event()
        self._grace = math.inf
        self._on_stop: Callable[[], None] = lambda: None
        self._joined = False
        self.asked_to_stop = False
        self.closed = anyio.Event()

    # -- life ------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop()` or cancellation. `nursery.start` returns when it takes jobs.

        Cancellation stops without grace: handlers are cancelled, their jobs given back uncounted,
        and it returns within two seconds.

        Raises:
            BrokerError: as `join`.
        """
        try:
            if not self._joined:
                await self.join()
            async with anyio.create_task_group() as outer:
                outer.start_soon(protected(self._stop_when_cancelled))
                with anyio.CancelScope(shield=True):
                    await self._serve(task_status)
                outer.cancel_scope.cancel()
        finally:
            self.closed.set()

    async def join(self) -> None:
        """Join all queues, or none if it fails or is cancelled. `run()` does it, if need be.

        Raises:
            BrokerError: a queue could not be joined.
        """
        self._wire()
        try:
            for feed in self.feeds.values():
                await feed.register()
        except BaseException:
            with anyio.move_on_after(GIVE_UP_JOINING_S, shield=True):
                for feed in self.feeds.values():
                    await feed.leave()
            raise
        self._joined = True

    async def stop(self, grace: float) -> None:
        """Stop gracefully; see `shutdown`. A second call waits for the first."""
        self.request_stop(grace)
        await self.closed.wait()

    def request_stop(self, grace: float) -> None:
        """Begin to stop. A second request can only shorten the grace, to nothing."""
        self.asked_to_stop = True
        if self._stop_wanted.is_set():
            if grace <= 0:
                self._skip_grace.set()
            return
        self._grace = grace
        self._stop_wanted.set()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Call this when the stop begins, before anything else: schedules must not tick on."""
        self._on_stop = call
        if self._stop_wanted.is_set():
            call()

    async def _stop_when_cancelled(self) -> None:
        try:
            await steadfast(anyio.sleep_forever)()
        finally:
            self._skip_grace.set()
            self._stop_wanted.set()

    def _wire(self) -> None:
        self._timeouts, self._logs = Timeouts(), JobLogs()
        self._attempts = attempts = Attempts(
            lookup=self._lookup,
            processor=self._processor,
            retention_ms=self._retention_ms,
            dead_letter_stream=self._processor.options.dlq.stream,
            timeouts=self._timeouts,
            threads=anyio.CapacityLimiter(self._concurrency),
        )
        self._slots = attempts.slots = Slots(
            self._concurrency,
            attempt=attempts.run,
            broken_off=attempts.broken_off,
            too_late=attempts.give_up,
        )
        for queue in self.queues:
            self.feeds[queue] = Feed(
                queue,
                broker=self._broker,
                slots=self._slots,
                attempts=attempts,
                logs=self._logs,
                events=self.events,
                counters=self.counters.setdefault(queue, QueueCounters()),
                new_registration=self._registration,
                on_tick_hint=self._on_tick_hint,
                on_rejoined=self._on_rejoined,
                relay=self._relay,
            )

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        feeds = tuple(self.feeds.values())
        cancelled: BaseException | None = None
        async with anyio.create_task_group() as nursery:
            for _ in range(self._concurrency):
                nursery.start_soon(protected(self._slots.run))
            for feed in feeds:
                for service in (feed.pump, feed.pump, feed.waker, feed.looker, feed.debounces.run):
                    nursery.start_soon(protected(steadfast(service)))
                nursery.start_soon(protected(steadfast(renew)), feed, self._broker)
                nursery.start_soon(protected(steadfast(watch)), feed)
            services = (self._timeouts.run, self._logs.run, self._slots.give_back)
            for service in (*services, self._carry_children):
                nursery.start_soon(protected(steadfast(service)))
            task_status.started()
            try:
                await self._stop_wanted.wait()
            except BaseException as error:  # noqa: ASYNC103 - it is raised at the end
                if not is_stray(error):
                    raise
                # A shield keeps asyncio's `task.cancel()` off nobody: it stops without grace, too.
                cancelled = error
                self._skip_grace.set()
                self._stop_wanted.set()
            self._on_stop()
            await shut_down(
                feeds=feeds,
                slots=self._slots,
                attempts=self._attempts,
                relayed=self._relayed,
                grace=self._grace,
                skip_grace=self._skip_grace,
            )
            nursery.cancel_scope.cancel()
        if cancelled is not None:
            raise cancelled

    # -- parts -----------------------------------------------------------------------------------

    def _registration(self, queue: str) -> Registration:
        return Registration(
            queue=queue,
            incarnation=self._ids.incarnation(self._consumer_id),
            consumer_id=self._consumer_id,
            host=environment.host_name(),
            events=tuple(self._events_of(queue)),
            lease_ms=self._lease_ms,
        )

    def _relay(self, queue: str) -> None:
        self._relay_wanted[queue] = None
        self._relay_changed.fire()

    async def _carry_children(self) -> None:
        """Carry children to other queues as soon as a commit has left some in the outbox."""
        while True:
            while not self._relay_wanted:
                await self._relay_changed.wait()
            queue = next(iter(self._relay_wanted))
            del self._relay_wanted[queue]
            self._relaying = True
            try:
                await self._broker.relay(queue)
            except BrokerError:
                self._relay_wanted[queue] = None
                await anyio.sleep(AFTER_FAILED_RELAY_S)
            except BaseException:
                self._relay_wanted[queue] = None
                raise
            finally:
                self._relaying = False
                self._relay_changed.fire()

    async def _relayed(self) -> None:
        """Wait until no child is on its way any more."""
        while self._relay_wanted or self._relaying:
            await self._relay_changed.wait()

    def idle(self) -> bool:
        """Whether this process holds no job and owes the broker nothing."""
        return not (self._relay_wanted or self._relaying) and all(
            not feed.held and not feed.outcomes.waiting and not feed.outcomes.under_way
            for feed in self.feeds.values()
        )

    def is_inside_handler(self) -> bool:
        """Whether the caller is a handler of this consumer, or started by one that still runs."""
        held = in_handler.get()
        return held is not None and not held.ended and held.feed in self.feeds.values()


class Consumer(ConsumerCore):
    """A consumer for programs that want the runtime without a TaskManager. Provisional.

    It reads the queues, calls `handle` with each job (data as plain JSON), acks after success,
    and leaves the fate of the rest to the processor. Run it in a nursery of your own:
    `await nursery.start(consumer.run)`.

    Attributes:
        events: `async for event in consumer.events.listen()` tells what happens: started,
            succeeded, failed, retried, dead, error, …
    """

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[str],
        handle: Callable[[Job[Any]], Awaitable[object]],
        processor: Processor | None = None,
        *,
        concurrency: int = 1,
        consumer_id: str | None = None,
        lease: Duration = 30.0,
        retention: Duration = 300.0,
        timeout: Duration | None = None,
        max_logs: int = 100,
    ) -> None:
        """Make a consumer; nothing runs before `run()`.

        Args:
            broker: an entered broker.
            queues: the queues to serve.
            handle: called with each job, of whatever event. Its value is the result.
            processor: decides about failures; default policies if not given.
            concurrency: jobs at once, over all queues, ≥ 1.
            consumer_id: a label for listings; default made from the host name.
            lease: seconds after which a silent consumer's jobs go to others, ≥ 0.5.
            retention: seconds an ended job is kept.
            timeout: seconds for one attempt; default none.
            max_logs: log lines kept of a job.

        Raises:
            ConfigurationError: an argument is wrong.
        """
        processor = Processor() if processor is None else processor
        retention_ms = duration_ms("retention", retention)
        handling = _Everything(
            handle,
            processor,
            None if timeout is None else duration_ms("timeout", timeout, least=0.001),
            retention_ms,
            check_int("max_logs", max_logs, least=0),
        )

        def lookup(_queue: str, _event: str) -> Handling:
            return handling

        super().__init__(
            broker,
            [check_name("queue", queue) for queue in queues],
            lookup,
            processor=processor,
            concurrency=check_int("concurrency", concurrency, least=1),
            consumer_id=(
                environment.Ids().consumer_id()
                if consumer_id is None
                else check_name("consumer_id", consumer_id)
            ),
            lease_ms=duration_ms("lease", lease, least=0.5),
            retention_ms=retention_ms,
            events_of=lambda _queue: (),
        )


class _Everything:
    """Handles any event with one callable."""

    is_async = True
    may_debounce = False

    def __init__(
        self,
        handle: Callable[[Job[Any]], Awaitable[object]],
        processor: Processor,
        timeout_ms: int | None,
        retention_ms: int,
        max_logs: int,
    ) -> None:
        self.processor = processor
        self.timeout_ms = timeout_ms
        self.retention_ms = retention_ms
        self.max_logs = max_logs
        self._handle = handle

    def decode(self, raw: bytes) -> object:
        return payloads.decode_plain(raw)

    def encode(self, value: object) -> bytes:
        return payloads.encode(value, max_bytes=524_288, what="the result")

    async def invoke(self, job: Job[Any], held: Held) -> object:
        del held
        return await self._handle(job)  # any awaitable will do

    def debounce(self, delivery: Delivery, record: Record, data: object) -> DebounceAsk | None:
        del delivery, record, data
        return None
