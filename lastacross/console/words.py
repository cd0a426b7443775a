"""Puts numbers, times, rates, retry rules and schedules into words for the pages. Pure functions."""

from collections.abc import Iterable, Mapping
from datetime import time, timedelta
from urllib.parse import urlencode

from lastacross.clock import iso, utc
from lastacross.config import RetryParameters
from lastacross.cron import DailyRange, Interval, Schedule, SpecificTimes

NOTHING = "\N{EN DASH}"
"""Stands for a missing value."""

_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def number(value: float | None) -> str:
    """A number with thousands separators and at most three significant decimals; a dash for None."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"


def counted(value: int, noun: str, plural: str = "") -> str:
    """``1 task``, ``1,204 tasks``."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """A duration in its two largest units, such as ``2 h 5 min``, ``3.2 s`` or ``40 ms``."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return f"\N{MINUS SIGN}{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    left, parts = round(seconds), list[str]()
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def age(instant: float, now: float) -> str:
    """How far a time is from now: ``5 min ago``, ``in 2 h`` or ``now``."""
    distance = now - instant
    if abs(distance) < 1:
        return "now"
    # Use whole seconds, because the page's script counts on from here.
    text = duration(max(1, int(abs(distance))))
    return f"{text} ago" if distance > 0 else f"in {text}"


def timestamp(instant: float) -> str:
    """``2026-11-21 03:14:07 UTC``."""
    return utc(instant).strftime("%Y-%m-%d %H:%M:%S UTC")


def instant(value: float | None) -> str:
    """The same time in machine-readable form."""
    return iso(value) or ""


def size(count: int) -> str:
    """``512 bytes`` or ``12.3 kB``."""
    if count < 1000:
        return counted(count, "byte")
    return f"{count / 1000:,.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:,.1f} MB"


def rate(per_second: float | None) -> str:
    """A rate in the unit that needs no fraction: ``5/s``, ``30/min``, ``2/h``."""
    if per_second is None:
        return NOTHING
    if per_second == 0:
        return "0"
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d")):
        value = per_second * factor
        if value >= 1 and abs(value - round(value)) < 1e-6:
            return f"{round(value):,}/{unit}"
    return f"{number(per_second)}/s" if per_second >= 1 else f"{number(per_second * 3600)}/h"


def retries(parameters: RetryParameters | None) -> str:
    """A queue's retry limits and waits, as sentences."""
    found = parameters or RetryParameters()
    waits = (
        f"It waits {duration(found.min_backoff_seconds)} before the first retry, doubles the wait up to "
        f"{counted(found.max_doublings, 'time')}, and never waits longer than "
        f"{duration(found.max_backoff_seconds)}."
    )
    if found.max_doublings == 0:
        waits = f"It waits {duration(found.min_backoff_seconds)} longer before each retry, up to "
        waits += f"{duration(found.max_backoff_seconds)}."
    return f"{_limits(found)} {waits}" if found.task_retry_limit != 0 else _limits(found)


def _limits(found: RetryParameters) -> str:
    limit, age_limit = found.task_retry_limit, found.task_age_limit_seconds
    if limit is None and age_limit is None:
        return "A failed task is retried until it succeeds."
    if limit == 0 and age_limit is None:
        return "A failed task is not retried; it becomes a dead letter."
    after = [] if limit is None else [f"{counted(limit, 'retry', 'retries')}"]
    if age_limit is not None:
        after.append(f"{duration(age_limit)} since its first attempt")
    both = "" if len(after) < 2 else " Both limits must be exceeded."
    return f"A failed task becomes a dead letter after {' and '.join(after)}.{both}"


# --- schedules ----------------------------------------------------------------------------


def schedule(found: Schedule) -> str:
    """A schedule as a sentence."""
    if isinstance(found, Interval):
        return f"{_every(found.step)}, counted from the end of the last run."
    zone = f" ({found.timezone} time)" if found.timezone != "UTC" else " UTC"
    if isinstance(found, DailyRange):
        if (found.start, found.end) == (time(0, 0), time(23, 59)):
            return f"{_every(found.step)} around the clock, starting at 00:00{zone}."
        return f"{_every(found.step)} from {found.start:%H:%M} to {found.end:%H:%M}{zone}."
    assert isinstance(found, SpecificTimes)
    return f"{_days(found)} at {found.moment:%H:%M}{zone}."


def _every(step: timedelta) -> str:
    minutes = int(step.total_seconds()) // 60
    if minutes % 60 == 0:
        return "Every hour" if minutes == 60 else f"Every {minutes // 60} hours"
    return "Every minute" if minutes == 1 else f"Every {minutes} minutes"


def _days(found: SpecificTimes) -> str:
    months = (
        ""
        if len(found.months) == 12
        else f" of {_listed(_MONTHS[each - 1] for each in sorted(found.months))}"
    )
    if found.month_days:
        return f"On day {_listed(str(day) for day in sorted(found.month_days))}{months or ' of each month'}"
    names = [_WEEKDAYS[each] for each in sorted(found.weekdays)]
    if len(found.ordinals) == 5:
        days = "Every day" if len(names) == 7 else f"Every {_listed(names)}"
        return f"{days}{months.replace(' of ', ' in ', 1)}"
    ordinals = _listed(_ORDINALS[each] for each in sorted(found.ordinals))
    return f"On the {ordinals} {_listed(names)}{months or ' of each month'}"


def _listed(words: Iterable[str]) -> str:
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last


def query(values: Mapping[str, object]) -> str:
    """A query string with a leading question mark and without empty values; '' if nothing is left."""
    kept = {key: value for key, value in values.items() if value not in (None, "")}
    return f"?{urlencode(kept)}" if kept else ""


def cut(text: str, most: int = 200) -> str:
    """Text from outside, truncated for a message or a table cell."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
