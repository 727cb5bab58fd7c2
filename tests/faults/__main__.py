"""`make faults SEED=7 MINUTES=10`: the storm, long, and a table of what it has done.

Exits with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import anyio

from tests.faults.clock import Clock, can_turn_clocks, start_server_with_clock
from tests.faults.line import Line
from tests.faults.site import Site
from tests.faults.storm import Storm
from tests.servers import ServerProcess, start_server

AOF = ("--appendonly", "yes", "--appendfsync", "always")


async def main(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    faults: int | None = arguments.faults
    minutes: float | None = arguments.minutes
    if faults is None and minutes is None:
        minutes = 5.0
    if arguments.jobs is None:
        jobs_a_round = 200
    else:
        assert faults is not None, "JOBS= goes with FAULTS="
        jobs_a_round = arguments.jobs // (faults + 1)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tt-faults-")))
        server, clock = _server(stack, directory)
        site = stack.enter_context(Site.on(server.url, directory))
        async with Line.laid_to(server.socket_path) as line, site.onlooker() as tasks:
            storm = Storm(site, tasks, server, line, clock, arguments.seed)
            await storm.start()
            rounds = 0
            while faults is None or rounds < faults:
                if minutes is not None and time.monotonic() - began > 60 * minutes:
                    break
                rounds += 1
                await storm.round(jobs_a_round)
                if rounds % 10 == 0:
                    said = f"{rounds} faults, {storm.jobs} jobs, {time.monotonic() - began:.0f} s"
                    print(said, file=sys.stderr, flush=True)
            outage = await storm.outage(arguments.away) if arguments.away else {}
            if arguments.jobs is not None and storm.jobs < arguments.jobs:
                await storm.top_up(arguments.jobs)
            wrongs = await storm.end()
            runs = [run for run in site.runs() if run.event != "tick"]
    _print_table(storm, outage, wrongs, again=len(runs) - 3 * storm.jobs)
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if any(wrongs.values()) else 0


def _server(stack: ExitStack, directory: Path) -> tuple[ServerProcess, Clock | None]:
    if not can_turn_clocks():
        print("no libfaketime for this server: its clock stays as it is")
        return stack.enter_context(start_server(*AOF, tcp=True)), None
    return stack.enter_context(start_server_with_clock(*AOF, directory=directory, tcp=True))


def _print_table(
    storm: Storm, outage: dict[str, float], wrongs: Counter[str], *, again: int
) -> None:
    print(f"\n{'fault':30}{'times':>8}{'median, s':>12}{'worst, s':>12}   until work went on")
    for kind, took_s in sorted(storm.took_s.items()):
        median_s = sorted(took_s)[len(took_s) // 2]
        print(f"{kind:30}{len(took_s):8}{median_s:12.2f}{max(took_s):12.2f}")
    if outage:
        print("\nthe long outage")
        for what, value in outage.items():
            print(f"  {what:36}{value:10.2f}")
    print(f"\n  {'jobs, each with two children':36}{storm.jobs:10}")
    print(f"  {'handlers that ran once more':36}{again:10}   (at least once: allowed)")
    print("\nhas to be zero")
    for what, count in wrongs.items():
        print(f"  {what:36}{count:10}")
    for line in storm.broken:
        print(f"  ! {line}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--faults", type=int, default=None)
    parser.add_argument("--away", type=float, default=60.0, help="seconds of the long outage")
    parsed = parser.parse_args()
    if parsed.seed is None:
        parsed.seed = random.randrange(10**9)
    print(f"seed {parsed.seed}", flush=True)
    logging.basicConfig(level=logging.CRITICAL)
    sys.exit(anyio.run(main, parsed, backend="trio"))
