"""A start that this process holds, from the hand-out until its outcome was applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_tasks.context import CancelReason

if TYPE_CHECKING:
    from trio_tasks.broker import Delivery, NewJob
    from trio_tasks.consumer.feeder import Feed
    from trio_tasks.consumer.slots import Slot
    from trio_tasks.job import Job

__all__ = ["Held"]


class Held:
    """One start in this process's memory.

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
        lines: log lines that have not been sent.
        logged: whether the handler logged at all.
        job: what the handler was given.
    """

    __slots__ = (
        "asked",
        "begun",
        "came_at",
        "cause",
        "cause_text",
        "children",
        "delivery",
        "ended",
        "feed",
        "job",
        "lines",
        "logged",
        "now_ms",
        "slot",
        "told",
    )

    def __init__(self, delivery: Delivery, feed: Feed, now_ms: int, came_at: float) -> None:
        self.delivery = delivery
        self.feed = feed
        self.now_ms = now_ms
        self.came_at = came_at
        self.slot: Slot | None = None
        self.begun = False
        self.asked = False
        self.told = False
        self.ended = False
        self.cause: CancelReason | None = None
        self.cause_text = ""
        self.children: list[NewJob] = []
        self.lines: list[bytes] = []
        self.logged = False
        self.job: Job[object] | None = None

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
