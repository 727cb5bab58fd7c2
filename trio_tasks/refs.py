"""References to jobs, and what the broker has of a job in the form that people read.

Theory of operation of waiting: a waiter looks, opens a watch, looks again, and from then on looks
whenever the watch says that something may have changed. Changes count from the moment the watch
was opened, so whatever happened before is seen by the look that follows. A watch is lossy by
contract, hence one look a second comes on top.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Generic, NoReturn, Protocol, assert_never, cast

import anyio
import msgspec
from typing_extensions import TypeVar

from trio_tasks.broker import Broker, CancelAnswer, Stored
from trio_tasks.errors import (
    ConfigurationError,
    InternalError,
    JobFailedError,
    JobNotFoundError,
    SerializationError,
)
from trio_tasks.job import JobError, JobInfo, JobState, LogLine, instant
from trio_tasks.options import Duration, duration_ms
from trio_tasks.payloads import PayloadCodec, decode_plain

__all__ = [
    "POLL",
    "AwaitedEmitError",
    "BaseRef",
    "BrokerAccess",
    "EarlyRef",
    "JobRef",
    "checked_reason",
    "info_of",
]

POLL = 1.0
"""Seconds between two looks of a waiter whom nothing woke."""

LONGEST_REASON = 1000
"""The most characters of a reason to cancel."""

KEPT_NUMBERS = 16
"""How many emit numbers a record keeps; see 'identity' in docs/protocol.md."""

R_co = TypeVar("R_co", covariant=True, default=Any)


class BrokerAccess(Protocol):
    """How refs and queues reach a broker whose manager may be entered later, or left already."""

    @property
    def broker(self) -> Broker:
        """The connected broker.

        Raises:
            RuntimeError: the manager is not entered, was left or has crashed.
        """
        ...

    @property
    def retention_ms(self) -> int:
        """How long a job that is cancelled through this manager is kept."""
        ...

    def awaited(self, queue: str) -> None:
        """Somebody begins to wait for the end of a job of this queue."""
        ...

    def cancel_noted(self, queue: str, job_id: str, reason: str) -> None:
        """The broker has noted a request to cancel a running job, which may run in this process."""
        ...


class BaseRef(Generic[R_co]):
    """What async and blocking refs have in common: everything but the I/O."""

    __slots__ = ("_appears", "_codec", "_number", "created", "id", "queue")

    # Read-only by contract and by type.
    id: str
    queue: str
    created: bool | None

    def __init__(
        self,
        id: str,  # noqa: A002 - the public attribute's name
        queue: str,
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
            created: see `JobRef`.
            codec: of the handler's result; `None`: plain JSON.
            number: the emit number, which names the life of a chosen id that is meant; `None`:
                the present one.
            appears: the job may not be there yet, so `result()` waits for it.
        """
        self.id = id
        self.queue = queue
        self.created = created
        self._codec = codec
        self._number = number
        self._appears = appears

    def _not_found(self) -> JobNotFoundError:
        if self._appears:
            return JobNotFoundError(
                f"job {self.id!r} is not in queue {self.queue!r}: it has not appeared yet,"
                " or it has ended and its retention has passed"
            )
        return JobNotFoundError(
            f"no job {self.id!r} in queue {self.queue!r}: the id or the queue is wrong,"
            " or the job has ended and its retention has passed"
        )

    def _found(self, stored: Stored | None) -> Stored:
        """What the broker has of the job, if that is the one meant."""
        if stored is None:
            raise self._not_found()
        # From now on its absence means that it is gone.
        self._appears = False
        number, numbers = self._number, stored.numbers
        if number is not None and 0 < len(numbers) < KEPT_NUMBERS and number not in numbers:
            # With as many numbers as are kept, ours may have been dropped, so nothing is known.
            raise JobNotFoundError(
                f"job {self.id!r} in queue {self.queue!r} has ended, and its id was emitted anew"
            )
        return stored

    def _if_ended(self, stored: Stored | None) -> Stored | None:
        """The job if it has ended; `None` if it has not, or has not appeared yet."""
        if stored is None and self._appears:
            return None
        found = self._found(stored)
        return found if found.state.is_final else None

    def _value(self, ended: Stored) -> R_co:
        """What its handler returned."""
        if ended.state is not JobState.COMPLETED:
            raise _failure_of(ended)
        decode = decode_plain if self._codec is None else self._codec.decode
        return cast(R_co, decode(ended.result or b"null", what="result"))

    def _late(self, seconds: float) -> TimeoutError:
        return TimeoutError(
            f"job {self.id!r} in queue {self.queue!r} has not ended within {seconds:.15g} s"
        )


class JobRef(BaseRef[R_co]):
    """A job that was emitted, or one whose id is known. Making one costs no I/O.

    Attributes:
        id: the job's id.
        queue: its queue.
        created: `False` if the emit met an unfinished job of that id; `None` where that is not
            known: for a ref that was made from an id, by `ctx.emit` or with `repeat=`.
    """

    __slots__ = ("_access",)

    def __init__(
        self,
        id: str,  # noqa: A002 - the public attribute's name
        queue: str,
        access: BrokerAccess,
        *,
        created: bool | None = None,
        codec: PayloadCodec | None = None,
        number: str | None = None,
        appears: bool = False,
    ) -> None:
        """Refer to a job; `access` is where its broker is, the others are those of `BaseRef`."""
        super().__init__(id, queue, created=created, codec=codec, number=number, appears=appears)
        self._access = access

    async def info(self) -> JobInfo:
        """The job as it is now, with its log lines.

        Raises:
            JobNotFoundError: there is no such job, it has ended and its retention has passed, its
                id was emitted anew since, or (`created` is `None`) it has not appeared yet.
            BrokerUnavailableError: Redis could not be reached in time.
            RuntimeError: the manager is not entered, or this is a child whose parent still runs.
        """
        return info_of(self._found(await self._read(logs=True)))

    async def result(self, timeout: Duration | None = None) -> R_co:
        """Wait until the job has ended; what its handler returned.

        A ref that was made from the handler's function converts the value to the type that the
        function's annotation names; one made from a name gives plain JSON. A ref made by
        `ctx.emit` or with `repeat=` waits for its job to appear first, and without a time-out it
        waits for ever if the parent does not complete. Results live for the job's `retention`
        (default 300 s). If it has to wait for a job that this manager has handlers for and would
        run, had it been started, one WARNING says so.

        Cancellation: leaves the job alone.

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
        return self._value(await self._ended(timeout))

    async def cancel(self, reason: str | None = None, wait: bool = False) -> bool:
        """Cancel the job.

        A job that has not started never will. A running one gets its scope cancelled: at once if
        it runs in this process, else within a third of its worker's lease.

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
        text = checked_reason(reason)
        access = self._access
        answer = await self._open().cancel(
            self.queue,
            self.id,
            number=self._number,
            reason=text,
            retention_ms=access.retention_ms,
        )
        match answer:
            case CancelAnswer.CANCELLED:
                return True
            case CancelAnswer.FINAL:
                return False
            case CancelAnswer.MISSING:
                raise self._not_found()
            case CancelAnswer.NOTED:
                access.cancel_noted(self.queue, self.id, text)
                return wait and (await self._ended(None)).state is JobState.CANCELLED
            case _:
                assert_never(answer)

    def __repr__(self) -> str:
        return f"<JobRef {self.id!r} in {self.queue!r}>"

    # -- looking ---------------------------------------------------------------------------------

    def _open(self) -> Broker:
        """The broker, if this ref may be used now."""
        return self._access.broker

    async def _read(self, *, logs: bool = False) -> Stored | None:
        (stored,) = await self._open().read(self.queue, (self.id,), logs=logs)
        return stored

    async def _look(self) -> Stored | None:
        return self._if_ended(await self._read())

    async def _ended(self, timeout: Duration | None) -> Stored:
        seconds = math.inf if timeout is None else duration_ms("timeout", timeout) / 1000
        ended: Stored | None = None
        if seconds == 0:
            ended = await self._look()  # in a scope without time it would not even look
        else:
            with anyio.move_on_after(seconds):
                ended = await self._wait()
        if ended is None:
            raise self._late(seconds)
        return ended

    async def _wait(self) -> Stored:
        ended = await self._look()  # a job that has ended needs no watch
        if ended is None:
            self._access.awaited(self.queue)
            async with self._open().watch(self.queue, self.id) as watch:
                while (ended := await self._look()) is None:
                    await watch.wait(POLL)
        return ended


class AwaitedEmitError(ConfigurationError, TypeError):
    """Your fault: `await ctx.emit(...)`. A `TypeError`, as for anything that cannot be awaited."""


class _Parent(Protocol):
    @property
    def ended(self) -> bool: ...


class EarlyRef(JobRef[R_co]):
    """The ref that a context's `emit` returns: it is there before its job.

    The job comes into being when the handler has ended well, or (outside a handler) when the
    manager has sent it. Users see the type `JobRef`, for which `await` is a type error.
    """

    __slots__ = ("_parent",)

    def __init__(
        self,
        id: str,  # noqa: A002 - the public attribute's name
        queue: str,
        access: BrokerAccess,
        *,
        codec: PayloadCodec | None = None,
        number: str | None = None,
        parent: _Parent | None = None,
    ) -> None:
        """Refer to a job that will be; `parent` is the attempt that emits it, if one does."""
        super().__init__(id, queue, access, codec=codec, number=number, appears=True)
        self._parent = parent

    def _open(self) -> Broker:
        if self._parent is not None and not self._parent.ended:
            raise RuntimeError(
                f"job {self.id!r} does not exist before this handler has completed;"
                " to send it now, use `await ctx.emit_now(...)` in the place of `ctx.emit(...)`"
            )
        return super()._open()

    def __await__(self) -> NoReturn:
        raise AwaitedEmitError(
            "ctx.emit(...) is not awaited: the job becomes part of this handler's outcome."
            " Leave out the await, or send at once with `await ctx.emit_now(...)`"
        )


# --- what the broker has, in the form that people read ------------------------------------------


def info_of(stored: Stored) -> JobInfo:
    """A job as people read it.

    Of a record that cannot be decoded the name is empty and `emitted_at` is 1970-01-01.
    """
    record = stored.record
    return JobInfo(
        id=stored.id,
        name="" if record is None else record.event,
        queue=stored.queue,
        state=stored.state,
        data=None if record is None else _plain(record.data),
        raw=stored.raw if record is None else record.data,
        attempt=stored.attempt,
        attempts=stored.attempts if record is None else record.attempts or stored.attempts,
        priority=stored.priority,
        emitted_at=instant(0 if record is None else record.emitted_at_ms),
        scheduled_for=_instant(None if record is None else record.scheduled_for_ms),
        due_at=_instant(stored.due_at_ms),
        started_at=_instant(stored.started_at_ms),
        finished_at=_instant(stored.finished_at_ms),
        result=None if stored.result is None else _plain(stored.result),
        error=_error_of(stored),
        reason=stored.why,
        stood_in_by=stored.by,
        parent_id=None if record is None else record.parent_id,
        generation=stored.generation,
        progress=None,
        logs=tuple(LogLine(instant(at_ms), _plain(line)) for at_ms, line in stored.logs),
    )


def _failure_of(stored: Stored) -> JobFailedError:
    return JobFailedError(
        id=stored.id,
        state=stored.state,
        reason=stored.why,
        error=_error_of(stored),
        attempts=stored.attempt,
        stood_in_by=stored.by,
    )


def _error_of(stored: Stored) -> JobError | None:
    if stored.error is None:
        return None
    try:
        return msgspec.json.decode(stored.error, type=JobError)
    except msgspec.MsgspecError as error:
        raise InternalError(f"job {stored.id!r}: its stored error is malformed") from error


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else instant(at_ms)


def _plain(raw: bytes) -> object:
    """Plain JSON; `None` for bytes that are not JSON (somebody else wrote them)."""
    try:
        return decode_plain(raw)
    except SerializationError:
        return None


def checked_reason(reason: object) -> str:
    """A reason to cancel, as it was given or `"user"`.

    Raises:
        ConfigurationError: it is not a text of 1 to 1000 characters.
    """
    if reason is None:
        return "user"
    if (
        not isinstance(reason, str)
        or not 0 < len(reason) <= LONGEST_REASON
        or any("\ud800" <= character <= "\udfff" for character in reason)
    ):
        shown = repr(reason)
        raise ConfigurationError(
            f"reason={shown if len(shown) <= 80 else shown[:77] + '…'}:"
            f" give a text of 1 to {LONGEST_REASON} characters, or None"
        )
    return reason
