"""Inside an asyncio program, for example as the lifespan of an ASGI application.

With Starlette or FastAPI: `app = Starlette(routes=[...], lifespan=lifespan)`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from trio_tasks import Job, TaskManager

tasks = TaskManager(concurrency=2)


@tasks.handler("greet")
async def greet(job: Job[str]) -> str:
    await asyncio.sleep(0.01)
    return f"Hello, {job.data}!"


@asynccontextmanager
async def lifespan(_app: object) -> AsyncGenerator[None]:
    async with tasks:
        await tasks.start()
        yield


async def hello(name: str) -> dict[str, str]:
    """What a route would do."""
    ref = await tasks.emit(greet, name)
    return {"id": ref.id, "result": await ref.result(timeout=5)}


def health() -> int:
    """Servers go on answering when the task group of their lifespan has crashed: look."""
    return 200 if tasks.state == "running" else 503


async def main() -> None:
    async with lifespan(None):
        print("health:", health())
        answers = await asyncio.gather(*(hello(name) for name in ("Ada", "Grace")))
        print([answer["result"] for answer in answers])
    print("health:", health())


if __name__ == "__main__":
    asyncio.run(main())
