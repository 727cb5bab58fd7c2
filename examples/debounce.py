"""Many alike, run once: at the first of them (leading), or after the last (trailing)."""

from typing import TypedDict

import trio

from trio_tasks import DebouncePolicy, Job, JobFailedError, TaskManager


class Change(TypedDict):
    file: str
    text: str


tasks = TaskManager(concurrency=2)


@tasks.handler("alert", debounce=DebouncePolicy(window=60))  # the same data, the same alert
async def alert(job: Job[str]) -> None:
    print("alert:", job.data)


by_file = DebouncePolicy(0.3, key=lambda job: job.data["file"], edge="trailing")


@tasks.handler("index", debounce=by_file)
async def index(job: Job[Change]) -> None:
    print("indexing", job.data["file"], "with", job.data["text"])


async def main() -> None:
    async with tasks:
        await tasks.start()
        refs = [await tasks.emit(alert, text) for text in ("disk full", "disk full", "fan broken")]
        await tasks.until_idle()
        try:
            await refs[1].result(timeout=5)
        except JobFailedError as error:
            print("the second is", error.state, "by the first:", error.stood_in_by == refs[0].id)

        drafts = ("a draft", "a better draft", "the final text")
        changes = [await tasks.emit(index, {"file": "README", "text": text}) for text in drafts]
        await changes[-1].result(timeout=5)


if __name__ == "__main__":
    trio.run(main)
