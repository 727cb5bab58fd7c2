"""Programs that get signals, each in a process of its own that test_interrupts.py starts.

Each prints "ready" when the signal may come, and what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Self

import anyio
import anyio.lowlevel
import trio

from tests.faulty_broker import FaultyBroker
from tests.forks import Output
from tests.workshop import eventually, manager_on
from trio_tasks import Context, Emit, Job, StopReport, TaskManager


def say(*words: object) -> None:
    print(*words, flush=True)


def make(seconds: float, *, grace: float = 5.0, ready: int = 1) -> TaskManager[Any]:
    """A manager whose job takes so long; says "ready" when so many have begun."""
    manager = TaskManager("memory://", grace=grace, concurrency=4, consumer_id="w1")
    begun = 0

    @manager.handler("job")
    async def handler(job: Job[None], ctx: Context[Any]) -> None:
        nonlocal begun
        begun += 1
        if begun == ready:
            say("ready")
        try:
            await anyio.sleep(seconds)
        finally:
            say("cancelled", ctx.cancel_reason) if ctx.cancel_reason else say("finished")

    return manager


async def _emit_and_run(manager: TaskManager[Any], **options: Any) -> StopReport:
    report = StopReport()

    async def run() -> None:
        nonlocal report
        report = await manager.run(**options)

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(run)
        await eventually(lambda: manager.state == "running")
        await manager.emit("job")
    return report


async def run_one() -> None:
    """One manager, whose job ends within the grace. It shows what the log says of its stop."""
    logger, stdout = logging.getLogger("trio_tasks.task_manager"), logging.StreamHandler(sys.stdout)
    stdout.addFilter(lambda record: "stop" in record.getMessage())
    logger.addHandler(stdout)
    logger.setLevel(logging.INFO)
    say(await _emit_and_run(make(0.3)))


async def run_stubborn() -> None:
    """One manager, whose job does not end within the grace: a second signal skips it."""
    manager = make(60, grace=30)
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(_say_when_stopping, manager)
        say(await _emit_and_run(manager))


@trio.lowlevel.enable_ki_protection  # Ctrl-C is for the main task, not for the one that asks for it
async def _say_when_stopping(manager: TaskManager[Any]) -> None:
    await eventually(lambda: manager.state == "stopping")
    say("stopping")


async def run_two() -> None:
    """Two managers, both with jobs: one signal stops both."""
    one, two = make(0.3, ready=1), make(0.3, ready=-1)
    reports: list[StopReport] = []

    async def run(manager: TaskManager[Any]) -> None:
        reports.append(await _emit_and_run(manager))

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(run, two)
        await eventually(lambda: two.statistics().started == 1)
        nursery.start_soon(run, one)
    say(reports)


async def restored() -> None:
    """The former handlers are there again afterwards, for a second life too."""

    came = False

    def mine(*_: object) -> None:
        nonlocal came
        came = True
        say("mine")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, mine)
    manager = TaskManager[Any]("memory://")
    manager.register_handler(_nothing, event="job")
    for _ in range(2):
        await manager.run(until_idle=True)
        assert signal.getsignal(signal.SIGINT) is mine
        assert signal.getsignal(signal.SIGTERM) is mine
    say("ready")
    await eventually(lambda: came)


async def host_of_asyncio() -> None:
    """A host on asyncio has its own signal handler, which works again afterwards."""
    came = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, came.set)
    manager = TaskManager[Any]("memory://")
    manager.register_handler(_nothing, event="job")
    await manager.run(until_idle=True)
    say("ready")
    await asyncio.wait_for(came.wait(), 5)
    say("the host's handler was called")


async def host_of_asyncio_in_between() -> None:
    """The host's signal strikes while it is found out whom signals wake, each time."""
    strikes = heard = 0
    set_wakeup_fd = signal.set_wakeup_fd

    def hear() -> None:
        nonlocal heard
        heard += 1

    def strike(*args: Any, **options: Any) -> int:
        nonlocal strikes
        former = set_wakeup_fd(*args, **options)
        strikes += 1
        signal.raise_signal(signal.SIGHUP)
        return former

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hear)
    manager = TaskManager[Any]("memory://")
    manager.register_handler(_nothing, event="job")
    say("ready")
    signal.set_wakeup_fd = strike
    await manager.run(until_idle=True)
    signal.set_wakeup_fd = set_wakeup_fd
    await eventually(lambda: heard == strikes >= 4)
    say("all heard")


async def left_to_the_host() -> None:
    """Started by a nursery, `run` leaves signals to the host."""

    def mine(*_: object) -> None:
        say("mine")

    signal.signal(signal.SIGTERM, mine)
    manager = make(0.5)
    async with anyio.create_task_group() as nursery:
        await nursery.start(manager.run)
        await manager.emit("job")
        await manager.until_idle()
        nursery.cancel_scope.cancel()
    say(manager.state)


async def while_starting() -> None:
    """A signal that comes while the manager starts ends the start."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        say("ready")
        try:
            await anyio.sleep(60)
            yield
        finally:
            say("closed")

    manager: TaskManager[Any] = TaskManager("memory://", lifespan=lifespan)
    manager.register_handler(_nothing, event="job")
    say(await manager.run())


async def _nothing(job: Job[None]) -> None: ...


async def while_entering() -> None:
    """A signal that comes while the manager connects ends that."""

    class Far(FaultyBroker):
        async def __aenter__(self) -> Self:
            say("ready")
            await anyio.sleep(60)
            return await super().__aenter__()

    manager = manager_on(Far())
    manager.register_handler(_nothing, event="job")
    say(await manager.run(), manager.state)


async def while_a_thread_gets_signals() -> None:
    """A signal that interrupts another thread, and not the wait of the loop."""

    def wait() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
        say("ready")
        threading.Event().wait(60)

    class Far(FaultyBroker):
        async def __aenter__(self) -> Self:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            threading.Thread(target=wait, daemon=True).start()
            await anyio.sleep(60)
            return await super().__aenter__()

    manager = manager_on(Far())
    manager.register_handler(_nothing, event="job")
    say(await manager.run(), manager.state)


async def while_closing() -> None:
    """Signals that come while the connection is being closed change nothing."""

    class Slow(FaultyBroker):
        async def __aexit__(self, *exc_info: object) -> None:
            say("closing")
            await anyio.sleep(0.3)  # noqa: ASYNC102 - nobody cancels it
            say("closed")
            await super().__aexit__(*exc_info)  # noqa: ASYNC102

    manager = manager_on(Slow())
    manager.register_handler(_nothing, event="job")
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(_say_when_running, manager)
        say(await manager.run(handle_signals=True))


async def while_the_lifespan_closes() -> None:
    """A lifespan that never closes is cancelled by the signal after the one that stopped."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        say("closing")
        try:
            await anyio.sleep_forever()
        finally:
            say("cancelled")

    manager: TaskManager[Any] = TaskManager("memory://", lifespan=lifespan)
    manager.register_handler(_nothing, event="job")
    async with anyio.create_task_group() as nursery:
        nursery.start_soon(_say_when_running, manager)
        say(await manager.run(handle_signals=True), manager.state)


async def forked() -> None:
    """A process that a handler forks can be terminated, as if nobody listened."""
    manager: TaskManager[Any] = TaskManager("memory://")

    @manager.handler("job")
    def handler(job: Job[None]) -> None:
        warnings.simplefilter("ignore")  # of a fork where there are threads, which is the point
        fork = multiprocessing.get_context("fork")
        up = fork.Event()
        child = fork.Process(target=_wait, args=(up,))
        child.start()
        up.wait()
        child.terminate()
        child.join(5)
        say(child.exitcode)
        child.kill()

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(_say_when_running, manager)
        nursery.start_soon(_emit_when_running, manager)
        say(await manager.run(handle_signals=True))


def _wait(up: multiprocessing.synchronize.Event) -> None:
    up.set()
    time.sleep(60)


async def _emit_when_running(manager: TaskManager[Any]) -> None:
    await eventually(lambda: manager.state == "running")
    await manager.emit("job")


async def _say_when_running(manager: TaskManager[Any]) -> None:
    await eventually(lambda: manager.state == "running")
    say("ready")


async def control_c() -> None:
    """Ctrl-C in a program that does not listen, while a handler holds the loop."""
    manager = make(60)
    busy: list[float] = []

    @manager.handler("busy")
    async def hog(job: Job[None]) -> None:
        say("ready")
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            busy.append(until)
        await anyio.lowlevel.checkpoint()

    try:
        async with manager:
            await manager.start()
            await manager.emit_many([Emit("busy"), Emit("job")])
            await anyio.sleep_forever()
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        say(type(error).__name__, manager.state)
        raise


async def control_c_while_leaving() -> None:
    """Ctrl-C while the block is left in peace."""
    manager = make(60, grace=60)

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(_say_when_stopping, manager)
        try:
            async with manager:
                await manager.start()
                await manager.emit("job")
                await eventually(lambda: manager.statistics().started == 1)
        except KeyboardInterrupt:
            say("KeyboardInterrupt", manager.state)


async def control_c_in_the_lifespan() -> None:
    """Ctrl-C while the lifespan closes, which is code of the program."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        say("ready")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            pass

    manager: TaskManager[Any] = TaskManager("memory://", lifespan=lifespan)
    manager.register_handler(_nothing, event="job")
    try:
        async with manager:
            await manager.start()
    except KeyboardInterrupt:
        say("KeyboardInterrupt", manager.state)


@trio.lowlevel.enable_ki_protection
async def _say_when_all_wait() -> None:
    await anyio.wait_all_tasks_blocked()
    say("ready")


async def control_c_after_an_error() -> None:
    """Ctrl-C while the block is left because of an error."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        async with anyio.create_task_group() as nursery:
            nursery.start_soon(_say_when_all_wait)
            await anyio.sleep_forever()

    manager: TaskManager[Any] = TaskManager("memory://", lifespan=lifespan)
    manager.register_handler(_nothing, event="job")
    async with manager:
        await manager.start()
        raise LookupError("the block's own")


PROGRAMS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    program.__name__: program
    for program in (
        run_one,
        run_stubborn,
        run_two,
        restored,
        host_of_asyncio,
        host_of_asyncio_in_between,
        left_to_the_host,
        while_starting,
        while_entering,
        while_a_thread_gets_signals,
        while_closing,
        while_the_lifespan_closes,
        forked,
        control_c,
        control_c_while_leaving,
        control_c_in_the_lifespan,
        control_c_after_an_error,
    )
}


def run(name: str, loop: str, output: Output) -> None:
    """The process; what it prints goes to `output`, its errors too."""
    descriptor = output.detach()
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    anyio.run(PROGRAMS[name], backend=loop)
