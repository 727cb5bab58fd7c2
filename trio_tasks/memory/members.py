"""Who works in a queue: leases, the dead, and the outage rule.

An incarnation is alive while it is a member. Declaring it dead is removing it; what is pending
under it can then be taken over. Nothing else has to be said about the dead.

A member of this process that holds nothing has nothing that others wait for, and cannot vanish
unseen: it lives without renewing its lease (`Broker.remote`), which begins anew with the first job
that it gets.
"""

from __future__ import annotations

from trio_tasks.broker import Beat, Registration
from trio_tasks.memory.records import Member
from trio_tasks.memory.store import QueueStore
from trio_tasks.processor.lease import is_outage

__all__ = [
    "beat",
    "begin_lease",
    "declare_dead",
    "end_leases",
    "is_alive",
    "leave",
    "register",
    "renew_after_outage",
]


def register(queue: QueueStore, registration: Registration, now_ms: int) -> None:
    """Add a member. Only this adds one; the name is always fresh. Who joins is heard."""
    renew_after_outage(queue, registration.lease_ms, now_ms)
    queue.last_beat_ms = now_ms
    queue.members[registration.incarnation] = Member(
        incarnation=registration.incarnation,
        consumer_id=registration.consumer_id,
        host=registration.host,
        events=frozenset(registration.events),
        lease_ms=registration.lease_ms,
        lease_until_ms=now_ms + registration.lease_ms,
    )


def leave(queue: QueueStore, incarnation: str) -> None:
    """Remove a member, or leave one that owns jobs still to its lease. The hint is passed on."""
    if incarnation not in queue.pending:
        queue.members.pop(incarnation, None)
    elif incarnation in queue.members:
        queue.members[incarnation].attached = False
    queue.startable = True


def beat(queue: QueueStore, incarnation: str, now_ms: int) -> Beat:
    """Renew a member's lease, then look for the dead and for cancel requests."""
    member = queue.members.get(incarnation)
    if member is not None:
        renew_after_outage(queue, member.lease_ms, now_ms)
        member.lease_until_ms = now_ms + member.lease_ms
        queue.last_beat_ms = now_ms
    end_leases(queue, now_ms)
    if member is None:
        return Beat(alive=False, now_ms=now_ms)
    owned = queue.pending.get(incarnation, {})
    cancels = [
        (entry.job_id, queue.cancels[entry.job_id])
        for entry in owned.values()
        if entry.job_id in queue.cancels
    ]
    return Beat(alive=True, now_ms=now_ms, cancels=cancels)


def renew_after_outage(queue: QueueStore, lease_ms: int, now_ms: int) -> None:
    """Renew everyone if nobody has joined or beaten for more than half a lease.

    Then the server was away, or its clock jumped: silence proves nothing.
    """
    last_beat_ms = queue.last_beat_ms
    if last_beat_ms is None or not is_outage(last_beat_ms, now_ms, lease_ms):
        return
    for other in queue.members.values():
        other.lease_until_ms = now_ms + other.lease_ms


def end_leases(queue: QueueStore, now_ms: int) -> None:
    """Declare dead those whose lease has ended."""
    for member in [m for m in queue.members.values() if not is_alive(queue, m, now_ms)]:
        declare_dead(queue, member.incarnation)


def is_alive(queue: QueueStore, member: Member, now_ms: int) -> bool:
    """Whether a member's lease goes on, or it holds nothing that could end one."""
    holds_nothing = member.attached and member.incarnation not in queue.pending
    return holds_nothing or now_ms < member.lease_until_ms


def begin_lease(queue: QueueStore, incarnation: str, now_ms: int) -> None:
    """Jobs are about to be handed to a member: its lease begins, if it held none so far."""
    if incarnation not in queue.pending:
        member = queue.members[incarnation]
        member.lease_until_ms = now_ms + member.lease_ms


def declare_dead(queue: QueueStore, incarnation: str) -> None:
    """Remove a member, if it is one; if it leaves jobs behind, there is work."""
    if queue.members.pop(incarnation, None) is not None and incarnation in queue.pending:
        queue.startable = True
