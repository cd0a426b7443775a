"""Local times and the instants they are: a clock set back shows some twice, one set forward skips some."""

import difflib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from lastacross.errors import ScheduleError

LONGEST_NAME = 100

_MINUTE = timedelta(minutes=1)

# What tzdata keeps beside zones, and what the machine calls its own: not the same everywhere.
_NOT_ZONES = {"localtime", "posixrules", "Factory"}


def check_zone_name(name: str) -> ZoneInfo:
    """The time zone of a name such as ``Europe/Berlin``.

    Raises:
        ScheduleError: there is none of this name.
    """
    subject = f"timezone {name[:LONGEST_NAME]!r}"
    if len(name) > LONGEST_NAME:
        raise ScheduleError(subject, f"is longer than {LONGEST_NAME} characters")
    try:
        if name in _NOT_ZONES or name.startswith(("posix/", "right/")):
            raise ZoneInfoNotFoundError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        problem = "is not a time zone of the tz database, such as 'Europe/Berlin' or 'UTC'"
        raise ScheduleError(subject, problem, hint=_likely(name)) from error


def _likely(name: str) -> str | None:
    by_plain = {zone.lower(): zone for zone in sorted(available_timezones())}
    plain = name.strip().lower().replace(" ", "_")
    close = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.75)
    if not close:
        # Berlin, for Europe/Berlin.
        ends = [zone for zone in by_plain if "/" in zone and zone.rpartition("/")[2] == plain]
        close = ends[:1]
    return by_plain[close[0]] if close else None


def instants(local: datetime, zone: ZoneInfo) -> list[datetime]:
    """When a naive local time happens, in UTC: never, once, or twice with the earlier first."""
    found: list[datetime] = []
    for fold in (0, 1):
        instant = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        is_real = instant.astimezone(zone).replace(tzinfo=None) == local
        if is_real and instant not in found:
            found.append(instant)
    return found


def first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """When a clock of the zone first shows this naive local time, or a later one if it skips it; in UTC."""
    real = instants(local, zone)
    if real:
        return real[0]
    # In a gap (PEP 495): fold=1 counts with the offset after it and is too early, fold=0 too late or right.
    early = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    late = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    low, high = 0, (late - early) // _MINUTE
    while low + 1 < high:
        middle = (low + high) // 2
        if (early + middle * _MINUTE).astimezone(zone).replace(tzinfo=None) < local:
            low = middle
        else:
            high = middle
    return early + high * _MINUTE
