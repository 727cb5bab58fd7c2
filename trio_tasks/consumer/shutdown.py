"""The stop protocol: draining (grace) → cancelling → releasing → flushing, bounded in each phase.

1. *Draining.* No further take; jobs that a take in flight still brings are given back. Renewal
   and committing go on, handlers go on for at most the grace.
2. *Cancelling.* Only the slots' scopes are cancelled. Cancelled attempts are given back uncounted,
   at once, so that other workers can start them. A sync handler in a thread cannot be cancelled:
   it is waited for, then left to its lease.
3. *Releasing and flushing.* The last outcomes and give-backs go out, each queue is left, children
   are carried to other queues.

If the broker is gone, the last phase gives up after its time; leases do the rest. The only thing
that can hold it up is an async handler that shields itself from cancellation: structured
concurrency cannot leave it behind, so its lease is kept and its outcome committed all the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from trio_tasks.context import CancelReason
from trio_tasks.control_c import protected

if TYPE_CHECKING:
    from trio_tasks.consumer.attempt import Attempts
    from trio_tasks.consumer.feeder import Feed
    from trio_tasks.consumer.slots import Slots

__all__ = ["shut_down"]

UNWIND_S = 1.0
"""How long cancelled handlers may take to unwind before threads are left behind."""

FLUSH_S = 1.0
"""How long the last outcomes and the leave-taking may take."""


async def shut_down(
    *,
    feeds: Sequence[Feed],
    slots: Slots,
    attempts: Attempts,
    relayed: Callable[[], Awaitable[None]],
    grace: float,
    skip_grace: anyio.Event,
) -> None:
    """Run the protocol. Takes at most `grace` + 2 s; `skip_grace` cuts the grace short.

    `relayed` waits until children for other queues have been carried there.
    """
    for feed in feeds:
        feed.drain()
    for held in slots.withdraw():
        held.cancel(CancelReason.SHUTDOWN)
        attempts.give_up(held)

    with anyio.move_on_after(grace):
        await _idle_or(slots, skip_grace)

    for slot in slots.slots:
        if slot.held is not None:
            slot.held.cancel(CancelReason.SHUTDOWN)
    with anyio.move_on_after(UNWIND_S):
        await slots.wait_idle()
    for slot in slots.slots:
        if slot.thread_scope is not None:
            slot.thread_scope.cancel()
    await slots.wait_idle()

    with anyio.move_on_after(FLUSH_S):
        async with anyio.create_task_group() as nursery:
            for feed in feeds:
                nursery.start_soon(protected(feed.leave))
        await relayed()


async def _idle_or(slots: Slots, skip_grace: anyio.Event) -> None:
    async with anyio.create_task_group() as nursery:

        async def skipped() -> None:
            await skip_grace.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(protected(skipped))
        await slots.wait_idle()
        nursery.cancel_scope.cancel()
