"""The commit buffer of one queue: outcomes on their way to the broker.

*Group commit*: whatever accumulated while the last batch was under way goes out in the next one,
without a timer. An outcome stays in memory until the broker has answered for it; if the answer
was lost it goes out again, which is harmless because it is fenced by the token of its start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from trio_tasks.broker import STEP_BYTES, Applied, Membership, Outcome, StepReply
from trio_tasks.errors import BrokerError, BrokerUnavailableError

if TYPE_CHECKING:
    from trio_tasks.consumer.held import Held

__all__ = ["BATCH_OUTCOMES", "Entry", "Outcomes", "step_or_halves"]

BATCH_OUTCOMES = 128
"""The most outcomes in one step: a step blocks the server for about 9 µs a job (measured)."""

Entry: TypeAlias = "tuple[Held, Outcome]"


class Outcomes:
    """Outcomes that wait for a step. Children count towards the batch.

    Attributes:
        waiting: those that go out next, in order. To append one never awaits: a handler's end and
            that are one.
        under_way: how many are being committed.
    """

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        self.under_way = 0

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Return a batch whose fate is unknown; it goes out first next time."""
        self.waiting.extendleft(reversed(entries))

    def draw(self) -> list[Entry]:
        """The next batch: at most `BATCH_OUTCOMES` jobs and about `STEP_BYTES` bytes.

        An outcome that is larger by itself, or has more children, goes alone.
        """
        waiting = self.waiting
        batch: list[Entry] = []
        size = size_bytes = 0
        while waiting and size < BATCH_OUTCOMES:
            outcome = waiting[0][1]
            size += 1
            result = outcome.result
            if result is not None:
                size_bytes += len(result)
            if outcome.children:
                size += len(outcome.children)
                size_bytes += sum(len(child.record.data) for child in outcome.children)
            if batch and (size > BATCH_OUTCOMES or size_bytes > STEP_BYTES):
                break
            batch.append(waiting.popleft())
        return batch


async def step_or_halves(
    membership: Membership,
    entries: Sequence[Entry],
    want: int,
    on_halves: Callable[[BrokerError], None],
) -> StepReply:
    """One step; where the broker fails a batch as a whole, halves, until the element is found.

    Halving takes no jobs. A single outcome that fails alone is answered `REFUSED`.

    Raises:
        BrokerUnavailableError: nothing is known of any outcome in it.
    """
    try:
        return await membership.step([outcome for _, outcome in entries], want)
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        if not entries:
            raise
        on_halves(error)
        if len(entries) == 1:
            if want:  # perhaps it was the taking that failed
                return await step_or_halves(membership, entries, 0, on_halves)
            return StepReply([Applied.REFUSED], None)
        middle = len(entries) // 2
        first = await step_or_halves(membership, entries[:middle], 0, on_halves)
        second = await step_or_halves(membership, entries[middle:], 0, on_halves)
        return StepReply([*first.applied, *second.applied], None, relay=first.relay or second.relay)
