"""Registering: what is taken, what is refused and in which words, what the engine finds again."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, cast

import pytest

from tests.typing import good_emits
from trio_tasks.context import Context
from trio_tasks.errors import ConfigurationError
from trio_tasks.handlers import Handlers, Registered, Registry
from trio_tasks.job import Job
from trio_tasks.options import DebouncePolicy, RetryPolicy
from trio_tasks.processor.repeat import Repeat

if TYPE_CHECKING:
    from decimal import Decimal as Hidden


T = TypeVar("T")


@dataclass
class Mail:
    to: str


class AppContext:
    pass


class NeedsDb(Protocol):
    def save(self) -> None: ...


async def send(job: Job[Mail], ctx: Context[AppContext]) -> int:
    return len(job.data.to)


async def tidy() -> None: ...


def register(handler: object, **options: Any) -> Registered:
    """The registration of a handler, well typed or not."""
    handlers = Handlers[Any]()
    handlers.register_handler(cast(Any, handler), event="some-event", **options)
    (entry,) = Registry(handlers)
    return entry


def refusal(handler: object, **options: Any) -> str:
    """The words in which a handler is refused."""
    with pytest.raises(ConfigurationError) as raised:
        register(handler, **options)
    return str(raised.value)


# --- What a registration holds --------------------------------------------------------------------


def test_an_async_handler_with_job_and_context() -> None:
    entry = register(send)
    assert entry.function is send
    assert (entry.event, entry.queue) == ("some-event", "default")
    assert entry.is_async
    assert entry.takes == 2
    assert entry.data.type is Mail
    assert entry.result.type is int


def test_a_sync_handler_of_the_job_alone() -> None:
    def handler(job: Job[list[str]]) -> str: ...

    entry = register(handler)
    assert not entry.is_async
    assert entry.takes == 1
    assert entry.data.type == list[str]
    assert entry.result.type is str


def test_a_handler_without_parameters_gets_plain_json_types() -> None:
    entry = register(tidy)
    assert entry.takes == 0
    assert entry.data.type is object
    assert entry.result.type is type(None)


def test_without_annotations_data_and_result_are_plain_json() -> None:
    entry = register(eval("lambda job, ctx: None"))
    assert entry.takes == 2
    assert entry.data.type is object
    assert entry.result.type is object


@pytest.mark.parametrize("annotation", [Job, Any, object, Job[Any]])
def test_annotations_that_name_no_type_mean_plain_json(annotation: object) -> None:
    def handler(job: Any) -> None: ...

    handler.__annotations__["job"] = annotation
    assert register(handler).data.type is object


def test_an_annotated_job_is_a_job() -> None:
    def handler(job: Annotated[Job[Mail], "anything"]) -> None: ...

    assert register(handler).data.type is Mail


def test_a_generic_handler_gets_plain_json() -> None:
    def handler(job: Job[T]) -> None: ...

    assert register(handler).data.type is object


def test_the_second_parameter_may_be_annotated_with_a_protocol() -> None:
    def handler(job: Job, ctx: NeedsDb) -> None: ...

    assert register(handler).takes == 2


def test_keyword_parameters_with_a_default_are_left_alone() -> None:
    def handler(job: Job, *, times: int = 3) -> None: ...

    assert register(handler).takes == 1


def test_all_options_are_kept_in_the_units_of_the_engine() -> None:
    entry = register(
        tidy,
        queue="mails",
        attempts=5,
        retry=RetryPolicy(max_retries=4),
        repeat=Repeat(every=60),
        debounce=3,
        timeout=timedelta(seconds=2),
        retention=0.5,
        max_logs=7,
    )
    assert entry.queue == "mails"
    assert entry.attempts == 5
    assert entry.retry == RetryPolicy(max_retries=4)
    assert entry.repeat == Repeat(every=60)
    assert entry.debounce == DebouncePolicy(3)
    assert entry.timeout_ms == 2000
    assert entry.retention_ms == 500
    assert entry.max_logs == 7


def test_without_options_nothing_is_said() -> None:
    entry = register(tidy)
    assert entry.queue == "default"
    assert entry.attempts is entry.retry is entry.repeat is entry.debounce is None
    assert entry.timeout_ms is entry.retention_ms is None
    assert entry.max_logs == 100


def test_options_may_be_plain_dicts_and_repeat_a_bare_pattern() -> None:
    entry = register(
        tidy, retry={"delay": 2}, debounce={"window": 1, "edge": "trailing"}, repeat="@daily"
    )
    assert entry.retry == RetryPolicy(delay=2)
    assert entry.debounce == DebouncePolicy(1, edge="trailing")
    assert entry.repeat == Repeat(pattern="@daily")


def test_none_means_not_said() -> None:
    assert register(tidy, timeout=None, queue=None).timeout_ms is None


# --- Which callables are taken --------------------------------------------------------------------


class Mailer:
    async def send(self, job: Job[Mail], ctx: Context[AppContext]) -> str: ...

    @staticmethod
    def send_now(job: Job[Mail]) -> str: ...

    @classmethod
    def send_all(cls, job: Job[list[Mail]]) -> str: ...


class Callee:
    def __init__(self, number: int) -> None:
        self.number = number

    async def __call__(self, job: Job[Mail], ctx: Context[AppContext]) -> int: ...


class WithoutHash:
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithoutHash) and other.number == self.number

    def __call__(self, job: Job[int]) -> None: ...


def test_a_bound_method_is_found_by_equality() -> None:
    handlers = Handlers[AppContext]()
    mailer = Mailer()
    handlers.register_handler(mailer.send, event="send")
    found = Registry(handlers).of_function(mailer.send)
    assert found.event == "send"
    assert found.is_async
    assert found.takes == 2
    assert found.data.type is Mail
    with pytest.raises(ConfigurationError, match="not registered"):
        Registry(handlers).of_function(Mailer().send)


def test_a_static_method_is_found_through_its_class() -> None:
    handlers = Handlers[AppContext]()

    class Tools:
        @handlers.handler("helped")
        @staticmethod
        def help(job: Job[int]) -> str: ...

    assert Registry(handlers).of_function(Tools.help).data.type is int
    assert register(Mailer.send_now).data.type is Mail
    assert register(Mailer.send_all).data.type == list[Mail]


def test_a_callable_object_is_inspected_at_its_call_method() -> None:
    entry = register(Callee(1))
    assert entry.is_async
    assert entry.takes == 2
    assert entry.result.type is int


def test_a_callable_object_without_a_hash_is_found_by_equality() -> None:
    handlers = Handlers[Any]()
    handlers.register_handler(WithoutHash(1), event="one")
    registry = Registry(handlers)
    assert registry.of_function(WithoutHash(1)).event == "one"
    with pytest.raises(ConfigurationError, match="not registered"):
        registry.of_function(WithoutHash(2))


def test_a_partial_hides_the_arguments_that_it_gives() -> None:
    async def send_with(prefix: str, job: Job[Mail], ctx: Context, *, suffix: str) -> int: ...

    handler = functools.partial(send_with, "> ", suffix=".")
    entry = register(handler)
    assert entry.is_async
    assert entry.takes == 2
    assert entry.data.type is Mail


def test_a_wrapper_shows_the_parameters_of_what_it_wraps() -> None:
    def logged(handler: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        @functools.wraps(handler)
        async def wrapper(*args: object, **kwargs: object) -> object:
            return await handler(*args, **kwargs)

        return wrapper

    entry = register(logged(send))
    assert entry.is_async
    assert entry.takes == 2
    assert entry.data.type is Mail


def test_a_timeout_that_a_sync_handler_cannot_notice_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = Handlers(timeout=9)

    def sync(job: Job) -> None: ...
    def sync_with_context(job: Job, ctx: Context) -> None: ...
    async def asynchronous(job: Job) -> None: ...

    group.register_handler(sync, event="of-the-group")  # others of the group may be async
    group.register_handler(sync_with_context, event="may-look", timeout=1)
    group.register_handler(asynchronous, event="is-cancelled", timeout=1)
    assert caplog.messages == []
    group.register_handler(sync, event="cannot-know", timeout=1)
    [text] = caplog.messages
    assert "sync of 'cannot-know' in 'default'> has a timeout, but is a sync function" in text
    assert "cancel_reason" in text


def test_the_decorator_gives_the_function_back() -> None:
    handlers = Handlers[AppContext]()

    async def handler(job: Job[int]) -> None: ...

    assert handlers.handler("x")(handler) is handler


def test_the_good_programs_register_what_they_say() -> None:
    registry = Registry(good_emits.handlers)
    assert registry.of_function(good_emits.send_email).queue == "emails"
    assert registry.events("default")[:2] == ["anything", "count"]


# --- What is refused ------------------------------------------------------------------------------


def test_classes_generators_and_other_things_are_refused() -> None:
    def generator(job: Job) -> Generator[int]:
        yield 1

    async def async_generator(job: Job) -> AsyncGenerator[int]:
        yield 1

    assert "not a class" in refusal(Mailer)
    assert "is a generator: use return, not yield" in refusal(generator)
    assert "is a generator: use return, not yield" in refusal(async_generator)
    assert "give a function, a method or a callable object" in refusal(5)


def test_other_parameters_are_refused() -> None:
    def three(job: Job, ctx: Context, more: int) -> None: ...
    def star(*args: object) -> None: ...
    def keywords(job: Job, **kwargs: object) -> None: ...
    def keyword(job: Job, *, must: int) -> None: ...
    def default(job: Job, ctx: Context, more: int = 3) -> None: ...

    for handler in (three, star, keywords, keyword, default):
        text = refusal(handler)
        assert handler.__name__ in text
        assert "has the parameters (" in text
        assert "a handler takes (job, ctx), (job) or nothing" in text
    assert "functools.wraps" in refusal(star)


def test_a_callable_without_a_readable_signature_is_refused() -> None:
    assert "has no readable signature; a handler takes (job, ctx)" in refusal(getattr)


def test_a_cached_function_is_inspected_through_its_cache() -> None:
    @functools.lru_cache
    def handler(job: Job[Mail]) -> int: ...

    entry = register(handler)
    assert entry.data.type is Mail
    assert not entry.is_async


def test_the_first_parameter_must_be_a_job() -> None:
    def swapped(ctx: Context[AppContext], job: Job) -> None: ...
    def data(mail: Mail) -> None: ...

    assert "its first parameter 'ctx' is annotated as" in refusal(swapped)
    assert "its first parameter 'mail' is annotated as Mail" in refusal(data)
    assert "annotate it as Job or Job[...]" in refusal(data)


def test_a_lone_context_is_refused() -> None:
    def typed(ctx: Context[AppContext]) -> None: ...
    def bare(ctx: Context) -> None: ...

    assert "takes a context alone" in refusal(typed)
    assert "takes a context alone" in refusal(bare)


def test_a_second_parameter_that_is_no_context_is_refused() -> None:
    def handler(job: Job, number: int) -> None: ...

    text = refusal(handler)
    assert "its second parameter 'number' is annotated as int" in text
    assert "annotate it as Context or Context[...]" in text


def test_a_name_that_is_imported_for_type_checking_only_is_refused_with_advice() -> None:
    def handler(job: Job[Hidden]) -> None: ...

    text = refusal(handler)
    assert "'Hidden'" in text
    assert "import it at run time, not under TYPE_CHECKING" in text


def test_an_annotation_that_cannot_be_evaluated_is_refused() -> None:
    def handler(job: Any) -> None: ...

    handler.__annotations__["job"] = "Job[1 / 0]"
    assert "its annotations cannot be resolved" in refusal(handler)


def test_types_without_a_json_form_are_refused() -> None:
    def takes(job: Job[AppContext]) -> None: ...
    def gives(job: Job) -> AppContext: ...

    for handler in (takes, gives):
        assert f"{handler.__name__}: AppContext cannot be the type of" in refusal(handler)


def test_a_repeated_handler_must_accept_none() -> None:
    def optional(job: Job[Mail | None]) -> None: ...

    text = refusal(send, repeat="@daily")
    assert text.startswith("repeat=Repeat(")
    assert "None, which tests.test_handlers.send does not accept" in text
    assert register(optional, repeat="@daily").repeat == Repeat(pattern="@daily")
    assert register(tidy, repeat="@daily").takes == 0


def test_the_name_of_what_repeats_leaves_room_for_the_instant() -> None:
    with pytest.raises(ConfigurationError, match="at most 114 characters"):
        Handlers[Any]().register_handler(tidy, event="e" * 115, repeat="@daily")
    Handlers[Any]().register_handler(tidy, event="e" * 114, repeat="@daily")


# --- Names from the registering frame -------------------------------------------------------------


def test_annotations_may_name_locals_of_the_registering_frame() -> None:
    @dataclass
    class Local:
        number: int

    handlers = Handlers[AppContext]()

    @handlers.handler("local")
    async def handler(job: Job[Local]) -> Local: ...

    entry = Registry(handlers).of_function(handler)
    assert entry.data.type is Local
    assert entry.result.type is Local


def test_locals_do_not_hide_the_globals_of_another_module() -> None:
    class Mail: ...

    handlers = Handlers[Any]()
    handlers.register_handler(good_emits.send_email, event="send")
    entry = Registry(handlers).of_function(good_emits.send_email)
    assert entry.data.type is good_emits.Mail
    assert entry.data.type is not Mail


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"atempts": 5}, "atempts=5: a handler has no such option; did you mean 'attempts'?"),
        ({"concurrency": 2}, "concurrency=2: a handler has no such option"),
        ({"queue": "a b"}, "queue='a b': give 1 to 128 characters"),
        ({"queue": ""}, "queue='': give 1 to 128 characters"),
        ({"attempts": 0}, "attempts=0: give a whole number from 1"),
        ({"attempts": 10**9}, "attempts=1000000000: give a whole number from 1 to 1000000"),
        ({"attempts": 2.5}, "attempts=2.5: give a whole number"),
        ({"retry": 3}, "retry=3: give a RetryPolicy or a mapping with its fields"),
        ({"retry": {"retry_delay": 3}}, "no field 'retry_delay'; did you mean 'delay'?"),
        ({"repeat": "every day"}, "pattern='every day'"),
        (
            {"repeat": 60},
            "such as '*/5 * * * *', or Repeat(every=60) for",
        ),
        (
            {"repeat": timedelta(1)},
            "a cron pattern such as '*/5 * * * *', or Repeat(every=",
        ),
        (
            {"repeat": True},
            "repeat=True: give a cron pattern such as '*/5 * * * *', a",
        ),
        ({"repeat": {"evry": 5}}, "did you mean 'every'?"),
        ({"debounce": 0}, "debounce=0: give seconds or a timedelta from 0.001 s"),
        ({"timeout": 0}, "timeout=0: give seconds or a timedelta from 0.001 s"),
        ({"timeout": "5"}, "timeout='5': give seconds or a timedelta"),
        ({"retention": -1}, "retention=-1: give seconds or a timedelta from 0 s"),
        ({"max_logs": -1}, "max_logs=-1: give a whole number from 0"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(
    options: dict[str, Any], text: str
) -> None:
    assert text in refusal(tidy, **options)
    with pytest.raises(ConfigurationError) as raised:
        Handlers[Any](**options)
    assert text in str(raised.value)


def test_attempts_and_retry_that_disagree_are_refused() -> None:
    text = refusal(tidy, attempts=4, retry=RetryPolicy(max_retries=5))
    assert "attempts=4 and retry=RetryPolicy(max_retries=5) disagree" in text
    assert "max_retries = attempts - 1" in text
    assert register(tidy, attempts=4, retry=RetryPolicy(max_retries=3)).attempts == 4


@pytest.mark.parametrize("event", ["", "a b", "x" * 129, 5, "{a}"])
def test_a_wrong_event_is_refused(event: Any) -> None:
    with pytest.raises(ConfigurationError, match="event="):
        Handlers[Any]().handler(event)
    with pytest.raises(ConfigurationError, match="event="):
        Handlers[Any]().register_handler(tidy, event=event)


def test_a_decorator_without_an_event_says_how_to_write_it() -> None:
    with pytest.raises(ConfigurationError, match=r"as in @handler\('process-user'\)"):
        Handlers[Any]().handler(cast(Any, tidy))


def test_the_options_of_a_group_are_defaults_of_its_handlers() -> None:
    group = Handlers[Any](queue="mails", attempts=8, timeout=5, retention=0, max_logs=0)
    group.register_handler(tidy, event="plain")
    group.register_handler(tidy, event="own", queue="other", attempts=2, timeout=1, retention=1)
    registry = Registry(group)
    plain, own = registry.find("mails", "plain"), registry.find("other", "own")
    assert plain is not None
    assert own is not None
    assert (plain.attempts, plain.timeout_ms, plain.retention_ms) == (8, 5000, 0)
    assert (own.attempts, own.timeout_ms, own.retention_ms) == (2, 1000, 1000)
    assert plain.max_logs == own.max_logs == 0


def test_a_handlers_own_retry_says_how_many_attempts_whatever_its_group_says() -> None:
    group = Handlers[Any](attempts=8)
    group.register_handler(tidy, event="own", retry=RetryPolicy(max_retries=1))
    (entry,) = Registry(group)
    assert entry.attempts is None
    assert entry.retry == RetryPolicy(max_retries=1)


def test_a_handlers_own_attempts_hold_over_the_retry_of_its_group() -> None:
    group = Handlers[Any](retry=RetryPolicy(max_retries=5, delay=3))
    group.register_handler(tidy, event="own", attempts=2)
    (entry,) = Registry(group)
    assert entry.attempts == 2
    assert entry.retry == RetryPolicy(max_retries=5, delay=3)


# --- Groups ---------------------------------------------------------------------------------------


def test_what_is_added_to_an_included_group_counts() -> None:
    group, root = Handlers[Any](queue="a"), Handlers[Any]()
    registry = Registry(root)
    root.include(group)
    assert list(registry) == []
    group.register_handler(tidy, event="late")
    assert registry.queues() == ["a"]
    assert registry.events("a") == ["late"]
    assert len(registry) == 1


def test_a_group_may_be_included_in_several_and_through_several() -> None:
    shared, one, two = Handlers[Any](), Handlers[Any](), Handlers[Any]()
    shared.register_handler(tidy, event="shared")
    one.include(shared)
    two.include(shared)
    root, other = Handlers[Any](), Handlers[Any]()
    root.include(one, two, shared)
    other.include(shared)
    assert [entry.event for entry in Registry(root)] == ["shared"]
    assert [entry.event for entry in Registry(other)] == ["shared"]


def test_a_second_handler_of_an_event_in_a_queue_is_refused_wherever_it_comes_from() -> None:
    group, root = Handlers[Any](), Handlers[Any]()
    root.include(group)
    root.register_handler(tidy, event="x")
    text = "event='x' in queue='default' has a handler already, tests.test_handlers.tidy"
    with pytest.raises(ConfigurationError, match=text):
        root.register_handler(send, event="x")
    with pytest.raises(ConfigurationError, match=text):
        group.register_handler(send, event="x")
    other = Handlers[Any]()
    other.register_handler(send, event="x")
    with pytest.raises(ConfigurationError, match=text):
        root.include(other)
    with pytest.raises(ConfigurationError, match=text):
        group.include(other)
    group.register_handler(send, event="x", queue="another")
    assert len(Registry(root)) == 2


def test_a_refused_registration_leaves_no_trace() -> None:
    group, root = Handlers[Any](), Handlers[Any]()
    root.include(group)
    root.register_handler(tidy, event="x")
    with pytest.raises(ConfigurationError):
        group.register_handler(send, event="x")
    assert list(Registry(group)) == []
    assert [entry.function for entry in Registry(root)] == [tidy]


def test_a_group_cannot_include_itself() -> None:
    one, two = Handlers[Any](), Handlers[Any]()
    one.include(two)
    with pytest.raises(ConfigurationError, match="cannot include itself"):
        two.include(one)
    with pytest.raises(ConfigurationError, match="cannot include itself"):
        one.include(one)


def test_only_groups_can_be_included() -> None:
    with pytest.raises(ConfigurationError, match="is not a Handlers group"):
        Handlers[Any]().include(cast(Any, tidy))


def test_after_the_start_registering_and_including_is_an_error_in_all_included_groups() -> None:
    group, root = Handlers[Any](), Handlers[Any]()
    root.include(group)
    registry = Registry(root)
    registry.freeze()
    full = Handlers[Any]()
    full.register_handler(tidy, event="x")
    for action in (
        lambda: root.register_handler(tidy, event="x"),
        lambda: group.register_handler(tidy, event="x"),
        lambda: root.include(full),
        lambda: group.include(full),
    ):
        with pytest.raises(RuntimeError, match=r"before start\(\)"):
            action()
    registry.thaw()
    group.register_handler(tidy, event="x")
    assert len(registry) == 1


def test_a_group_does_not_keep_its_managers_alive() -> None:
    import gc
    import weakref

    group = Handlers[Any]()
    root = Handlers[Any]()
    root.include(group)
    gone = weakref.ref(root)
    del root
    gc.collect()
    assert gone() is None


# --- Looking up -----------------------------------------------------------------------------------


def test_a_function_that_is_not_registered_is_refused_with_a_list_of_what_is() -> None:
    handlers = Handlers[Any](queue="q")
    handlers.register_handler(tidy, event="tidy")
    with pytest.raises(ConfigurationError) as raised:
        Registry(handlers).of_function(send)
    assert str(raised.value) == (
        "event=tests.test_handlers.send is not registered here; registered: 'tidy' in 'q'"
    )
    with pytest.raises(ConfigurationError, match="registered: nothing"):
        Registry(Handlers[Any]()).of_function(send)


def test_a_function_under_several_names_is_refused_with_a_list_of_them() -> None:
    handlers = Handlers[Any]()
    handlers.register_handler(tidy, event="one")
    handlers.register_handler(tidy, event="two", queue="b")
    registry = Registry(handlers)
    with pytest.raises(ConfigurationError) as raised:
        registry.of_function(tidy)
    assert "'two' in 'b', 'one' in 'default'" in str(raised.value)
    assert registry.of_function(tidy, "b").event == "two"
    with pytest.raises(ConfigurationError, match=r"queue='c': .* is registered elsewhere"):
        registry.of_function(tidy, "c")


def test_a_long_list_is_cut() -> None:
    handlers = Handlers[Any]()
    for number in range(30):
        handlers.register_handler(tidy, event=f"event-{number:02}")
    with pytest.raises(ConfigurationError) as raised:
        Registry(handlers).of_function(send)
    assert str(raised.value).endswith("'event-19' in 'default' and 10 more")


def test_lookups_by_name() -> None:
    handlers = Handlers[Any]()
    handlers.register_handler(tidy, event="b", queue="two")
    handlers.register_handler(tidy, event="b", queue="one")
    handlers.register_handler(tidy, event="a", queue="one")
    registry = Registry(handlers)
    assert registry.queues() == ["one", "two"]
    assert registry.events("one") == ["a", "b"]
    assert registry.events("three") == []
    assert registry.queues_of("b") == ["one", "two"]
    assert registry.find("three", "b") is None


def test_reprs_are_for_reading() -> None:
    handlers = Handlers[Any]()
    assert repr(handlers) == "<Handlers of nothing>"
    handlers.register_handler(tidy, event="x")
    assert repr(handlers) == "<Handlers of 'x' in 'default'>"
    (entry,) = Registry(handlers)
    assert repr(entry) == "<handler tests.test_handlers.tidy of 'x' in 'default'>"


def test_a_message_never_shows_the_arguments_of_a_partial() -> None:
    many = functools.partial(cast(Any, print), "password", file=None)
    assert "password" not in refusal(many)
