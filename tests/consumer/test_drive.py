"""A coroutine in a context of its own: to the loop it looks as if its caller awaited it."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from trio_tasks.consumer.drive import drive

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


async def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Start it as a slot does, and drive what is left of it."""
    context = contextvars.copy_context()
    try:
        trap = context.run(coroutine.send, None)
    except StopIteration as done:
        return done.value
    return await drive(context.run, coroutine, trap)


async def test_its_value_comes_back_whether_or_not_it_suspends() -> None:
    async def at_once() -> int:
        return 1

    async def later() -> int:
        await anyio.lowlevel.checkpoint()
        return 2

    assert await driven(at_once()) == 1
    assert await driven(later()) == 2


async def test_variables_that_it_sets_stay_inside_across_suspensions() -> None:
    async def inside() -> list[str]:
        seen = [variable.get()]
        variable.set("inside")
        await anyio.lowlevel.checkpoint()
        seen.append(variable.get())
        return seen

    variable.set("caller")
    assert await driven(inside()) == ["caller", "inside"]
    assert variable.get() == "caller"


@pytest.mark.real_time
async def test_tasks_and_threads_that_it_starts_see_its_variables() -> None:
    seen: dict[str, str] = {}

    async def in_task() -> None:
        await anyio.lowlevel.checkpoint()
        seen["task"] = variable.get()

    def in_thread() -> None:
        seen["thread"] = variable.get()
        anyio.from_thread.run_sync(lambda: seen.setdefault("back on the loop", variable.get()))

    async def inside() -> None:
        variable.set("inside")
        async with anyio.create_task_group() as nursery:  # noqa: ASYNC112 - the test is about that
            nursery.start_soon(in_task)
        await anyio.to_thread.run_sync(in_thread)

    await driven(inside())
    assert set(seen.values()) == {"inside"}
    assert len(seen) == 3


async def test_an_exception_comes_out_as_it_was_raised() -> None:
    async def inside(error: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await driven(inside(error))
    assert caught.value is error
    assert caught.value.__context__ is None


async def test_stop_iteration_is_no_return_value() -> None:
    async def inside() -> None:
        await anyio.lowlevel.checkpoint()
        raise StopIteration("not a value")

    with pytest.raises(RuntimeError, match="StopIteration"):
        await driven(inside())


async def test_cancellation_reaches_it_and_may_be_awaited_through() -> None:
    seen: list[str] = []

    async def inside() -> None:
        try:
            await anyio.sleep(60)
        finally:
            seen.append("cancelled")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            seen.append("cleaned up")

    with anyio.move_on_after(0.001) as scope:
        await driven(inside())
    assert scope.cancelled_caught
    assert seen == ["cancelled", "cleaned up"]


async def test_a_scope_and_a_nursery_inside_work_as_anywhere() -> None:
    async def inside() -> str:
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(anyio.sleep, 60)
            await anyio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return "done"

    assert await driven(inside()) == "done"


async def test_a_failing_child_of_a_nursery_inside_comes_out_in_a_group() -> None:
    async def child() -> None:
        raise KeyError("child")

    async def inside() -> None:
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(child)
            await anyio.sleep(60)

    with pytest.RaisesGroup(KeyError):
        await driven(inside())


async def test_an_async_generator_inside_is_closed_where_it_was_opened() -> None:
    seen: list[str] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            await anyio.lowlevel.checkpoint()  # noqa: ASYNC102 - the test is about that
            seen.append(variable.get())

    async def inside() -> None:
        variable.set("inside")
        async with aclosing(numbers()) as stream:
            async for _ in stream:
                break

    await driven(inside())
    assert seen == ["inside"]


async def test_driving_inside_driving_keeps_the_contexts_apart() -> None:
    async def innermost() -> str:
        variable.set("innermost")
        await anyio.lowlevel.checkpoint()
        return variable.get()

    async def inside() -> tuple[str, str]:
        variable.set("inside")
        return await driven(innermost()), variable.get()

    assert await driven(inside()) == ("innermost", "inside")


async def test_closing_it_closes_the_coroutine() -> None:
    seen: list[str] = []

    class Trap:
        def __await__(self) -> Any:
            yield self

    async def inside() -> None:
        try:
            await Trap()
        finally:
            seen.append("closed")

    async def outside() -> None:
        await driven(inside())

    coroutine = outside()
    coroutine.send(None)
    coroutine.close()
    assert seen == ["closed"]


class Payload:
    pass


@pytest.mark.parametrize("how", ["cancelled", "failed", "failed after waiting for an event"])
async def test_nothing_that_went_through_it_is_kept_alive_by_a_cycle(how: str) -> None:
    async def inside() -> None:
        payload = Payload()
        if how == "cancelled":
            await anyio.sleep(60)
        if how != "failed":
            await anyio.sleep(0.0001)
        await anyio.lowlevel.checkpoint()
        raise ValueError(f"{payload}")

    def alive() -> int:
        return sum(type(thing) is Payload for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with suppress(ValueError), anyio.move_on_after(0.001):
            await driven(inside())
        await anyio.lowlevel.checkpoint()
        assert alive() == 0
    finally:
        gc.enable()
