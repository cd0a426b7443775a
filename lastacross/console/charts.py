"""Lays out counts over time as a stacked bar chart, with the numbers behind it. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lastacross.clock import utc

WIDTH, HEIGHT = 720, 120
"""The drawing's size in units; the page scales it to fit."""
MIN_VISIBLE = 1.5
LAST_MARK = 0.88
"""A label further to the right would not fit."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle for one series in one span of time."""

    series: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Row:
    """The counts of one span of time, by series. ``text`` is the beginning of the span in UTC."""

    text: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A label under the chart, at a percentage of its width."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The values from which a template draws a chart, and the table behind it (newest first)."""

    title: str
    series: tuple[str, ...]
    totals: tuple[int, ...]
    top: int
    bars: list[Bar]
    rows: list[Row]
    marks: list[Mark]

    @property
    def text(self) -> str:
        """The chart in words."""
        sums = ", ".join(f"{total:,} {name}" for name, total in zip(self.series, self.totals, strict=True))
        return f"{self.title}: {sums}"


def chart(
    title: str, counts: Mapping[str, Sequence[int]], *, ends_at: int, step_seconds: int, mark_seconds: int
) -> Chart:
    """Build a chart.

    Args:
        title: its name, without a full stop.
        counts: series → the count of each span, oldest first; all series have the same length.
        ends_at: the end of the last span, in seconds since the epoch.
        step_seconds: the length of a span.
        mark_seconds: the time between two labels, which are placed at round times.
    """
    series = tuple(counts)
    columns = list(zip(*counts.values(), strict=True)) or [()]
    top = nice(max((sum(column) for column in columns), default=0))
    step = WIDTH / len(columns)
    first_at = ends_at - step_seconds * len(columns)
    bars: list[Bar] = []
    rows, marks = [], []
    for place, column in enumerate(columns):
        at = utc(first_at + place * step_seconds)
        bars += _stack(series, column, place * step, step, top)
        rows.append(Row(f"{at:%H:%M}", tuple(column)))
        if (first_at + place * step_seconds) % mark_seconds == 0 and place < len(columns) * LAST_MARK:
            marks.append(Mark(round(100 * place / len(columns), 2), f"{at:%H:%M}"))
    totals = tuple(sum(values) for values in counts.values())
    return Chart(title, series, totals, top, bars, rows[::-1], marks)


def _stack(series: Sequence[str], column: Sequence[int], x: float, step: float, top: int) -> list[Bar]:
    bars, floor = [], float(HEIGHT)
    for name, count in zip(series, column, strict=True):
        if not count:
            continue
        # A single failure next to thousands of successes must stay visible.
        height = max(HEIGHT * count / top, MIN_VISIBLE)
        floor = max(0.0, floor - height)
        bars.append(
            Bar(name, round(x + step * 0.1, 2), round(floor, 2), round(step * 0.8, 2), round(height, 2))
        )
    return bars


def nice(value: int) -> int:
    """The smallest of 1, 2, 3, 4, 5, 6, 8, 10, 20, 30 … that is at least this value."""
    if value <= 1:
        return 1
    power: int = 10 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10) if power * factor >= value)
