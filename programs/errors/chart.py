"""Lays out counts over time as a bar chart with a description in words. Pure functions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lastacross.clock import utc

HOUR = 3600
WIDTH, HEIGHT = 600, 120
"""The drawing's size in units; the page scales it to fit."""
GAP = 2

SPANS = {"day": (24, 1), "week": (28, 6)}
"""Name → (number of bars, hours per bar)."""


@dataclass(frozen=True)
class Bar:
    """A bar: its position and size, its time span (UTC), and its count."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: int


@dataclass(frozen=True)
class Chart:
    """The values from which a template draws a chart."""

    span: str
    bars: list[Bar]
    top: int
    total: int
    text: str


def beginning(now: float, span: str) -> int:
    """The first second of the first bar; ``now`` lies in the last bar."""
    bars, hours = SPANS[span]
    length = hours * HOUR
    return (int(now // length) - bars + 1) * length


def chart(counts: Mapping[int, int], now: float, span: str) -> Chart:
    """Build a bar chart of hourly counts.

    Args:
        counts: a mapping from the first second of each hour to its count.
        now: the current time, in seconds since the epoch.
        span: a key of SPANS.
    """
    number, hours = SPANS[span]
    first, length = beginning(now, span), hours * HOUR
    sums = [
        sum(counts.get(first + bar * length + hour * HOUR, 0) for hour in range(hours))
        for bar in range(number)
    ]
    top = nice(max(sums))
    step = WIDTH / number
    bars = []
    for place, count in enumerate(sums):
        # Even a single error next to thousands must get a visible bar.
        height = max(HEIGHT * count / top, 2.0) if count else 0.0
        label = _label(first + place * length, length)
        bars.append(
            Bar(
                round(place * step, 2),
                round(HEIGHT - height, 2),
                round(step - GAP, 2),
                round(height, 2),
                label,
                count,
            )
        )
    return Chart(span, bars, top, sum(sums), _in_words(bars, sum(sums), span))


def nice(count: int) -> int:
    """The upper end of the axis: at least the count, and always 1, 2 or 5 followed by zeros."""
    if count <= 1:
        return 1
    power: int = 10 ** int(math.log10(count))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= count)


def _label(first: int, length: int) -> str:
    begin, end = utc(first), utc(first + length)
    return f"{begin:%d %b %H:%M} to {end:%H:%M} UTC"


def _in_words(bars: list[Bar], total: int, span: str) -> str:
    period = "the last 24 hours" if span == "day" else "the last 7 days"
    if not total:
        return f"No errors in {period}."
    most = max(bars, key=lambda bar: bar.count)
    if total == 1:
        return f"1 error in {period}: {most.label}."
    share = "all of them" if most.count == total else f"most of them, {most.count:,},"
    return f"{total:,} errors in {period}; {share} {most.label}."
