"""Users: a handler that emits a job of another module."""

from typing import Any

from examples.modules.mails import send_email
from trio_tasks import Context, Handlers, Job

users = Handlers(queue="users")


@users.handler("sign-up")
async def sign_up(job: Job[str], ctx: Context[Any]) -> str:
    ctx.emit(send_email, job.data)
    return f"{job.data} signed up"
