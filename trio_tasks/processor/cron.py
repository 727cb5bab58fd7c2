"""Cron patterns: what people write, checked, and the wall clocks that match it.

Patterns are parsed here, strictly, and croniter gets a canonical form (lists of numbers), because
it accepts much that surprises: `5-5` is the whole hour, `H` and `R` are random, a seventh field is
the year. It then searches naive local times, where there is no daylight saving time; which
instants those are is the business of `repeat.py`.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, NoReturn

from croniter import croniter

from trio_tasks.errors import ConfigurationError

__all__ = ["END", "CronPattern", "compile_pattern", "normalised"]

END = datetime(9900, 1, 1)
"""No matches from here on: `datetime` ends a century later, and croniter looks 50 years ahead."""

_LONGEST_PATTERN = 256


class CronPattern(NamedTuple):
    """A pattern that has been checked."""

    expression: str
    """Its fields as `*` or lists of numbers, with croniter's own forms of `L` and `#`."""
    names_hours: bool
    """Whether it means times of day; if not, it means a rhythm that goes through all hours."""

    def after(self, wall: datetime) -> datetime | None:
        """The first wall clock after `wall` that matches; `None` if there is none in 50 years.

        Both are naive.
        """
        try:
            found: datetime = croniter(self.expression, wall, ret_type=datetime).get_next()
        except (ValueError, OverflowError):
            # The expression is valid, so the search has left the 50 years, or the calendar.
            return None
        return found if found < END else None


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    words: tuple[str, ...] = ()
    """Names of the values from `first` on."""

    @property
    def allowed(self) -> str:
        words = f" or {self.words[0]}-{self.words[-1]}" if self.words else ""
        return f"{self.name}: * or a list of {self.first}-{self.last}{words}, a-b, */n, a-b/n"


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("weekday", 0, 7, _WEEKDAYS)
_SECOND = _Field("second", 0, 59)

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ITEM = re.compile(r"(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?")
_NTH_WEEKDAY = re.compile(r"l([0-7]|[a-z]{3})|([0-7]|[a-z]{3})#([1-5])")


def normalised(pattern: object) -> str:
    """The pattern with single blanks.

    Raises:
        ConfigurationError: it is no string, longer than 256 characters, or not ASCII.
    """
    if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN or not pattern.isascii():
        _refuse(pattern, f"a cron pattern of at most {_LONGEST_PATTERN} ASCII characters")
    return " ".join(pattern.split())


@lru_cache(maxsize=1024)  # pure, and a process uses few patterns often
def compile_pattern(pattern: str) -> CronPattern:
    """Check a pattern and make it ready for searching.

    The syntax is in the docstring of `Repeat`.

    Raises:
        ConfigurationError: the syntax is another, or the pattern never fires.
    """
    fields = _ALIASES.get(pattern.lower(), pattern).lower().split()
    if len(fields) not in (5, 6):
        _refuse(pattern, "five fields, from minute to weekday, or six: seconds come last")
    minute, hour, day, month, weekday, *second = fields
    hours = _numbers(pattern, _HOUR, hour)
    expression = [
        _numbers(pattern, _MINUTE, minute),
        hours,
        _days(pattern, day),
        _numbers(pattern, _MONTH, month),
        _weekdays(pattern, weekday, day),
        *(_numbers(pattern, _SECOND, text) for text in second),
    ]
    compiled = CronPattern(" ".join(expression), names_hours=hours != "*")
    if compiled.after(datetime(2000, 1, 1)) is None:
        _refuse(pattern, "one that fires: no date is like this")
    return compiled


def _numbers(pattern: str, field: _Field, text: str) -> str:
    """The values that a field admits, as a list of numbers; `*` if those are all."""
    values: set[int] = set()
    for item in text.split(","):
        found = _ITEM.fullmatch(item)
        if found is None or (item == "*" and text != "*"):
            _refuse(pattern, field.allowed)
        begin, end, step = found.groups()
        if begin is None:
            low, high = field.first, 6 if field is _WEEKDAY else field.last
        else:
            low = _number(pattern, field, begin)
            high = low if end is None else _number(pattern, field, end)
            if end is not None and field is _WEEKDAY and high == 0 < low:
                high = 7  # Sunday may end a range by any of its names
            if end is not None and high <= low:
                _refuse(pattern, f"{field.name}: ranges that go up, not {item!r}")
            if end is None and step is not None:
                _refuse(pattern, f"{field.name}: a-b/n or */n, not {item!r}")
        if step is not None and not 1 <= int(step) <= high - low + 1:
            _refuse(pattern, f"{field.name}: a step from 1 to {high - low + 1}, not {item!r}")
        values.update(range(low, high + 1, int(step or 1)))
    if field is _WEEKDAY:
        values = {value % 7 for value in values}
    everything = 7 if field is _WEEKDAY else field.last - field.first + 1
    return "*" if len(values) == everything else ",".join(map(str, sorted(values)))


def _number(pattern: str, field: _Field, text: str) -> int:
    if text in field.words:
        return field.first + field.words.index(text)
    if not text.isdecimal() or not field.first <= int(text) <= field.last:
        _refuse(pattern, field.allowed)
    return int(text)


def _days(pattern: str, text: str) -> str:
    """Days of the month, `L` for the last one among them."""
    items = text.split(",")
    if "l" not in items:
        return _numbers(pattern, _DAY, text)
    others = ",".join(item for item in items if item != "l")
    numbers = _numbers(pattern, _DAY, others) if others else ""
    return numbers if numbers == "*" else f"{numbers},l".lstrip(",")


def _weekdays(pattern: str, text: str, day: str) -> str:
    """Weekdays; `fri#2` and `Lfri` as croniter spells them: `5#2` and `l5`."""
    if "#" not in text and "l" not in text:
        return _numbers(pattern, _WEEKDAY, text)
    if day != "*":
        _refuse(pattern, "* as the day of month beside a weekday with # or L")
    items: list[str] = []
    for item in text.split(","):
        found = _NTH_WEEKDAY.fullmatch(item)
        if found is None:
            _refuse(pattern, "weekday: items like fri#2 and Lfri, or a list without such ones")
        last, nth, place = found.groups()
        number = _number(pattern, _WEEKDAY, last or nth) % 7
        items.append(f"l{number}" if place is None else f"{number}#{place}")
    return ",".join(items)


def _refuse(pattern: object, allowed: str) -> NoReturn:
    text = repr(pattern)
    shown = text if len(text) <= 120 else text[:117] + "…"
    raise ConfigurationError(f"pattern={shown}: give {allowed}")
