"""A start that this process holds, from the hand-out until its outcome was applied."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec

from trio_tasks.context import CancelReason

if TYPE_CHECKING:
    from trio_tasks.broker import Delivery, NewJob
    from trio_tasks.consumer.feeder import Feed
    from trio_tasks.consumer.slots import Slot

__all__ = ["Held"]


class Held(msgspec.Struct, eq=False):
    """One start in this process's memory; a Struct, as that takes a quarter of the time to make.

    Attributes:
        delivery: what was handed out.
        feed: the feed of its queue.
        now_ms: server time when it was handed out.
        came_at: when it came, on the loop's clock.
        slot: where it runs; `None` before it began and after its handler ended.
        begun: whether the handler began.
        asked: whether the handler asked for what becomes of its job, without having failed.
        told: whether the log has said that its job is dead.
        ended: whether the outcome is in the commit buffer.
        cause: why it is being cancelled, the first cause wins; `None`: it is not.
        cause_text: the text given to `cancel()`.
        children: what `ctx.emit` collected.
        lines: log lines that have not been sent; `None`: none. Most handlers neither emit nor log,
            and an empty list is one more object for the garbage collector to walk.
        max_lines: how many log lines of the job are kept.
        logged: whether the handler logged at all.
    """

    delivery: Delivery
    feed: Feed
    now_ms: int
    came_at: float
    slot: Slot | None = None
    begun: bool = False
    asked: bool = False
    told: bool = False
    ended: bool = False
    cause: CancelReason | None = None
    cause_text: str = ""
    children: tuple[NewJob, ...] = ()
    lines: list[bytes] | None = None
    max_lines: int = 0
    logged: bool = False

    @property
    def job_id(self) -> str:
        """Of which job it is a start."""
        return self.delivery.token.job_id

    def log(self, message: object) -> Awaitable[None]:
        """`job.logger` of this attempt."""
        return self.feed.logs.keep(self, message)

    def cancel(self, cause: CancelReason, text: str = "") -> None:
        """Cancel the attempt; one that has not begun will not begin. The first cause wins."""
        if self.cause is not None or self.ended:
            return
        self.cause = cause
        self.cause_text = text
        if self.slot is not None:
            self.slot.cancel(self)

    @property
    def in_thread(self) -> bool:
        """Whether a sync handler of it runs in its thread."""
        return self.slot is not None and self.slot.thread_scope is not None

    def __repr__(self) -> str:
        return f"<Held {self.delivery.token.job_id!r} attempt {self.delivery.attempt}>"
