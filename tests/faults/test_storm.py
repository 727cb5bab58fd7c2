"""Each kind of fault strikes the same workers once, under load; `make faults` goes on for hours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from tests.faults.clock import Clock, can_turn_clocks, start_server_with_clock
from tests.faults.line import Line
from tests.faults.site import Site
from tests.faults.storm import KINDS, Storm
from tests.servers import ServerProcess, start_server

pytestmark = pytest.mark.anyio

AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(scope="module")
async def storm(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Storm]:
    """Three workers, who survive the tests; at the end each has to work and to stop in order."""
    directory: Path = tmp_path_factory.mktemp("storm")
    with ExitStack() as stack:
        clock: Clock | None = None
        server: ServerProcess
        if can_turn_clocks():
            server, clock = stack.enter_context(
                start_server_with_clock(*AOF, directory=directory, tcp=True)
            )
        else:
            server = stack.enter_context(start_server(*AOF, tcp=True))
        site = stack.enter_context(Site.on(server.url, directory))
        async with Line.laid_to(server.socket_path) as line, site.onlooker() as tasks:
            storm = Storm(site, tasks, server, line, clock, seed=5, lease_s=0.5)
            await storm.start()
            yield storm
            with anyio.fail_after(30):
                wrongs = await storm.end()
            assert not any(wrongs.values()), (wrongs, storm.broken)


@pytest.mark.parametrize("kind", KINDS)
async def test_work_goes_on_and_nothing_is_lost_or_doubled_after(kind: str, storm: Storm) -> None:
    if not storm.can(kind):
        pytest.skip("libfaketime is not installed, or cannot be used with this server")
    with anyio.fail_after(30):
        await storm.strike(kind, jobs=40)
        wrongs = await storm.wrongs()
    assert not any(wrongs.values()), (wrongs, storm.broken)
