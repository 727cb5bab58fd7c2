"""The Broker contract in memory: the executable specification of the protocol.

broker.py       the asynchronous face        membership.py  one incarnation in one queue
emitting.py     emit, identity               taking.py      promote and hand out
committing.py   outcomes                     outbox.py      children for other queues
members.py      leases                       debouncing.py  debounce keys
scheduling.py   schedules                    steering.py    cancel, requeue, pause
looking.py      read, list, count            ending.py      how a job ends
store.py, records.py   the data              clock.py, hints.py   time and waking
"""

from trio_tasks.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
