"""Carrying children and dead letters from a queue's outbox to where they belong.

A row leaves the outbox only after its target has answered. Delivering a child again is harmless,
a dead letter then lies in its stream twice ("at least once"). So a relay may fail or be cancelled
anywhere, and any number of processes may do it at the same time.

A row that cannot be read would be looked at for ever, and enough of them would hide all others: it
is set aside in a stream of its own, and the log says so. It may come from a newer release.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from trio_tasks.errors import BrokerError
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.asking import Asks
from trio_tasks.redis_streams.calls import Call, ChildRow, DamagedRow, DeadLetterRow
from trio_tasks.redis_streams.keys import QueueKeys

__all__ = ["relay"]

log = logging.getLogger("trio_tasks.broker")

_ROWS: Final = 250  # as many jobs as one step stores


async def relay(
    cmd: Asks, keys: Callable[[str], QueueKeys], queue: str, *, tombstone_ms: int
) -> tuple[int, set[str]]:
    """Empty the outbox of a queue; how many rows were delivered, and to which queues.

    Raises:
        BrokerError: some could not be delivered; they stay. All others are gone.
    """
    delivered = 0
    targets: set[str] = set()
    refused: BrokerError | None = None
    after: str | None = None
    while True:
        rows = await cmd.call(calls.relay_read(keys(queue), _ROWS, after=after), repeat=True)
        if not rows:
            break
        after = rows[-1].row
        children: dict[str, list[ChildRow]] = {}
        asks: list[tuple[Sequence[str], Call[None]]] = []
        unreadable: list[str] = []
        for row in rows:
            match row:
                case ChildRow():
                    children.setdefault(row.queue, []).append(row)
                case DeadLetterRow():
                    asks.append(([row.row], calls.dead_letter(row)))
                case DamagedRow():
                    log.error(
                        "queue %r: row %s of `out` cannot be read; it is kept in the stream %s",
                        *(queue, row.row, keys(queue).aside),
                    )
                    unreadable.append(row.row)
        for target, group in children.items():
            call = calls.relay_deliver(keys(target), group, tombstone_ms=tombstone_ms)
            asks.append(([row.row for row in group], call))
        answers = await cmd.calls([call for _, call in asks], repeat=True) if asks else ()
        done = [
            row
            for (names, _), answer in zip(asks, answers, strict=True)
            if answer is None
            for row in names
        ]
        late = (child for child in itertools.chain(*children.values()) if child.late)
        _report_late(child for child in late if child.row in done)
        if unreadable:
            await cmd.call(calls.set_aside(keys(queue), unreadable), repeat=True)
        if done:
            await cmd.call(calls.relay_done(keys(queue), done), repeat=True)
        refused = next((a for a in answers if isinstance(a, BrokerError)), refused)
        delivered += len(done)
        targets |= children.keys()
        if len(rows) < _ROWS:
            break
    if refused is not None:
        raise refused
    return delivered, targets


def _report_late(children: Iterable[ChildRow]) -> None:
    for child in children:
        log.warning(
            "job %r comes to queue %r too late: unless it was there before, it is dead"
            " (relayed_late)",
            child.job_id,
            child.queue,
        )
