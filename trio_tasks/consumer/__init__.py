"""The runtime: AnyIO tasks that fetch jobs, run them, and carry their outcomes back.

It obeys the Processor's decisions and speaks to storage through the Broker protocol only.

```
feeder.py        one queue: takes for free slots, commits outcomes, waits for hints
slots.py         the tasks that run attempts, one after another
prefetch.py      how many jobs are taken beyond the free slots
attempt.py       one attempt as a pipeline: may it run? decode, debounce, run, outcome
drive.py         a coroutine in a contextvars.Context of its own, without a task of its own
reports.py       what the log says of attempts and jobs
held.py          a start in this process's memory
committer.py     the commit buffer
answers.py       what the broker made of the outcomes
lease_keeper.py  renew, let go, join anew
timeouts.py      time-outs of attempts
debounces.py     debounce keys, asked for in batches
logs.py          job.logger
events.py        counters and in-process events
shutdown.py      the stop protocol
consumer.py      wires them
```
"""
