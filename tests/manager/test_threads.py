"""A manager belongs to the event loop that it was entered in; other loops are told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from trio_tasks import Context, Emit, Job, TaskManager

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops, pytest.mark.real_time]

ELSEWHERE = "another thread"


@pytest.fixture
def manager(managers: Callable[..., TaskManager[Any]]) -> TaskManager[Any]:
    manager = managers()

    @manager.handler("child")
    async def child() -> str:
        return "done"

    return manager


def _in_a_loop_of_its_own(library: str, function: Callable[[], Awaitable[object]]) -> str:
    """What came of a call in this thread's own event loop."""
    try:
        anyio.run(function, backend=library)
    except RuntimeError as error:
        return str(error)
    return "it was accepted"


@pytest.mark.parametrize("library", ["trio", "asyncio"])
async def test_every_call_in_the_loop_of_another_thread_is_refused(
    manager: TaskManager[Any], library: str
) -> None:
    async with manager:
        await manager.start()
        ref = await manager.emit("child")
        assert await ref.result(timeout=5) == "done"
        queue, schedules = manager.queue("default"), manager.schedules()

        async def listen() -> None:
            manager.events()

        async def post() -> None:
            manager.get_context().emit("child")

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "start": manager.start,
            "stop": manager.stop,
            "until_idle": manager.until_idle,
            "queues": manager.queues,
            "events": listen,
            "emit": lambda: manager.emit("child"),
            "emit_many": lambda: manager.emit_many([Emit("child")]),
            "context.emit": post,
            "context.emit_now": lambda: manager.get_context().emit_now("child"),
            "ref.info": ref.info,
            "ref.result": ref.result,
            "ref.cancel": ref.cancel,
            "queue.pause": queue.pause,
            "queue.resume": queue.resume,
            "queue.is_paused": queue.is_paused,
            "queue.stats": queue.stats,
            "queue.jobs": lambda: queue.jobs("dead"),
            "queue.job": lambda: queue.job(ref.id),
            "queue.dead_letters": queue.dead_letters,
            "queue.requeue": lambda: queue.requeue(ref.id),
            "schedules.list": schedules.list,
            "schedules.remove": lambda: schedules.remove("nightly"),
            "schedules.trigger": lambda: schedules.trigger("nightly"),
        }
        for name, call in calls.items():
            said = await anyio.to_thread.run_sync(_in_a_loop_of_its_own, library, call)
            assert ELSEWHERE in said, name
        # Nothing was disturbed, and nothing was sent.
        assert await (await manager.emit("child")).result(timeout=5) == "done"
        assert (await queue.stats()).completed == 2


async def test_a_sync_handler_is_told_what_to_do_and_can_do_it(manager: TaskManager[Any]) -> None:
    @manager.handler("sync")
    def sync(job: Job[None], ctx: Context[Any]) -> list[str]:
        said = [
            _in_a_loop_of_its_own("trio", lambda: manager.emit("child")),
            _in_a_loop_of_its_own("trio", lambda: ctx.emit_now("child")),
        ]

        # (From a Trio loop, AnyIO does not let one wait for another Trio loop, as the line would.)
        async def log() -> None:
            await job.logger("a line")

        said.append(_in_a_loop_of_its_own("asyncio", log))
        ctx.emit("child")
        anyio.from_thread.run(ctx.emit_now, "child")
        anyio.from_thread.run(manager.emit, "child")
        return said

    async with manager:
        await manager.start()
        ref = await manager.emit(sync)
        emit, emit_now, log = await ref.result(timeout=5)
        await manager.until_idle()
        assert (await manager.queue("default").stats()).completed == 4
        assert [line.message for line in (await ref.info()).logs] == ["a line"]
    for said in (emit, emit_now):
        assert "ctx.emit(...)" in said
        assert "anyio.from_thread.run" in said
        assert "Producer" in said
    assert "leave out the await" in log
