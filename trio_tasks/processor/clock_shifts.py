"""When a zone's wall clock is moved, and what it shows twice or never because of that.

This module reads one thing from outside: the time zone database, through `zoneinfo`. It is data
with a version, like a compiled table, and asks neither clock nor chance. Processes of one
deployment should have the same version of it.
"""

from __future__ import annotations

import bisect
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from trio_tasks.errors import ConfigurationError

__all__ = ["ClockShift", "offset", "shift_at", "zone_of"]

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class ClockShift(NamedTuple):
    """A zone's clock is moved, forward or back."""

    at: datetime
    """The instant, naive UTC."""
    old: timedelta
    """Offset from UTC before it."""
    new: timedelta
    """Offset from UTC from it on."""

    @property
    def stops(self) -> datetime:
        """The wall clock at which the old reading stops."""
        return self.at + self.old

    @property
    def resumes(self) -> datetime:
        """The wall clock from which the new reading goes on."""
        return self.at + self.new

    @property
    def repeats(self) -> bool:
        """Whether wall clocks are shown twice; if not, some are skipped."""
        return self.new < self.old

    def skips_date(self, wall: datetime) -> bool:
        """Whether the clock shows no time at all of the date of `wall`."""
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        return self.stops <= midnight and midnight + _DAY <= self.resumes


def shift_at(wall: datetime, zone: tzinfo) -> ClockShift | None:
    """The shift because of which a (naive) wall clock is shown twice or never.

    `None` if it is shown once.
    """
    old, new = offset(wall, zone, fold=0), offset(wall, zone, fold=1)
    if old == new:
        return None
    # Read with the one or the other offset, `wall` is an instant on either side of the shift.
    # Clocks are moved at whole seconds.
    whole = wall.replace(microsecond=0)
    low, high = sorted((whole - old, whole - new))

    def is_moved(seconds: int) -> bool:
        instant = (low + seconds * _SECOND).replace(tzinfo=UTC)
        return instant.astimezone(zone).utcoffset() != old

    seconds = bisect.bisect_left(range((high - low) // _SECOND), True, key=is_moved)
    return ClockShift(low + seconds * _SECOND, old, new)


def offset(wall: datetime, zone: tzinfo, fold: int = 0) -> timedelta:
    """The offset from UTC at which a zone's clock shows `wall` (PEP 495 for `fold`)."""
    found = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert found is not None  # zones of the database always know it
    return found


def zone_of(name: object) -> tzinfo:
    """The zone with an IANA name. UTC needs no database.

    Raises:
        ConfigurationError: this machine knows no such zone.
    """
    if name == "UTC":
        return UTC
    # "localtime" exists on some machines only, and is another zone on each.
    if isinstance(name, str) and name != "localtime":
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # unknown; no file name; a directory such as "Europe"
    text = repr(name)
    shown = text if len(text) <= 120 else text[:117] + "…"
    raise ConfigurationError(
        f"timezone={shown}: give an IANA name that this machine knows,"
        " such as 'Europe/Berlin' or 'UTC'"
    )
