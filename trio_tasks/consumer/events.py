"""What this process saw: counters per queue, and events for whoever listens."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

from trio_tasks.consumer.pulse import Pulse
from trio_tasks.environment import wall_clock_ms
from trio_tasks.job import JobEvent, JobState, instant

if TYPE_CHECKING:
    from trio_tasks.consumer.held import Held

__all__ = ["EventStream", "Events", "QueueCounters"]

MOST_UNREAD = 10_000
"""How many events a listener may leave unread before the oldest are dropped."""


class QueueCounters:
    """Totals of one queue in this process, since it first served the queue.

    `failed` counts attempts that ended in an error, whatever became of the job (`RetryLater` and
    `Discard` are none); `stale` counts outcomes that came too late; `interrupted` attempts that a
    stop cut off; `left_behind` sync handlers whose threads a stop could not wait for.

    `unknown` holds the events of which the log has said that there is no handler for them here.
    """

    __slots__ = (
        "cancelled",
        "completed",
        "dead",
        "failed",
        "interrupted",
        "last_error",
        "left_behind",
        "parked",
        "released",
        "retried",
        "skipped",
        "stale",
        "started",
        "unknown",
    )

    def __init__(self) -> None:
        self.started = 0
        self.completed = 0
        self.failed = 0
        self.interrupted = 0
        self.retried = 0
        self.dead = 0
        self.skipped = 0
        self.cancelled = 0
        self.released = 0
        self.parked = 0
        self.stale = 0
        self.left_behind = 0
        self.last_error: str | None = None
        self.unknown: set[str] = set()


class EventStream:
    """An async iterator of events, from the moment it was made.

    At most 10,000 events wait to be read, older ones are dropped: a listener that does not keep
    up never costs a job's time. It ends when the manager is left.
    """

    def __init__(self) -> None:
        self._unread: deque[JobEvent] = deque(maxlen=MOST_UNREAD)
        self._pulse = Pulse()
        self._closed = False

    def add(self, event: JobEvent) -> None:
        """Append an event."""
        self._unread.append(event)
        self._pulse.fire()

    def close(self) -> None:
        """End the iteration after what is unread."""
        self._closed = True
        self._pulse.fire()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._unread:
            if self._closed:
                raise StopAsyncIteration
            await self._pulse.wait()
        return self._unread.popleft()


class Events:
    """Lifecycle events of this process. Costs nothing while nobody listens.

    Attributes:
        listened: whether somebody does, or did once. To be asked before `publish` on the hot path.
    """

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self.listened = False

    def listen(self) -> EventStream:
        """Receive what happens from now on, for as long as the stream is referred to."""
        stream = EventStream()
        self._streams.add(stream)
        self.listened = True
        return stream

    def close(self) -> None:
        """End the iteration of all listeners."""
        for stream in tuple(self._streams):
            stream.close()

    def publish(self, kind: str, held: Held, state: JobState) -> None:
        """Tell the listeners, if there are any."""
        if not self.listened:
            return
        token = held.delivery.token
        record = held.delivery.record
        event = JobEvent(
            kind=kind,
            id=token.job_id,
            name="" if record is None else record.event,
            queue=token.queue,
            state=state,
            at=instant(wall_clock_ms()),
        )
        for stream in tuple(self._streams):
            stream.add(event)
