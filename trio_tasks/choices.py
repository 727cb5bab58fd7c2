"""The options of one emit: each checked alone, then those that exclude each other.

What comes out, `Choices`, is in the engine's units. It says nothing of events and handlers: those
are looked up by the emitter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

import msgspec

from trio_tasks.errors import ConfigurationError
from trio_tasks.options import (
    DebouncePolicy,
    EmitOptions,
    attempts_from,
    check_id,
    check_instant,
    check_int,
    check_name,
    duration_ms,
    refuse_unknown,
    shortened,
)
from trio_tasks.processor.debounce import asked_from
from trio_tasks.processor.repeat import Repeat

__all__ = ["Choices"]

_MINTED: Final = re.compile(r"[0-9a-z]{16}@[0-9]{1,20}")
"""The ids that `environment.Ids` makes. One may be emitted again, which is a harmless repeat."""

_TIMES: Final = ("delay", "delay_until")


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one emit after their check.

    Attributes:
        queue, id, attempts, repeat: as given; `None`: not said.
        priority: 0 to 9.
        delay_ms: a delay from the emit; `None` also for a delay of nothing.
        due_at_ms: the instant of `delay_until`.
        retry_delay_ms, timeout_ms, retention_ms: durations; `None`: not said.
        debounce: a policy, a bare key, or `None`.
        deadline_ms, deadline_at_ms: a duration from the emit, or an instant.
    """

    queue: str | None = None
    id: str | None = None
    priority: int = 0
    delay_ms: int | None = None
    due_at_ms: int | None = None
    attempts: int | None = None
    retry_delay_ms: int | None = None
    repeat: Repeat | None = None
    debounce: DebouncePolicy | str | None = None
    timeout_ms: int | None = None
    deadline_ms: int | None = None
    deadline_at_ms: int | None = None
    retention_ms: int | None = None

    @property
    def id_is_minted(self) -> bool:
        """Whether the id is one that the engine made."""
        return self.id is not None and "@" in self.id

    @classmethod
    def checked(cls, options: Mapping[str, object]) -> Choices:
        """The choices that `options` (see `EmitOptions`) are.

        Raises:
            ConfigurationError: an unknown option, a value that is not allowed, or two options
                that exclude each other.
        """
        if not options:
            return _NONE
        found: dict[str, Any] = {}
        for name, value in options.items():
            check = _CHECKS.get(name)
            if check is None:
                refuse_unknown("emit", {name: value}, list(EmitOptions.__annotations__))
            elif value is not None:
                field, checked = check(value)
                found[field] = checked
        found["attempts"] = attempts_from(options.get("attempts"), options.get("retry_count"))
        choices = cls(**found)
        _check_together(choices, options)
        return choices


_NONE: Final = Choices()


def _check_together(choices: Choices, options: Mapping[str, object]) -> None:
    def refuse(one: str, other: str, allowed: str) -> NoReturn:
        raise ConfigurationError(
            f"{one}={shortened(options[one])} and {other}={shortened(options[other])}: {allowed}"
        )

    delays = [name for name in _TIMES if options.get(name) is not None]
    if len(delays) == 2:
        refuse(*delays, allowed="give one of them")
    for delay in delays:
        if choices.repeat is not None:
            refuse("repeat", delay, "the schedule says when its jobs run, leave the other out")
        if isinstance(choices.debounce, DebouncePolicy) and choices.debounce.edge == "trailing":
            refuse("debounce", delay, "a trailing window says when the job runs, give one of them")
        for start_ms, end_ms in (
            (choices.delay_ms, choices.deadline_ms),
            (choices.due_at_ms, choices.deadline_at_ms),
        ):
            if start_ms is not None and end_ms is not None and end_ms <= start_ms:
                refuse("deadline", delay, "no attempt could start; give a later deadline")
    if choices.repeat is not None and choices.deadline_at_ms is not None:
        refuse("repeat", "deadline", "give the deadline in seconds, from each occurrence on")


# --- One option alone: the field of `Choices` and its value -------------------------------------


def _duration(name: str, *, least: float = 0.0) -> Callable[[object], tuple[str, object]]:
    return lambda value: (f"{name}_ms", duration_ms(name, value, least=least))


def _id(value: object) -> tuple[str, object]:
    if isinstance(value, str) and _MINTED.fullmatch(value):
        return "id", value
    return "id", check_id("id", value)


def _delay(value: object) -> tuple[str, object]:
    return "delay_ms", duration_ms("delay", value) or None


def _deadline(value: object) -> tuple[str, object]:
    if isinstance(value, datetime):
        return "deadline_at_ms", check_instant("deadline", value)
    return "deadline_ms", duration_ms("deadline", value, least=0.001)


_CHECKS: Final[Mapping[str, Callable[[Any], tuple[str, object]]]] = {
    "queue": lambda value: ("queue", check_name("queue", value)),
    "id": _id,
    "priority": lambda value: ("priority", check_int("priority", value, least=0, most=9)),
    "delay": _delay,
    "delay_until": lambda value: ("due_at_ms", check_instant("delay_until", value)),
    "attempts": lambda value: ("attempts", value),  # together with retry_count
    "retry_count": lambda value: ("attempts", value),
    "retry_delay": _duration("retry_delay"),
    "repeat": lambda value: ("repeat", Repeat.parse(value)),
    "debounce": lambda value: ("debounce", asked_from(value)),
    "timeout": _duration("timeout", least=0.001),
    "deadline": _deadline,
    "retention": _duration("retention"),
}
