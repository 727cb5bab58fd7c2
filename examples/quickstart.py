"""The first steps: a handler, a child job, a log line, retries, the DLQ and the way back.

Needs no server: without an address a private one is started, and it ends with this program.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from trio_tasks import Context, Job, JobFailedError, ProcessorOptions, RetryPolicy, TaskManager


@dataclass
class App:
    mail_server_up: bool = False


@dataclass
class User:
    name: str
    mail: str


app = App()
tasks = TaskManager.init(
    ctx=app,
    concurrency=4,
    processor=ProcessorOptions(retry=RetryPolicy(max_retries=2, delay=0.2)),
)


@tasks.handler("process-user")
async def process_user(job: Job[User], ctx: Context[App]) -> str:
    job.logger(f"processing {job.data.name}")
    child = ctx.emit(send_email, job.data)  # stored together with this job's completion, or never
    return child.id


@tasks.handler("send-email")
async def send_email(job: Job[User], ctx: Context[App]) -> str:
    age = (datetime.now(UTC) - job.emitted_at).total_seconds()
    print(f"  attempt {job.attempt} of {job.attempts}, {age:.1f} s after the emit")
    if not ctx.app.mail_server_up:
        raise ConnectionError("the mail server is down")
    return f"Welcome, {job.data.name}!"


async def main() -> None:
    async with tasks:
        await tasks.start()
        user = await tasks.emit(process_user, User("Ada", "ada@example.org"))
        mail = tasks.ref(send_email, await user.result())
        print("log:", [line.message for line in (await user.info()).logs])
        try:
            await mail.result()  # two retries, after about 0.2 and 0.4 s
        except JobFailedError as error:
            print(f"{error.state}, {error.reason}:", error.error and error.error.message)

        app.mail_server_up = True
        await tasks.queue("default").requeue(mail.id)
        print("requeued:", await mail.result())
        print(await tasks.stop())


if __name__ == "__main__":
    trio.run(main)
