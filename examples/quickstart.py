"""The first steps: a handler, a child job, a log line, a retry, the DLQ and the way back.

Needs no server: without an address a private one is started, and it ends with this program.
"""

from dataclasses import dataclass

import trio

from trio_tasks import Context, Job, ProcessorOptions, RetryPolicy, TaskManager


@dataclass
class App:
    greeting: str
    mail_server_up: bool = False


@dataclass
class User:
    name: str
    mail: str


app = App(greeting="Welcome")
tasks = TaskManager.init(
    ctx=app,
    concurrency=4,
    processor=ProcessorOptions(retry=RetryPolicy(max_retries=2, delay=0.2)),
)


@tasks.handler("process-user")
async def process_user(job: Job[User], ctx: Context[App]) -> str:
    job.logger(f"processing {job.data.name}")
    ctx.emit(send_email, job.data)  # stored together with this job's completion, or not at all
    return f"{job.data.name} is processed"


@tasks.handler("send-email", queue="emails")
async def send_email(job: Job[User], ctx: Context[App]) -> str:
    print(f"  send-email to {job.data.mail}: attempt {job.attempt} of {job.attempts}")
    if not ctx.app.mail_server_up:
        raise ConnectionError("the mail server is down")
    return f"{ctx.app.greeting}, {job.data.name}!"


async def main() -> None:
    async with tasks:
        await tasks.start()
        ref = await tasks.emit(process_user, User("Ada", "ada@example.org"))
        print("result:", await ref.result(timeout=5))
        print("log:", [line.message for line in (await ref.info()).logs])

        emails = tasks.queue("emails")
        while not (dead := await emails.dead_letters()):  # two retries, about 0.2 and 0.4 s later
            await trio.sleep(0.1)
        print("dead:", dead[0].id, dead[0].reason, dead[0].error and dead[0].error.message)

        app.mail_server_up = True
        await emails.requeue(dead[0].id)
        print("requeued:", await emails.ref(dead[0].id).result(timeout=5))
        print("stopped:", await tasks.stop())


if __name__ == "__main__":
    trio.run(main)
