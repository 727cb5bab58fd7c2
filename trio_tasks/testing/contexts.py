"""A context that keeps what is emitted."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from typing_extensions import TypeVar, Unpack

from trio_tasks.broker import NewJob
from trio_tasks.callables import Event, shown_as
from trio_tasks.context import CancelReason, Context
from trio_tasks.emitter import Emit
from trio_tasks.errors import ConfigurationError
from trio_tasks.handlers import DEFAULT_QUEUE
from trio_tasks.job import Job
from trio_tasks.options import EmitOptions
from trio_tasks.refs import EarlyRef, JobRef
from trio_tasks.testing.jobs import FakeJob, fresh_id, make_job

__all__ = ["FakeContext"]

A_co = TypeVar("A_co", covariant=True, default=Any)


class FakeContext(Context[A_co]):
    """A context for a handler that a test calls itself.

    Options of emits are checked as the engine does it; whether the data are JSON, and whether a
    function is registered, is not: that needs a `TaskManager` on `memory://`.

    Attributes:
        emitted: what was given to `emit` and `emit_now`, in order, to be compared with
            `Emit(function, data, **options)`.
        logs: the lines of `ctx.job.logger`, if the job was made by `make_job`.
    """

    __slots__ = ("_fake", "emitted", "logs")

    def __init__(self, app: A_co = None, *, job: Job[Any] | None = None) -> None:
        """Make a context.

        Args:
            app: what the handler finds as `ctx.app`.
            job: what it finds as `ctx.job`; default: one without data.
        """
        job = make_job(None) if job is None else job
        self._fake = _Attempt(job.id)
        super().__init__(app, _NO_OUTLET, self._fake, job)
        self.emitted: list[Emit[Any]] = []
        self.logs: list[object] = job.logs if isinstance(job, FakeJob) else []

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the attempt is being cancelled; a test sets it, to one of `CancelReason`'s words."""
        return self._fake.cause

    @cancel_reason.setter
    def cancel_reason(self, reason: CancelReason | str | None) -> None:
        try:
            self._fake.cause = None if reason is None else CancelReason(reason)
        except ValueError:
            raise ConfigurationError(
                f"cancel_reason={reason!r}: give one of {', '.join(CancelReason)}, or None"
            ) from None

    @shown_as("FakeContext.emit")
    def _emit(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]:
        if options.get("repeat") is not None:
            raise ConfigurationError(
                "repeat=: ctx.emit makes jobs, not schedules; use `await ctx.emit_now(...)`"
            )
        return EarlyRef(*self._keep(event, data, options), _NOWHERE)

    @shown_as("FakeContext.emit_now")
    async def _emit_now(
        self, event: Event, data: object = None, **options: Unpack[EmitOptions]
    ) -> JobRef[Any]:
        return JobRef(*self._keep(event, data, options), _NOWHERE, created=True)

    def _keep(self, event: Event, data: object, options: EmitOptions) -> tuple[str, str]:
        """Keep what is emitted; its id and its queue."""
        emit: Emit[Any] = Emit(event, data, **options)
        self.emitted.append(emit)
        return emit.choices.id or fresh_id(), emit.choices.queue or DEFAULT_QUEUE


_NO_OUTLET: Final[Any] = None
"""Nothing that is emitted leaves the context."""


class _Attempt:
    """The attempt that the context belongs to."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.cause: CancelReason | None = None
        self.ended = False
        self.children: tuple[NewJob, ...] = ()


class _Nowhere:
    """The broker of jobs that were only kept."""

    retention_ms = 0

    @property
    def broker(self) -> NoReturn:
        raise RuntimeError(
            "a FakeContext keeps what is emitted and runs nothing, so there is no info(), result()"
            " or cancel(); to run it, give a TaskManager the address memory://"
        )

    def awaited(self, queue: str) -> None:
        """Never called: who waits asks the broker first."""

    def cancel_noted(self, queue: str, job_id: str, reason: str) -> None:
        """Never called: a cancel asks the broker first."""


_NOWHERE = _Nowhere()
