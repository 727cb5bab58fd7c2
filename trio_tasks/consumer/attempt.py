"""One attempt, as a pipeline: may it run? decode, debounce, run, and say what came of it.

No policy lives here: each stage turns what happened into an `Input`, the Processor answers with a
decision, and `Held` carries it to the commit buffer. From the moment a handler has ended until its
outcome is in the buffer there is no await, so that a cancel cannot come in between.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec
from sniffio import current_async_library_cvar

from trio_tasks import environment
from trio_tasks.broker import DebounceAsk, Delivery, Outcome, Record
from trio_tasks.consumer.drive import drive
from trio_tasks.consumer.held import Held
from trio_tasks.consumer.reports import from_handler, report_attempt, report_unknown
from trio_tasks.context import CancelReason, end_attempt
from trio_tasks.errors import LeaseLostError, SerializationError
from trio_tasks.job import Job
from trio_tasks.processor.dead_letter import EXHAUSTED, SHOULD_RETRY_RAISED, error_json
from trio_tasks.processor.decisions import Die, Park, Run, Verdict
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import (
    AskedDiscard,
    AskedRetry,
    BadData,
    BadResult,
    CancelRequested,
    DebounceAnswered,
    Failed,
    HandedOut,
    Input,
    Interrupted,
    LeaseLost,
    OutcomeRefused,
    TimedOut,
)
from trio_tasks.processor.processor import COMPLETE, Processor
from trio_tasks.processor.retry import timeout_error
from trio_tasks.processor.signals import classify
from trio_tasks.strays import as_failure

if TYPE_CHECKING:
    from trio_tasks.consumer.handling import Handling, Lookup
    from trio_tasks.consumer.slots import Slot, Slots
    from trio_tasks.consumer.timeouts import Timeouts

__all__ = ["Attempts", "in_handler"]

log = logging.getLogger("trio_tasks.consumer")

in_handler: ContextVar[Held | None] = ContextVar("trio_tasks_in_handler", default=None)
"""The attempt that this code belongs to: that of the handler, or of the one that has started it.

It may have ended. `stop()` inside one that has not would wait for itself."""

_GOOD = HandedOut()
_INTERRUPTIONS = (CancelReason.SHUTDOWN, CancelReason.LEASE_LOST)


class Attempts:
    """Runs attempts for the slots of one consumer."""

    def __init__(
        self,
        *,
        lookup: Lookup,
        processor: Processor,
        retention_ms: int,
        dead_letter_stream: str | None,
        timeouts: Timeouts,
        threads: anyio.CapacityLimiter,
    ) -> None:
        """Wire the pipeline.

        Args:
            lookup: finds the handling of an event.
            processor: decides about jobs whose event is unknown here.
            retention_ms: for jobs whose event is unknown here.
            dead_letter_stream: the stream of `DeadLetterPolicy`.
            timeouts: the keeper of the attempts' time-outs.
            threads: bounds the threads of sync handlers.
        """
        self.slots: Slots | None = None
        self._lookup = lookup
        self._processor = processor
        self._retention_ms = retention_ms
        self._dead_letter_stream = dead_letter_stream
        self._timeouts = timeouts
        self._threads = threads
        self._base = copy_context()

    # -- the pipeline ----------------------------------------------------------------------------

    async def run(self, slot: Slot, held: Held) -> None:
        """Run one attempt to its outcome.

        Leaves by an exception only if that is no ordinary one (cancellation, a group, another
        BaseException); the slot then calls `broken_off`.
        """
        delivery = held.delivery
        record = delivery.record
        handling = None if record is None else self._lookup(delivery.token.queue, record.event)
        if (
            record is None
            or handling is None
            or not Processor.runs_surely(
                attempt=delivery.attempt,
                deadline_at_ms=delivery.deadline_at_ms,
                cancel_reason=delivery.cancel_reason,
            )
        ) and not self._may_run(held, handling):
            return
        assert record is not None
        assert handling is not None
        if not self._may_begin(held):
            return
        try:
            data = handling.decode(record.data)
        except SerializationError as error:
            self._decide(held, handling, BadData(), error)
            return
        if record.debounce is not None or handling.may_debounce:
            try:
                ask = handling.debounce(delivery, record, data)
            except Exception as error:
                self._decide(held, handling, Failed(error), error)
                return
            if ask is not None and not await self._not_debounced(held, handling, ask):
                return
        token = delivery.token
        job: Job[Any] = Job(
            token.job_id,
            record.event,
            token.queue,
            data,
            delivery.attempt,
            handling.processor.attempts_of(record),
            token.level,
            record.emitted_at_ms,
            record.scheduled_for_ms,
            held,
        )
        held.max_lines = handling.max_logs
        held.begun = True
        held.feed.began(held)
        timeout_ms = _timeout_ms(record, handling)
        if timeout_ms is not None:
            self._timeouts.add(held, timeout_ms)
        try:
            if not handling.is_async:
                value = await self._in_thread(slot, held, handling, job)
            else:
                run = self._base.copy().run
                coroutine = run(_invoke, handling, job, held)
                try:
                    trap = run(coroutine.send, None)
                except StopIteration as done:
                    value = done.value
                else:
                    assert self.slots is not None
                    self.slots.suspended()
                    value = await drive(run, coroutine, trap)
        except Exception as error:
            if isinstance(error, BaseExceptionGroup):
                raise  # cancellation may be inside: the slot's scope sorts it out
            self._raised(held, handling, error)
            return
        try:
            result = handling.encode(value)
        except SerializationError as error:
            self._decide(held, handling, BadResult(), error)
            return
        self._end(held, handling, COMPLETE, result=result)

    def _may_run(self, held: Held, handling: Handling | None) -> bool:
        """Ask the Processor; `False`: the job has ended."""
        delivery = held.delivery
        processor = self._processor if handling is None else handling.processor
        facts = facts_of(delivery)
        decision = processor.decide(
            facts, _handed_out(delivery, handling), now_ms=held.now_ms, jitter=0.5
        )
        if isinstance(decision, Run):
            return True
        if isinstance(decision, Park):
            report_unknown(held, processor)
        self._end(held, handling, decision, error=_lost_attempt(facts, decision))
        return False

    async def _not_debounced(self, held: Held, handling: Handling, ask: DebounceAsk) -> bool:
        """Ask for the debounce key; `False`: the job has ended."""
        assert self.slots is not None
        self.slots.suspended()
        holder = await held.feed.debounces.ask(ask)
        decision = handling.processor.decide(
            facts_of(held.delivery), DebounceAnswered(holder), now_ms=held.now_ms, jitter=0.5
        )
        if not isinstance(decision, Run):
            self._end(held, handling, decision)
            return False
        return self._may_begin(held)

    def _may_begin(self, held: Held) -> bool:
        """Whether a handler may begin; `False`: the job has ended."""
        if held.cause is None:
            if not held.feed.stale():
                return True
            held.cause = CancelReason.LEASE_LOST
        self.give_up(held)
        return False

    async def _in_thread(self, slot: Slot, held: Held, handling: Handling, job: Job[Any]) -> object:
        """Run a sync handler. It cannot be cancelled: it is waited for, until `abandon_threads`.

        The scope shields the wait from the slot's scope; the stop protocol cancels it at the end
        of its time, and the thread is left behind.
        """
        assert self.slots is not None
        self.slots.suspended()
        context = self._base.copy()
        context.run(current_async_library_cvar.set, None)  # no loop runs in the thread
        with anyio.CancelScope(shield=True) as scope:
            slot.thread_scope = scope
            try:
                return await anyio.to_thread.run_sync(
                    lambda: context.run(_invoke, handling, job, held),
                    abandon_on_cancel=True,
                    limiter=self._threads,
                )
            finally:
                slot.thread_scope = None
        raise _AbandonedError

    # -- ends ------------------------------------------------------------------------------------

    def broken_off(self, held: Held, error: BaseException | None) -> None:
        """End a job whose attempt was left by cancellation (`None`) or by another exception."""
        if held.ended:
            if error is not None:
                raise error  # its outcome is in the buffer: this is not the handler's, but ours
            return
        if isinstance(error, _AbandonedError):
            held.feed.abandoned(held)
            return
        if error is None:
            self.give_up(held)
        else:
            self._raised(held, self._handling(held), as_failure(error))

    def _raised(self, held: Held, handling: Handling | None, error: BaseException) -> None:
        """End a job whose handler raised."""
        raised = classify(error)
        if isinstance(raised, Failed) and held.cause in _INTERRUPTIONS:
            self.give_up(held)  # what it raised while we broke it off is no failure of its own
        else:
            self._decide(held, handling, raised, from_handler(error))

    def give_up(self, held: Held) -> None:
        """End a job that was cancelled, for whatever cause, before or while its handler ran."""
        handling = self._handling(held)
        match held.cause:
            case CancelReason.USER:
                reason: Input = CancelRequested(held.cause_text)
            case CancelReason.TIMEOUT:
                timeout_ms = _timeout_ms(held.delivery.record, handling) or 0
                error = timeout_error(timeout_ms)
                self._decide(held, handling, TimedOut(timeout_ms), error)
                return
            case CancelReason.SHUTDOWN:
                held.feed.counters.interrupted += held.begun
                reason = Interrupted(held.begun)
            case _:
                # No cause: a scope outside was cancelled, or it could not start in time.
                reason = LeaseLost(held.begun)
        self._decide(held, handling, reason, None)

    def refused(self, outcome: Outcome, held: Held) -> Outcome:
        """What to commit instead of an outcome that the broker refuses: dead, without payload."""
        handling = self._handling(held)
        processor = self._processor if handling is None else handling.processor
        verdict = processor.decide(
            facts_of(held.delivery), OutcomeRefused(), now_ms=held.now_ms, jitter=0.5
        )
        assert not isinstance(verdict, Run)
        return msgspec.structs.replace(
            outcome,
            verdict=verdict,
            result=None,
            children=(),
            error=b'{"type":"trio_tasks.errors.InternalError",'
            b'"message":"the broker refused the outcome of this attempt","traceback":""}',
        )

    def _handling(self, held: Held) -> Handling | None:
        record = held.delivery.record
        return None if record is None else self._lookup(held.delivery.token.queue, record.event)

    def _decide(
        self,
        held: Held,
        handling: Handling | None,
        happened: Input,
        error: BaseException | None,
    ) -> None:
        processor = self._processor if handling is None else handling.processor
        facts = facts_of(held.delivery)
        decision = processor.decide(
            facts, happened, now_ms=held.now_ms, jitter=environment.jitter()
        )
        assert not isinstance(decision, Run), "only a hand-out is answered with Run"
        if error is not None:
            report_attempt(facts, processor.attempts_of(facts), happened, decision, error)
            _report_objection(processor, facts, decision, error)
            held.told = isinstance(decision, Die)
            held.asked = isinstance(happened, AskedRetry | AskedDiscard)
            if not isinstance(happened, BadData):
                held.begun = True  # a failure uses its attempt, the debounce key's too
        self._end(held, handling, decision, error=error)

    def _end(
        self,
        held: Held,
        handling: Handling | None,
        verdict: Verdict,
        *,
        result: bytes | None = None,
        error: BaseException | None = None,
    ) -> None:
        # Looks at the user's exception, so it comes before what cannot be done twice.
        error_bytes = None if error is None else error_json(error)
        end_attempt(held)
        delivery = held.delivery
        record = delivery.record
        processor = self._processor if handling is None else handling.processor
        retention_ms = None if record is None else record.retention_ms
        if retention_ms is None:
            retention_ms = self._retention_ms if handling is None else handling.retention_ms
        held.feed.end(
            held,
            Outcome(
                token=delivery.token,
                event="" if record is None else record.event,
                attempt=delivery.attempt,
                ran=held.begun,
                attempts=processor.attempts if record is None else processor.attempts_of(record),
                verdict=verdict,
                retention_ms=retention_ms,
                result=result,
                error=error_bytes,
                children=held.children if verdict is COMPLETE else (),
                logged=held.logged,
                generation=delivery.generation,
                dead_letter_stream=self._dead_letter_stream,
            ),
        )


def _invoke(handling: Handling, job: Job[Any], held: Held) -> Any:
    in_handler.set(held)
    return handling.invoke(job, held)


class _AbandonedError(BaseException):
    """A sync handler's thread was left behind: its job is left to its lease."""


def _timeout_ms(record: Record | None, handling: Handling | None) -> int | None:
    """How long an attempt may run: as given at emit, else by its handler."""
    if record is not None and record.timeout_ms is not None:
        return record.timeout_ms
    return None if handling is None else handling.timeout_ms


def _report_objection(
    processor: Processor, facts: JobFacts, decision: Verdict, error: BaseException
) -> None:
    if isinstance(decision, Die) and decision.reason == SHOULD_RETRY_RAISED:
        objection = processor.judge(error, facts.attempt).objection
        log.error(
            "should_retry of event %r raised %s: that counts as no",
            facts.event,
            type(objection).__qualname__,
        )


def _lost_attempt(facts: JobFacts, decision: Verdict) -> LeaseLostError | None:
    """What to say of a job whose last attempt ended without an outcome."""
    if not isinstance(decision, Die) or decision.reason != EXHAUSTED:
        return None
    return LeaseLostError(
        f"attempt {facts.attempt - 1} ended without an outcome: its worker died, or was silent for"
        " longer than its lease"
    )


def facts_of(delivery: Delivery) -> JobFacts:
    """The delivery as the Processor sees it."""
    token = delivery.token
    record = delivery.record
    return JobFacts(
        id=token.job_id,
        queue=token.queue,
        event="" if record is None else record.event,
        attempt=delivery.attempt,
        attempts=None if record is None else record.attempts,
        retry_delay_ms=None if record is None else record.retry_delay_ms,
        deadline_at_ms=delivery.deadline_at_ms,
        interruptions=delivery.interruptions,
        unknown_since_ms=delivery.unknown_since_ms,
    )


def _handed_out(delivery: Delivery, handling: Handling | None) -> HandedOut:
    if handling is not None and delivery.cancel_reason is None:
        return _GOOD
    return HandedOut(
        known=handling is not None,
        readable=delivery.version is not None,
        supported=delivery.record is not None or delivery.version is None,
        cancel_reason=delivery.cancel_reason,
    )
