"""One typed, I/O-free wrapper per script: the request out, the reply in.

Arguments are ordered here and nowhere else. Both the async wire and the blocking `Producer` send
what these functions return; see `scripts.Call`.

```
emitting.py    enqueue, relay_read, relay_deliver, dead_letter, relay_done, set_aside
working.py     register, own, beat, leave, debounce, log
stepping.py    step
scheduling.py  time, declare, schedules, due_schedules, tick, remove_schedule
looking.py     read, jobs, counts
steering.py    cancel, requeue, pause
```
"""

from trio_tasks.redis_streams.calls.emitting import (
    ChildRow,
    DamagedRow,
    DeadLetterRow,
    dead_letter,
    enqueue,
    relay_deliver,
    relay_done,
    relay_read,
    set_aside,
)
from trio_tasks.redis_streams.calls.looking import LISTED_STATES, counts, jobs, read
from trio_tasks.redis_streams.calls.scheduling import (
    declare,
    due_schedules,
    remove_schedule,
    schedules,
    tick,
    time,
)
from trio_tasks.redis_streams.calls.steering import (
    PauseReply,
    RequeueAnswer,
    cancel,
    pause,
    requeue,
)
from trio_tasks.redis_streams.calls.stepping import step
from trio_tasks.redis_streams.calls.working import (
    OwnReply,
    OwnStatus,
    beat,
    debounce,
    leave,
    log,
    own,
    register,
)
from trio_tasks.redis_streams.scripts import Call

__all__ = [
    "LISTED_STATES",
    "Call",
    "ChildRow",
    "DamagedRow",
    "DeadLetterRow",
    "OwnReply",
    "OwnStatus",
    "PauseReply",
    "RequeueAnswer",
    "beat",
    "cancel",
    "counts",
    "dead_letter",
    "debounce",
    "declare",
    "due_schedules",
    "enqueue",
    "jobs",
    "leave",
    "log",
    "own",
    "pause",
    "read",
    "register",
    "relay_deliver",
    "relay_done",
    "relay_read",
    "remove_schedule",
    "requeue",
    "schedules",
    "set_aside",
    "step",
    "tick",
    "time",
]
