"""Data are JSON on the wire and exactly the handler's type in the handler."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import trio

from trio_tasks import Job, SerializationError, TaskManager


@dataclass
class Line:
    article: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    ordered: date
    lines: list[Line]


@dataclass
class Receipt:
    order: UUID
    total: Decimal


tasks = TaskManager()


@tasks.handler("charge")
async def charge(job: Job[Order]) -> Receipt:
    return Receipt(job.data.id, sum((line.price for line in job.data.lines), Decimal(0)))


async def main() -> None:
    async with tasks:
        await tasks.start()
        order = Order(uuid4(), date(2026, 5, 4), [Line("tea", Decimal("4.20"))])
        receipt = await (await tasks.emit(charge, order)).result(timeout=5)
        print(type(receipt).__name__, receipt.total, receipt.order == order.id)

        wrongs: list[object] = [{"id": "no uuid", "ordered": "2026-05-04"}, {"a", "set"}, 1e400]
        for wrong in wrongs:  # by name a type checker cannot know what fits; emit() does
            try:
                await tasks.emit("charge", wrong)
            except SerializationError as error:
                print("refused:", error)


if __name__ == "__main__":
    trio.run(main)
