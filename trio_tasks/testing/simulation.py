"""`simulate`: a TaskManager through thousands of hours of faults, in seconds, from one seed.

```
simulation.py  what users call
program.py     what happens, drawn by luck
world.py       the server, the workers, the desk: runs a program
worker.py      a worker that lives, stops, crashes and lives again
line.py        the network: it delays, loses, breaks
unreliable.py  a broker behind a line that loses requests
ledger.py      what the server saw, and whether it adds up
course.py      … for each job
keys.py        … for each debounce key
replay.py      the same seed, the same run
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sniffio

from trio_tasks.emitter import Emit
from trio_tasks.environment import Luck, loop_time
from trio_tasks.errors import ConfigurationError
from trio_tasks.job import JobInfo, JobState
from trio_tasks.options import check_int, check_number, group_from
from trio_tasks.testing.program import Faults, Program, draw
from trio_tasks.testing.replay import replayable
from trio_tasks.testing.world import START_MS, Build, World

__all__ = ["Faults", "Report", "SimulationError", "run_program", "simulate"]

_DEFAULT = Faults()
_SHOWN_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a simulation.

    Attributes:
        seed: the one that repeats it.
        hours: how long it lasted, in virtual time, with the time to come to an end.
        emitted: jobs that came into being: emits, children, and occurrences of schedules.
        completed, dead, skipped, cancelled: how they ended.
        removed: jobs that were dead, and whose id was emitted anew: a new life, counted by itself.
        delayed: jobs that wait for a time more than a day later.
        starts: how often a job was handed out.
        retried, released: attempts that were tried again, or given back by a stop or after
            trouble.
        happened: how often each kind of thing happened, by its name in `Faults`, "emits" and
            "emits in doubt" (nobody knows whether the server got them) included.
        dead_letters: the dead jobs, up to a thousand a queue: what went wrong is in `.reason`
            and `.error`.
        fingerprint: of the whole course: the same in two runs that went the same way.
        trace: the last thousand things that happened, with their time in seconds; without beats,
            looks, and steps that carried nothing.
    """

    seed: int
    hours: float
    emitted: int
    completed: int
    dead: int
    skipped: int
    cancelled: int
    removed: int
    delayed: int
    starts: int
    retried: int
    released: int
    happened: Mapping[str, int]
    dead_letters: tuple[JobInfo, ...]
    fingerprint: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.happened.items()))
        return (
            f"seed {self.seed}, {_shown(self.hours)}: {self.emitted} jobs,"
            f" {self.completed} completed, {self.dead} dead, {self.skipped} skipped,"
            f" {self.cancelled} cancelled, {self.removed} removed, {self.delayed} delayed;"
            f" {self.starts} starts,"
            f" {self.retried} retried, {self.released} released; {faults}"
        )

    __repr__ = __str__


def _shown(hours: float) -> str:
    number = f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"
    number = number.rstrip("0").rstrip(".")
    return f"{number} hour" if number == "1" else f"{number} hours"


class SimulationError(AssertionError):
    """Something that must never be: a job lost, doubled, stuck, or run too often.

    Attributes:
        report: what happened until then.
        violations: what is wrong, a sentence each.
    """

    def __init__(self, report: Report, violations: Sequence[str]) -> None:
        super().__init__(
            "\n".join(
                (
                    *violations,
                    f"simulate(..., seed={report.seed}) repeats it: {report}",
                    "What happened last:",
                    *report.trace[-_SHOWN_LINES:],
                )
            )
        )
        self.report = report
        self.violations = tuple(violations)


def simulate(
    build: Build,
    *,
    seed: int,
    hours: float = 24.0,
    emits: Sequence[Emit[Any]] | Callable[[Luck], Emit[Any]] = (),
    per_hour: float = 60.0,
    workers: int = 2,
    faults: Faults | Mapping[str, float] | None = _DEFAULT,
) -> Report:
    """Run a TaskManager through hours of virtual time, emits and faults; the same for each seed.

    ```python
    def build(db: str) -> TaskManager:
        tasks = TaskManager(db, concurrency=4)
        tasks.include(handlers)
        return tasks


    def test_orders_survive_a_year_of_faults() -> None:
        report = simulate(build, seed=1, hours=24 * 365, emits=[Emit(ship, Order(1))], per_hour=5)
        assert report.dead == 0, report.dead_letters
    ```

    Real managers run on a server in memory, under Trio's virtual clock. After `hours` the faults
    end, schedules tick no more, and whatever is left has a day to come to its end. What must hold
    for every program is checked: no job is lost, stuck or doubled, children exist if and only if
    their parent completed, no handler runs for a job that another living worker has, none runs more
    often than it may, nothing stays pending. What must hold for yours is for you to check
    afterwards, on the report or on what your handlers have left behind.

    Handlers have to be async, and must not depend on chance that comes from elsewhere: draw theirs
    from a `random.Random(seed)` of your own, and sleep by the event loop's clock. Not to be called
    inside an event loop (in a thread it may be); one simulation at a time in a process.

    Args:
        build: makes a manager, another one each time; called for each life of each worker, and
            for the one that emits. It is given an address in place of the real one.
        seed: any whole number. The same seed, and the same code, give the same run.
        hours: of virtual time, ≥ 0.01.
        emits: what is emitted: one of these each time, or what a function makes of luck (a
            `random.Random`).
        per_hour: how many emits an hour on average, in bursts.
        workers: how many processes, ≥ 1.
        faults: how often what goes wrong (a mapping with the same fields will do); `None`: nothing.

    Raises:
        SimulationError: something that must never be; it says which seed repeats it.
        ConfigurationError: an argument is wrong, a handler is a sync function, or `build` returned
            no manager, or one that it, or somebody else, has used before.
        RuntimeError: inside an event loop, or while another simulation runs.
        Exception: what `build` raises or what leaves a manager, the first time that anything does,
            with a note that names the seed.
    """
    _refuse_inside_a_loop()
    check_int("seed", seed, least=0)
    check_number("hours", hours, least=0.01)
    check_number("per_hour", per_hour, least=0)
    check_int("workers", workers, least=1)
    given = None if faults is None else group_from(Faults, "faults", faults)
    luck = Luck(seed)
    program = draw(
        luck,
        given,
        hours=hours,
        workers=workers,
        next_emit=_next_emit(emits),
        per_hour=per_hour,
    )
    return run_program(build, program, seed=seed, hours=hours, workers=workers)


def run_program(
    build: Build, program: Program, *, seed: int, hours: float = 0.0, workers: int = 2
) -> Report:
    """Run a program that was drawn elsewhere; see `simulate`. For this project's own tests."""
    import trio
    from trio.testing import MockClock

    async def main() -> tuple[World, float]:
        began = loop_time()
        world = World(build, Luck(seed), workers=workers)
        await world.run(program, lasts_s=3600 * hours)
        return world, (loop_time() - began) / 3600

    try:
        with replayable(seed, lambda: START_MS + int(1000 * loop_time())):
            world, lasted = trio.run(main, clock=MockClock(autojump_threshold=0))
    except Exception as error:
        failure = _single(error)
        failure.add_note(f"simulate(..., seed={seed}) repeats it")
        raise failure from failure.__cause__
    report = _report(world, seed, lasted)
    if world.ledger.violations:
        raise SimulationError(report, world.ledger.violations)
    return report


def _refuse_inside_a_loop() -> None:
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return
    raise RuntimeError(
        f"simulate() runs an event loop of its own, and was called inside one of {library}: call it"
        f" from a plain function, such as a test that is no coroutine, or in a thread: `await"
        f" {_IN_A_THREAD.get(library, 'anyio.to_thread.run_sync')}(lambda: simulate(...))`"
    )


_IN_A_THREAD = {"trio": "trio.to_thread.run_sync", "asyncio": "asyncio.to_thread"}


def _single(error: Exception) -> Exception:
    """What is wrapped in groups of one, as everything is that leaves a nursery."""
    while isinstance(error, ExceptionGroup):
        inner: Sequence[Exception] = cast("ExceptionGroup[Exception]", error).exceptions
        if len(inner) != 1:
            return cast("ExceptionGroup[Exception]", error)
        (error,) = inner
    return error


def _next_emit(
    emits: Sequence[Emit[Any]] | Callable[[Luck], Emit[Any]],
) -> Callable[[Luck], Emit[Any]] | None:
    if callable(emits):
        return emits
    for emit in emits:
        if not isinstance(emit, Emit):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"emits: a {type(emit).__qualname__} is no Emit(...)")
    return (lambda luck: luck.choice(emits)) if emits else None


def _report(world: World, seed: int, hours: float) -> Report:
    ledger, counts = world.ledger, world.ledger.counts
    return Report(
        seed=seed,
        hours=hours,
        emitted=ledger.total("emitted"),
        completed=ledger.total("completed"),
        dead=ledger.in_state(JobState.DEAD),
        skipped=ledger.total("skipped"),
        cancelled=ledger.total("cancelled"),
        removed=ledger.total("removed"),
        delayed=ledger.in_state(JobState.DELAYED),
        starts=counts["starts"],
        retried=counts["retry"],
        released=counts["release"],
        happened={
            kind: counts[kind]
            for kind in (
                "emits",
                "emits in doubt",
                *(f for f in Faults.__slots__ if f != "longest"),
            )
        },
        dead_letters=tuple(world.dead),
        fingerprint=ledger.fingerprint,
        trace=tuple(ledger.lines),
    )
