"""Parses the text of an App Engine schedule into a Schedule; each error names the column.

The grammar (docs/appengine.md, "Schedules"):

    every N (hours|mins|minutes) [from TIME to TIME | synchronized]
    ((every|ordinals) weekdays [of months] | monthdays of months) TIME
"""

import re
from collections.abc import Iterable, Mapping
from datetime import time, timedelta
from typing import NoReturn
from zoneinfo import ZoneInfo

from lastacross.cron.local_time import check_zone_name
from lastacross.cron.schedules import DailyRange, Interval, Schedule, SpecificTimes
from lastacross.cron.tokens import MONTHS, ORDINALS, UNITS, WEEKDAYS, WORDS, Token, clock_time, cut, likely
from lastacross.errors import ScheduleError

SHOWN_CHARACTERS = 60
# A schedule that lists all days, weekdays and months needs only 300 characters.
MAX_CHARACTERS = 2000
DAY_SECONDS = 86_400

ALL_MONTHS = frozenset(range(1, 13))
ALL_ORDINALS = frozenset(range(1, 6))
ALL_WEEKDAYS = frozenset(range(7))
MAX_DAYS = {month: 29 if month == 2 else 30 if month in {4, 6, 9, 11} else 31 for month in ALL_MONTHS}

_CRONTAB = re.compile(r"[0-9*/,?LW-]+(\s+[0-9A-Za-z*/,?#-]+){4,5}", re.ASCII)
_EVERY_MINUTES = re.compile(r"\*/([0-9]+)(\s+\*){4}", re.ASCII)
_NICKNAMES = {
    "@yearly": "1 of jan 00:00",
    "@annually": "1 of jan 00:00",
    "@monthly": "1 of month 00:00",
    "@weekly": "every sunday 00:00",
    "@daily": "every day 00:00",
    "@midnight": "every day 00:00",
    "@hourly": "every 1 hours synchronized",
}
_SINGULARS = {"hour": "hours", "minute": "minutes", "min": "mins"}


def parse_schedule(text: str, timezone: str = "UTC") -> Schedule:
    """Parse the text of a schedule in cron.yaml.

    Args:
        text: a schedule such as ``every 5 minutes`` or ``1st,third monday of month 04:00``, in lower case.
        timezone: a name from the tz database; the times in the text are local times in this zone.

    Raises:
        ScheduleError: the text or the time zone is invalid.
    """
    zone = check_zone_name(timezone)
    if len(text) > MAX_CHARACTERS:
        problem = f"is longer than {MAX_CHARACTERS} characters"
        raise ScheduleError(_subject(text), problem, column=MAX_CHARACTERS + 1)
    _refuse_crontab(text)
    return _Parser(text, timezone, zone).schedule()


def _subject(text: str) -> str:
    plain = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return f"schedule {plain!r}"


def _refuse_crontab(text: str) -> None:
    """Reject Unix crontab notation with an error that says so."""
    plain = text.strip()
    hint = _NICKNAMES.get(plain.lower())
    minutes = _EVERY_MINUTES.fullmatch(plain)
    if minutes is not None and int(minutes.group(1)[:5]) > 0:
        hint = f"every {int(minutes.group(1)[:5])} minutes synchronized"
    if hint is not None or plain.startswith("@") or (_CRONTAB.fullmatch(plain) and "of" not in plain):
        problem = "is written in Unix cron syntax; write words instead, such as 'every day 09:00'"
        raise ScheduleError(_subject(text), problem, column=1, hint=hint)


class _Parser:
    """Consumes a text's tokens from left to right.

    Args:
        text: the schedule's text.
        timezone: the time zone's name.
        zone: the time zone itself.
    """

    def __init__(self, text: str, timezone: str, zone: ZoneInfo) -> None:
        self._text = text
        self._head = (text, timezone, zone)
        self._tokens = cut(text)
        self._next = 0

    def schedule(self) -> Schedule:
        """Parse the whole text."""
        found = self._any_kind()
        if self._peek() is not None:
            self._refuse("the end of the schedule", ())
        return found

    def _any_kind(self) -> Schedule:
        if self._take("every"):
            if self._sees("number"):
                return self._interval()
            if self._sees("word") and self._word() in _SINGULARS:
                hint = f"every 1 {_SINGULARS[self._word()]}"
                self._refuse("a number of hours or minutes", (), hint)
            return self._of_weekdays(is_every=True)
        if self._sees("number"):
            return self._of_month_days()
        if self._word() not in ORDINALS:
            expected = "'every', a day of the month or an ordinal from '1st' to '5th'"
            self._refuse(expected, {"every", *ORDINALS})
        return self._of_weekdays(is_every=False)

    def _interval(self) -> Schedule:
        step = self._step()
        if self._take("synchronized"):
            seconds = int(step.total_seconds())
            if DAY_SECONDS % seconds:
                divisor = max(
                    number
                    for number in range(60, min(seconds, DAY_SECONDS) + 1, 60)
                    if DAY_SECONDS % number == 0
                )
                self._fail(
                    "is synchronized, but its step does not divide 24 hours evenly", 1, _as_step(divisor)
                )
            return DailyRange(*self._head, step, time(0, 0), time(23, 59))
        if self._take("from"):
            start = self._time()
            if not self._take("to"):
                self._refuse("'to' and a time", {"to"})
            return DailyRange(*self._head, step, start, self._time())
        if self._peek() is not None:
            self._refuse("'from', 'synchronized' or the end of the schedule", {"from", "synchronized"})
        return Interval(*self._head, step)

    def _step(self) -> timedelta:
        token = self._tokens[self._next]
        number = int(token.text) if len(token.text) <= 5 else 0
        if number == 0:
            self._refuse("a number from 1 to 99999", ())
        self._next += 1
        unit = UNITS.get(self._word())
        if unit is None:
            hint = f"every {24 * number} hours" if self._word() in {"day", "days"} else None
            self._refuse("'hours', 'mins' or 'minutes'", UNITS, hint or _SINGULARS.get(self._word()))
        self._next += 1
        return timedelta(seconds=number * unit)

    def _of_weekdays(self, *, is_every: bool) -> Schedule:
        ordinals = ALL_ORDINALS if is_every else self._several(ORDINALS, "an ordinal from '1st' to '5th'")
        if not self._take("day"):
            expected = "a number, 'day' or a weekday" if is_every else "'day' or a weekday"
            weekdays = self._several(WEEKDAYS, expected, {"day"})
            months = self._months() if self._take("of") else ALL_MONTHS
            return SpecificTimes(*self._head, self._time(), months, weekdays=weekdays, ordinals=ordinals)
        months = self._months() if self._take("of") else ALL_MONTHS
        if is_every:
            return SpecificTimes(
                *self._head, self._time(), months, weekdays=ALL_WEEKDAYS, ordinals=ALL_ORDINALS
            )
        # "2nd day" means the 2nd of the month rather than every day of its second week.
        return SpecificTimes(*self._head, self._time(), months, month_days=ordinals)

    def _of_month_days(self) -> Schedule:
        days = {self._month_day()}
        while self._take(","):
            days.add(self._month_day())
        if not self._take("of"):
            self._refuse("',' or 'of' and a month", {"of"})
        months = self._months()
        if min(days) > max(MAX_DAYS[month] for month in months):
            self._fail("names days that do not exist in these months", 1)
        return SpecificTimes(*self._head, self._time(), months, month_days=frozenset(days))

    def _month_day(self) -> int:
        token = self._peek()
        is_day = token is not None and token.kind == "number" and len(token.text) <= 2
        if token is None or not is_day or not 1 <= int(token.text) <= 31:
            self._refuse("a day of the month from 1 to 31", ())
        self._next += 1
        return int(token.text)

    def _months(self) -> frozenset[int]:
        if self._take("month"):
            return ALL_MONTHS
        if self._take("quarter"):
            return frozenset({1, 4, 7, 10})
        expected = "'month', a month, 'quarter' or '1st month of quarter'"
        if self._word() not in ORDINALS:
            return self._several(MONTHS, expected, {"month", "quarter"})
        thirds = {word: number for word, number in ORDINALS.items() if number <= 3}
        numbers = self._several(thirds, "'1st', '2nd' or '3rd' month of quarter")
        for word in ("month", "of", "quarter"):
            if not self._take(word):
                self._refuse("'month of quarter'", {word})
        return frozenset(number + first for number in numbers for first in (0, 3, 6, 9))

    def _several(self, words: Mapping[str, int], expected: str, others: Iterable[str] = ()) -> frozenset[int]:
        """Parse one or more comma-separated words and return their values."""
        found: set[int] = set()
        while True:
            number = words.get(self._word())
            if number is None:
                self._refuse(
                    expected if not found else "another value of the same kind after ','", {*words, *others}
                )
            found.add(number)
            self._next += 1
            if not self._take(","):
                return frozenset(found)

    def _time(self) -> time:
        token = self._peek()
        found = None if token is None else clock_time(token)
        if token is None or found is None:
            expected = "a time from 0:00 to 23:59"
            if token is not None and token.kind == "word":
                self._refuse(f"{expected}, 'of' or ','" if self._may_go_on() else expected, {"of", "to"})
            self._refuse(expected, (), _likely_time(token))
        self._next += 1
        return time(*found)

    def _may_go_on(self) -> bool:
        """Return whether another weekday, or months, may follow the weekdays parsed so far."""
        return self._next > 0 and self._tokens[self._next - 1].text in WEEKDAYS

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _sees(self, kind: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == kind

    def _word(self) -> str:
        """Return the next token's text, or "" at the end."""
        token = self._peek()
        return "" if token is None else token.text

    def _take(self, text: str) -> bool:
        if self._word() != text:
            return False
        self._next += 1
        return True

    def _refuse(self, expected: str, words: Iterable[str], hint: str | None = None) -> NoReturn:
        """Raise an error with the actual and the expected text; the default hint is the most likely word."""
        token = self._peek()
        if token is None:
            end = len(self._text.rstrip()) + 1
            self._fail(f"ends at column {end}; expected {expected}", end, hint)
        found = token.text if len(token.text) <= 30 else token.text[:30] + "…"
        if hint is None and token.kind == "word" and token.text not in WORDS:
            hint = likely(token.text, words)
        self._fail(f"has {found!r} at column {token.column}; expected {expected}", token.column, hint)

    def _fail(self, problem: str, column: int, hint: str | None = None) -> NoReturn:
        raise ScheduleError(_subject(self._text), problem, column=column, hint=hint)


def _as_step(seconds: int) -> str:
    unit, number = ("hours", seconds // 3600) if seconds % 3600 == 0 else ("minutes", seconds // 60)
    return f"every {number} {unit} synchronized"


def _likely_time(token: Token | None) -> str | None:
    """Guess which time an invalid one was meant to be."""
    if token is None:
        return None
    digits = token.text.partition(":")[0][:5]
    if token.text == "24:00":
        return "00:00"
    if token.kind == "number" and digits.isdecimal() and int(digits) < 24:
        return f"{int(digits):02}:00"
    return None
