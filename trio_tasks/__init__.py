"""A job engine for Trio and AnyIO programs on Redis Streams.

The layers, from the top; each imports only what stands below it:

```
task_manager.py  engine.py  producer.py  testing/   what people hold in their hands
consumer/  scheduler/                               AnyIO tasks: fetch, run, ack; cron, relay
connect.py                                          an address → a broker
redis_streams/  memory/  embedded.py                storage: the Broker protocol, twice
emitter.py  handlers.py  context.py  queues.py …    what is emitted, what handles it
broker/  payloads/  environment.py                  the contract of storage; JSON; clocks and luck
processor/                                          PURE: everything that decides a job's fate
job.py  options.py  errors.py                       data
```

Names are loaded at first use, so importing this package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_tasks.consumer.consumer import Consumer as Consumer
    from trio_tasks.context import Context as Context
    from trio_tasks.context import EmitFunction as EmitFunction
    from trio_tasks.emitter import Emit as Emit
    from trio_tasks.errors import BrokerError as BrokerError
    from trio_tasks.errors import BrokerUnavailableError as BrokerUnavailableError
    from trio_tasks.errors import ConfigurationError as ConfigurationError
    from trio_tasks.errors import InternalError as InternalError
    from trio_tasks.errors import JobFailedError as JobFailedError
    from trio_tasks.errors import JobNotFoundError as JobNotFoundError
    from trio_tasks.errors import LeaseLostError as LeaseLostError
    from trio_tasks.errors import QueueFullError as QueueFullError
    from trio_tasks.errors import SerializationError as SerializationError
    from trio_tasks.errors import TrioTasksError as TrioTasksError
    from trio_tasks.handlers import Handlers as Handlers
    from trio_tasks.job import Job as Job
    from trio_tasks.job import JobError as JobError
    from trio_tasks.job import JobEvent as JobEvent
    from trio_tasks.job import JobInfo as JobInfo
    from trio_tasks.job import JobState as JobState
    from trio_tasks.job import LogLine as LogLine
    from trio_tasks.options import DeadLetterPolicy as DeadLetterPolicy
    from trio_tasks.options import DebouncePolicy as DebouncePolicy
    from trio_tasks.options import EmitOptions as EmitOptions
    from trio_tasks.options import HandlerOptions as HandlerOptions
    from trio_tasks.options import ProcessorOptions as ProcessorOptions
    from trio_tasks.options import QueueOptions as QueueOptions
    from trio_tasks.options import RetryPolicy as RetryPolicy
    from trio_tasks.processor.processor import Processor as Processor
    from trio_tasks.processor.repeat import Repeat as Repeat
    from trio_tasks.processor.signals import DeadLetter as DeadLetter
    from trio_tasks.processor.signals import Discard as Discard
    from trio_tasks.processor.signals import RetryLater as RetryLater
    from trio_tasks.producer import BlockingJobRef as BlockingJobRef
    from trio_tasks.producer import Producer as Producer
    from trio_tasks.queues import Queue as Queue
    from trio_tasks.queues import QueueStats as QueueStats
    from trio_tasks.queues import Schedule as Schedule
    from trio_tasks.queues import Schedules as Schedules
    from trio_tasks.queues import Statistics as Statistics
    from trio_tasks.queues import StopReport as StopReport
    from trio_tasks.refs import JobRef as JobRef
    from trio_tasks.task_manager import TaskManager as TaskManager

_HOMES = {
    "consumer.consumer": ("Consumer",),
    "context": ("Context", "EmitFunction"),
    "emitter": ("Emit",),
    "errors": (
        "BrokerError",
        "BrokerUnavailableError",
        "ConfigurationError",
        "InternalError",
        "JobFailedError",
        "JobNotFoundError",
        "LeaseLostError",
        "QueueFullError",
        "SerializationError",
        "TrioTasksError",
    ),
    "handlers": ("Handlers",),
    "job": ("Job", "JobError", "JobEvent", "JobInfo", "JobState", "LogLine"),
    "options": (
        "DeadLetterPolicy",
        "DebouncePolicy",
        "EmitOptions",
        "HandlerOptions",
        "ProcessorOptions",
        "QueueOptions",
        "RetryPolicy",
    ),
    "processor.processor": ("Processor",),
    "processor.repeat": ("Repeat",),
    "processor.signals": ("DeadLetter", "Discard", "RetryLater"),
    "producer": ("BlockingJobRef", "Producer"),
    "queues": ("Queue", "QueueStats", "Schedule", "Schedules", "Statistics", "StopReport"),
    "refs": ("JobRef",),
    "task_manager": ("TaskManager",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "BlockingJobRef",
    "BrokerError",
    "BrokerUnavailableError",
    "ConfigurationError",
    "Consumer",
    "Context",
    "DeadLetter",
    "DeadLetterPolicy",
    "DebouncePolicy",
    "Discard",
    "Emit",
    "EmitFunction",
    "EmitOptions",
    "HandlerOptions",
    "Handlers",
    "InternalError",
    "Job",
    "JobError",
    "JobEvent",
    "JobFailedError",
    "JobInfo",
    "JobNotFoundError",
    "JobRef",
    "JobState",
    "LeaseLostError",
    "LogLine",
    "Processor",
    "ProcessorOptions",
    "Producer",
    "Queue",
    "QueueFullError",
    "QueueOptions",
    "QueueStats",
    "Repeat",
    "RetryLater",
    "RetryPolicy",
    "Schedule",
    "Schedules",
    "SerializationError",
    "Statistics",
    "StopReport",
    "TaskManager",
    "TrioTasksError",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
