"""Signals, sent to real processes: they stop, the host keeps its handlers, Ctrl-C gets through."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd

import pytest

from tests import signalled
from tests.forks import FORKS


@pytest.fixture(params=["trio", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


class Program:
    """A running program of `tests.signalled`."""

    def __init__(self, name: str, loop: str) -> None:
        ours, its = os.pipe()
        with os.fdopen(its, "wb") as output:
            self._process = FORKS.Process(
                target=signalled.run, args=(name, loop, DupFd(output.fileno()))
            )
            self._process.start()
        self._output = os.fdopen(ours, encoding="utf-8")

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def says(self, word: str) -> None:
        """Wait until it says so, next."""
        said = self._output.readline()
        assert said == f"{word}\n", said + self._output.read()

    def lines(self) -> list[str]:
        """What it says until its end."""
        assert self.code is not None, "it does not end"
        return self._output.read().splitlines()

    @property
    def code(self) -> int | None:
        """What it has ended with."""
        self._process.join(10)
        return self._process.exitcode

    def end(self) -> None:
        """SIGKILL, if it has not ended."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._output.close()


@contextmanager
def _running(name: str, loop: str) -> Generator[Program]:
    """Start a program, and wait until it is ready."""
    program = Program(name, loop)
    try:
        program.says("ready")
        yield program
    finally:
        program.end()


@BOTH
def test_a_signal_stops_a_manager_gracefully(number: int, loop: str) -> None:
    with _running("run_one", loop) as program:
        program.signal(number)
        report = "StopReport(completed=1, interrupted=0, released=0, abandoned=0)"
        assert program.lines() == [
            f"worker 'w1' stops because of {signal.Signals(number).name}, with a grace of 5 s",
            "finished",
            f"worker 'w1' has stopped: {report}",
            report,
        ]
        assert program.code == 0


@BOTH
def test_a_second_signal_skips_the_grace(number: int, loop: str) -> None:
    with _running("run_stubborn", loop) as program:
        program.signal(number)
        program.says("stopping")  # the first one has been heard: two at once would be one
        program.signal(number)
        began = time.monotonic()
        report = "StopReport(completed=0, interrupted=1, released=1, abandoned=0)"
        assert program.lines() == [
            "cancelled shutdown",
            f"worker 'w1' has stopped: {report}",  # a warning, which Python shows by itself
            report,
        ]
        assert time.monotonic() - began < 3
        assert program.code == 0


def test_one_signal_stops_two_managers(loop: str) -> None:
    with _running("run_two", loop) as program:
        program.signal(signal.SIGTERM)
        lines = program.lines()
        assert lines[:2] == ["finished", "finished"]
        assert lines[2].count("completed=1") == 2
        assert program.code == 0


def test_the_former_handlers_come_back(loop: str) -> None:
    with _running("restored", loop) as program:
        program.signal(signal.SIGTERM)
        assert program.lines() == ["mine"]
        assert program.code == 0


@pytest.mark.parametrize("loop", ["asyncio"])
def test_a_handler_that_the_host_gave_to_asyncio_comes_back(loop: str) -> None:
    with _running("host_of_asyncio", loop) as program:
        program.signal(signal.SIGTERM)
        assert program.lines() == ["the host's handler was called"]


@pytest.mark.parametrize("loop", ["asyncio"])
def test_a_signal_of_the_host_is_not_lost_while_it_is_asked_whom_signals_wake(loop: str) -> None:
    with _running("host_of_asyncio_in_between", loop) as program:
        assert program.lines() == ["all heard"]


def test_signals_are_left_to_a_host_that_starts_the_manager_in_a_nursery(loop: str) -> None:
    with _running("left_to_the_host", loop) as program:
        program.signal(signal.SIGTERM)
        assert program.lines() == ["mine", "finished", "closed"]
        assert program.code == 0


@BOTH
def test_a_signal_while_it_starts_ends_the_start(number: int, loop: str) -> None:
    with _running("while_starting", loop) as program:
        program.signal(number)
        assert program.lines()[0] == "closed"
        assert program.code == 0


@BOTH
def test_a_signal_while_it_connects_ends_that(number: int, loop: str) -> None:
    with _running("while_entering", loop) as program:
        program.signal(number)
        assert program.lines() == [
            "StopReport(completed=0, interrupted=0, released=0, abandoned=0) closed"
        ]
        assert program.code == 0


@BOTH
def test_a_signal_that_interrupts_another_thread_is_seen_at_once(number: int, loop: str) -> None:
    with _running("while_a_thread_gets_signals", loop) as program:
        program.signal(number)
        assert program.lines() == [
            "StopReport(completed=0, interrupted=0, released=0, abandoned=0) closed"
        ]
        assert program.code == 0


@BOTH
def test_signals_while_the_connection_is_closed_change_nothing(number: int, loop: str) -> None:
    with _running("while_closing", loop) as program:
        program.signal(number)
        program.says("closing")
        program.signal(number)
        assert program.lines() == [
            "closed",
            "StopReport(completed=0, interrupted=0, released=0, abandoned=0)",
        ]
        assert program.code == 0


@BOTH
def test_a_further_signal_cancels_the_closing_of_the_lifespan(number: int, loop: str) -> None:
    with _running("while_the_lifespan_closes", loop) as program:
        program.signal(number)
        program.says("closing")
        program.signal(number)
        assert program.lines() == [
            "cancelled",
            "the lifespan's closing took too long for whoever stops: cancelled",
            "StopReport(completed=0, interrupted=0, released=0, abandoned=0) closed",
        ]
        assert program.code == 0


def test_a_process_that_a_handler_forks_has_the_former_handlers(loop: str) -> None:
    with _running("forked", loop) as program:
        program.says(str(-signal.SIGTERM))
        program.signal(signal.SIGTERM)
        assert program.lines() == [
            "StopReport(completed=1, interrupted=0, released=0, abandoned=0)"
        ]
        assert program.code == 0


def test_control_c_reaches_the_main_task_and_not_the_handler_that_holds_the_loop(
    loop: str,
) -> None:
    with _running("control_c", loop) as program:
        program.signal(signal.SIGINT)
        lines = program.lines()
        assert "cancelled shutdown" in lines
        if loop == "trio":
            assert "KeyboardInterrupt closed" in lines
        assert program.code != 0


def test_control_c_while_the_block_is_left_ends_the_wait(loop: str) -> None:
    with _running("control_c_while_leaving", loop) as program:
        program.says("stopping")
        began = time.monotonic()
        program.signal(signal.SIGINT)
        lines = program.lines()
        assert time.monotonic() - began < 4
        assert "cancelled shutdown" in lines
        if loop == "trio":
            assert "KeyboardInterrupt closed" in lines


@pytest.mark.parametrize("loop", ["trio"])
def test_control_c_in_the_lifespan_leaves_the_block_as_it_was_raised(loop: str) -> None:
    with _running("control_c_in_the_lifespan", loop) as program:
        program.signal(signal.SIGINT)
        assert program.lines() == ["KeyboardInterrupt closed"]


def test_control_c_does_not_hide_the_error_that_it_comes_after(loop: str) -> None:
    with _running("control_c_after_an_error", loop) as program:
        program.signal(signal.SIGINT)
        lines = program.lines()
        assert "LookupError: the block's own" in lines
        assert lines[-1] == "KeyboardInterrupt"
