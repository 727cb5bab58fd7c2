"""Jobs that repeat: declared on a handler, or emitted with `repeat=`."""

from datetime import UTC, datetime

import trio

from trio_tasks import Job, Repeat, TaskManager

tasks = TaskManager()


# The data of an occurrence is None; `job.scheduled_for` says which one it is.
@tasks.handler("report", repeat=Repeat("0 6 * * mon-fri", timezone="Europe/Berlin"))
async def report(job: Job[None]) -> None:
    print("report for", job.scheduled_for)


@tasks.handler("ping", repeat=Repeat(every=0.5))
async def ping(job: Job[None]) -> None:
    print("ping of", job.scheduled_for and job.scheduled_for.strftime("%S.%f")[:4])


@tasks.handler("remind")
async def remind(job: Job[str]) -> None:
    print("remember:", job.data)


async def main() -> None:
    print("six o'clock on working days is, for example:")
    for instant in Repeat("0 6 * * mon-fri", timezone="Europe/Berlin").next(datetime.now(UTC), 2):
        print("  ", instant)
    async with tasks:
        await tasks.start()
        await tasks.emit(remind, "drink water", repeat=Repeat(every=0.7), id="water")
        await trio.sleep(1.6)
        for schedule in await tasks.schedules().list():
            print("schedule", schedule.name, "of event", schedule.event)
        print("removed:", await tasks.schedules().remove("water"))


if __name__ == "__main__":
    trio.run(main)
