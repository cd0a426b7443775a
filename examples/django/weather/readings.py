"""The stations and their readings."""

import time
from collections.abc import Callable

STATIONS = {"harbour": 3, "hill": 412, "airport": 37}
LAST_YEAR = 2025

ARCHIVE_SECONDS = 0.05
"""The archive takes this long to find the readings of one month."""


def climate_report(since: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> str:
    """Tell the mean temperature of each year since a year such as "2023"."""
    years = range(int(since), LAST_YEAR + 1)
    if not years:
        raise ValueError(f"There are no readings since {since}.")
    lines = []
    for number, year in enumerate(years):
        celsius = []
        for month in range(1, 13):
            progress(f"Reading {month}/{year}", 12 * number + month - 1, 12 * len(years))
            celsius.append(mean_of(year, month))
        lines.append(f"{year}  {sum(celsius) / 12:5.1f} °C")
    return "\n".join([f"Climate since {since}", *lines])


def mean_of(year: int, month: int) -> float:
    """Ask the archive for the mean temperature of a month, in degrees Celsius."""
    time.sleep(ARCHIVE_SECONDS)
    return 18.0 - 2.5 * abs(7 - month) + year * 7919 % 30 / 10
