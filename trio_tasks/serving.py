"""`tasks.run()`: serve until cancelled, stopped, signalled or idle, then stop gracefully."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

import anyio

from trio_tasks import interrupts
from trio_tasks.engine import LOOK_AGAIN_S, Engine
from trio_tasks.errors import BrokerUnavailableError, ConfigurationError
from trio_tasks.options import closest
from trio_tasks.queues import StopReport

__all__ = ["Signals", "chosen_queues", "listens", "serve"]


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


class Signals:
    """What signals mean to a `run()`, from before it enters until everything is closed.

    Before it serves, one is the end of it. Then the first one stops it, and each further one cuts
    short what the stop is waiting for: the grace, then the closing of the lifespan. What comes
    after that is short, and goes on whatever comes.

    Attributes:
        beginning: the scope of all that; cancelled only before it serves.
    """

    def __init__(self, grace: float) -> None:
        self.beginning = anyio.CancelScope()
        self._grace = grace
        self._engine: Engine | None = None
        self._serving = False

    @contextmanager
    def heard(self, listening: bool) -> Generator[None]:
        """Let them come, if `listening`; ends the block if one comes before it serves."""
        with (
            interrupts.listening(self._come) if listening else interrupts.not_listening(),
            self.beginning,
        ):
            yield

    def entered(self, engine: Engine) -> None:
        """The engine that signals are about is there."""
        self._engine = engine

    def serving(self) -> None:
        """It has begun to serve."""
        self._serving = True

    def _come(self, name: str) -> None:
        engine = self._engine
        if engine is not None and engine.state == "running":  # before `serving`, too
            engine.request_stop(self._grace, because_of=name)
        elif engine is not None and engine.state == "stopping":
            engine.hurry()
        elif not self._serving:
            self.beginning.cancel()


async def serve(
    engine: Engine,
    *,
    start: Callable[[], Awaitable[None]],
    started: Callable[[], None],
    grace: float,
    idle: Callable[[], Awaitable[None]] | None,
) -> StopReport:
    """Start, and serve until the end.

    Args:
        engine: entered already.
        start: begins to process jobs.
        started: called when that is done.
        grace: seconds that handlers may go on at the end.
        idle: returns when nothing is left to do, which is the end too.
    """
    await start()
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
