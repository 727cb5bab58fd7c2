"""Registered handlers as the consumer runs them: policies resolved, types applied, context made."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from trio_tasks.broker import DebounceAsk, Delivery, Record
from trio_tasks.consumer.held import Held
from trio_tasks.context import Context, Outlet
from trio_tasks.errors import ConfigurationError
from trio_tasks.handlers import Registered
from trio_tasks.job import Job
from trio_tasks.processor.debounce import NotDebounced
from trio_tasks.processor.processor import Processor
from trio_tasks.signatures import name_of

__all__ = ["RunnableHandler"]

log = logging.getLogger("trio_tasks.consumer")


class _JobLike:
    """What a debounce key function sees."""

    __slots__ = ("data", "name", "queue")

    def __init__(self, name: str, queue: str, data: object) -> None:
        self.name = name
        self.queue = queue
        self.data = data


class RunnableHandler:
    """One registered handler, bound to the context value of a started manager."""

    def __init__(
        self,
        entry: Registered,
        *,
        processor: Processor,
        app: object,
        outlet: Outlet,
        retention_ms: int,
        max_data_bytes: int,
    ) -> None:
        self.processor = processor.for_handler(
            retry=entry.retry, attempts=entry.attempts, debounce=entry.debounce
        )
        self.timeout_ms = entry.timeout_ms
        self.retention_ms = retention_ms if entry.retention_ms is None else entry.retention_ms
        self.max_logs = entry.max_logs
        self.is_async = entry.is_async
        policies = self.processor
        self.may_debounce = not (policies.debounce is None and policies.options.debounce is None)
        self._call: Callable[[Job[Any], Held], Any] = {
            0: self._with_nothing,
            1: self._with_job,
            2: self._with_context,
        }[entry.takes]
        self.invoke = self._call if entry.is_async else self._in_thread
        self.decode: Callable[[bytes], Any] = entry.data.decode
        self.encode: Callable[[Any], bytes] = partial(
            entry.result.encode, max_bytes=max_data_bytes, what="result"
        )
        self._function: Callable[..., Any] = entry.function
        self._app = app
        self._outlet = outlet
        self._warned = False

    def debounce(self, delivery: Delivery, record: Record, data: Any) -> DebounceAsk | None:
        """The debounce window that the job has to ask for."""
        processor = self.processor
        base = processor.debounce
        if base is None and record.schedule is None:
            base = processor.options.debounce
        if base is None and record.debounce is None:
            return None
        token = delivery.token
        window = processor.debounce_at_start(
            record.debounce,
            record.debounce_key,
            job=_JobLike(record.event, token.queue, data),
            data=record.data,
            requeued=delivery.requeued,
            scheduled=record.schedule is not None,
        )
        if isinstance(window, NotDebounced):
            if window is NotDebounced.TOO_LATE and not self._warned:
                self._warned = True
                log.warning(
                    "event %r in queue %r has a trailing debounce, but a job came without it: the"
                    " process that emits must include the handler or pass debounce=",
                    record.event,
                    token.queue,
                )
            return None
        return DebounceAsk(token, window.edge, window.window_ms, window.digest)

    def _in_thread(self, job: Job[Any], held: Held) -> Any:
        value = self._call(job, held)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()  # or Python would warn that nobody has awaited it
            raise ConfigurationError(
                f"handler={name_of(self._function)} returned a {type(value).__qualname__} but is"
                " not an async function, so it ran in a thread: register the async function itself,"
                " or a wrapper that is `async def` and awaits it"
            )
        return value

    def _with_nothing(self, job: Job[Any], held: Held) -> Any:
        del job, held
        return self._function()

    def _with_job(self, job: Job[Any], held: Held) -> Any:
        del held
        return self._function(job)

    def _with_context(self, job: Job[Any], held: Held) -> Any:
        return self._function(job, Context(self._app, self._outlet, held, job))
