"""The model check: small worlds, explored to the last state.

Theory of operation
-------------------

A *world* is a server, some workers, some clients, and a budget of faults. From each state of it
every possible step is taken, in every order, until no new state is found. In each state the
invariants are checked. When all states are known, the graph is walked backwards from those in
which all jobs are final and nothing is pending: whatever is not reached on the way, using no
further fault, is a state in which a job is stuck. A violation is printed as the shortest sequence
of steps that leads to it.

A request is *sent*, *applied* and *answered* in three steps, so that between any two of them
anything else may happen: connections break (and what was sent on them may be applied long
afterwards), processes are killed, frozen and stopped, the server loses its last write or all data.

Each rule that the protocol marks, because leaving it out lost, stuck or doubled a job, has a
switch (`rules.py`). Switched off, a world made for it must show the damage; that is the test of
the model itself, and the reason to believe it when all rules are on and it finds nothing. And the
model's server is tied to the real one: random paths of requests are walked by both, and every
answer and every job must be the same (`test_drift.py`).

What is left out: data, results, logs, priorities, prefetch, wake-up hints (every worker may look
for work at any time), and batches (a step carries what one worker has).

```
rules.py        the rules, one switch each
store.py        what the server holds, and what is asked of it and answered
server.py       one function for each script of the package, under the script's name
policy.py       what the worker asks the real Processor
actors.py       workers, clients, requests, and the state of a world, as plain values
service.py      a request is carried out
hearing.py      a worker reads an answer: handlers begin, or are given up
workers.py      what workers do and suffer
clients.py      what clients do
world.py        all of them together
invariants.py   the invariants, and the history that they are about
words.py        traces in words
leases.py       a world of its own: leases in ticks, outages and jumps of the server's clock
schedules.py    another one: occurrences of a schedule
lifecycle.py    the lifecycle table and the whole Processor, without connections
explore.py      the search
specs.py  worlds.py  long_worlds.py     which worlds there are, and which rules they are about
```

`make model` explores all worlds, also the large ones; `make test` the small ones.
"""
