"""When the next occurrence of a schedule is.

Theory of operation. A cron pattern speaks of wall clocks, a job starts at an instant, and twice a
year the two disagree. So the two questions are kept apart:

1. *Which wall clock matches next?* `cron.py` answers, on naive local times.
2. *At which instant does the zone's clock show it?* Mostly at one. When clocks go back, an hour is
   shown twice; when they go forward, an hour is never shown. The hour field decides what then:

   - It names hours (`30 2 * * *`): a time of day is meant. It fires at the **first** instant that
     shows it, and a time that is skipped fires at the first instant after the gap: once on every
     date. (croniter alone fires twice when clocks go back.) Several times in one gap become one
     occurrence. A zone that crosses the date line may skip a whole date (Samoa, 30 December
     2011): that date does not exist, and nothing fires for it.
   - It admits every hour (`*/30 * * * *`): a rhythm is meant. It fires whenever the clock shows a
     match, so in both passes of a repeated hour and in none of a skipped one: real time goes on.

Going from wall clocks to instants like this never reverses their order, hence the search only goes
forward and stops at its first hit. `every` needs none of this: multiples since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import cast

import msgspec

from trio_tasks.errors import ConfigurationError
from trio_tasks.job import Millis
from trio_tasks.options import (
    Duration,
    check_instant,
    check_int,
    duration_ms,
    group_from,
    shortened,
)
from trio_tasks.processor.clock_shifts import offset, shift_at, zone_of
from trio_tasks.processor.cron import END, CronPattern, compile_pattern, normalised

__all__ = ["LATE_MS", "Repeat"]

LATE_MS = Millis(60_000)
"""An occurrence that is later than this is missed, and skipped."""

_LEAST_LIFETIME_MS = 7 * 86_400_000
_EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A recurring time: a cron pattern in a time zone, or an interval. Give exactly one of them.

    ```python
    Repeat(pattern="0 9 * * mon-fri", timezone="Europe/Berlin")
    Repeat(every=30)
    ```

    A pattern has five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or
    `jan`-`dec`), weekday (0-7 or `sun`-`sat`; 0 and 7 are Sunday). A sixth may follow, the second
    (0-59). Each is `*` or a list, with commas, of values, ranges `a-b` and steps `*/n` or `a-b/n`.
    The day of month may be `L`, the last one; if it is `*`, the weekday may be `fri#2`, the second
    Friday of the month, or `Lfri`, the last. `@hourly`, `@daily` (`@midnight`), `@weekly`,
    `@monthly` and `@yearly` (`@annually`) are short for `0 * * * *`, `0 0 * * *`, `0 0 * * 0`,
    `0 0 1 * *` and `0 0 1 1 *`. If both the day of month and the weekday are restricted, a day that
    matches either of them counts.

    Daylight saving time: a pattern that names hours fires once on every date, also when that time
    is shown twice (at the first) or skipped (at the first instant after the gap). A pattern for
    every hour follows real time. See the head of this module.

    Attributes:
        pattern: the cron pattern, at most 256 characters, in upper or lower case. Runs of blanks
            become one.
        every: the interval in seconds (or a `timedelta`), from 0.001 s to ten years; kept as
            seconds, rounded to milliseconds. Occurrences are its multiples since 1970-01-01 UTC,
            so that all processes agree on them.
        timezone: an IANA name such as "Europe/Berlin"; default "UTC". With `every` it only
            decides in which zone `next()` shows the instants.

    Raises:
        ConfigurationError: not exactly one of `pattern` and `every`; a pattern with another
            syntax, or that never fires (`0 0 30 2 *`); an unknown zone.
    """

    pattern: str | None = None
    every: Duration | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if (self.pattern is None) == (self.every is None):
            raise ConfigurationError(
                f"pattern={self.pattern!r}, every={self.every!r}: give exactly one of them"
            )
        if self.every is not None:
            every_ms = duration_ms("every", self.every, least=0.001)
            object.__setattr__(self, "every", every_ms / 1000)
        else:
            pattern = normalised(self.pattern)
            compile_pattern(pattern)
            object.__setattr__(self, "pattern", pattern)
        zone_of(self.timezone)

    @classmethod
    def parse(cls, value: str | Mapping[str, object] | Repeat) -> Repeat:
        """A `Repeat` from what may stand for one: a pattern, a mapping with its fields, or itself.

        Raises:
            ConfigurationError: it is something else, or what it says is wrong.
        """
        if isinstance(value, str):
            return cls(pattern=value)
        given = cast("object", value)  # from callers without a type checker
        if isinstance(given, int | float) and not isinstance(given, bool):
            hint = f", or Repeat(every={given!r}) for an interval in seconds"
        elif isinstance(given, timedelta):
            hint = ", or Repeat(every=...) for an interval"
        elif isinstance(given, cls | Mapping):
            return group_from(cls, "repeat", cast("object", given))
        else:
            hint = ", a Repeat, or a mapping with its fields"
        raise ConfigurationError(
            f"repeat={shortened(given)}: give a cron pattern such as '*/5 * * * *'{hint}"
        )

    @property
    def every_ms(self) -> Millis | None:
        """The interval in milliseconds; `None` for a pattern."""
        return None if self.every is None else duration_ms("every", self.every)

    def next(self, after: datetime, n: int = 1) -> list[datetime]:
        """The next `n` occurrences after an instant, shown in the schedule's zone.

        Python compares and subtracts two instants of one zone by their wall clocks: convert them
        with `astimezone(datetime.UTC)` before doing that across a change of the clocks.

        Args:
            after: an aware instant from 1970 on. An occurrence at exactly this instant is not
                among the result.
            n: how many, at least 1. Fewer come back only at the end of the calendar (year 9900).

        Raises:
            ConfigurationError: `after` is naive, or `n` is not a whole number ≥ 1.
        """
        zone = zone_of(self.timezone)
        instant_ms: Millis | None = check_instant("after", after)
        occurrences: list[datetime] = []
        for _ in range(check_int("n", n, least=1)):
            instant_ms = self.next_at_ms(instant_ms)
            if instant_ms is None:
                break
            occurrences.append(_from_ms(instant_ms).replace(tzinfo=UTC).astimezone(zone))
        return occurrences

    def next_at_ms(self, after_ms: int) -> Millis | None:
        """The first occurrence later than `after_ms`; both in milliseconds since the epoch.

        `None` at the end of the calendar (year 9900).
        """
        every_ms = self.every_ms
        if every_ms is not None:
            following_ms = Millis((after_ms // every_ms + 1) * every_ms)
            return following_ms if following_ms < _to_ms(END) else None
        if after_ms >= _to_ms(END):
            return None
        found = self._first_after(_from_ms(after_ms))
        return None if found is None else _to_ms(found)

    def missed(self, occurrence_ms: int, now_ms: int) -> bool:
        """Whether an occurrence is too late to run: it is skipped and the schedule goes on.

        It is if it is more than 60 s late, or if the one after it is due too. Both arguments are
        milliseconds since the epoch, by the server's clock.
        """
        if now_ms - occurrence_ms > LATE_MS:
            return True
        following_ms = self.next_at_ms(occurrence_ms)
        return following_ms is not None and following_ms <= now_ms

    def lifetime_ms(self, now_ms: int) -> Millis:
        """How long a handler's schedule outlives the last process that declared or ticked it.

        Seven days, but at least until the second occurrence from now, so that a rare schedule
        does not expire between two ticks.
        """
        first_ms = self.next_at_ms(now_ms)
        second_ms = None if first_ms is None else self.next_at_ms(first_ms)
        return Millis(max(_LEAST_LIFETIME_MS, (second_ms or now_ms) - now_ms))

    def to_json(self) -> bytes:
        """The definition as compact JSON; equal definitions give equal bytes."""
        return msgspec.json.encode(
            _Definition(pattern=self.pattern, every_ms=self.every_ms, timezone=self.timezone)
        )

    @classmethod
    def from_json(cls, definition: bytes | str) -> Repeat:
        """The `Repeat` that `to_json()` wrote.

        Raises:
            ConfigurationError: these are not the bytes of a definition, or its pattern or zone is
                not known here.
        """
        try:
            stored = msgspec.json.decode(definition, type=_Definition)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise ConfigurationError(
                f"definition: give what to_json() returned ({error})"
            ) from error
        every = None if stored.every_ms is None else stored.every_ms / 1000
        return cls(pattern=stored.pattern, every=every, timezone=stored.timezone)

    def _first_after(self, after: datetime) -> datetime | None:
        """The first occurrence of the pattern after an instant (naive UTC, like the result)."""
        assert self.pattern is not None
        pattern, zone = compile_pattern(self.pattern), zone_of(self.timezone)
        local = after.replace(tzinfo=UTC).astimezone(zone)
        wall = local.replace(tzinfo=None, fold=0)
        shift = shift_at(wall, zone)
        if shift is None:
            return _first_shown(pattern, wall, zone)
        # The clock shows this hour twice, and `after` lies in one of the two passes. A rhythm goes
        # through both; a time of day has its turn in the first.
        if local.fold == 0:
            found = pattern.after(wall)
            if found is not None and found < shift.stops:
                return found - shift.old
            wall = shift.resumes - _MILLISECOND
        if not pattern.names_hours:
            found = pattern.after(wall)
            if found is not None and found < shift.stops:
                return found - shift.new
        return _first_shown(pattern, shift.stops - _MILLISECOND, zone)


class _Definition(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is stored of a `Repeat`; the order of the fields is that of the bytes."""

    pattern: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"


def _first_shown(pattern: CronPattern, wall: datetime, zone: tzinfo) -> datetime | None:
    """When the first match after `wall` is shown for the first time (naive UTC)."""
    while (found := pattern.after(wall)) is not None:
        shift = shift_at(found, zone)
        if shift is None or shift.repeats:
            return found - offset(found, zone)  # of the first pass, if there are two
        # The clock is moved forward over `found`.
        if pattern.names_hours and not shift.skips_date(found):
            return shift.at
        wall = shift.resumes - _MILLISECOND
    return None


def _from_ms(instant_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=instant_ms)


def _to_ms(instant: datetime) -> Millis:
    return Millis((instant - _EPOCH) // _MILLISECOND)
