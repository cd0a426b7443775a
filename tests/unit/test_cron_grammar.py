"""Schedule texts: which are taken, which are refused, and what a refusal says."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross import errors
from lastacross.cron import DailyRange, Interval, ScheduleError, SpecificTimes, parse_schedule

ACCEPTED = [
    "every day 9:00",
    "  every 7 mins  ",
    "every mon, tue 09:00",
    "every 99999 mins",
    "first day 09:00",
    "every 5 minutes from 9:00 to 17:00",
    "1 of jan,feb 0:00",
    "1,1 of month 09:00",
    "1st mon of jan,jan 09:00",
    "fourth monday of quarter 09:00",
    "every 24 hours from 09:00 to 17:00",
    "every5minutes",
    "everymonday09:00",
    "1st,thirdmondayofmonth04:00",
    "every\t5\nminutes\r",
    "29 of feb 09:00",
    "01,31 of feb 00:00",
    "5th day of feb 09:00",
    "every day of january,dec 23:59",
    "2nd,third mon,wed,thu of march 17:00",
    "15 of second,1st month of quarter 08:00",
    "every 20 mins synchronized",
    "every 0005 mins",
    "every 05 hours",
]

REJECTED = [
    "every 2 feet",
    "every day 24:00",
    "every 24 hours 09:00",
    "every 1 minutes from 09:00 to 12:00 synchronized",
    "every 1 minutes from 09:00",
    "every 1 minutes 09:00 to 12:00",
    "every 0 minutes",
    "every 48 hours synchronized",
    "every hour",
    "every 1 minute",
    "every 1 min",
    "every monday",
    "30 of feb 09:00",
    "30,31 of feb 09:00",
    "31 of feb,apr,june,sep,november 09:00",
    "32 of month 09:00",
    "0 of month 09:00",
    "001 of month 09:00",
    "6th day of month 09:00",
    "Every Day 09:00",
    "every Monday 9:00",
    "every sept 09:00",
    "every day 09:00:00",
    "1st,3rd tuesday",
    "1,2 of month",
    "1 09:00",
    "every 100000 mins",
    "1st month of quarter 09:00",
    "every",
    "every -5 minutes",
    "every 5 days",
    "every 5 minutes FROM 09:00 to 10:00",
    "every wednesdays 09:00",
    "synchronized every 5 minutes",
    "every day,mon 09:00",
    "1 of fourth month of quarter 09:00",
    "@daily",
    "*/5 * * * *",
    "0 9 * * 1-5",
    "",
    "   ",
    "every 7 hours synchronized",
    "every mon-fri 09:00",
    "every 5 parsecs",
    "every 30 seconds",
    "every \u0665 minutes",
    "every\xa05\xa0minutes",
    "every 5 minutes from 9:00 to 9:60",
    "every day 9:5",
    "every day 009:00",
    "every mon, 09:00",
    ", every mon 09:00",
    "every day 09:00 every day 10:00",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_schedule_of_the_grammar_is_taken(text: str) -> None:
    assert parse_schedule(text).text == text


@pytest.mark.parametrize("text", REJECTED)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"^schedule "):
        parse_schedule(text)


def test_the_error_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(ScheduleError, ValueError)
    assert issubclass(ScheduleError, errors.Error)


@pytest.mark.parametrize(
    ("text", "column", "hint", "words"),
    [
        ("every 5 minuts", 9, "minutes", "has 'minuts' at column 9; expected 'hours', 'mins' or 'minutes'"),
        ("every 5 hour", 9, "hours", "'hour' at column 9"),
        ("every 2 days", 9, "every 48 hours", "'days' at column 9"),
        ("every hour", 7, "every 1 hours", "a number of hours or minutes"),
        ("every minute from 10:00 to 14:00", 7, "every 1 minutes", "a number of hours or minutes"),
        ("every Monday 9:00", 7, "monday", "a number, 'day' or a weekday"),
        ("every wendesday 9:00", 7, "wednesday", "'wendesday' at column 7"),
        ("every day 24:00", 11, "00:00", "a time from 0:00 to 23:59"),
        ("every day 9", 11, "09:00", "a time from 0:00 to 23:59"),
        ("every day 23", 11, "23:00", "a time from 0:00 to 23:59"),
        ("every day 25", 11, None, "a time from 0:00 to 23:59"),
        ("every day 9:5", 11, None, "a time from 0:00 to 23:59"),
        ("every monday", 13, None, "ends at column 13; expected a time from 0:00 to 23:59"),
        ("every mon,tue fri 09:00", 15, None, "'of' or ','"),
        ("1 of sept 09:00", 6, "sep", "a month"),
        ("1 off sep 09:00", 3, "of", "'of' and a month"),
        ("1st,6th mon 09:00", 5, None, "another value of the same kind"),
        (
            "every 5 minutes synchronised",
            17,
            "synchronized",
            "'from', 'synchronized' or the end of the schedule",
        ),
        ("every 5 minutes from 09:00 until 10:00", 28, None, "'to' and a time"),
        ("every 48 hours synchronized", 1, "every 24 hours synchronized", "divide 24 hours"),
        ("every 50 mins synchronized", 1, "every 48 minutes synchronized", "divide 24 hours"),
        ("@daily", 1, "every day 00:00", "is written in Unix cron syntax"),
        ("*/5 * * * *", 1, "every 5 minutes synchronized", "is written in Unix cron syntax"),
        ("30 of feb 09:00", 1, None, "days that do not exist in these months"),
        ("1st month of quarter 09:00", 5, None, "'month' at column 5"),
        ("Every Day 09:00", 1, "every", "'Every' at column 1"),
    ],
)
def test_a_refusal_says_what_was_expected_and_where(
    text: str, column: int, hint: str | None, words: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_schedule(text)

    assert (caught.value.column, caught.value.hint) == (column, hint)
    assert words in str(caught.value)
    assert (f"Did you mean {hint!r}?" in str(caught.value)) == (hint is not None)


def test_of_words_without_spaces_between_them_a_refusal_names_the_wrong_one() -> None:
    """Up to a hundred letters; a longer text is taken for one word."""
    with pytest.raises(ScheduleError, match="has 'every' at column 6; expected a number"):
        parse_schedule("every" * 20)
    with pytest.raises(ScheduleError, match=r"has 'everyevery.*' at column 1; expected 'every'"):
        parse_schedule("every" * 21)


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Mars/X", None),
        ("Europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("Europe", None),
        ("", None),
        ("../etc/passwd", None),
        ("/etc/passwd", None),
        ("localtime", None),
        ("posix/Europe/Berlin", "Europe/Berlin"),
        ("UTC\x00", "UTC"),
        ("x" * 101, None),
    ],
)
def test_an_unknown_time_zone_is_refused(zone: str, hint: str | None) -> None:
    with pytest.raises(ScheduleError, match=r"^timezone ") as caught:
        parse_schedule("every day 09:00", zone)

    assert hint is None or caught.value.hint == hint


def test_the_three_kinds_are_told_apart() -> None:
    plain, daily, times = (
        parse_schedule(text) for text in ("every 5 mins", "every 5 mins synchronized", "every day 09:00")
    )

    assert (type(plain), type(daily), type(times)) == (Interval, DailyRange, SpecificTimes)
    assert (plain.is_fixed, daily.is_fixed, times.is_fixed) == (False, True, True)


SENTENCE = (
    "every 5 30 1st,2nd monday mon, day of month feb quarter 09:00 from to synchronized mins hours - @ é"
)
WORDS = st.sampled_from(SENTENCE.split())


@given(st.lists(WORDS, max_size=9).map(" ".join) | st.text(max_size=40))
def test_whatever_the_text_it_is_a_schedule_or_an_error_with_a_column(text: str) -> None:
    column: int | None = 1
    try:
        parse_schedule(text)
    except ScheduleError as error:
        column = error.column

    assert column is not None
    assert 1 <= column <= len(text) + 1


@pytest.mark.parametrize("text", ["every" * 20_000, "every 5 " + "m" * 100_000, "1," * 50_000, "9" * 100_000])
def test_a_long_text_is_refused_quickly_and_shown_in_part(text: str) -> None:
    started_at = time.process_time()

    with pytest.raises(ScheduleError) as caught:
        parse_schedule(text)

    assert time.process_time() - started_at < 2
    assert len(str(caught.value)) < 400
