"""`processor/repeat.py`: occurrences against a brute-force reading of clock and calendar.

The oracles are independent of the code under test: a pattern is generated as sets of numbers
beside its text, and instants are found by looking at the zone's clock minute after minute.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trio_tasks.errors import ConfigurationError
from trio_tasks.processor.repeat import LATE_MS, Repeat

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
DAY_MS = 86_400_000

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# Zone, and a date on which its clock is moved (or skips that date).
SHIFTS = (
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),  # by half an hour
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Sao_Paulo", date(2018, 11, 4)),  # midnight is skipped
    ("America/Sao_Paulo", date(2018, 2, 17)),  # the hour before midnight is repeated
    ("America/Nuuk", date(2024, 3, 30)),  # the hour before midnight is skipped
    ("Pacific/Apia", date(2011, 12, 30)),  # this date is skipped
    ("Asia/Pyongyang", date(2018, 5, 4)),  # half an hour before midnight is skipped, for good
    ("Asia/Kolkata", date(2026, 3, 29)),  # nothing happens
    ("UTC", date(2026, 3, 29)),
)


class Matcher(NamedTuple):
    """A pattern as text and as what it means."""

    text: str
    matches: Callable[[datetime], bool]
    names_hours: bool


def field(first: int, last: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field without names, as text and as the set of numbers that it admits."""
    numbers = st.integers(first, last)
    everything = frozenset(range(first, last + 1))

    def ranged(low: int, length: int, step: int) -> tuple[str, frozenset[int]]:
        high = min(last, low + length)
        if high == low:
            return str(low), frozenset({low})
        step = min(step, high - low + 1)
        text = f"{low}-{high}" if step == 1 else f"{low}-{high}/{step}"
        return text, frozenset(range(low, high + 1, step))

    def joined(
        items: list[tuple[str, frozenset[int]]],
    ) -> tuple[str, frozenset[int]]:
        return ",".join(text for text, _ in items), frozenset[int]().union(*(s for _, s in items))

    item = st.one_of(
        numbers.map(lambda number: (str(number), frozenset({number}))),
        st.builds(ranged, numbers, st.integers(0, last), st.integers(1, 5)),
        # Sunday's second number, 7, is the only thing that `*` does not stand for.
        st.integers(2, min(last - first + 1, 7)).map(
            lambda step: (f"*/{step}", everything.intersection(range(first, last + 1, step)))
        ),
    )
    return st.one_of(st.just(("*", everything)), st.lists(item, min_size=1, max_size=3).map(joined))


@st.composite
def matchers(draw: st.DrawFn) -> Matcher:
    """Five-field patterns with their meaning; dense enough for a window of a few days."""
    minute, minutes = draw(field(0, 59))
    hour, hours = draw(field(0, 23))
    day, days = draw(field(1, 31))
    month, months = draw(st.one_of(st.just(("*", frozenset(range(1, 13)))), field(1, 12)))
    weekday, numbers = draw(field(0, 7))
    weekdays = frozenset(number % 7 for number in numbers)

    def matches(wall: datetime) -> bool:
        by_day, by_weekday = wall.day in days, wall.isoweekday() % 7 in weekdays
        either = len(days) < 31 and len(weekdays) < 7
        return (
            wall.minute in minutes
            and wall.hour in hours
            and wall.month in months
            and (by_day or by_weekday if either else by_day and by_weekday)
        )

    return Matcher(f"{minute} {hour} {day} {month} {weekday}", matches, len(hours) < 24)


Shown = list[tuple[datetime, datetime]]
"""Instants, each with what a naive wall clock shows at it."""


@cache
def clock_around(zone: str, day: date) -> Shown:
    """What a zone's clock shows around a date, minute after minute."""
    tz = ZoneInfo(zone)
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - 3 * DAY
    instants = [begin + minute * MINUTE for minute in range(8 * 1440)]
    return [(at, at.astimezone(tz).replace(tzinfo=None)) for at in instants]


@cache
def times_around(zone: str, day: date) -> Shown:
    """When each minute of each of these dates comes; a skipped one: when the clock goes on."""
    first_shown: dict[datetime, datetime] = {}
    for at, wall in clock_around(zone, day):
        first_shown.setdefault(wall, at)
    dates = {wall.date() for wall in first_shown}
    walls = sorted(first_shown)
    times: Shown = []
    wall = walls[0]
    while wall < walls[-1]:
        if wall.date() in dates:
            times.append((first_shown[walls[bisect_left(walls, wall)]], wall))
        wall += MINUTE
    return times


def expected(
    matcher: Matcher, zone: str, day: date, begin: datetime, end: datetime
) -> list[datetime]:
    """All occurrences of a pattern after `begin` and before `end`."""
    shown = times_around(zone, day) if matcher.names_hours else clock_around(zone, day)
    return sorted({at for at, wall in shown if begin < at < end and matcher.matches(wall)})


@given(matcher=matchers(), place=st.sampled_from(SHIFTS), offset=st.integers(0, 2 * 1440))
def test_occurrences_are_those_of_a_walk_through_every_minute(
    matcher: Matcher, place: tuple[str, date], offset: int
) -> None:
    zone, day = place
    repeat = repeat_or_reject(matcher.text, zone)
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - DAY + offset * MINUTE
    end = begin + 2 * DAY
    occurrences: list[datetime] = []
    after = begin
    while after < end:
        previous, after = after, repeat.next(after)[0].astimezone(UTC)
        assert previous < after
        occurrences.append(after)
    assert occurrences.pop() >= end
    assert occurrences == expected(matcher, zone, day, begin, end)


@given(
    matcher=matchers(),
    zone=st.sampled_from([zone for zone, _ in SHIFTS]),
    after=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_occurrences_strictly_increase_and_lie_after_the_instant(
    matcher: Matcher, zone: str, after: datetime
) -> None:
    repeat = repeat_or_reject(matcher.text, zone)
    instants = [after, *(at.astimezone(UTC) for at in repeat.next(after, 8))]
    assert len(instants) == 9
    assert instants == sorted(set(instants))


@given(
    matcher=matchers(),
    seconds=field(0, 59),
    after=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_the_sixth_field_is_the_second(
    matcher: Matcher, seconds: tuple[str, frozenset[int]], after: datetime
) -> None:
    text, numbers = seconds
    plain, repeat = repeat_or_reject(matcher.text), repeat_or_reject(f"{matcher.text} {text}")
    minute = plain.next(after)[0]
    assert repeat.next(minute - MINUTE / 60, len(numbers)) == [
        minute + timedelta(seconds=number) for number in sorted(numbers)
    ]


@given(matcher=matchers(), place=st.sampled_from(SHIFTS), offset=st.integers(0, 3 * 1440 * 60_000))
def test_nothing_lies_between_an_instant_and_the_next_occurrence(
    matcher: Matcher, place: tuple[str, date], offset: int
) -> None:
    zone, day = place
    repeat = repeat_or_reject(matcher.text, zone)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * DAY
    after_ms = int(start.timestamp() * 1000) + offset
    following = repeat.next_at_ms(after_ms)
    assert following is not None
    assert repeat.next_at_ms(following - 1) == following
    assert repeat.next_at_ms((after_ms + following) // 2) == following


@pytest.mark.parametrize("time", ["00:00", "00:30", "01:59", "02:15", "03:00", "23:45"])
@pytest.mark.parametrize(
    ("zone", "year"),
    [
        ("Europe/Berlin", 2026),
        ("America/New_York", 2025),
        ("Australia/Lord_Howe", 2026),
        ("America/Sao_Paulo", 2018),
        ("America/Nuuk", 2024),
        ("Pacific/Apia", 2011),
        ("UTC", 2028),
    ],
)
def test_a_time_of_day_fires_once_for_every_date_that_exists(
    zone: str, year: int, time: str
) -> None:
    hour, minute = map(int, time.split(":"))
    repeat = Repeat(pattern=f"{minute} {hour} * * *", timezone=zone)
    tz = ZoneInfo(zone)
    days = [date(year, 1, 1) + n * DAY for n in range(366)]
    days = [day for day in days if day.year == year and day != date(2011, 12, 30)]
    occurrences = repeat.next(datetime(year, 1, 1, tzinfo=tz) - MINUTE, len(days))
    for day, at in zip(days, occurrences, strict=True):
        wall = datetime(day.year, day.month, day.day, hour, minute)
        local = at.replace(tzinfo=None)
        skipped = at.astimezone(UTC).astimezone(tz).replace(tzinfo=None) != wall
        # The time itself at its first showing, or, where it is skipped, the end of the gap.
        assert (local == wall and at.fold == 0) or (
            skipped and wall < local <= wall + timedelta(hours=1)
        )
    assert len({at.astimezone(UTC) for at in occurrences}) == len(days)


def test_the_time_that_the_clock_repeats_fires_at_its_first_showing() -> None:
    repeat = Repeat(pattern="30 2 * * *", timezone="Europe/Berlin")
    assert utc(repeat, datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == [
        "2026-10-25 00:30",
        "2026-10-26 01:30",
    ]


@pytest.mark.parametrize("shown", ["00:10:00", "00:10:01", "00:10:00.5", "00:10:01.001"])
def test_the_end_of_the_hour_that_the_clock_repeats_is_not_taken_for_its_middle(
    shown: str,
) -> None:
    """At 01:00 UTC the clock would show 03:00, and shows 02:00: it shows 03:00 an hour later."""
    repeat = Repeat(pattern="0 3 * * *", timezone="Europe/Berlin")
    after = datetime.fromisoformat(f"2026-10-25T{shown}+00:00")
    assert utc(repeat, after, 1) == ["2026-10-25 02:00"]


def test_the_time_that_the_clock_skips_fires_when_the_gap_ends() -> None:
    repeat = Repeat(pattern="30 2 * * *", timezone="Europe/Berlin")
    assert utc(repeat, datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == [
        "2026-03-29 01:00",
        "2026-03-30 00:30",
    ]


def test_several_times_in_one_gap_are_one_occurrence() -> None:
    repeat = Repeat(pattern="*/20 2 * * *", timezone="Europe/Berlin")
    assert utc(repeat, datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == [
        "2026-03-29 01:00",
        "2026-03-30 00:00",
    ]


def test_a_rhythm_goes_on_in_real_time_when_clocks_go_back_and_forward() -> None:
    half_hours = Repeat(pattern="*/30 * * * *", timezone="Europe/Berlin")
    for begin in (datetime(2026, 10, 24, tzinfo=UTC), datetime(2026, 3, 28, tzinfo=UTC)):
        instants = [at.astimezone(UTC) for at in half_hours.next(begin, 96)]
        assert instants == [begin + n * timedelta(minutes=30) for n in range(1, 97)]


def test_a_rhythm_of_another_season_goes_by_that_seasons_clock() -> None:
    july = Repeat(pattern="0 * 1 7 *", timezone="Europe/Berlin")
    in_the_second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert utc(july, in_the_second_pass, 1) == ["2027-06-30 22:00"]


def test_this_machines_own_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    repeat = Repeat(pattern="30 2 * * *", timezone="Europe/Berlin")
    try:
        for zone in ("Asia/Kolkata", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert utc(repeat, datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == [
                "2026-10-25 00:30",
                "2026-10-26 01:30",
            ]
            occurrence = repeat.next(datetime(2026, 7, 1, tzinfo=UTC))[0]
            assert occurrence.isoformat() == "2026-07-01T02:30:00+02:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_all_hours_written_as_a_list_are_a_rhythm_too() -> None:
    star = Repeat(pattern="15 * * * *", timezone="Europe/Berlin")
    listed = Repeat(pattern="15 0-11,12-23 * * *", timezone="Europe/Berlin")
    begin = datetime(2026, 10, 24, 20, tzinfo=UTC)
    assert star.next(begin, 10) == listed.next(begin, 10)


def test_the_date_that_samoa_skipped_has_no_occurrence() -> None:
    repeat = Repeat(pattern="0 9 * * *", timezone="Pacific/Apia")
    local = [f"{at:%F %R}" for at in repeat.next(datetime(2011, 12, 29, tzinfo=UTC), 3)]
    assert local == ["2011-12-29 09:00", "2011-12-31 09:00", "2012-01-01 09:00"]
    to_the_second = Repeat(pattern="0 9 * * * 30", timezone="Pacific/Apia")
    local = [f"{at:%F %T}" for at in to_the_second.next(datetime(2011, 12, 29, tzinfo=UTC), 2)]
    assert local == ["2011-12-29 09:00:30", "2011-12-31 09:00:30"]


@pytest.mark.parametrize(
    ("pattern", "days"),
    [
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 15,L * *", ["2026-01-15", "2026-01-31", "2026-02-15"]),
        ("0 0 * * fri#2", ["2026-01-09", "2026-02-13", "2026-03-13"]),
        ("0 0 * * MON#1,5#3", ["2026-01-05", "2026-01-16", "2026-02-02"]),
        ("0 0 * * Lfri", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * L7", ["2026-01-25", "2026-02-22", "2026-03-29"]),
        ("0 0 * * 1#5", ["2026-03-30", "2026-06-29", "2026-08-31"]),
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 13 * fri", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 1-31 * mon", ["2026-01-05", "2026-01-12", "2026-01-19"]),
        ("0 0 13 * 0-7", ["2026-01-13", "2026-02-13", "2026-03-13"]),
        ("0 0 * JAN,mar Sat-Sun", ["2026-01-03", "2026-01-04", "2026-01-10"]),
        ("@weekly", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("@Monthly", ["2026-02-01", "2026-03-01", "2026-04-01"]),
        ("@yearly", ["2027-01-01", "2028-01-01", "2029-01-01"]),
    ],
)
def test_the_calendar_forms_name_the_days_that_they_should(pattern: str, days: list[str]) -> None:
    occurrences = Repeat(pattern=pattern).next(datetime(2026, 1, 1, tzinfo=UTC), 3)
    assert [f"{at:%F %R}" for at in occurrences] == [f"{day} 00:00" for day in days]


@given(day=st.dates(date(1971, 1, 1), date(2200, 1, 1)), weekday=st.integers(0, 7))
def test_weekday_names_and_numbers_agree_with_the_calendar(day: date, weekday: int) -> None:
    after = datetime(day.year, day.month, day.day, tzinfo=UTC)
    by_number = Repeat(pattern=f"0 0 * * {weekday}").next(after)[0]
    by_name = Repeat(pattern=f"0 0 * * {WEEKDAYS[weekday % 7]}").next(after)[0]
    assert by_number == by_name
    assert by_number.isoweekday() % 7 == weekday % 7
    assert timedelta(0) < by_number - after <= 7 * DAY


@pytest.mark.parametrize("month", range(1, 13))
def test_a_month_may_be_called_by_its_name(month: int) -> None:
    name = date(2026, month, 1).strftime("%b")
    after = datetime(2026, 12, 31, tzinfo=UTC)
    (at,) = Repeat(pattern=f"0 0 1 {name} *").next(after)
    assert (at.year, at.month, at.day) == (2027, month, 1)


@pytest.mark.parametrize("weekday", ["sun", "0", "7"])
def test_sunday_has_two_numbers_in_its_month_too(weekday: str) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    second, last = (Repeat(pattern=f"0 0 * * {form}") for form in (f"{weekday}#2", f"L{weekday}"))
    assert utc(second, after, 2) == ["2026-01-11 00:00", "2026-02-08 00:00"]
    assert utc(last, after, 2) == ["2026-01-25 00:00", "2026-02-22 00:00"]


@pytest.mark.parametrize(
    "longest",
    [
        "*/60 * * * *",
        "* */24 * * *",
        "* * */31 * *",
        "* * * */12 *",
        "* * * * */7",
        "5-9/5 * * * *",
        "* * * * * */60",
    ],
)
def test_a_step_may_be_as_long_as_its_range_and_no_longer(longest: str) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert Repeat(pattern=longest).next(after)
    for step in re.findall(r"/(\d+)", longest):
        assert Repeat(pattern=longest.replace(f"/{step}", "/1")).next(after)
        with pytest.raises(ConfigurationError, match=f"a step from 1 to {step}, not"):
            Repeat(pattern=longest.replace(f"/{step}", f"/{int(step) + 1}"))


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("* * * 13 *", "month: * or a list of 1-12 or jan-dec, a-b, */n, a-b/n"),
        ("5/15 * * * *", "minute: a-b/n or */n, not '5/15'"),
        ("* * 1 * fri#2", "* as the day of month beside a weekday with # or L"),
    ],
)
def test_a_refusal_says_what_is_allowed(pattern: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Repeat(pattern=pattern)
    assert str(caught.value) == f"pattern={pattern!r}: give {allowed}"


def test_a_pattern_has_at_most_256_characters() -> None:
    longest = "* * * * " + ",".join(["1"] * 124) + " "
    assert len(longest) == 256
    assert Repeat(pattern=longest).pattern == longest.strip()
    with pytest.raises(ConfigurationError, match="at most 256"):
        Repeat(pattern=longest + " ")


@given(every_ms=st.integers(1, 10 * 365 * DAY_MS), after_ms=st.integers(0, 5 * 10**12))
def test_an_interval_fires_at_its_multiples_since_the_epoch(every_ms: int, after_ms: int) -> None:
    following = Repeat(every=timedelta(milliseconds=every_ms)).next_at_ms(after_ms)
    assert following is not None
    assert following % every_ms == 0
    assert after_ms < following <= after_ms + every_ms


@given(every_ms=st.integers(1, 10 * 365 * DAY_MS))
def test_an_interval_means_the_same_in_every_spelling(every_ms: int) -> None:
    repeat = Repeat(every=timedelta(milliseconds=every_ms))
    assert repeat == Repeat(every=every_ms / 1000)
    assert repeat.every_ms == every_ms
    assert Repeat.from_json(repeat.to_json()) == repeat


@given(matcher=matchers(), zone=st.sampled_from([zone for zone, _ in SHIFTS]))
def test_the_stored_definition_gives_the_same_schedule_and_the_same_bytes(
    matcher: Matcher, zone: str
) -> None:
    repeat = repeat_or_reject(matcher.text, zone)
    stored = repeat.to_json()
    assert Repeat.from_json(stored) == repeat
    assert Repeat.from_json(stored).to_json() == stored
    assert Repeat.from_json(stored.decode()) == repeat


def test_the_stored_definition_is_compact() -> None:
    assert Repeat(pattern="0  0 * *\t* ").to_json() == b'{"pattern":"0 0 * * *"}'
    assert Repeat(every=0.5, timezone="Asia/Tokyo").to_json() == (
        b'{"every_ms":500,"timezone":"Asia/Tokyo"}'
    )


@given(
    late_ms=st.integers(-DAY_MS, DAY_MS), every_ms=st.integers(1000, DAY_MS), n=st.integers(1, 1000)
)
def test_an_occurrence_is_missed_after_a_minute_or_when_the_next_is_due(
    late_ms: int, every_ms: int, n: int
) -> None:
    occurrence_ms = n * every_ms
    missed = Repeat(every=every_ms / 1000).missed(occurrence_ms, occurrence_ms + late_ms)
    assert missed == (late_ms > LATE_MS or late_ms >= every_ms)


def test_an_occurrence_is_not_missed_before_a_whole_minute_has_passed() -> None:
    daily, at_ms = Repeat(pattern="0 0 * * *"), instant_ms(datetime(2026, 1, 1, tzinfo=UTC))
    assert LATE_MS == 60_000
    assert not daily.missed(at_ms, at_ms + LATE_MS)
    assert daily.missed(at_ms, at_ms + LATE_MS + 1)


def test_a_schedule_outlives_seven_days_or_two_intervals() -> None:
    now_ms = instant_ms(datetime(2026, 1, 1, tzinfo=UTC))
    assert Repeat(pattern="0 0 * * *").lifetime_ms(now_ms) == 7 * DAY_MS
    assert Repeat(pattern="0 0 1 1 *").lifetime_ms(now_ms) == 2 * 365 * DAY_MS
    assert Repeat(every=10 * DAY).lifetime_ms(20 * DAY_MS) == 20 * DAY_MS


def test_the_calendar_ends_without_an_error() -> None:
    daily = Repeat(pattern="0 0 * * *")
    last = daily.next(datetime(9899, 12, 30, tzinfo=UTC), 5)
    assert [f"{at:%F}" for at in last] == ["9899-12-31"]
    assert daily.next(datetime(9999, 12, 31, tzinfo=UTC)) == []
    assert Repeat(every=60).next_at_ms(10**18) is None
    assert daily.next_at_ms(10**18) is None
    day_before_ms = instant_ms(datetime(9899, 12, 31, tzinfo=UTC))
    assert daily.lifetime_ms(day_before_ms) == 7 * DAY_MS
    assert not daily.missed(day_before_ms, day_before_ms + 1)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 0 *",
        "* * * 13 *",
        "* * * * 8",
        "* * * * * 60",
        "-1 * * * *",
        "+1 * * * *",
        "1.5 * * * *",
        "5-5 * * * *",
        "50-10 * * * *",
        "* * * * sat-fri",
        "* * * * 7-0",
        "* * * * 0-0",
        "*/0 * * * *",
        "*/61 * * * *",
        "0-10/12 * * * *",
        "5/15 * * * *",
        "5/1 * * * *",
        "5-0 * * * *",
        "*,5 * * * *",
        "1,,2 * * * *",
        ",1 * * * *",
        "1, * * * *",
        "*/ * * * *",
        "**  * * * *",
        "? * * * *",
        "* * ? * *",
        "* * 15W * *",
        "* * W * *",
        "H * * * *",
        "R * * * *",
        "H(0-9)/3 * * * *",
        "* * * january *",
        "* * * * monday",
        "mon * * * *",
        "* * * mon *",
        "* * L-2 * *",
        "* * * * L",
        "* * * * L8",
        "* * * * fri#0",
        "* * * * fri#6",
        "* * * * fri#2,mon",
        "* * 1 * fri#2",
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "@reboot",
        "@hourly * * * *",
        "every minute",
        "\uff11 * * * *",
        "* * *\u00a0* *",
        "* * * * *" + " " * 300,
        "\x00 * * * *",
        7,
        b"* * * * *",
        True,
    ],
)
def test_a_bad_pattern_is_refused_with_argument_value_and_what_is_allowed(
    pattern: object,
) -> None:
    with pytest.raises(ConfigurationError, match=r"^pattern=.+: give .+") as caught:
        Repeat.parse({"pattern": pattern})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "zone", ["", "Nowhere/City", "Europe", "../UTC", "/etc/localtime", "localtime", "a\0b", 1, None]
)
def test_an_unknown_zone_is_refused(zone: object) -> None:
    shown = re.escape(repr(zone))
    with pytest.raises(ConfigurationError, match=rf"^timezone={shown}: give an IANA name"):
        Repeat.parse({"every": 1, "timezone": zone})


def test_the_name_of_an_unknown_zone_is_cut_where_it_is_long() -> None:
    with pytest.raises(ConfigurationError, match=r"^timezone='N{116}…: give an IANA name"):
        Repeat(every=1, timezone="N" * 1000)


def test_utc_needs_no_database() -> None:
    assert Repeat(every=1).next(datetime(2026, 1, 1, tzinfo=UTC))[0].tzinfo is UTC


@pytest.mark.parametrize(
    "every",
    [0, -1, 0.0001, float("nan"), float("inf"), 1e12, True, "30", timedelta(0), timedelta(-1)],
)
def test_a_bad_interval_is_refused(every: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^every=.+: give seconds or a timedelta"):
        Repeat.parse({"every": every})


def test_exactly_one_of_pattern_and_interval_is_wanted() -> None:
    with pytest.raises(ConfigurationError, match="give exactly one"):
        Repeat()
    with pytest.raises(ConfigurationError, match="give exactly one"):
        Repeat(pattern="* * * * *", every=30)


def test_a_pattern_a_mapping_and_a_repeat_stand_for_a_repeat() -> None:
    repeat = Repeat(pattern="0 9 * * *")
    assert Repeat.parse("0 9 * * *") == repeat
    assert Repeat.parse({"pattern": "0 9 * * *", "timezone": "UTC"}) == repeat
    assert Repeat.parse(repeat) is repeat
    assert hash(Repeat.parse("0 9 * * *")) == hash(repeat)


def test_a_misspelt_field_is_named_with_the_closest_one() -> None:
    with pytest.raises(ConfigurationError, match=r"'patern'.*'pattern'"):
        Repeat.parse({"patern": "0 9 * * *"})
    with pytest.raises(ConfigurationError, match=r"^repeat=30"):
        Repeat.parse(30)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("n", [0, -1, 1.0, True])
def test_a_bad_count_or_a_naive_instant_is_refused(n: int) -> None:
    repeat = Repeat(every=1)
    with pytest.raises(ConfigurationError, match=r"^n="):
        repeat.next(datetime(2026, 1, 1, tzinfo=UTC), n)
    with pytest.raises(ConfigurationError, match=r"^after=.*aware"):
        repeat.next(datetime(2026, 1, 1))


@pytest.mark.parametrize(
    "definition",
    [
        b"",
        b"{",
        b"[]",
        b'{"cron":"* * * * *"}',
        b'{"every_ms":1,"catch_up":true}',
        b'{"every_ms":1.5}',
        b"\xff",
        "{}",
        '{"every_ms":0}',
    ],
)
def test_bytes_that_are_no_definition_are_refused(definition: bytes | str) -> None:
    with pytest.raises(ConfigurationError):
        Repeat.from_json(definition)


def test_an_impossible_pattern_is_refused_without_a_long_search() -> None:
    # croniter walks month by month through fifty years at most: 3 to 11 ms were measured.
    program = (
        "import time\n"
        "from trio_tasks.processor.repeat import Repeat\n"
        "begin = time.process_time()\n"
        "try:\n"
        "    Repeat(pattern='0 0 31 2,4,6,9,11 *')\n"
        "except ValueError:\n"
        "    assert time.process_time() - begin < 0.5\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_import_brings_no_event_loop_and_no_redis() -> None:
    program = (
        "import sys\n"
        "import trio_tasks.processor.repeat\n"
        "loaded = {'trio', 'anyio', 'asyncio', 'redis', 'hiredis', 'sniffio'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def repeat_or_reject(pattern: str, zone: str = "UTC") -> Repeat:
    """The schedule; an example whose pattern names no date (30 February) is dropped."""
    try:
        return Repeat(pattern=pattern, timezone=zone)
    except ConfigurationError as error:
        assume("no date" not in str(error))
        raise


def instant_ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def utc(repeat: Repeat, after: datetime, n: int) -> list[str]:
    return [f"{at.astimezone(UTC):%F %R}" for at in repeat.next(after, n)]
