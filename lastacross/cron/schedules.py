"""The three kinds of schedule, each of which computes its next due time.

Results are in UTC, because two aware datetimes in the same zone are compared by local time; in an hour that
occurs twice, the later one might not be greater.
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

# The calendar repeats after 400 years, so a schedule that is not due by then never will be.
CYCLE_YEARS = 400

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Schedule(ABC):
    """A repeating schedule.

    ``text`` and ``timezone`` are kept as written. ``is_fixed`` says whether the due times are fixed;
    otherwise, each due time is counted from the end of the previous run.
    """

    text: str
    timezone: str
    zone: ZoneInfo

    is_fixed: ClassVar[bool] = True

    def next_run(self, after: datetime) -> datetime:
        """Return the earliest due time after an aware datetime, in UTC.

        Raises:
            ValueError: ``after`` is naive.
            ScheduleError: there is no due time within 400 years and before the year 10000.
        """
        if after.tzinfo is None or after.utcoffset() is None:
            raise ValueError("after is a naive datetime; give it a time zone, as in datetime.now(UTC)")
        try:
            found = self._next(after.astimezone(UTC))
        except (OverflowError, ValueError):
            found = None
        if found is None:
            problem = f"is never due in {self.timezone} after {after.isoformat(timespec='seconds')}"
            raise ScheduleError(f"schedule {self.text!r}", problem)
        return found

    @abstractmethod
    def _next(self, after: datetime) -> datetime | None:
        """Return the next due time after a UTC time."""


@dataclass(frozen=True)
class Interval(Schedule):
    """A schedule like ``every 5 minutes``, which is counted from the last run's end, on the full minute."""

    step: timedelta

    is_fixed: ClassVar[bool] = False

    def _next(self, after: datetime) -> datetime:
        return (after + self.step).replace(second=0, microsecond=0)


@dataclass(frozen=True)
class DailyRange(Schedule):
    """A schedule like ``every 2 hours from 10:00 to 14:00``, counted from the range's start each local day.

    ``synchronized`` is equivalent to ``from 00:00 to 23:59``.
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
        """Return the next due time in the range from this anchor, which ends before the following anchor."""
        if after < anchor:
            return anchor
        run = anchor + ((after - anchor) // self.step + 1) * self.step
        return run if run < following and (self._is_whole_day or run <= self._end_of(day)) else None

    @property
    def _is_whole_day(self) -> bool:
        """Return whether the range covers the whole day, so that its last minute is just before its first.

        If the clocks go back at midnight, 23:59 occurs twice and the repeated hour belongs to that day.
        """
        minutes = [moment.hour * 60 + moment.minute for moment in (self.start, self.end)]
        return (minutes[1] + 1 - minutes[0]) % (24 * 60) == 0

    def _end_of(self, day: date) -> datetime:
        return self._instant(day if self.start <= self.end else day + _DAY, self.end)

    def _instant(self, day: date, moment: time) -> datetime:
        return first_instant(datetime.combine(day, moment), self.zone)


@dataclass(frozen=True)
class SpecificTimes(Schedule):
    """A schedule like ``1st,third monday of month 04:00``, with one time on certain days.

    Either ``month_days`` (1 … 31) or ``weekdays`` (0 = Monday) with ``ordinals`` (1 … 5) selects the days.
    """

    moment: time
    months: frozenset[int]
    month_days: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    ordinals: frozenset[int] = frozenset()

    def _next(self, after: datetime) -> datetime | None:
        # Begin a day earlier, because part of the day repeats if the clocks go back at midnight.
        first = after.astimezone(self.zone).date() - _DAY
        for day in self._days(first):
            for instant in instants(datetime.combine(day, self.moment), self.zone):
                if instant > after:
                    return instant
        return None

    def _days(self, first: date) -> Iterator[date]:
        """Yield the matching days from this day on, within the period worth searching."""
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
