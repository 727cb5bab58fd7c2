"""What the engine may ask of storage: the Broker protocol and the records that pass through it.

```
protocol.py    Broker, Membership, Watch
jobs.py        Record, NewJob, Stored, Counts …
starts.py      Delivery, Outcome, Applied, Beat …
schedules.py   ScheduleRecord, TickAnswer …
```

Two classes keep this contract: `redis_streams.RedisBroker` (production) and `memory.MemoryBroker`
(the executable specification). One contract suite runs against both, and a Hypothesis machine
drives both with the same operations and compares the states.

The contract, in words
----------------------

*Atomic.* Every method that changes a job does so in one step per queue, all or nothing per job.

*Time.* The broker's own clock (server time) decides what is due, leased, debounced or past its
deadline. Relative instants (`delay_ms`) count from the moment the broker applies the request.

*Starts.* `Membership.step` hands jobs out; each hand-out is a counted start, named by a
`StartToken`. A start is ended by an `Outcome` with that token, which is applied at most once: a
start that was superseded changes nothing (`Applied.STALE`). Who repeats an outcome whose answer
was lost does no harm.

*Leases.* A membership is one life of a consumer in one queue (an *incarnation*). It lives while
its `beat` comes at least once a lease. When it dies, others get its jobs, as new starts.

*Tokens in memory.* After each reconnect the broker tells the server which starts the worker still
holds (`have()`): all others of this incarnation are given back uncounted, so a `take` whose answer
was lost loses nothing. Tokens that are no longer ours are handed to `lost()`. If the server has
forgotten such a start, as it lost its last write, its token may come again: then the membership
hands out nothing more, and its next step or beat says that it is dead.

*Errors.* `BrokerUnavailableError` when the broker cannot be reached, or does not answer, within
the deadline: the outcome of a write is then unknown. `QueueFullError` when an emit is refused for
want of memory or by a limit. `BrokerError` for anything else that the server refuses.

*Cancellation.* Every method may be cancelled at any await. A write may then have been applied or
not; a hand-out whose `step` was cancelled is given back by the membership itself (its token is in
nobody's memory, see above) at the latest when the lease ends.
"""

from trio_tasks.broker.jobs import (
    BATCH,
    RECORD_VERSION,
    RELAY_TOO_LATE_MS,
    RELAYED_RETENTION_MS,
    STEP_BYTES,
    TOMBSTONE_MS,
    CancelAnswer,
    Counts,
    Debounce,
    Emitted,
    NewJob,
    Record,
    Stored,
)
from trio_tasks.broker.protocol import Broker, Membership, Watch
from trio_tasks.broker.schedules import DueSchedules, ScheduleRecord, TickAnswer
from trio_tasks.broker.starts import (
    SAME_STEP_CHILDREN,
    Applied,
    Beat,
    DebounceAsk,
    Delivery,
    Outcome,
    Registration,
    StartToken,
    StepReply,
    Taken,
    TakeStatus,
)

__all__ = [
    "BATCH",
    "RECORD_VERSION",
    "RELAYED_RETENTION_MS",
    "RELAY_TOO_LATE_MS",
    "SAME_STEP_CHILDREN",
    "STEP_BYTES",
    "TOMBSTONE_MS",
    "Applied",
    "Beat",
    "Broker",
    "CancelAnswer",
    "Counts",
    "Debounce",
    "DebounceAsk",
    "Delivery",
    "DueSchedules",
    "Emitted",
    "Membership",
    "NewJob",
    "Outcome",
    "Record",
    "Registration",
    "ScheduleRecord",
    "StartToken",
    "StepReply",
    "Stored",
    "TakeStatus",
    "Taken",
    "TickAnswer",
    "Watch",
]
