"""Every name of a Redis key, each with its type. Nobody else builds one.

All keys of a queue share the hash tag `{queue}`, so they lie in one slot and one script may touch
them all. Scripts get the fixed names as KEYS, always all of them in the order of
`QueueKeys.fixed`, and build those that depend on data (a job, a level, a digest, a schedule) from
`QueueKeys.prefix`, which is in the same slot.
"""

from __future__ import annotations

from typing import Final

from trio_tasks.options import check_name

__all__ = ["LEVELS", "QueueKeys", "dead_letter_key", "queues_key", "types_beside"]

LEVELS = range(9, -1, -1)
"""The priorities, in the order in which they are served."""


_FIXED_TYPES: Final = (
    ("m", "hash"),
    ("c", "zset"),
    ("ci", "hash"),
    ("z", "zset"),
    ("w", "list"),
    ("x", "hash"),
    ("cron", "zset"),
    ("out", "stream"),
    ("ev", "stream"),
    ("dlq", "zset"),
)
"""`QueueKeys.fixed`, and what the server calls their types."""

_QUEUES: Final = ":queues"


def queues_key(namespace: str) -> str:
    """Set: the names of the namespace's queues. In a slot of its own."""
    return f"{check_name('namespace', namespace)}{_QUEUES}"


def dead_letter_key(stream: str) -> str:
    """Stream: the dead jobs of a `DeadLetterPolicy(stream=...)`, under the very name it gives.

    It belongs to other programs and lies in any slot, so it is written by the relay only.
    """
    return check_name("stream", stream)


def types_beside(key: str) -> dict[str, str]:
    """What whoever uses `key` cannot do without, and what `TYPE` says of these keys.

    Of a queue: the fixed ones, the levels and the rows set aside. Else that key alone, which is the
    set of all queues or a stream of dead letters.
    """
    prefix, brace, _ = key.partition("}:")
    if not brace:
        return {key: "set" if key.endswith(_QUEUES) else "stream"}
    streams = [*(f"s:{level}" for level in LEVELS), "aside"]
    return {
        prefix + brace + name: kind
        for name, kind in (*_FIXED_TYPES, *((name, "stream") for name in streams))
    }


class QueueKeys:
    """The keys of one queue.

    Args:
        namespace, queue: what they are made of.
        whole: scripts are also given the name of a key that never exists. While a cluster moves a
            slot key by key, a node that misses one of a script's keys refuses it (`TRYAGAIN`); so
            none of them ever sees a part of a queue.

    Attributes:
        namespace, queue: what they are made of.
        prefix: `ns:{queue}:`, with which all of them begin.
        fixed: the names that do not depend on data, in the order in which scripts get them.
        plain: those of them that `enqueue_plain` gets.

    Raises:
        ConfigurationError: a name has other characters than `A-Z a-z 0-9 _ . : -` (braces would
            change the slot) or is longer than 128.
    """

    __slots__ = (
        "cancels",
        "cron",
        "dlq",
        "due",
        "events",
        "fixed",
        "incarnations",
        "leases",
        "meta",
        "namespace",
        "out",
        "plain",
        "prefix",
        "queue",
        "wake",
    )

    def __init__(self, namespace: str, queue: str, *, whole: bool = False) -> None:
        check_name("namespace", namespace)
        check_name("queue", queue)
        self.namespace = namespace
        self.queue = queue
        self.prefix = prefix = f"{namespace}:{{{queue}}}:"
        self.meta = prefix + "m"  # hash: paused, levels in use, last beat, counters …
        self.leases = prefix + "c"  # ZSET: incarnation → lease expiry, ms
        self.incarnations = prefix + "ci"  # hash: incarnation → lease, consumer, host, events;
        #                                    incarnation# → ordinal of its connection
        self.due = prefix + "z"  # ZSET: job id → due, ms
        self.wake = prefix + "w"  # list: at most one token
        self.cancels = prefix + "x"  # hash: running job → reason of the cancel request
        self.cron = prefix + "cron"  # ZSET: schedule → next occurrence, ms
        self.out = prefix + "out"  # stream: children for other queues, dead letters
        self.events = prefix + "ev"  # stream: ids of jobs that changed, about 1000 batches
        self.dlq = prefix + "dlq"  # ZSET: dead job → dead at, ms
        self.fixed: tuple[str, ...] = tuple(prefix + name for name, _ in _FIXED_TYPES)
        self.plain: tuple[str, ...] = (self.meta, self.wake)
        if whole:
            self.fixed += (prefix + "never",)
            self.plain += (prefix + "never",)

    def stream(self, level: int) -> str:
        """Stream with the group `g`: the entries of this priority that are ready or running."""
        return f"{self.prefix}s:{level}"

    def job(self, job_id: str) -> str:
        """Hash: the job's record (see `codec.py`)."""
        return f"{self.prefix}j:{job_id}"

    def log(self, job_id: str) -> str:
        """List of `<ms> <JSON>`: the lines that its handler left."""
        return f"{self.prefix}l:{job_id}"

    def debounce(self, digest: str) -> str:
        """String `<job id> <emit number> <ms>`: who holds a debounce key, and since when."""
        return f"{self.prefix}d:{digest}"

    @property
    def aside(self) -> str:
        """Stream: rows of the outbox that nobody could read."""
        return f"{self.prefix}aside"

    def schedule(self, name: str) -> str:
        """Hash: definition, template and options of a schedule, its last occurrence."""
        return f"{self.prefix}cr:{name}"

    def __repr__(self) -> str:
        return f"QueueKeys({self.namespace!r}, {self.queue!r})"
