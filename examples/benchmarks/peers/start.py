"""How long a program of this engine takes to begin: its imports, and from `trio.run` to ready.

Nothing is imported before the clock runs that the engine would have to import: no harness. Started
with its assignment as one JSON argument, of which it reads the server's address.
"""

import sys
import time

began = time.perf_counter()
import trio_tasks  # noqa: E402

imported = time.perf_counter()
from trio_tasks import Handlers, Job, TaskManager  # noqa: E402

named = time.perf_counter()

import json  # noqa: E402

import trio  # noqa: E402

assert trio_tasks.TaskManager is TaskManager
handlers = Handlers[None]()


@handlers.handler("job")
async def job(job: Job[dict[str, int]]) -> None:
    raise AssertionError(f"nobody emits, and here is {job}")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(tasks.run)
        ready = time.perf_counter()
        figures = {
            "import_ms": 1e3 * (imported - began),
            "names_ms": 1e3 * (named - began),
            "ready_ms": 1e3 * (ready - running),
        }
        print("REPORT " + json.dumps({"seconds": ready - began, **figures}), flush=True)
        nursery.cancel_scope.cancel()


tasks = TaskManager(json.loads(sys.argv[1])["url"])
tasks.include(handlers)
running = time.perf_counter()
trio.run(main)
