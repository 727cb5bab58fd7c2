"""What handlers share: opened when work begins, closed when the last handler has ended."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from trio_tasks import Context, Job, TaskManager


@dataclass
class Database:
    rows: list[str] = field(default_factory=list[str])

    async def insert(self, row: str) -> int:
        await trio.sleep(0.01)
        self.rows.append(row)
        return len(self.rows)


@dataclass
class App:
    db: Database


@asynccontextmanager
async def open_app() -> AsyncGenerator[App]:
    print("opening the database")
    yield App(db=Database())
    print("closing the database")


tasks = TaskManager(lifespan=open_app, concurrency=2)


@tasks.handler("save")
async def save(job: Job[str], ctx: Context[App]) -> int:
    return await ctx.app.db.insert(job.data)


async def main() -> None:
    async with tasks:  # connected: this process could emit, and no database would be opened
        await tasks.start()
        refs = [await tasks.emit(save, name) for name in ("Ada", "Grace")]
        for ref in refs:
            print("row", await ref.result(timeout=5))


if __name__ == "__main__":
    trio.run(main)
