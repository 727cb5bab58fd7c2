"""Helpers for your own tests: a job and a context to call a handler with.

```python
async def test_a_receipt_is_sent() -> None:
    job = make_job(Order(id=7, mail="a@b.c"))
    ctx = FakeContext(AppContext(db=FakeDatabase()))

    await handle_order(job, ctx)

    assert ctx.emitted == [Emit(send_email, Mail(to="a@b.c"))]
    assert job.logs == ["order 7 is done"]
```

A decorated handler is the plain function that it was, so calling it is all it takes. To see the
engine run it (retries, delays, schedules, results), give a `TaskManager` the address `memory://`
and run the test under Trio's `MockClock(autojump_threshold=0)`: a month takes milliseconds.
`simulate` sends it through thousands of hours of faults; see docs/simulation.md.
"""

from trio_tasks.testing.contexts import FakeContext
from trio_tasks.testing.jobs import FakeJob, make_job
from trio_tasks.testing.simulation import Faults, Report, SimulationError, simulate

__all__ = [
    "FakeContext",
    "FakeJob",
    "Faults",
    "Report",
    "SimulationError",
    "make_job",
    "simulate",
]
