"""The application: it includes the groups, and runs them."""

import trio

from examples.modules.mails import mails
from examples.modules.users import sign_up, users
from trio_tasks import TaskManager

tasks = TaskManager(concurrency=4)
tasks.include(mails, users)


async def main() -> None:
    async with tasks:
        await tasks.start()
        print(await (await tasks.emit(sign_up, "ada@example.org")).result(timeout=5))
        await tasks.until_idle()
        for queue in await tasks.queues():
            print(queue, "completed:", (await tasks.queue(queue).stats()).completed)


if __name__ == "__main__":
    trio.run(main)
