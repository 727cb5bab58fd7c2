"""What a lone emit costs the client: counted, so that nobody makes it dearer unawares."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

import trio_tasks
from tests.servers import start_server
from trio_tasks import TaskManager

pytestmark = pytest.mark.anyio

EMITS = 200
PACKAGE = str(Path(trio_tasks.__file__).parent)


async def test_a_lone_emit_costs_few_calls() -> None:
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls[f"{Path(code.co_filename).name}:{code.co_name}"] += 1

    with start_server() as server:
        async with TaskManager(server.url) as manager:
            await manager.emit("job", {"number": 0})
            sys.setprofile(profile)
            try:
                for number in range(EMITS):
                    await manager.emit("job", {"number": number})
            finally:
                sys.setprofile(None)
    assert calls.total() / EMITS <= 66, calls.most_common(60)
