"""When it goes wrong: backoff, giving up, speaking back, the DLQ, and the way out of it."""

import trio

from trio_tasks import (
    DeadLetter,
    Discard,
    Job,
    JobFailedError,
    RetryLater,
    RetryPolicy,
    TaskManager,
)

quick = RetryPolicy(max_retries=3, delay=0.1, multiplier=2, jitter=0, give_up_on=(LookupError,))
tasks = TaskManager(concurrency=4, processor={"retry": quick})
repaired = False


@tasks.handler("call-service")
async def call_service(job: Job[str]) -> str:
    print(f"   {job.data}: attempt {job.attempt} of {job.attempts}")
    match job.data:
        case "flaky" if job.attempt < 3:
            raise ConnectionError("connection refused")  # retried after 0.1 and 0.2 s
        case "busy" if job.attempt == 1:
            raise RetryLater(0.3)  # the service said when
        case "unknown user":
            raise LookupError("no such user")  # the policy gives up on it at once
        case "malformed":
            raise DeadLetter("cannot ever work")
        case "outdated":
            raise Discard("nobody needs it any more")
        case "broken" if not repaired:
            raise ConnectionError("still broken")
        case _:
            return f"{job.data}: done"


async def main() -> None:
    global repaired
    async with tasks:
        await tasks.start()
        for data in ("flaky", "busy", "unknown user", "malformed", "outdated", "broken"):
            ref = await tasks.emit(call_service, data)
            try:
                print(await ref.result(timeout=10))
            except JobFailedError as error:
                print(f"{data}: {error.state}, {error.reason}, {error.attempts} attempt(s)")

        repaired = True
        queue = tasks.queue("default")
        for dead in await queue.dead_letters():
            if dead.reason == "exhausted":
                await queue.requeue(dead.id)
                print("requeued:", await queue.ref(dead.id).result(timeout=5))
        print("in the DLQ:", [dead.data for dead in await queue.dead_letters()])


if __name__ == "__main__":
    trio.run(main)
