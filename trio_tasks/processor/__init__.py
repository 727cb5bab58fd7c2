"""The pure core: everything that decides what becomes of a job, and nothing else.

Rules of this package:

1. Everything that decides a job's next state lives here.
2. It does not know which process, consumer or store it runs for.
3. Time comes in as `now_ms`, luck as `jitter` in [0, 1), ids as arguments. Out comes one frozen
   decision. Same inputs, same decision, always.
4. Decisions map one to one onto what the broker does: what was decided and what was done have one
   name.
5. What must be atomic across processes (debounce window, lease owner, unique id, cron tick) is
   compare-and-set in the broker; the numbers it compares with come from the policy.
6. Every `match` over inputs or decisions ends in `assert_never`. An illegal transition raises one
   error that names state, input and job, and changes nothing.
7. The lifecycle diagram in the docs is generated from the table, and so is the Lua table of legal
   transitions at the head of every script that writes a state.

It imports no trio, anyio, asyncio, time, random, os, socket, threading, logging or redis.
"""
