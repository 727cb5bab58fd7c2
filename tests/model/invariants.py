"""The invariants: what is checked in every state, or in the step that could break it.

The numbers are those of the list of invariants in the design. Which of them survive a server that
loses its last write is said in `worlds.py`, where such worlds excuse the others.
"""

from __future__ import annotations

from enum import StrEnum

from tests.model.actors import History, Worker
from tests.model.server import NEW, RELEASED, Frozen, Record, Server, maker

__all__ = ["Invariant", "misplaced", "superseded"]


class Invariant(StrEnum):
    """An invariant; its value says it in words."""

    ONE_PLACE = "1-3: each job is in one place: queued or running with one entry, or without any"
    ACKED = "1: a job whose emit was answered is there until it has ended"
    ONCE = "4: a life completes once"
    ATTEMPTS = "5: a handler begins at most `attempts` times"
    DEAD_FOR_A_REASON = "9: exhausted are only attempts that began, or whose worker fell silent"
    REQUEUED_ONCE = "10: one requeue moves a job once"
    ONE_LIFE = "11: one emit makes one job"
    NEWEST = "12: never older data after newer"
    ONE_WIN = "13: one completion per window of a leading key"
    OPEN_AGAIN = "13: the key of a job that ends dead or cancelled is open again"
    CHILDREN = "16: children exist, once, if and only if their parent's completion was applied"
    CANCELLED = "17: a job that somebody wants cancelled is not tried again"
    OTHER_LIFE = "17: a cancel concerns the life that it was meant for"
    PRESENT = "23: a handler runs only while its start is the present one"
    NO_LOOP = "28: no job is handed out again and again while no time passes"


def misplaced(server: Server) -> str | None:
    """What contradicts `ONE_PLACE`."""
    entries: dict[str, list[int]] = {}
    for entry in server.stream:
        entries.setdefault(entry.job, []).append(entry.id)
        if entry.owner not in (NEW, RELEASED) and not entry.deliveries:
            return f"an entry of {entry.job} is pending, but was not delivered"
    for job, record in server.jobs.items():
        found = entries.pop(job, [])
        if found != ([record.e] if record.s == "q" else []):
            return f"{job} is {record.s!r} (entry {record.e}) and has the entries {found}"
        if (record.s == "d") is (record.due is None):
            return f"{job} is {record.s!r} and due at {record.due}"
    for job in entries:
        return f"there is an entry of {job}, which has no record"
    for job in server.cancels:
        if job not in server.jobs or server.jobs[job].s != "q":
            return f"{job} has a request to cancel it, and does not run"
    return None


def closed_for_nobody(server: Server) -> str | None:
    """What contradicts `OPEN_AGAIN`."""
    for key in server.keys.values():
        record = server.jobs.get(key.job)
        if record is not None and maker(record) == key.maker and record.s in "zx":
            return f"the key still names {key.job}, which is {record.s!r}"
    return None


def superseded(stream: Frozen, worker: Worker) -> str | None:
    """A job that the worker runs under a start that is not the present one."""
    for held in worker.held:
        if held.phase not in ("runs", "unwinds"):
            continue
        token = held.token
        if (token.job, token.entry, token.inc, token.deliveries) not in stream:
            return token.job
    return None


def used_up_for_nothing(record: Record, history: History, attempts: int) -> bool:
    """Whether a job is called exhausted though nobody has used its attempts."""
    return record.why == "exhausted" and history.begun - history.back + history.lost < attempts
