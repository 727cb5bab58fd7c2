"""Emitting: options, identity, debounce, data and schedules, as far as no broker is needed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import anyio
import msgspec
import pytest
from trio.testing import MockClock

from tests.access import Access, Attempted, opened, some_job
from trio_tasks.broker import Debounce, NewJob, ScheduleRecord
from trio_tasks.emitter import Emit, Emitter
from trio_tasks.environment import Ids
from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.handlers import Handlers, Registry
from trio_tasks.job import Job, JobState
from trio_tasks.options import DebouncePolicy, JobLike
from trio_tasks.plans import SchedulePlan, declare, occurrence
from trio_tasks.processor.debounce import digest_of
from trio_tasks.processor.repeat import Repeat
from trio_tasks.refs import JobRef

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@dataclass
class Mail:
    to: str


handlers = Handlers[Any]()


@handlers.handler("send-email", queue="emails")
async def send_email(job: Job[Mail]) -> str: ...


@handlers.handler("anything")
async def anything(job: Job) -> set[int]: ...


@handlers.handler("tidy")
async def tidy() -> None: ...


@handlers.handler("nightly", repeat=Repeat(pattern="@daily", timezone="Europe/Berlin"))
async def nightly(job: Job[None]) -> None: ...


def emitter(debounce: DebouncePolicy | None = None) -> Emitter:
    return Emitter(Registry(handlers), max_data_bytes=1000, debounce=debounce)


def job(event: Any, data: object = None, **options: Any) -> NewJob:
    return emitter().plan_job(event, data, cast(Any, options)).job


def schedule(event: Any, data: object = None, **options: Any) -> ScheduleRecord:
    plan = emitter().plan(event, data, cast(Any, options))
    assert isinstance(plan, SchedulePlan)
    return plan.schedule


def refusal(event: Any, data: object = None, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        emitter().plan(event, data, cast(Any, options))
    return str(raised.value)


# --- Event and queue ------------------------------------------------------------------------------


def test_a_function_stands_for_its_event_and_queue() -> None:
    made = job(send_email, Mail("a@b.c"))
    assert (made.record.event, made.queue) == ("send-email", "emails")
    assert made.record.data == b'{"to":"a@b.c"}'
    assert job(send_email, Mail("a"), queue="emails").queue == "emails"


def test_a_name_goes_to_the_default_queue_whether_it_is_known_here_or_not() -> None:
    assert job("anything").queue == "default"
    assert job("known-elsewhere").queue == "default"
    assert job("known-elsewhere", queue="far").queue == "far"


def test_a_name_that_is_known_on_other_queues_only_needs_its_queue() -> None:
    text = refusal("send-email", {"to": "a"})
    assert "queue was not given, and 'send-email' has its handler in 'emails'" in text
    assert "not in 'default'" in text
    assert job("send-email", {"to": "a"}, queue="emails").queue == "emails"
    assert job("send-email", {"to": "a"}, queue="default").queue == "default"


def test_an_event_that_is_probably_misspelt_is_doubted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emits = emitter()
    for _ in range(3):
        emits.plan("sned-email", "s3cret", {"queue": "emails"})
        emits.plan_job("sned-email", "s3cret")
        emits.plan_many([Emit("sned-email", "s3cret", queue="other")])
        emits.plan("nothing-like-it")
    text = "event 'sned-email' is emitted to queue 'emails', and has no handler here"
    assert caplog.messages == [f"{text}; did you mean 'send-email'?"]
    assert caplog.records[0].levelname == "WARNING"


def test_an_event_in_a_queue_where_it_has_no_handler_is_doubted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = Handlers[Any]()
    mine.include(handlers)
    emits = Emitter(Registry(mine), max_data_bytes=1000)
    for number in range(3):
        emits.plan("send-email", {"to": "s3cret"}, {"queue": "emials"})
        emits.plan("send-email", {"to": "s3cret"}, {"queue": "default"})
        emits.plan("send-email", {"to": "s3cret"}, {"queue": "emails"})
        mine.register_handler(tidy, event=f"later-{number}")  # what was looked up is forgotten
    assert caplog.messages == [
        f"event 'send-email' is emitted to queue {queue!r}, and has its handler here in 'emails':"
        " its job waits until another process serves it"
        for queue in ("emials", "default")
    ]


def test_a_process_without_handlers_doubts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    emits = Emitter(Registry(Handlers[Any]()), max_data_bytes=1000)
    emits.plan("send-email")
    emits.plan("sned-email")
    emits.plan("send-email", None, {"queue": "emails"})
    assert caplog.messages == []


def test_a_known_event_is_not_looked_into_again() -> None:
    doubted: list[str] = []

    class Nosy(Emitter):
        __slots__ = ()

        def _doubt(self, event: str, queue: str) -> None:
            doubted.append(event)

    nosy = Nosy(Registry(handlers), max_data_bytes=1000)
    for _ in range(5):
        nosy.plan("anything")
        nosy.plan(tidy)
        nosy.plan("unheard-of")
    assert doubted == ["unheard-of"]


def test_what_is_no_event_is_refused() -> None:
    assert "event=tests.test_emitter.refusal is not registered here" in refusal(refusal)
    assert "queue='x': tests.test_emitter.tidy is registered elsewhere" in refusal(tidy, queue="x")
    assert refusal(5) == "event: a value of type int is neither a name nor a handler"
    assert "event='a b': give 1 to 128 characters" in refusal("a b")
    assert "queue='a b': give 1 to 128 characters" in refusal("x", queue="a b")


def test_what_is_registered_later_is_found() -> None:
    group = Handlers[Any]()
    late = Emitter(Registry(group), max_data_bytes=1000)
    assert late.plan_job("late", {"to": "a"}).job.record.data == b'{"to":"a"}'
    group.register_handler(send_email, event="late")
    with pytest.raises(SerializationError):
        late.plan_job("late", {"to": 5})
    assert late.plan_job(send_email, Mail("a")).job.record.event == "late"


def test_a_callable_without_a_hash_can_be_emitted() -> None:
    class Callee:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Callee)

        def __call__(self, job: Job[int]) -> None: ...

    group = Handlers[Any]()
    group.register_handler(Callee(), event="called")
    made = Emitter(Registry(group), max_data_bytes=1000).plan_job(Callee(), 5).job
    assert made.record.event == "called"


def test_a_program_that_invents_names_does_not_grow_without_bound() -> None:
    one = emitter()
    for number in range(5000):
        one.plan_job(f"event-{number}")
    assert len(one._targets[1]) <= 4096
    assert one.plan_job("one-more").job.record.event == "one-more"


# --- Data -----------------------------------------------------------------------------------------


def test_data_are_held_against_the_handlers_type_by_function_and_by_name() -> None:
    for event in (send_email, "send-email"):
        with pytest.raises(SerializationError, match="does not fit Mail"):
            job(event, {"to": 5}, queue="emails")
    assert job("unknown", {"to": 5}).record.data == b'{"to":5}'


def test_a_member_that_the_handlers_type_does_not_have_is_refused_where_the_type_is_known() -> None:
    for event, options in ((send_email, {}), ("send-email", {"queue": "emails"})):
        with pytest.raises(SerializationError, match=r"data\.too: Mail has no such member.*'to'"):
            emitter().plan(event, {"to": "a", "too": "b"}, cast(Any, options))
    assert job("unknown-here", {"to": "a", "too": "b"}).record.data == b'{"to":"a","too":"b"}'


def test_a_function_without_parameters_takes_no_data() -> None:
    assert job(tidy).record.data == b"null"
    with pytest.raises(SerializationError):
        job(tidy, 5)
    assert job("tidy", 5).record.data == b"5"


def test_data_that_are_not_json_or_too_large_are_refused_without_being_shown() -> None:
    with pytest.raises(SerializationError, match="data"):
        job("unknown", {1, 2})
    with pytest.raises(SerializationError, match="at most 1000 are allowed") as raised:
        job("unknown", "secret" * 200)
    assert "secret" not in str(raised.value)


def test_the_result_is_converted_when_the_function_was_named_only() -> None:
    assert emitter().plan_job(anything, 1).result is not None
    assert emitter().plan_job("anything", 1).result is None


# --- Options, one by one --------------------------------------------------------------------------


def test_without_options_a_job_is_minted_and_ready() -> None:
    before = time.time_ns() // 1_000_000
    made = job("x")
    record = made.record
    assert re.fullmatch(r"[0-9a-z]{16}@[0-9]+", made.id)
    assert made.number is None
    assert made.priority == 0
    assert made.delay_ms is made.due_at_ms is made.deadline_ms is made.deadline_at_ms is None
    assert record.attempts is record.timeout_ms is record.retention_ms is None
    assert record.retry_delay_ms is record.debounce is record.debounce_key is None
    assert record.scheduled_for_ms is record.parent_id is record.schedule is None
    assert before <= record.emitted_at_ms <= time.time_ns() // 1_000_000


def test_a_chosen_id_has_an_emit_number_of_its_own_at_each_call() -> None:
    one = emitter()
    first, second = (one.plan_job("x", None, {"id": "order-5"}).job for _ in range(2))
    assert first.id == second.id == "order-5"
    assert first.number is not None
    assert first.number != second.number


def test_a_minted_id_may_be_given_back_and_has_no_number() -> None:
    minted = job("x").id
    again = job("x", id=minted)
    assert again.id == minted
    assert again.number is None


@pytest.mark.parametrize("chosen", ["order@5", "a@1", "x" * 16 + "@", "", "a b", 5, "x" * 129])
def test_a_chosen_id_that_is_not_allowed_is_refused(chosen: object) -> None:
    text = refusal("x", id=chosen)
    assert text.startswith("id=")
    assert text.endswith("without @")


def test_priority() -> None:
    assert job("x", priority=9).priority == 9
    assert "priority=10: give a whole number from 0 to 9" in refusal("x", priority=10)


def test_delay() -> None:
    made = job("x", delay=1.5)
    assert made.delay_ms == 1500
    assert made.record.scheduled_for_ms == made.record.emitted_at_ms + 1500
    assert job("x", delay=timedelta(minutes=1)).delay_ms == 60_000
    nothing = job("x", delay=0)
    assert nothing.delay_ms is nothing.record.scheduled_for_ms is None
    assert "delay=-1: give seconds or a timedelta" in refusal("x", delay=-1)


def test_delay_until() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    made = job("x", delay_until=later)
    assert made.due_at_ms == made.record.scheduled_for_ms == later.timestamp() * 1000
    naive = later.replace(tzinfo=None)
    assert "delay_until=" in refusal("x", delay_until=naive)
    assert "give an aware datetime" in refusal("x", delay_until=naive)


def test_attempts_and_retry_count() -> None:
    assert job("x", attempts=4).record.attempts == 4
    assert job("x", retry_count=3).record.attempts == 4
    assert job("x", retry_count=3, attempts=4).record.attempts == 4
    assert "attempts=4 and retry_count=4 disagree" in refusal("x", attempts=4, retry_count=4)
    assert "attempts=0: give a whole number" in refusal("x", attempts=0)
    assert "retry_count=-1: give a whole number" in refusal("x", retry_count=-1)


def test_retry_delay() -> None:
    assert job("x", retry_delay=2).record.retry_delay_ms == 2000
    assert job("x", retry_delay=0).record.retry_delay_ms == 0
    assert "retry_delay='2': give seconds" in refusal("x", retry_delay="2")


def test_timeout() -> None:
    assert job("x", timeout=2).record.timeout_ms == 2000
    assert "timeout=0: give seconds or a timedelta from 0.001 s" in refusal("x", timeout=0)


def test_deadline() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    assert job("x", deadline=30).deadline_ms == 30_000
    made = job("x", deadline=later)
    assert made.deadline_at_ms == later.timestamp() * 1000
    assert made.deadline_ms is None
    assert "deadline=0: give seconds" in refusal("x", deadline=0)
    assert "give an aware datetime" in refusal("x", deadline=later.replace(tzinfo=None))


def test_retention() -> None:
    assert job("x", retention=0).record.retention_ms == 0
    assert job("x", retention=timedelta(hours=1)).record.retention_ms == 3_600_000
    assert "retention=-1: give seconds" in refusal("x", retention=-1)


def test_none_means_not_said() -> None:
    names = "queue id priority delay delay_until retry_count attempts retry_delay repeat debounce"
    options = dict.fromkeys([*names.split(), "timeout", "deadline", "retention"])
    made = job("x", **options)
    assert made.priority == 0
    assert made.queue == "default"
    assert made.record.attempts is None


def test_an_unknown_option_names_the_closest_one() -> None:
    assert "prioritty=5: emit has no such option; did you mean 'priority'?" in refusal(
        "x", prioritty=5
    )


def test_the_parent_is_kept() -> None:
    plan = emitter().plan_job("x", parent_id="parent")
    assert plan.job.record.parent_id == "parent"


# --- Options that exclude each other --------------------------------------------------------------


def test_delay_and_delay_until_exclude_each_other() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    text = refusal("x", delay=5, delay_until=later)
    assert text.startswith("delay=5 and delay_until=datetime.datetime(2100")
    assert text.endswith("give one of them")
    assert "give one of them" in refusal("x", delay=0, delay_until=later)


def test_a_deadline_before_the_delay_is_refused() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    assert "deadline=30 and delay=60: no attempt could start" in refusal("x", delay=60, deadline=30)
    assert "no attempt could start" in refusal("x", delay_until=later, deadline=later)
    assert job("x", delay=30, deadline=60).deadline_ms == 60_000


def test_a_delay_and_a_trailing_window_exclude_each_other_at_the_emit() -> None:
    trailing = DebouncePolicy(5, edge="trailing")
    assert "a trailing window says when the job runs" in refusal("x", delay=5, debounce=trailing)
    assert job("x", delay=5, debounce=5).delay_ms == 5000


def test_a_schedule_has_no_delay_and_no_absolute_deadline() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    assert "the schedule says when its jobs run" in refusal("x", repeat="@daily", delay=5)
    assert "the schedule says when" in refusal("x", repeat="@daily", delay_until=later)
    assert "give the deadline in seconds" in refusal("x", repeat="@daily", deadline=later)


# --- Debounce -------------------------------------------------------------------------------------


def digest(edge: Any, event: str, key: str | None, data: bytes = b"null") -> str:
    return digest_of(edge, "default", event, key, data)


def test_a_leading_window_travels_and_its_key_is_up_to_the_runner() -> None:
    for form in (3, timedelta(seconds=3), {"window": 3}, DebouncePolicy(3)):
        record = job("x", debounce=form).record
        assert record.debounce == Debounce("leading", 3000, None)
        assert record.debounce_key is None


def test_a_leading_window_with_a_key_travels_as_its_digest() -> None:
    record = job("x", debounce=DebouncePolicy(3, key="k")).record
    assert record.debounce == Debounce("leading", 3000, digest("leading", "x", "k"))


def test_a_bare_key_travels_alone() -> None:
    record = job("x", debounce="k").record
    assert record.debounce is None
    assert record.debounce_key == "k"


def test_a_trailing_window_at_the_emit_is_decided_here() -> None:
    for data in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        record = job("x", data, debounce={"window": 3, "edge": "trailing"}).record
        assert record.debounce is not None
        assert record.debounce.edge == "trailing"
        assert record.debounce.window_ms == 3000
        assert record.debounce.digest == digest("trailing", "x", None, b'{"a":1,"b":2}')


def test_a_trailing_window_of_the_handler_is_decided_here_by_function_and_by_name() -> None:
    group = Handlers[Any]()

    def key(job: JobLike) -> str:
        assert isinstance(job.data, Mail)  # as the handler gets it, also from a dict
        return f"{job.queue}/{job.name}/{job.data.to}"

    policy = DebouncePolicy(5, key=key, edge="trailing")
    group.register_handler(send_email, event="mail", debounce=policy)
    one = Emitter(Registry(group), max_data_bytes=1000)
    expected = Debounce("trailing", 5000, digest("trailing", "mail", "default/mail/a"))
    assert one.plan_job(send_email, Mail("a")).job.record.debounce == expected
    assert one.plan_job("mail", {"to": "a"}).job.record.debounce == expected
    bare_key = one.plan_job("mail", {"to": "a"}, {"debounce": "default/mail/a"}).job.record
    assert bare_key.debounce == expected
    assert bare_key.debounce_key is None


def test_a_leading_window_of_the_handler_is_left_to_the_runner() -> None:
    group = Handlers[Any]()
    group.register_handler(tidy, event="tidy", debounce=5)
    record = Emitter(Registry(group), max_data_bytes=1000).plan_job("tidy").job.record
    assert record.debounce is record.debounce_key is None


def test_a_trailing_window_of_the_processor_holds_where_the_handler_has_none() -> None:
    group = Handlers[Any]()
    group.register_handler(tidy, event="plain")
    group.register_handler(tidy, event="leading", debounce=5)
    policy = DebouncePolicy(7, edge="trailing")
    one = Emitter(Registry(group), max_data_bytes=1000, debounce=policy)
    debounce = one.plan_job("plain").job.record.debounce
    assert debounce == Debounce("trailing", 7000, digest("trailing", "plain", None))
    assert one.plan_job("leading").job.record.debounce is None


def test_a_trailing_window_of_the_handler_replaces_the_delay() -> None:
    group = Handlers[Any]()
    group.register_handler(tidy, event="tidy", debounce=DebouncePolicy(5, edge="trailing"))
    made = Emitter(Registry(group), max_data_bytes=1000).plan_job("tidy", None, {"delay": 60}).job
    assert made.delay_ms is made.record.scheduled_for_ms is None


def test_an_emit_cannot_send_a_function_as_key() -> None:
    text = refusal("x", debounce=DebouncePolicy(5, key=lambda job: job.name))
    assert "give emit the key itself" in text


def test_a_wrong_debounce_is_refused() -> None:
    assert "debounce=0: give seconds or a timedelta from 0.001 s" in refusal("x", debounce=0)
    assert "debounce=True" in refusal("x", debounce=True)


def test_a_key_function_that_raises_is_a_configuration_error_that_names_the_event() -> None:
    group = Handlers[Any]()

    def key(job: JobLike) -> str:
        raise LookupError("no key")

    group.register_handler(tidy, event="tidy", debounce=DebouncePolicy(5, key, "trailing"))
    with pytest.raises(
        ConfigurationError, match="debounce key function of 'tidy' raised LookupError"
    ) as caught:
        Emitter(Registry(group), max_data_bytes=1000).plan_job("tidy")
    assert isinstance(caught.value.__cause__, LookupError)


# --- Batches --------------------------------------------------------------------------------------


def test_a_batch_is_planned_in_order() -> None:
    plans = emitter().plan_many(Emit("x", number, priority=number) for number in range(3))
    assert [plan.job.record.data for plan in plans] == [b"0", b"1", b"2"]
    assert [plan.job.priority for plan in plans] == [0, 1, 2]


def test_an_error_in_a_batch_says_where_and_shows_no_data() -> None:
    bad = Emit("x", {"password": object()})
    with pytest.raises(SerializationError) as raised:
        emitter().plan_many([Emit("x"), bad])
    (note,) = raised.value.__notes__
    assert note == "element 1 of emit_many, <Emit 'x' with no options>; nothing was sent"
    with pytest.raises(ConfigurationError, match="a value of type str is no Emit"):
        emitter().plan_many(cast(Any, ["x"]))
    with pytest.raises(ConfigurationError, match="a batch holds jobs, not schedules"):
        emitter().plan_many([Emit("x", repeat="@daily")])


def test_an_element_checks_its_options_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="priority=10"):
        Emit("x", priority=10)


def test_elements_are_compared_by_value_and_shown_without_data() -> None:
    assert Emit(send_email, Mail("a"), priority=3) == Emit(send_email, Mail("a"), priority=3)
    assert Emit("x", 1) != Emit("x", 2)
    assert Emit("x", 1) != "x"
    element = Emit(send_email, Mail("secret"), priority=3, delay=5)
    assert repr(element) == "<Emit tests.test_emitter.send_email with priority, delay>"
    with pytest.raises(TypeError):
        hash(element)


# --- Children -------------------------------------------------------------------------------------


async def test_a_childs_number_travels_with_it() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ref = emitter().child(attempt, access, "x", None, {"id": "chosen"})
        (child,) = attempt.children
        assert ref.id == child.id == "chosen"
        assert child.number is not None


# --- Schedules ------------------------------------------------------------------------------------


def test_repeat_makes_a_schedule_named_by_id_or_else_the_event() -> None:
    made = schedule("report", {"day": 1}, repeat="0 9 * * *", queue="q", priority=3, deadline=60)
    assert (made.name, made.queue, made.priority, made.deadline_ms) == ("report", "q", 3, 60_000)
    assert Repeat.from_json(made.definition) == Repeat(pattern="0 9 * * *")
    assert made.template.event == "report"
    assert made.template.data == b'{"day":1}'
    assert made.template.schedule == "report"
    assert made.expires_after_ms is None
    assert schedule("report", repeat="@daily", id="mine").name == "mine"


def test_the_options_of_a_schedule_are_those_of_its_jobs() -> None:
    template = schedule(
        "x", repeat="@daily", attempts=2, timeout=1, retention=0, retry_delay=3, debounce=5
    ).template
    assert template.attempts == 2
    assert template.timeout_ms == 1000
    assert template.retention_ms == 0
    assert template.retry_delay_ms == 3000
    assert template.debounce == Debounce("leading", 5000, None)


def test_the_processors_window_is_not_for_schedules() -> None:
    one = emitter(debounce=DebouncePolicy(7, edge="trailing"))
    plan = one.plan("x", None, {"repeat": "@daily"})
    assert isinstance(plan, SchedulePlan)
    assert plan.schedule.template.debounce is None


def test_wrong_schedules_are_refused() -> None:
    assert "pattern='never'" in refusal("x", repeat="never")
    assert "repeat=60: give a cron pattern" in refusal("x", repeat=60)
    assert "at most 114 characters" in refusal("x" * 115, repeat="@daily")
    assert "id=" in refusal("x", repeat="@daily", id="x" * 115)
    assert "id=" in refusal("x", repeat="@daily", id=Ids().job_id())


def test_the_schedule_that_a_handler_declares_is_not_replaced_by_an_emit() -> None:
    for event, options in (
        (nightly, {}),
        ("nightly", {}),
        (nightly, {"id": "nightly"}),
        ("another-event", {"id": "nightly"}),
    ):
        text = refusal(event, repeat="@hourly", **options)
        assert "the schedule 'nightly' of queue 'default' is that of a handler" in text
        assert "test_emitter.nightly" in text
        assert "give id=" in text
    assert schedule(nightly, repeat="@hourly", id="hourly").name == "hourly"
    assert schedule("nightly", repeat="@hourly", queue="other").name == "nightly"


def test_a_handlers_schedule_is_named_after_its_event_and_expires() -> None:
    registry = Registry(handlers)
    plan = Emitter(registry, max_data_bytes=1000).schedule_of(registry.of_function(nightly))
    assert plan.schedule.name == "nightly"
    assert plan.schedule.template.data == b"null"
    assert plan.expires


async def test_a_declared_schedule_has_its_next_occurrence() -> None:
    async with opened() as access:
        registry = Registry(handlers)
        plan = Emitter(registry, max_data_bytes=1000).schedule_of(registry.of_function(nightly))
        stored = await declare(access.broker, plan, replace=True)
        now_ms = await access.broker.time_ms("default")
        assert now_ms < stored.next_at_ms <= now_ms + 25 * 3_600_000
        assert stored.expires_after_ms == 7 * 86_400_000
        assert await access.broker.schedules("default") == [stored]
        ref = plan.ref(access, stored.next_at_ms)
        assert ref.id == f"nightly:{stored.next_at_ms}"
        assert ref.created is None


async def test_an_interval_shorter_than_a_round_trip_can_be_declared() -> None:
    class Slow(Access):
        """Its broker refuses what is less than 50 ms away, as one far away would."""

        async def time_ms(self, queue: str) -> int:
            return await self.memory.time_ms(queue) - 50

        def __getattr__(self, name: str) -> Any:
            return getattr(self.memory, name)

    async with opened() as access:
        plan = emitter().plan("x", None, {"repeat": {"every": 0.001}})
        assert isinstance(plan, SchedulePlan)
        stored = await declare(cast(Any, Slow(access.memory)), plan, replace=True)
        assert stored.next_at_ms > 0


async def test_a_changed_schedule_goes_on_after_its_last_occurrence() -> None:
    async with opened() as access:
        plan = emitter().plan("x", None, {"repeat": {"every": 0.01}})
        assert isinstance(plan, SchedulePlan)
        await declare(access.broker, plan, replace=True)
        await anyio.sleep(1)
        (due,) = (await access.broker.due_schedules("default")).due
        far_ms = due.next_at_ms + 3_600_000
        await access.broker.tick(due, next_at_ms=far_ms, job=occurrence(due))
        (job,) = await access.broker.jobs("default", JobState.QUEUED, limit=9)
        assert job.id == f"x:{due.next_at_ms}"
        assert job.record is not None
        assert job.record.scheduled_for_ms == due.next_at_ms
        assert job.record.emitted_at_ms > 0
        changed = emitter().plan("x", None, {"repeat": {"every": 5}})
        assert isinstance(changed, SchedulePlan)
        again = await declare(access.broker, changed, replace=True)
        assert again.next_at_ms > due.next_at_ms
        assert again.next_at_ms % 5000 == 0


async def test_a_schedule_without_a_future_is_refused() -> None:
    async with opened() as access:
        plan = emitter().plan("x", None, {"repeat": {"every": 1}})
        assert isinstance(plan, SchedulePlan)

        class Ended:
            def next_at_ms(self, after_ms: int) -> None: ...

            def lifetime_ms(self, now_ms: int) -> int:
                return now_ms

        ended = msgspec.structs.replace(plan, repeat=cast(Any, Ended()))
        with pytest.raises(ConfigurationError, match="no further occurrence"):
            await declare(access.broker, ended, replace=True)


# --- Speed ----------------------------------------------------------------------------------------


async def test_a_plain_emit_costs_no_more_than_a_few_lookups() -> None:
    """Counted in calls, which a busy machine does not change: about 3.5 µs when measured."""
    import sys

    one = emitter()
    one.plan_job(send_email, Mail("a"))
    calls: list[str] = []

    def count(frame: Any, what: str, argument: object) -> None:
        if what == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        one.plan(send_email, Mail("a"))
    finally:
        sys.setprofile(None)
    assert len(calls) <= 16, calls


def test_refs_are_of_the_emitted_job() -> None:
    plan = emitter().plan_job(send_email, Mail("a"), {"id": "chosen"})
    access = Access(cast(Any, None))
    ref = plan.ref(access, created=False)
    assert isinstance(ref, JobRef)
    assert (ref.id, ref.queue, ref.created) == ("chosen", "emails", False)
    assert partial(plan.early_ref, access)().created is None
