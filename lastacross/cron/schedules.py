"""The three kinds of schedule, and when each comes due after an instant. Pure.

Answers are in UTC: two aware datetimes of one zone compare by their clocks' faces, and in the hour that
happens twice the later one would not be greater.
"""

import calendar
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

from lastacross.cron.local_time import first_instant, instants
from lastacross.errors import ScheduleError

# Calendar and clocks repeat after 400 years: what has not come due by then never does.
CYCLE_YEARS = 400

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Schedule(ABC):
    """When something is to be done, again and again.

    ``text`` and ``timezone`` are as they were written. ``is_fixed``: the runs are instants of the clock;
    else each counts from the end of the one before.
    """

    text: str
    timezone: str
    zone: ZoneInfo

    is_fixed: ClassVar[bool] = True

    def next_run(self, after: datetime) -> datetime:
        """The earliest instant after an aware one, at which it comes due; an aware datetime in UTC.

        Raises:
            ValueError: ``after`` is naive.
            ScheduleError: there is none: not in 400 years, or not before the year 10000.
        """
        if after.tzinfo is None or after.utcoffset() is None:
            raise ValueError("after is a naive datetime; give it a time zone: datetime.now(UTC)")
        try:
            found = self._next(after.astimezone(UTC))
        except (OverflowError, ValueError):
            found = None
        if found is None:
            problem = f"does not come due in {self.timezone} after {after.isoformat(timespec='seconds')}"
            raise ScheduleError(f"schedule {self.text!r}", problem)
        return found

    @abstractmethod
    def _next(self, after: datetime) -> datetime | None:
        """The next run after an instant in UTC."""


@dataclass(frozen=True)
class Interval(Schedule):
    """``every 5 minutes``: so long after the end of the last run, on the full minute."""

    step: timedelta

    is_fixed: ClassVar[bool] = False

    def _next(self, after: datetime) -> datetime:
        return (after + self.step).replace(second=0, microsecond=0)


@dataclass(frozen=True)
class DailyRange(Schedule):
    """``every 2 hours from 10:00 to 14:00``: counted from the first time of each local day.

    ``synchronized`` is ``from 00:00 to 23:59``.
    """

    step: timedelta
    start: time
    end: time

    def _next(self, after: datetime) -> datetime | None:
        today = after.astimezone(self.zone).date()
        days = [today + shift * _DAY for shift in range(-2, 4)]
        anchors = [self._instant(day, self.start) for day in days]
        found = [
            run
            for day, anchor, following in zip(days, anchors, anchors[1:], strict=False)
            if (run := self._next_of_day(after, day, anchor, following)) is not None
        ]
        return min(found, default=None)

    def _next_of_day(
        self, after: datetime, day: date, anchor: datetime, following: datetime
    ) -> datetime | None:
        """The next run of the range that starts at this anchor; it ends before the following one."""
        if after < anchor:
            return anchor
        run = anchor + ((after - anchor) // self.step + 1) * self.step
        return run if run < following and (self._is_whole_day or run <= self._end_of(day)) else None

    @property
    def _is_whole_day(self) -> bool:
        """Whether the last minute is the one before the first: nothing of the day is left out.

        Where midnight sets the clocks back 23:59 comes twice, and the second hour before it is of the day.
        """
        minutes = [moment.hour * 60 + moment.minute for moment in (self.start, self.end)]
        return (minutes[1] + 1 - minutes[0]) % (24 * 60) == 0

    def _end_of(self, day: date) -> datetime:
        return self._instant(day if self.start <= self.end else day + _DAY, self.end)

    def _instant(self, day: date, moment: time) -> datetime:
        return first_instant(datetime.combine(day, moment), self.zone)


@dataclass(frozen=True)
class SpecificTimes(Schedule):
    """``1st,third monday of month 04:00``: a time of some days.

    Either ``month_days`` (1 … 31) or ``weekdays`` (0 = Monday) with ``ordinals`` (1 … 5) says which days.
    """

    moment: time
    months: frozenset[int]
    month_days: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    ordinals: frozenset[int] = frozenset()

    def _next(self, after: datetime) -> datetime | None:
        # A day early: where midnight sets the clocks back, yesterday comes again.
        first = after.astimezone(self.zone).date() - _DAY
        for day in self._days(first):
            for instant in instants(datetime.combine(day, self.moment), self.zone):
                if instant > after:
                    return instant
        return None

    def _days(self, first: date) -> Iterator[date]:
        """The days that match, from this one on, for as long as it makes sense to look."""
        for year in range(first.year, min(first.year + CYCLE_YEARS, 9999) + 1):
            for month in sorted(self.months):
                if (year, month) < (first.year, first.month):
                    continue
                for day in self._days_of(year, month):
                    if (found := date(year, month, day)) >= first:
                        yield found

    def _days_of(self, year: int, month: int) -> list[int]:
        first_weekday, length = calendar.monthrange(year, month)
        days = self.month_days or {
            1 + (weekday - first_weekday) % 7 + 7 * (ordinal - 1)
            for weekday in self.weekdays
            for ordinal in self.ordinals
        }
        return sorted(day for day in days if day <= length)
