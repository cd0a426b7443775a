"""When schedules come due next: App Engine's own answers, and an oracle that looks at every minute."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastacross.cron import ScheduleError, parse_schedule
from tests.support.tries import each_number_of_tries, try_out

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

# Schedule, time zone and start (excluded); below them the runs that follow, all in UTC.
APP_ENGINE = """
every 1 mins | UTC | 2024-01-31 10:15:30
    2024-01-31 10:16 · 2024-01-31 10:17 · 2024-01-31 10:18 · 2024-01-31 10:19
every 90 minutes | UTC | 2024-01-31 10:15:30
    2024-01-31 11:45 · 2024-01-31 13:15 · 2024-01-31 14:45 · 2024-01-31 16:15
every 100 hours | UTC | 2024-01-31 10:15:30
    2024-02-04 14:15 · 2024-02-08 18:15 · 2024-02-12 22:15 · 2024-02-17 02:15
every 20 mins synchronized | UTC | 2024-01-31 10:15:30
    2024-01-31 10:20 · 2024-01-31 10:40 · 2024-01-31 11:00 · 2024-01-31 11:20
every 8 hours synchronized | UTC | 2024-01-31 10:15:30
    2024-01-31 16:00 · 2024-02-01 00:00 · 2024-02-01 08:00 · 2024-02-01 16:00
every 2 hours synchronized | Asia/Kolkata | 2024-01-31 10:15:30
    2024-01-31 10:30 · 2024-01-31 12:30 · 2024-01-31 14:30 · 2024-01-31 16:30
every 5 minutes from 10:00 to 14:00 | UTC | 2024-01-31 10:00
    2024-01-31 10:05 · 2024-01-31 10:10 · 2024-01-31 10:15 · 2024-01-31 10:20
every 2 hours from 10:00 to 14:00 | UTC | 2024-01-31 10:15:30
    2024-01-31 12:00 · 2024-01-31 14:00 · 2024-02-01 10:00 · 2024-02-01 12:00
every 2 hours from 12:34 to 01:23 | UTC | 2024-01-31 22:00
    2024-01-31 22:34 · 2024-02-01 00:34 · 2024-02-01 12:34 · 2024-02-01 14:34
every 10 minutes from 09:00 to 09:00 | UTC | 2024-01-31 08:00
    2024-01-31 09:00 · 2024-02-01 09:00 · 2024-02-02 09:00 · 2024-02-03 09:00
every day 10:16 | UTC | 2024-01-31 10:15:30
    2024-01-31 10:16 · 2024-02-01 10:16 · 2024-02-02 10:16 · 2024-02-03 10:16
every mon,wed,fri 10:00 | UTC | 2024-01-31 10:15:30
    2024-02-02 10:00 · 2024-02-05 10:00 · 2024-02-07 10:00 · 2024-02-09 10:00
every sat,sun of month 9:05 | UTC | 2024-01-31 10:15:30
    2024-02-03 09:05 · 2024-02-04 09:05 · 2024-02-10 09:05 · 2024-02-11 09:05
1st,third monday of month 04:00 | UTC | 2024-01-31 10:15:30
    2024-02-05 04:00 · 2024-02-19 04:00 · 2024-03-04 04:00 · 2024-03-18 04:00
first sunday of quarter 00:00 | UTC | 2024-01-31 10:15:30
    2024-04-07 00:00 · 2024-07-07 00:00 · 2024-10-06 00:00 · 2025-01-05 00:00
5th friday of month 12:00 | UTC | 2024-01-31 10:15:30
    2024-03-29 12:00 · 2024-05-31 12:00 · 2024-08-30 12:00 · 2024-11-29 12:00
1st,3rd tuesday 07:00 | UTC | 2024-01-31 10:15:30
    2024-02-06 07:00 · 2024-02-20 07:00 · 2024-03-05 07:00 · 2024-03-19 07:00
1 of month 00:00 | UTC | 2024-01-31 10:15:30
    2024-02-01 00:00 · 2024-03-01 00:00 · 2024-04-01 00:00 · 2024-05-01 00:00
1 of jan,april,july,oct 00:00 | UTC | 2024-01-31 10:15:30
    2024-04-01 00:00 · 2024-07-01 00:00 · 2024-10-01 00:00 · 2025-01-01 00:00
28,29,30,31 of feb 12:00 | UTC | 2025-01-01 00:00
    2025-02-28 12:00 · 2026-02-28 12:00 · 2027-02-28 12:00 · 2028-02-28 12:00
15 of third month of quarter 08:00 | UTC | 2024-01-31 10:15:30
    2024-03-15 08:00 · 2024-06-15 08:00 · 2024-09-15 08:00 · 2024-12-15 08:00
every day 01:30 | Europe/London | 2024-03-30 12:00
    2024-04-01 00:30 · 2024-04-02 00:30 · 2024-04-03 00:30 · 2024-04-04 00:30
every 6 hours synchronized | America/New_York | 2024-11-03 03:30
    2024-11-03 04:00 · 2024-11-03 10:00 · 2024-11-03 16:00 · 2024-11-03 22:00
every 2 hours from 02:30 to 08:00 | America/New_York | 2024-03-10 05:50
    2024-03-10 07:00 · 2024-03-10 09:00 · 2024-03-10 11:00 · 2024-03-11 06:30
"""

# The runs are in local time.
LOCAL = """
every 12 hours | Europe/Kiev | 2007-12-03 08:15:30
    2007-12-03 22:15:00+0200 · 2007-12-04 10:15:00+0200 · 2007-12-04 22:15:00+0200
every 2 hours from 10:00 to 14:00 | Europe/Kiev | 2007-12-03 08:15:30
    2007-12-03 12:00:00+0200 · 2007-12-03 14:00:00+0200 · 2007-12-04 10:00:00+0200
every 3 hours from 10:00 to 14:00 | Europe/Kiev | 2007-12-03 10:15:30
    2007-12-03 13:00:00+0200 · 2007-12-04 10:00:00+0200 · 2007-12-04 13:00:00+0200
every day 00:00 | Europe/Kiev | 2007-12-03 08:15:30
    2007-12-04 00:00:00+0200 · 2007-12-05 00:00:00+0200 · 2007-12-06 00:00:00+0200
2nd,third mon,wed,thu of march 17:00 | Europe/Kiev | 2007-12-03 08:15:30
    2008-03-10 17:00:00+0200 · 2008-03-12 17:00:00+0200 · 2008-03-13 17:00:00+0200
    2008-03-17 17:00:00+0200 · 2008-03-19 17:00:00+0200 · 2008-03-20 17:00:00+0200
    2009-03-09 17:00:00+0200
1 of jan,april,july,oct 00:00 | Europe/Kiev | 2007-12-03 08:15:30
    2008-01-01 00:00:00+0200 · 2008-04-01 00:00:00+0300 · 2008-07-01 00:00:00+0300
every 1 hours from 00:29 to 23:29 | UTC | 2016-03-21 16:29:15
    2016-03-21 17:29:00+0000 · 2016-03-21 18:29:00+0000 · 2016-03-21 19:29:00+0000
"""


ODD_DAYS = """
# The day of 25 hours, from which the reference went back in time.
every 6 hours synchronized | America/New_York | 2024-11-04 04:00
    2024-11-04 05:00
every 6 hours synchronized | America/New_York | 2024-11-03 22:00
    2024-11-04 04:00
# 02:30 is not there in spring, and is twice there in autumn.
every day 02:30 | Europe/Berlin | 2024-03-30 02:00
    2024-04-01 00:30
every day 02:30 | Europe/Berlin | 2024-10-27 00:00
    2024-10-27 00:30 · 2024-10-27 01:30
# Half an hour is set back at 02:00: 01:45 comes twice.
every day 01:45 | Australia/Lord_Howe | 2024-04-06 12:00
    2024-04-06 14:45 · 2024-04-06 15:15
# The 30th of December was left out in Samoa.
every day 10:00 | Pacific/Apia | 2011-12-29 00:00
    2011-12-29 20:00 · 2011-12-30 20:00
# Midnight sets the clocks back: the hour before it comes twice, and no job of the day stops for it.
every 1 hours synchronized | America/Sao_Paulo | 2018-02-18 00:30
    2018-02-18 01:00 · 2018-02-18 02:00
# Midnight is not there: the day begins at 01:00.
every 12 hours synchronized | America/Sao_Paulo | 2018-11-04 00:00
    2018-11-04 03:00 · 2018-11-04 15:00
# The end comes twice: the earlier one closes the range.
every 30 mins from 00:30 to 01:30 | America/New_York | 2024-11-03 05:00
    2024-11-03 05:30 · 2024-11-04 05:30
# The beginning comes twice: the earlier one opens it.
every 1 hours from 01:30 to 03:00 | America/New_York | 2024-11-03 04:00
    2024-11-03 05:30 · 2024-11-03 06:30 · 2024-11-03 07:30 · 2024-11-04 06:30
# A range over midnight, on the day before the clocks change.
every 1 hours from 23:30 to 03:30 | Europe/Berlin | 2024-03-30 22:00
    2024-03-30 22:30 · 2024-03-30 23:30 · 2024-03-31 00:30 · 2024-03-31 01:30 · 2024-03-31 21:30
29 of feb 12:00 | UTC | 2096-03-01 00:00
    2104-02-29 12:00
# The last year that a date can have.
1 of jan 00:00 | UTC | 9998-06-01 00:00
    9999-01-01 00:00
5th thursday of feb 12:00 | UTC | 2025-01-01 00:00
    2052-02-29 12:00 · 2080-02-29 12:00
every 5 mins | UTC | 2024-01-31 10:15:59.999999
    2024-01-31 10:20
every day 10:00 | UTC | 2024-01-31 10:00
    2024-02-01 10:00
every day 10:00 | UTC | 2024-01-31 09:59:59.999999
    2024-01-31 10:00
"""


def rows(table: str) -> list[tuple[str, str, str, list[str]]]:
    """Schedule, time zone, start and runs of a table."""
    found: list[tuple[str, str, str, list[str]]] = []
    for line in table.strip().splitlines():
        if line.startswith("#"):
            continue
        if " | " in line:
            text, zone, start = line.split(" | ")
            found.append((text, zone, start, []))
        else:
            found[-1][3].extend(line.strip().split(" · "))
    return found


def runs(text: str, zone: str, after: datetime, number: int) -> list[datetime]:
    """The next runs after an instant."""
    schedule, found = parse_schedule(text, zone), []
    for _ in range(number):
        after = schedule.next_run(after)
        found.append(after)
    return found


def utc(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("text", "zone", "start", "expected"), rows(APP_ENGINE))
def test_the_next_runs_are_app_engines(text: str, zone: str, start: str, expected: list[str]) -> None:
    wanted = [utc(run) for run in expected]

    assert runs(text, zone, utc(start), len(wanted)) == wanted


@pytest.mark.parametrize(("text", "zone", "start", "expected"), rows(LOCAL))
def test_the_next_runs_in_local_time_are_app_engines(
    text: str, zone: str, start: str, expected: list[str]
) -> None:
    wanted = [datetime.strptime(run, "%Y-%m-%d %H:%M:%S%z") for run in expected]

    assert runs(text, zone, utc(start), len(wanted)) == wanted


@pytest.mark.parametrize(("text", "zone", "start", "expected"), rows(ODD_DAYS))
def test_days_that_are_not_like_others(text: str, zone: str, start: str, expected: list[str]) -> None:
    wanted = [utc(run) for run in expected]

    assert runs(text, zone, utc(start), len(wanted)) == wanted


def test_the_answer_is_in_utc_so_that_it_is_greater_in_the_hour_that_comes_twice() -> None:
    after = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))

    found = parse_schedule("every day 02:30", "Europe/Berlin").next_run(after)

    assert found > after
    assert found.tzinfo is UTC


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        parse_schedule("every day 02:30").next_run(datetime(2024, 1, 1))


@pytest.mark.parametrize(
    ("text", "zone", "after"),
    [
        ("every day 09:00", "UTC", utc("9999-12-31 10:00")),
        ("every 99999 hours", "UTC", utc("9999-12-31 10:00")),
        ("every 1 hours synchronized", "UTC", utc("9999-12-31 23:30")),
        # The clocks of New York skip just this hour, every year.
        ("2nd sun of mar 02:30", "America/New_York", utc("2024-01-01 00:00")),
    ],
)
def test_what_never_comes_due_again_says_so(text: str, zone: str, after: datetime) -> None:
    with pytest.raises(ScheduleError, match="is never due"):
        parse_schedule(text, zone).next_run(after)


# --- the oracle: looks at each minute, knows nothing of the code above ------------------------

WEEKDAY_NAMES = ("mon", "tuesday", "wed", "thursday", "fri", "saturday", "sun")
MONTH_NAMES = (
    "jan",
    "february",
    "mar",
    "april",
    "may",
    "june",
    "jul",
    "august",
    "sep",
    "october",
    "nov",
    "dec",
)

ZONES = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "America/St_Johns",
]
YEARS = range(1985, 2038)


def minutes(first: datetime, last: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """Each minute of a stretch: the instant in UTC, and what a clock of the zone shows."""
    instant = first
    while instant <= last:
        yield instant, instant.astimezone(zone).replace(tzinfo=None, fold=0)
        instant += MINUTE


def matches_specific(
    local: datetime, parts: tuple[frozenset[int], frozenset[int], frozenset[int], int]
) -> bool:
    """Whether a clock's face is one of a schedule of (ordinals, weekdays, months, minute of the day)."""
    ordinals, weekdays, months, minute = parts
    week = (local.day - 1) // 7 + 1
    on_day = week in ordinals and local.weekday() in weekdays and local.month in months
    return on_day and local.hour * 60 + local.minute == minute


def reached(high: datetime | None, local: datetime, minute: int) -> datetime | None:
    """The latest face with this minute of a day that a clock has reached or passed just now."""
    if high is None:
        return None
    face = datetime.combine(local.date(), datetime.min.time()) + minute * MINUTE
    if face > local:
        face -= 24 * HOUR
    return face if face > high else None


def range_runs(
    first: datetime, last: datetime, zone: ZoneInfo, *, step: int, start: int, end: int
) -> list[datetime]:
    """The runs of a range, told by a clock that is watched minute by minute."""
    found: list[datetime] = []
    opened_at, high = None, None
    is_whole_day = (end + 1 - start) % 1440 == 0
    for instant, local in minutes(first - 49 * HOUR, last, zone):
        opened, closed = reached(high, local, start), reached(high, local, end)
        if opened is not None:
            opened_at = instant
        if opened_at is not None and (instant - opened_at) // MINUTE % step == 0 and instant > first:
            found.append(instant)
        # A clock set forward can pass the end of yesterday's range and the start of today's in one step.
        if closed is not None and not is_whole_day and (opened is None or opened <= closed):
            opened_at = None
        high = local if high is None else max(high, local)
    return found


def changes(zone_name: str) -> list[datetime]:
    """The hours in which the zone's clocks changed."""
    zone = ZoneInfo(zone_name)
    found, instant = [], datetime(YEARS[0], 1, 1, tzinfo=UTC)
    offset = instant.astimezone(zone).utcoffset()
    while instant.year < YEARS[-1]:
        following = instant + 24 * HOUR
        if (new := following.astimezone(zone).utcoffset()) != offset:
            offset = new
            found.append(following)
        instant = following
    return found or [datetime(year, 3, 31, tzinfo=UTC) for year in YEARS]


CHANGES = {zone: changes(zone) for zone in ZONES}


@st.composite
def stretches(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and an instant within three days of a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(CHANGES[zone]))
    return zone, change - draw(st.integers(1, 3 * 1440)) * MINUTE


def clock(minute: int) -> str:
    """A minute of the day as a schedule writes it."""
    return f"{minute // 60:02}:{minute % 60:02}"


def several(numbers: frozenset[int], names: tuple[str, ...]) -> str:
    """Words with commas between them."""
    return ",".join(names[number] for number in sorted(numbers))


def sequence(text: str, zone: str, first: datetime, last: datetime) -> list[datetime]:
    """All runs of a stretch as the code tells them; strictly increasing."""
    found, after = [], first
    schedule = parse_schedule(text, zone)
    while (run := schedule.next_run(after)) <= last:
        assert run > after
        found.append(run)
        after = run
    return found


# Minutes of the small hours, where clocks change, more often than others.
DAY_MINUTES = st.one_of(st.integers(0, 210), st.integers(0, 1439), st.integers(1380, 1439))


def check_range(stretch: tuple[str, datetime], step: int, start: int, end: int) -> None:
    """Compare the runs of three days with those that the oracle tells."""
    zone, first = stretch
    last = first + 72 * HOUR
    text = f"every {step} mins from {clock(start)} to {clock(end)}"

    found = sequence(text, zone, first, last)

    assert found == range_runs(first, last, ZoneInfo(zone), step=step, start=start, end=end)


@each_number_of_tries
def test_a_range_never_skips_a_run_and_makes_none_up(tries: int) -> None:
    steps = st.integers(1, 1500)
    try_out(check_range, tries, stretch=stretches(), step=steps, start=DAY_MINUTES, end=DAY_MINUTES)


@pytest.mark.parametrize("first", ["2010-09-26 23:59", "2011-12-29 20:59"])
@pytest.mark.parametrize(("start", "end"), [(2, 0), (0, 2), (10, 5), (5, 10), (600, 500), (500, 500)])
def test_a_range_in_a_gap_of_the_clocks_starts_when_the_gap_is_over(first: str, start: int, end: int) -> None:
    """Apia lost an hour at midnight in 2010, and a day in 2011."""
    check_range(("Pacific/Apia", utc(first)), 1, start, end)


@settings(max_examples=60, deadline=None)
@given(stretches(), st.sampled_from([n for n in range(5, 1441) if 1440 % n == 0]))
def test_a_synchronized_interval_is_counted_from_each_midnight(
    stretch: tuple[str, datetime], step: int
) -> None:
    zone, first = stretch
    last = first + 72 * HOUR

    found = sequence(f"every {step} minutes synchronized", zone, first, last)

    assert found == range_runs(first, last, ZoneInfo(zone), step=step, start=0, end=1439)


@settings(max_examples=60, deadline=None)
@given(
    stretches(),
    st.frozensets(st.integers(1, 5), min_size=1),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.frozensets(st.integers(1, 12), min_size=1),
    DAY_MINUTES,
)
def test_a_time_of_some_weekdays_comes_due_whenever_a_clock_shows_it(
    stretch: tuple[str, datetime],
    ordinals: frozenset[int],
    weekdays: frozenset[int],
    months: frozenset[int],
    minute: int,
) -> None:
    zone, first = stretch
    last = first + 120 * HOUR
    numbers = several(ordinals, ("", "1st", "second", "3rd", "fourth", "5th"))
    days, of = several(weekdays, WEEKDAY_NAMES), several(months, ("", *MONTH_NAMES))

    found = sequence(f"{numbers} {days} of {of} {clock(minute)}", zone, first, last)

    parts = (ordinals, weekdays, months, minute)
    stream = minutes(first + MINUTE, last, ZoneInfo(zone))
    assert found == [instant for instant, local in stream if matches_specific(local, parts)]


@settings(max_examples=60, deadline=None)
@given(stretches(), st.frozensets(st.integers(1, 29), min_size=1), DAY_MINUTES)
def test_a_time_of_some_days_of_the_month_comes_due_whenever_a_clock_shows_it(
    stretch: tuple[str, datetime], days: frozenset[int], minute: int
) -> None:
    zone, first = stretch
    last = first + 120 * HOUR
    text = f"{','.join(str(day) for day in sorted(days))} of month {clock(minute)}"

    found = sequence(text, zone, first, last)

    stream = minutes(first + MINUTE, last, ZoneInfo(zone))
    is_due = [(at, face.day in days and face.hour * 60 + face.minute == minute) for at, face in stream]
    assert found == [at for at, due in is_due if due]


@pytest.mark.parametrize("zone", ZONES)
def test_over_all_years_the_runs_of_a_day_are_one_a_day_but_for_changes_of_the_clocks(zone: str) -> None:
    first, last = datetime(YEARS[0], 1, 1, tzinfo=UTC), datetime(YEARS[-1], 1, 1, tzinfo=UTC)
    found = sequence("every day 02:15", zone, first, last)
    gaps = [later - run for run, later in itertools.pairwise(found)]

    odd = [gap for gap in gaps if gap != 24 * HOUR]
    assert len(odd) <= 2 * len(CHANGES[zone])
    assert all(run.astimezone(ZoneInfo(zone)).strftime("%H:%M") == "02:15" for run in found)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1)),
    st.integers(1, 99999),
    st.sampled_from([("mins", 60), ("minutes", 60), ("hours", 3600)]),
)
def test_a_plain_interval_counts_from_the_start_and_falls_on_the_full_minute(
    zone: str, start: datetime, number: int, unit: tuple[str, int]
) -> None:
    start = start.replace(tzinfo=UTC)

    found = parse_schedule(f"every {number} {unit[0]}", zone).next_run(start)

    exact = start + timedelta(seconds=number * unit[1])
    assert exact - MINUTE < found <= exact
    assert (found.second, found.microsecond) == (0, 0)
    assert found > start


@pytest.mark.parametrize(
    "text",
    ["every 5 mins", "every 7 mins from 22:00 to 04:00", "every day 02:30", "5th mon,tue of quarter 09:00"],
)
def test_an_answer_takes_about_a_millisecond_at_most(text: str) -> None:
    schedule, after = parse_schedule(text, "Europe/Berlin"), utc("2024-01-31 10:15:30")
    lengths = []
    for _ in range(200):
        started_at = time.process_time()
        after = schedule.next_run(after)
        lengths.append(time.process_time() - started_at)

    # Three times the promise.
    assert sorted(lengths)[len(lengths) // 2] < 0.003
