"""`tasks.run()`: serve until cancelled, stopped, signalled or idle, then stop gracefully."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio

from trio_tasks import interrupts
from trio_tasks.engine import LOOK_AGAIN_S, Engine
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.options import closest
from trio_tasks.queues import StopReport

__all__ = ["chosen_queues", "listens", "serve"]


def listens(handle_signals: bool | None, *, plainly: bool) -> bool:
    """Whether `run()` listens to signals.

    Args:
        handle_signals: as given to `run()`.
        plainly: nobody but the program itself has called it, so signals are nobody else's.

    Raises:
        ConfigurationError: it is told to, and is not in the main thread.
    """
    in_main_thread = interrupts.in_main_thread()
    if handle_signals and not in_main_thread:
        raise ConfigurationError(
            "handle_signals=True: signals can be listened to in the main thread only"
        )
    return plainly and in_main_thread if handle_signals is None else handle_signals


async def serve(
    engine: Engine,
    *,
    start: Callable[[], Awaitable[None]],
    started: Callable[[], None],
    grace: float,
    listening: bool,
    idle: Callable[[], Awaitable[None]] | None,
) -> StopReport:
    """Start, and serve until the end.

    Args:
        engine: entered already.
        start: begins to process jobs.
        started: called when that is done.
        grace: seconds that handlers may go on at the end.
        listening: a signal is the end, a second one skips the grace.
        idle: returns when nothing is left to do, which is the end too.
    """
    starting = anyio.CancelScope()

    def on_signal() -> None:
        starting.cancel()
        engine.request_stop(0.0 if engine.state == "stopping" else grace)

    with interrupts.listening(on_signal) if listening else interrupts.not_listening():
        with starting:
            await start()
        if starting.cancelled_caught:
            return StopReport()
        started()
        async with anyio.create_task_group() as nursery:
            if idle is not None:
                nursery.start_soon(_stop_when, idle, engine, grace)
            await engine.stopped.wait()
            nursery.cancel_scope.cancel()
        return await engine.stop(grace)


async def _stop_when(idle: Callable[[], Awaitable[None]], engine: Engine, grace: float) -> None:
    while True:
        try:
            await idle()
            break
        except BrokerUnavailableError:  # nobody knows while it is away
            await anyio.sleep(LOOK_AGAIN_S)
    await engine.stop(grace)


def chosen_queues(known: Sequence[str], queues: Iterable[str] | None) -> list[str]:
    """The queues to serve: those given, else all that have a handler (`known`).

    Raises:
        ConfigurationError: one has no handler, or there is none.
    """
    if not known:
        raise ConfigurationError("no handler is registered: there is nothing to process")
    if queues is None:
        return list(known)
    if isinstance(queues, str):
        raise ConfigurationError(f"queues={queues!r}: give a list of names")
    chosen = list(dict.fromkeys(queues))
    for queue in chosen:
        if queue not in known:
            raise ConfigurationError(
                f"queues={chosen!r}: no handler is registered for {queue!r}{closest(queue, known)}"
            )
    if not chosen:
        raise ConfigurationError("queues=[]: name at least one queue")
    return chosen
