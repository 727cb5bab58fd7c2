"""Somebody writes garbage under every key of a queue while its workers run: they go on."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from signal import SIGTERM

import anyio
import pytest

from tests.faults.site import QUEUES, Site
from tests.faults.worker import Effects
from tests.servers import start_server
from tests.workshop import eventually
from trio_tasks import Emit, TaskManager

pytestmark = pytest.mark.anyio

JUNK = b"\xff\xfe no {such} thing\n"
STRANGER = "nobody@0"

Garbage = Callable[["Dump"], Awaitable[None]]


class Dump:
    """Where garbage is written: the queue `main` of a site that works."""

    def __init__(self, site: Site, tasks: TaskManager[Effects]) -> None:
        self.site = site
        self.tasks = tasks
        self.numbers = itertools.count()

    def do(self, command: str, name: str, *words: object, queue: str = "main") -> None:
        self.site.ask(command, self.site.key(queue, name), *words)

    async def spoil(self, field: str, value: bytes) -> None:
        """Damage the record of a job that waits, and make it due."""
        ref = await self.tasks.emit("spoilt", queue="main", delay=3600)
        self.do("HSET", f"j:{ref.id}", field, value)
        self.do("ZADD", "z", 0, ref.id)


async def entries(dump: Dump) -> None:
    for level in ("s:0", "s:9"):
        dump.do("XADD", level, "*", "i", STRANGER)
        dump.do("XADD", level, "*", "i", JUNK, "k", "1")
        dump.do("XADD", level, "*", JUNK, JUNK)
    dump.do("SET", "j:text@0", JUNK)
    dump.do("XADD", "s:0", "*", "i", "text@0")
    dump.do("XADD", "s:0", "*", "i", "text@0", "k", "1")


async def due(dump: Dump) -> None:
    for score in ("-inf", 0, 1.5, "inf"):
        dump.do("ZADD", "z", score, f"nobody@{score}")
    dump.do("SET", "j:text@1", JUNK)
    dump.do("ZADD", "z", 1, "text@1")
    dump.do("ZADD", "z", 1, JUNK)


async def dead_letters(dump: Dump) -> None:
    dump.do("ZADD", "dlq", "inf", STRANGER, 1, JUNK)


async def cancel_requests(dump: Dump) -> None:
    dump.do("SET", "j:text@2", JUNK)
    dump.do("HSET", "x", STRANGER, JUNK, JUNK, JUNK, "text@2", JUNK)


async def wake_up_tokens(dump: Dump) -> None:
    dump.do("RPUSH", "w", *[JUNK] * 20)


async def schedules(dump: Dump) -> None:
    for queue in ("main", "ticks"):
        for score in ("-inf", 0, 1.5, "inf"):
            dump.do("ZADD", "cron", score, f"nobody.{score}", queue=queue)
        dump.do("ZADD", "cron", 1, JUNK, 1, "half", 1, "text", 1, "odd", queue=queue)
        dump.do("HSET", "cr:half", "d", JUNK, queue=queue)
        dump.do("SET", "cr:text", JUNK, queue=queue)
        odd = ("d", JUNK, "b", JUNK, "p", JUNK, "dl", "-1", "ttl", "x", "last", "y")
        dump.do("HSET", "cr:odd", *odd, queue=queue)


async def outbox(dump: Dump) -> None:
    dump.do("XADD", "out", "*", JUNK, JUNK)
    dump.do("XADD", "out", "*", "q", "no where", "i", "a@1", "b", JUNK, "o", "0 - - - - 0 0 r")
    dump.do("XADD", "out", "*", "q", "other", "i", JUNK, "b", JUNK, "o", "0 - - - - 0 0 r")
    dump.do("XADD", "out", "*", "q", "other", "i", "a@2", "b", JUNK, "o", JUNK)
    dump.do("XADD", "out", "*", "s", "{", "i", "a@3", "b", JUNK)
    # Of the right shape, with a record that nobody can decode: it dies in `other`.
    dump.do("XADD", "out", "*", "q", "other", "i", "a@4", "b", JUNK, "o", "0 - - - - 0 0 r")


async def numbers_of_the_queue(dump: Dump) -> None:
    for field in ("em", "c", "df", "bt", "v", "rl", "o", "none"):
        dump.do("HSET", "m", field, JUNK)


async def members(dump: Dump) -> None:
    dump.do("ZADD", "c", "inf", "ghost:1", 1, "ghost:2", 1, JUNK)
    dump.do("HSET", "ci", "ghost:1", JUNK, "ghost:1#", JUNK, JUNK, JUNK)
    for name in dump.site.members("main"):
        dump.do("HSET", "ci", name + b"#", JUNK)


async def events(dump: Dump) -> None:
    dump.do("XADD", "ev", "*", JUNK, JUNK)
    dump.do("XADD", "ev", "*", "i", JUNK)


async def records_without_an_entry(dump: Dump) -> None:
    dump.do("HSET", f"j:{STRANGER}", "b", JUNK, "s", "q", "e", "1-1", "p", "0")
    dump.do("HSET", "j:half@0", "s", JUNK)


async def logs(dump: Dump) -> None:
    dump.do("RPUSH", f"l:{STRANGER}", JUNK)


async def windows(dump: Dump) -> None:
    dump.do("SET", "d:0", JUNK)


async def a_lost_group(dump: Dump) -> None:
    dump.site.ask("XGROUP", "DESTROY", dump.site.key("main", "s:0"), "g")


async def rows_set_aside(dump: Dump) -> None:
    dump.do("XADD", "aside", "*", JUNK, JUNK)


async def records_of_jobs(dump: Dump) -> None:
    fields = ("a", "b", "by", "dl", "due", "e", "er", "f", "gb", "gen", "gi", "lt", "mx")
    for field in (*fields, "n", "p", "pg", "r", "rl", "rq", "s", "us", "why"):
        await dump.spoil(field, JUNK)
    for field in ("a", "dl", "gb", "gen", "gi", "us"):
        await dump.spoil(field, b"9" * 30)
        await dump.spoil(field, b"-1")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(scope="module")
async def dump(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Dump]:
    directory: Path = tmp_path_factory.mktemp("garbage")
    with start_server() as server, Site.on(server.url, directory) as site:
        async with site.onlooker() as tasks:
            workers = await site.workers("one", "two", lease=0.5, ticks=True)
            yield Dump(site, tasks)
            for worker in workers:
                assert worker.is_alive
                worker.signal(SIGTERM)
            for worker in workers:
                with anyio.fail_after(5):
                    code, said = await worker.stopped()
                assert code == 0, said
            for queue in QUEUES:
                assert site.pending(queue) == 0
                assert site.ask("XLEN", site.key(queue, "s:0")) == 0


@pytest.mark.parametrize(
    "garbage",
    [
        entries,
        due,
        dead_letters,
        cancel_requests,
        wake_up_tokens,
        schedules,
        outbox,
        numbers_of_the_queue,
        members,
        events,
        records_without_an_entry,
        logs,
        windows,
        a_lost_group,
        rows_set_aside,
        records_of_jobs,
    ],
    ids=lambda garbage: garbage.__name__,
)
async def test_workers_go_on_in_spite_of_garbage_under(garbage: Garbage, dump: Dump) -> None:
    site = dump.site
    ordinal = next(dump.numbers)
    with anyio.fail_after(15):
        await garbage(dump)
        before = len(site.runs())
        jobs = range(100 * ordinal, 100 * ordinal + 20)
        await site.emit(dump.tasks, jobs)

        def all_have_run() -> bool:
            ran = {(run.event, run.data) for run in site.runs()[before:]}
            return {(event, n) for event in ("parent", "sibling", "child") for n in jobs} <= ran

        await eventually(all_have_run, within=5, every=0.01)
        seen, asked, began = len(site.runs()), site.commands_processed(), time.monotonic()
        await eventually(lambda: any(run.event == "tick" for run in site.runs()[seen:]), within=5)
        # What was emitted comes to its end, then five ticks a second. A loop makes ten thousand.
        allowed = 500 + 3000 * (time.monotonic() - began)
        assert site.commands_processed() - asked < allowed, "they run hot"


async def test_keys_of_the_wrong_type_stop_their_queue_alone_and_only_until_they_are_gone(
    dump: Dump,
) -> None:
    site = dump.site

    def ran(numbers: range) -> int:
        return len({run.job_id for run in site.runs() if run.data in numbers})

    names = ("s:0", "z", "dlq", "x", "w", "cron", "out", "m", "c", "ci", "ev")
    with anyio.fail_after(15):
        for name in names:
            dump.do("SET", name, JUNK)
        elsewhere = [Emit("child", n, queue="other") for n in range(9000, 9020)]
        await dump.tasks.emit_many(elsewhere)
        await eventually(lambda: ran(range(9000, 9020)) == 20)
        await anyio.sleep(0.7)  # more than a lease
        dump.do("DEL", names[0], *[site.key("main", name) for name in names[1:]])
        await site.emit(dump.tasks, range(10_000, 10_020))
        await eventually(lambda: ran(range(10_000, 10_020)) == 60)
