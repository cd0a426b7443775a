"""Computes rates and concurrency from recorded times and spans."""

import math
from collections.abc import Iterable, Sequence


def burst(instants: Sequence[float], rate: float) -> float:
    """The smallest bucket that allows these starts: the maximum of ``count - rate * t``."""
    return worst_window(instants, rate)[0]


def worst_window(instants: Sequence[float], rate: float) -> tuple[float, float, float]:
    """The smallest bucket that allows these starts, and the window that needs it."""
    least, least_at = math.inf, 0.0
    most, first, last = 0.0, 0.0, 0.0
    for index, at in enumerate(sorted(instants)):
        if index - rate * at < least:
            least, least_at = index - rate * at, at
        if index + 1 - rate * at - least > most:
            most, first, last = index + 1 - rate * at - least, least_at, at
    return most, first, last


def crowd(spans: Iterable[tuple[float, float]]) -> tuple[int, float]:
    """The largest number of overlapping spans, and the time when it is first reached."""
    spans = list(spans)
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    under_way, most, most_at = 0, 0, 0.0
    for at, change in changes:
        under_way += change
        if under_way > most:
            most, most_at = under_way, at
    return most, most_at
