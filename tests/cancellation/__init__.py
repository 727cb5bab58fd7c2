"""The cancellation audit: whatever is cancelled, at any step, nothing is lost, stuck or leaked.

```
canceller.py          counts the steps of tasks, and cancels at step n
leaks.py              tasks, threads, file descriptors, child processes
operations.py         what is cancelled: emit, result, start, stop, run, …
test_cancellation.py  every n on the MemoryBroker in virtual time, some on a real server
```
"""
