"""Parses App Engine's schedules and computes due times; the caller passes the current time.

    >>> from datetime import UTC, datetime
    >>> schedule = parse_schedule("every mon,wed 10:00", "Europe/Berlin")
    >>> str(schedule.next_run(datetime(2024, 1, 31, 10, 15, tzinfo=UTC)))
    '2024-02-05 09:00:00+00:00'

The grammar and the effects of clock changes are described in docs/appengine.md, "Schedules".
"""

from lastacross.cron.grammar import parse_schedule
from lastacross.cron.local_time import check_zone_name
from lastacross.cron.schedules import DailyRange, Interval, Schedule, SpecificTimes
from lastacross.errors import ScheduleError

__all__ = [
    "DailyRange",
    "Interval",
    "Schedule",
    "ScheduleError",
    "SpecificTimes",
    "check_zone_name",
    "parse_schedule",
]
