"""What the consumer needs to know to run the jobs of one event; the manager provides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from trio_tasks.broker import DebounceAsk, Delivery, Record
    from trio_tasks.consumer.held import Held
    from trio_tasks.job import Job
    from trio_tasks.processor.processor import Processor

__all__ = ["Handling", "Lookup"]


class Handling(Protocol):
    """One event in one queue: its policies, its types, its handler."""

    @property
    def processor(self) -> Processor:
        """Decides about its jobs; includes the handler's own policies."""
        ...

    @property
    def timeout_ms(self) -> int | None:
        """How long an attempt may run; `None`: as long as it likes."""
        ...

    @property
    def retention_ms(self) -> int:
        """How long an ended job is kept."""
        ...

    @property
    def max_logs(self) -> int:
        """How many log lines of a job are kept."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether `invoke` returns a coroutine; else it is called in a worker thread."""
        ...

    @property
    def decode(self) -> Callable[[bytes], Any]:
        """The data for the handler. Raises SerializationError if they do not fit its type."""
        ...

    @property
    def encode(self) -> Callable[[Any], bytes]:
        """The handler's value as JSON bytes. Raises SerializationError."""
        ...

    @property
    def invoke(self) -> Callable[[Job[Any], Held], Any]:
        """Calls the handler: a coroutine if `is_async`, else its value."""
        ...

    @property
    def may_debounce(self) -> bool:
        """Whether `debounce` has to be asked for a job that brings no debounce of its own."""
        ...

    def debounce(self, delivery: Delivery, record: Record, data: Any) -> DebounceAsk | None:
        """The debounce key to ask for before the job may run.

        Raises:
            ConfigurationError: a key function of the user's raised, or returned no string.
        """
        ...


Lookup: TypeAlias = Callable[[str, str], Handling | None]
"""(queue, event) → how to run it; `None`: unknown here."""
