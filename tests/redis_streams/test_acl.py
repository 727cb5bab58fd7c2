"""The rights that docs/deploying.md lists: enough, and not one too many."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from tests.redis_streams.work import Work
from tests.servers import ServerProcess, start_server, timed
from trio_tasks import BrokerError, JobFailedError, JobState, Producer
from trio_tasks.connect import broker_for
from trio_tasks.redis_streams.scripts import all_scripts

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])

DEPLOYING = Path(__file__).parents[2] / "docs" / "deploying.md"

OUTSIDE_SCRIPTS = frozenset(
    # logging in (HELLO and AUTH need no right), and what is asked of a new server
    {"select", "client|setname", "info", "set", "get", "del"}
    # scripts; names of queues; waiting; watching
    | {"script|load", "evalsha", "eval", "sadd", "smembers", "blpop", "lpush", "ltrim", "pexpire"}
    | {"xread", "xrevrange"}
    # looking for a key of the wrong type
    | {"type"}
)


def rights() -> list[str]:
    """The words of the line in the text."""
    found = re.search(
        r"^user jobs (.*?)^```", DEPLOYING.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1].split()


def commands_of_scripts() -> set[str]:
    """Every command that a script may run, `name` or `name|part`."""
    commands: set[str] = set()
    for script in all_scripts():
        for name, part in re.findall(r"\bp?call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.source):
            with_part = name in ("XGROUP", "XINFO")
            commands.add(f"{name}|{part}".lower() if with_part else name.lower())
    return commands


def test_the_list_in_the_text_has_each_command_and_no_other() -> None:
    allowed = {word[1:] for word in rights() if word.startswith("+")}
    assert allowed == commands_of_scripts() | OUTSIDE_SCRIPTS


def test_scripts_name_their_commands_where_they_can_be_found() -> None:
    for script in all_scripts():
        calls = re.findall(r"\bp?call\((.)", script.source)
        assert set(calls) <= {"'"}, script


@pytest.fixture
def guarded() -> Generator[ServerProcess]:
    """A server on which the user of the text has exactly those rights."""
    with start_server(tcp=True) as server:
        assert server.ask("ACL", "SETUSER", "jobs", *rights()) == "OK"
        yield server


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_the_engine_runs_end_to_end_with_these_rights(guarded: ServerProcess) -> None:
    url = guarded.tcp_url.replace("redis://", "redis://jobs:secret@") + "/1"
    policies = {"retry": {"delay": 0.01, "max_retries": 1}, "dlq": {"stream": "tt:dead"}}
    work = Work(url, namespace="tt", streamdb=url, processor=policies, lease=1.0)

    async def fail() -> None:
        raise ValueError

    async with work.tasks as tasks:
        tasks.handler("fail", debounce=1.0)(fail)
        waiting = await tasks.emit("parent", 0, delay=600)
        assert await waiting.cancel()
        await tasks.emit("parent", 0, repeat="0 3 * * *")
        queue = tasks.queue("default")
        await queue.pause()
        for number in range(20):
            await work.emit(number)
        await queue.resume()
        await tasks.start()
        await work.until_ran(range(20))
        failed = await tasks.emit("fail")
        with pytest.raises(JobFailedError):
            await failed.result(timeout=5)
        assert (await failed.info()).state is JobState.DEAD
        await queue.requeue(failed.id)
        await tasks.until_idle()
        assert await tasks.queues() == ["default", "other"]
    assert guarded.ask("ACL", "LOG") == "[]"
    with Producer(url) as producer:
        assert producer.emit("no-handler", queue="other").info().state is JobState.QUEUED
    used = set(re.findall(r"cmdstat_([a-z|]+):", guarded.ask("INFO", "commandstats")))
    # One is for a server that was told to forget, the other for one whose keys were spoilt.
    assert OUTSIDE_SCRIPTS - used <= {"eval", "type"}


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_keys_outside_the_namespace_are_out_of_reach(guarded: ServerProcess) -> None:
    url = guarded.tcp_url.replace("redis://", "redis://jobs:secret@")
    async with broker_for(url, namespace="theirs")() as broker:
        with pytest.raises(BrokerError, match="NOPERM"):
            await broker.queues()


@pytest.mark.anyio
@on_trio
@timed(20)
async def test_a_dead_letter_stream_outside_the_namespace_needs_a_right_of_its_own(
    guarded: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    url = guarded.tcp_url.replace("redis://", "redis://jobs:secret@")
    policies = {"retry": {"max_retries": 0}, "dlq": {"stream": "dead"}}
    work = Work(url, namespace="tt", processor=policies)

    @work.tasks.handler("fail")
    async def fail() -> None:
        raise ValueError

    async with work.tasks as tasks:
        await tasks.start()
        with pytest.raises(JobFailedError):
            await (await tasks.emit(fail)).result(timeout=10)
        while "NOPERM" not in caplog.text:  # noqa: ASYNC110 - a line in the log has no event
            await anyio.sleep(0.01)
        assert guarded.ask("EXISTS", "dead") == "0"
        guarded.ask("ACL", "SETUSER", "jobs", "~dead")
        await tasks.until_idle()  # nothing is lost: it has waited in the outbox
    assert guarded.ask("XLEN", "dead") == "1"
