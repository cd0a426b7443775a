"""Converts local times to UTC. Some local times occur twice or not at all, because of clock changes."""

import difflib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from lastacross.errors import ScheduleError

MAX_NAME_CHARACTERS = 100

_MINUTE = timedelta(minutes=1)

# The meaning of these names depends on the machine, or they are tzdata files that are not time zones.
_NOT_ZONES = {"localtime", "posixrules", "Factory"}


def check_zone_name(name: str) -> ZoneInfo:
    """Return the time zone with a name such as ``Europe/Berlin``.

    Raises:
        ScheduleError: no time zone has this name.
    """
    subject = f"timezone {name[:MAX_NAME_CHARACTERS]!r}"
    if len(name) > MAX_NAME_CHARACTERS:
        raise ScheduleError(subject, f"is longer than {MAX_NAME_CHARACTERS} characters")
    try:
        if name in _NOT_ZONES or name.startswith(("posix/", "right/")):
            raise ZoneInfoNotFoundError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        problem = "is not a time zone in the tz database, such as 'Europe/Berlin' or 'UTC'"
        raise ScheduleError(subject, problem, hint=_likely(name)) from error


def _likely(name: str) -> str | None:
    by_plain = {zone.lower(): zone for zone in sorted(available_timezones())}
    plain = name.strip().lower().replace(" ", "_")
    close = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.75)
    if not close:
        # The name may be only the last part, such as Berlin for Europe/Berlin.
        ends = [zone for zone in by_plain if "/" in zone and zone.rpartition("/")[2] == plain]
        close = ends[:1]
    return by_plain[close[0]] if close else None


def instants(local: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the zero, one or two UTC times of a naive local time, in ascending order."""
    found: list[datetime] = []
    for fold in (0, 1):
        instant = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        is_real = instant.astimezone(zone).replace(tzinfo=None) == local
        if is_real and instant not in found:
            found.append(instant)
    return found


def first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the first UTC time of this naive local time or, if that is skipped, of the next one."""
    real = instants(local, zone)
    if real:
        return real[0]
    # In a gap (PEP 495), fold=1 uses the offset after the gap, which gives a time before the gap. With
    # fold=0, the time is at or after its end.
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
