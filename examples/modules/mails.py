"""Mails: a group of handlers that knows nothing of any manager."""

from trio_tasks import Handlers, Job

mails = Handlers(queue="mails", attempts=8)


@mails.handler("send-email")
async def send_email(job: Job[str]) -> str:
    return f"mail to {job.data} sent from queue {job.queue!r}"
