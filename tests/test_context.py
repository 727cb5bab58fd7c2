"""The context of a handler: whose names come first, and what `ctx.emit` and `ctx.emit_now` do."""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

import pytest
from trio.testing import MockClock

from tests.access import Access, Attempted, opened, some_job
from trio_tasks.callables import Event
from trio_tasks.context import Attempt, CancelReason, Context, add_child, end_attempt
from trio_tasks.emitter import Emitter
from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.handlers import Handlers, Registry
from trio_tasks.job import Job
from trio_tasks.options import EmitOptions
from trio_tasks.refs import JobRef

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


handlers = Handlers[Any]()


@handlers.handler("count", queue="numbers")
async def count(job: Job[int]) -> int: ...


class Outlet:
    """What a manager is for its contexts; posts are collected."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._emitter = Emitter(Registry(handlers), max_data_bytes=1000)
        self.posted: list[str] = []

    def child(
        self, attempt: Attempt, event: Event, data: object, options: EmitOptions
    ) -> JobRef[Any]:
        return self._emitter.child(attempt, self._access, event, data, options)

    def post(self, event: Event, data: object, options: EmitOptions) -> JobRef[Any]:
        plan = self._emitter.plan_job(event, data, options)
        self.posted.append(plan.job.id)
        return plan.early_ref(self._access)

    async def send(
        self, event: Event, data: object, options: EmitOptions, parent_id: str | None
    ) -> JobRef[Any]:
        plan = self._emitter.plan_job(event, data, options, parent_id=parent_id)
        (emitted,) = await self._access.broker.emit([plan.job])
        return plan.ref(self._access, created=emitted.created)


def context(app: object = None, attempt: Attempted | None = None) -> Context[Any]:
    return Context(app, cast(Any, None), attempt, None if attempt is None else attempt.job)


# --- Names ----------------------------------------------------------------------------------------


@dataclass
class App:
    db: str = "database"
    nursery: str = "mine"
    emit: str = "my emit"
    app: str = "my app"


def test_attributes_of_an_object_can_be_read_from_the_context() -> None:
    app = App()
    ctx = context(app)
    assert ctx.app is app
    assert ctx.db == "database"
    assert ctx["db"] == "database"


def test_keys_of_a_mapping_can_be_read_as_attributes() -> None:
    ctx = context({"db": "database", "items": "mine"})
    assert ctx.db == "database"
    assert ctx["db"] == "database"
    assert ctx.items == "mine"
    made: defaultdict[str, str] = defaultdict(lambda: "made")
    assert context(made).anything == "made"


def test_the_engines_names_come_first_and_items_reach_the_users() -> None:
    ctx = context(App())
    assert ctx.emit != "my emit"
    assert ctx["emit"] == "my emit"
    assert ctx["app"] == "my app"


@pytest.mark.parametrize("name", ["jobs", "nursery", "fence", "deadline"])
def test_reserved_names_are_the_engines_too(name: str) -> None:
    ctx = context({name: "mine"})
    with pytest.raises(AttributeError, match=rf"ctx.{name} is kept for the engine; use ctx\["):
        getattr(ctx, name)
    assert ctx[name] == "mine"


def test_a_missing_name_is_named() -> None:
    for app in (App(), {"db": 1}):
        ctx = context(app)
        kind = type(app).__name__
        text = f"no 'dbb' in the context: the {kind} given has none"
        with pytest.raises(AttributeError, match=text):
            ctx.dbb  # noqa: B018
        with pytest.raises(KeyError) as raised:
            ctx["dbb"]
        assert str(raised.value) == text
    with pytest.raises(AttributeError, match="no ctx= and no lifespan= was given"):
        context(None).db  # noqa: B018
    assert not hasattr(context(App()), "dbb")


def test_an_error_inside_a_users_property_is_seen() -> None:
    class Broken:
        @property
        def db(self) -> str:
            raise ValueError("not connected")

    with pytest.raises(ValueError, match="not connected"):
        context(Broken()).db  # noqa: B018


def test_a_missing_name_inside_a_users_property_is_the_cause() -> None:
    class Broken:
        @property
        def db(self) -> str:
            return cast(Any, self).pool

    with pytest.raises(AttributeError) as raised:
        context(Broken()).db  # noqa: B018
    assert "pool" in str(raised.value.__cause__)


def test_a_context_that_was_never_made_does_not_recurse() -> None:
    with pytest.raises(AttributeError):
        Context.__new__(Context).app  # noqa: B018


def test_a_context_can_be_copied() -> None:
    app = App()
    assert copy.copy(context(app)).app is app


# --- Job and cancellation -------------------------------------------------------------------------


def test_inside_a_handler_there_is_a_job() -> None:
    job = some_job()
    assert context(attempt=Attempted(job)).job is job


def test_outside_a_handler_asking_for_the_job_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="belongs to no handler"):
        context().job  # noqa: B018
    assert context().cancel_reason is None


def test_the_reason_of_a_cancellation_is_a_word() -> None:
    attempt = Attempted(some_job())
    ctx = context(attempt=attempt)
    assert ctx.cancel_reason is None
    attempt.cause = CancelReason.TIMEOUT
    assert ctx.cancel_reason == "timeout"
    words = {"user", "shutdown", "timeout", "deadline", "lease_lost", "parent"}
    assert {reason.value for reason in CancelReason} == words


def test_a_repr_shows_the_job_and_nothing_of_the_users() -> None:
    app = {"password": "secret"}
    assert "parent" in repr(context(app, Attempted(some_job())))
    assert repr(context(app)) == "<Context of no job>"


# --- ctx.emit in a handler ------------------------------------------------------------------------


async def test_emit_collects_a_child_and_gives_a_ref_at_once() -> None:
    async with opened() as access:
        attempt = Attempted(some_job("the-parent"))
        ctx = Context[Any](None, Outlet(access), attempt)
        ref = ctx.emit(count, 5, priority=3)
        (child,) = attempt.children
        assert (child.id, child.queue, child.priority) == (ref.id, "numbers", 3)
        assert child.record.data == b"5"
        assert child.record.parent_id == "the-parent"
        assert ref.queue == "numbers"
        assert ref.created is None
        assert await access.broker.read("numbers", [ref.id]) == [None]


async def test_a_childs_ref_cannot_be_used_before_the_handler_has_ended() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ref = Context[Any](None, Outlet(access), attempt).emit(count, 5)
        for use in (ref.info, ref.result, ref.cancel):
            with pytest.raises(RuntimeError, match=r"await ctx.emit_now\(\.\.\.\)"):
                await use()
        end_attempt(attempt)
        await access.broker.emit(attempt.children)
        assert (await ref.info()).data == 5


async def test_awaiting_emit_is_a_type_error_that_says_so() -> None:
    async with opened() as access:
        for attempt in (Attempted(some_job()), None):
            ctx = Context[Any](None, Outlet(access), attempt)
            with pytest.raises(TypeError, match=r"ctx.emit\(...\) is not awaited"):
                await cast(Any, ctx.emit(count, 5))


async def test_after_the_handler_has_returned_emit_is_an_error() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ctx = Context[Any](None, Outlet(access), attempt)
        end_attempt(attempt)
        with pytest.raises(RuntimeError, match="this handler has already returned"):
            ctx.emit(count, 5)
        assert attempt.children == ()


async def test_more_than_250_children_are_refused_in_favour_of_emit_now() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ctx = Context[Any](None, Outlet(access), attempt)
        for number in range(250):
            ctx.emit(count, number)
        with pytest.raises(RuntimeError, match=r"250 children.*await ctx.emit_now\(\.\.\.\)"):
            ctx.emit(count, 250)
        assert len(attempt.children) == 250


async def test_errors_of_a_child_are_raised_at_the_call() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ctx = Context[Any](None, Outlet(access), attempt)
        with pytest.raises(SerializationError):
            ctx.emit("count", object(), queue="numbers")
        with pytest.raises(ConfigurationError, match="prioritty=5"):
            ctx.emit(count, 5, **cast(Any, {"prioritty": 5}))
        with pytest.raises(ConfigurationError, match=r"schedules; use `await ctx.emit_now"):
            ctx.emit("count", repeat="@daily", queue="numbers")
        assert attempt.children == ()


async def test_sync_handlers_emit_from_their_threads_and_none_gets_lost() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ctx = Context[Any](None, Outlet(access), attempt)
        ids: list[str] = []

        def emit_some() -> None:
            ids.extend(ctx.emit(count, number).id for number in range(25))

        threads = [threading.Thread(target=emit_some) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(child.id for child in attempt.children) == sorted(ids)
        assert len(set(ids)) == 250


async def test_a_child_is_in_the_outcome_or_its_emit_has_raised() -> None:
    async with opened() as access:
        for _ in range(50):
            attempt = Attempted(some_job())
            ctx = Context[Any](None, Outlet(access), attempt)
            ids: list[str] = []
            began = threading.Event()

            def emit_until_refused(
                ctx: Context[Any] = ctx, ids: list[str] = ids, began: threading.Event = began
            ) -> None:
                while True:
                    try:
                        ids.append(ctx.emit(count, 1).id)
                    except RuntimeError:
                        break
                    began.set()

            thread = threading.Thread(target=emit_until_refused)
            thread.start()
            assert began.wait(10)
            end_attempt(attempt)
            outcome = [child.id for child in attempt.children]
            thread.join(10)
            assert outcome == ids
            assert [child.id for child in attempt.children] == ids


async def test_add_child_is_what_refuses() -> None:
    async with opened() as access:
        attempt = Attempted(some_job())
        ref = Context[Any](None, Outlet(access), attempt).emit(count, 5)
        (child,) = attempt.children
        add_child(attempt, child)
        assert [job.id for job in attempt.children] == [ref.id, ref.id]


# --- ctx.emit_now, and emit outside a handler -----------------------------------------------------


async def test_emit_now_stores_a_job_with_its_parent_whatever_becomes_of_the_handler() -> None:
    async with opened() as access:
        attempt = Attempted(some_job("the-parent"))
        ref = await Context[Any](None, Outlet(access), attempt).emit_now(count, 5)
        info = await ref.info()
        assert info.parent_id == "the-parent"
        assert ref.created is True
        assert attempt.children == ()


async def test_outside_a_handler_emit_posts_and_emit_now_has_no_parent() -> None:
    async with opened() as access:
        outlet = Outlet(access)
        ctx = Context[Any](None, outlet)
        ref = ctx.emit(count, 5)
        assert outlet.posted == [ref.id]
        assert ref.created is None
        assert (await (await ctx.emit_now(count, 5)).info()).parent_id is None
