"""The memory broker and a real server do the same, whatever they are asked to do.

`TRIO_TASKS_EXAMPLES=1000` runs so many programs; otherwise `EXAMPLES` says, as in all these tests.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator

import pytest
import trio
from hypothesis import given, settings

from property_tests.machines.differential import Operation, Side, programs, run_program
from tests.contract.backdoors import MemoryBackdoor, RedisBackdoor
from tests.servers import ServerProcess, start_server
from trio_tasks.memory import MemoryBroker
from trio_tasks.redis_streams.address import parse_address
from trio_tasks.redis_streams.broker import RedisBroker

EXAMPLES = int(os.environ.get("TRIO_TASKS_EXAMPLES") or settings().max_examples * 3 // 5)

PATIENCE = 60
"""Seconds for one program, most of which take less than one."""


@pytest.fixture(scope="module")
def server() -> Generator[ServerProcess]:
    with start_server() as server:
        yield server


@settings(max_examples=EXAMPLES)
@given(program=programs())
def test_both_brokers_do_the_same(server: ServerProcess, program: list[Operation]) -> None:
    trio.run(compare, server.url, program)


async def compare(url: str, program: list[Operation]) -> None:
    namespace = f"d{secrets.token_hex(6)}"
    backdoor = RedisBackdoor(url, namespace)
    try:
        with trio.fail_after(PATIENCE):
            async with (
                MemoryBroker() as memory,
                RedisBroker(parse_address(url), namespace=namespace) as real,
            ):
                now_ms = await real.time_ms("a")
                sides = (
                    Side("memory", memory, MemoryBackdoor(memory.store)),
                    Side("real", real, backdoor),
                )
                await run_program(program, sides, now_ms)
            assert backdoor.unknown_keys() == []
    finally:
        backdoor.clear()
