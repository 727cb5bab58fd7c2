"""Keeps the lease of one queue: renew it every third, let go at two thirds, join anew when dead.

The numbers and why: `processor/lease.py`. A renewal counts from the moment it was *sent*. When
the last good one grows older than two thirds of a lease, the handlers of the queue are cancelled
(`lease_lost`) and their jobs given back by token once the broker is back.

A member that holds nothing has nothing to lose, so it need not renew where members cannot vanish
unseen (a broker that is not `remote`): if somebody declares it dead, the next take says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from trio_tasks.environment import jitter, loop_time, monotonic
from trio_tasks.errors import BrokerError
from trio_tasks.processor.lease import beat_every_ms

if TYPE_CHECKING:
    from trio_tasks.broker import Broker
    from trio_tasks.consumer.feeder import Feed

__all__ = ["renew", "watch"]

log = logging.getLogger("trio_tasks.consumer")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0


async def renew(feed: Feed, broker: Broker) -> None:
    """Beat for a feed, and join anew when its incarnation is dead, until it has left."""
    pause_s = FIRST_PAUSE_S
    while not feed.left:
        try:
            if feed.membership is None:
                await feed.rejoin()
            else:
                await _beat_in_time(feed, broker)
            pause_s = FIRST_PAUSE_S
        except BrokerError as error:
            feed.counters.last_error = str(error)
            await anyio.sleep(pause_s * (0.5 + jitter()))
            pause_s = min(2 * pause_s, _longest_pause_s(feed))


def _longest_pause_s(feed: Feed) -> float:
    """A broker that is back must hear of us before it begins to declare the silent dead."""
    assert feed.registration is not None
    return min(LONGEST_PAUSE_S, beat_every_ms(feed.registration.lease_ms) / 1000)


async def _beat_in_time(feed: Feed, broker: Broker) -> None:
    membership, registration = feed.membership, feed.registration
    assert membership is not None
    assert registration is not None
    if broker.remote or feed.held:
        # One beat every third of a lease, sooner after one that failed.
        next_s = feed.renewed_at + beat_every_ms(registration.lease_ms) / 1000 - loop_time()
        with anyio.move_on_after(next_s):
            await feed.lease_changed.wait()
            return
    else:
        await feed.lease_changed.wait()
    if not (broker.remote or feed.held):
        return
    sent_at, sent = monotonic(), loop_time()
    beat = await membership.beat()
    if feed.membership is not membership:
        return
    if not beat.alive:
        feed.died()
        return
    feed.renewed(sent, sent_at)
    for job_id, reason in beat.cancels:
        feed.cancel(job_id, reason)


async def watch(feed: Feed) -> None:
    """Cancel the handlers of a feed when its last renewal is too old, until cancelled."""
    while True:
        left_s = feed.good_until - loop_time()
        if left_s > 0:
            with anyio.move_on_after(left_s):
                await feed.lease_changed.wait()
            continue
        # Those that have ended keep their outcomes: they count while nobody has taken the job.
        unfinished = [held for held in feed.held if not held.ended]
        if unfinished and feed.membership is not None:
            log.warning(
                "queue %r: the lease could not be renewed in time, %d job(s) are given back",
                feed.queue,
                len(unfinished),
            )
            feed.give_up(unfinished)
        await feed.lease_changed.wait()
