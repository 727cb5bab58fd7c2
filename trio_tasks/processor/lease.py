"""The numbers of leases, give-backs and parking: when to renew, when to let go, how often.

A lease is how long a worker may be silent before others take its jobs. Within one:

```
0 ─────── 1/3 ─────── 1/2 ─────── 2/3 ─────────── 1
        renew        outage      stop handlers    others take over
```

Renewing at every third leaves room for one renewal that is lost. Handlers are stopped at two
thirds, so that they have unwound before anybody else starts their jobs.

The *outage rule* belongs to the server's side. When nobody at all has joined or renewed for half a
lease, the server was away or its clock has jumped, and the workers are not to blame: every lease
begins anew. Two thirds would steal from living workers, a third would let a lone survivor wait for
ever. Joining counts, or the jobs of workers that die young would wait for one that does not.
"""

from __future__ import annotations

__all__ = [
    "PARK_MS",
    "UNCOUNTED_INTERRUPTIONS",
    "beat_every_ms",
    "give_back_counts",
    "is_outage",
    "must_stop",
    "outage_after_ms",
    "park_delay_ms",
    "stop_after_ms",
]

UNCOUNTED_INTERRUPTIONS = 10
"""How often a begun attempt is given back uncounted in one generation."""

PARK_MS = 5_000
"""How long a job that this worker cannot run is put aside before it is tried again; also by the
broker, where it turns out that somebody else serves the event after all (`Die.unless_served`)."""


def beat_every_ms(lease_ms: int) -> int:
    """How often a lease is renewed: three times a lease."""
    return lease_ms // 3


def stop_after_ms(lease_ms: int) -> int:
    """How old the last good renewal, counted from its sending, may grow: two thirds of a lease."""
    return lease_ms * 2 // 3


def must_stop(renewed_at_ms: int, now_ms: int, lease_ms: int) -> bool:
    """Whether no handler may start or go on: the last good renewal is too old.

    Args:
        renewed_at_ms: when the request that renewed was *sent*.
        now_ms: on the same clock.
        lease_ms: the lease.
    """
    return now_ms - renewed_at_ms > stop_after_ms(lease_ms)


def outage_after_ms(lease_ms: int) -> int:
    """How long everybody must have been silent for the outage rule: half a lease."""
    return lease_ms // 2


def is_outage(last_beat_at_ms: int, now_ms: int, lease_ms: int) -> bool:
    """Whether all leases begin anew: the last beat of anyone is more than half a lease ago.

    Or so far ahead: the clock has been set back, and once more it says nothing about anybody.

    Args:
        last_beat_at_ms: when anyone last joined or beat (server time).
        now_ms: server time.
        lease_ms: the lease.
    """
    return abs(now_ms - last_beat_at_ms) > outage_after_ms(lease_ms)


def give_back_counts(*, began: bool, interruptions: int) -> bool:
    """Whether an interrupted attempt is used up: it had begun, and so had ten before it.

    Without a limit, a job that no worker survives long enough to finish would run for ever.
    """
    return began and interruptions >= UNCOUNTED_INTERRUPTIONS


def park_delay_ms(now_ms: int, since_ms: int, grace_ms: int) -> int | None:
    """How long to put a job aside that this worker cannot run; `None`: the grace has passed.

    Five seconds, or until the end of the grace if that comes first.
    """
    left_ms = since_ms + grace_ms - now_ms
    return min(PARK_MS, left_ms) if left_ms > 0 else None
