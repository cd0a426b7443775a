"""Estimates a long task's remaining time from its progress reports, no finer and no sooner than is honest.

Pure. There is no estimate before a twentieth is done and three reports lie apart in time. A later estimate
exceeds an earlier one only with the words "longer than expected".
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_REPORTS = 20
"""The number of reports that ``keep`` keeps."""

MIN_REPORTS = 3
MIN_SHARE = 0.05
"""The share of all steps that must be done before there is an estimate."""
MIN_SECONDS = 2.0
"""The minimum observation time; a task that ends sooner needs no estimate."""

LONGER = "longer than expected"
LAST_STEP = "the last step is under way"

# Reports closer together than this share of the observed time, or than this, count as one burst.
_BURST_SHARE = 1 / 20
_BURST_SECONDS = 0.25
# An end later than promised by no more than this counts as promised, so that the number does not flicker.
_LEEWAY_SHARE = 0.25
_LEEWAY_SECONDS = 5.0
# A silence this much longer than any earlier one makes every number a guess.
_LONGEST_EXTRA_SILENCE_SECONDS = 10.0


class Report(NamedTuple):
    """One ``log_progress`` call: the instant (seconds since the epoch), the step and the total."""

    at: float
    step: float
    total: float


@dataclass(frozen=True)
class Estimate:
    """The estimated time left.

    Attributes:
        seconds: the time left, never negative; None if any number would be dishonest.
        text: the same in words, such as "about 2 minutes".
        promised_at: the earliest end announced so far; pass it as ``before`` next time.
        is_longer: the end is later than that; the text says so.
    """

    seconds: float | None
    text: str
    promised_at: float | None
    is_longer: bool = False


def keep(reports: Sequence[Report], report: Report, most: int = MAX_REPORTS) -> list[Report]:
    """The reports plus one, thinned to at most ``most``; the first and the newest always stay.

    A step back, as at a new attempt, drops all earlier reports, because they say nothing about the future.
    """
    last = reports[-1] if reports else None
    if last is not None and (report.step < last.step or report.at < last.at):
        return [report]
    kept = [*reports, report]
    while len(kept) > max(2, most):
        # Drop the one with the closest neighbours, so that the rest spreads over the whole time.
        middle = range(1, len(kept) - 1)
        del kept[min(middle, key=lambda place: kept[place + 1].at - kept[place - 1].at)]
    return kept


def remaining(reports: Sequence[Report], now: float, before: float | None = None) -> Estimate | None:
    """The estimated time left; None while too little is known.

    Args:
        reports: one attempt's reports, oldest first, as ``keep`` kept them.
        now: seconds since the epoch.
        before: ``promised_at`` of the previous estimate, None for an attempt's first one.
    """
    series = _series(reports, now)
    if not series or series[-1].total <= 0:
        return None
    first, newest = series[0], series[-1]
    if newest.step >= newest.total:
        # The reports say nothing about the length of the last step.
        return Estimate(None, LAST_STEP, before)
    pace = _pace(_bursts(series))
    if pace is None:
        return None
    left_seconds = (newest.total - newest.step) * pace
    silence = max(0.0, now - newest.at)
    extra = max(0.0, silence - _longest_silence(series))
    if extra > max(_LONGEST_EXTRA_SILENCE_SECONDS, left_seconds):
        return Estimate(None, LONGER, before, is_longer=True)
    # An unusually long silence adds to the total, and counts as a slower pace for the rest.
    share_left = (newest.total - newest.step) / (newest.step - first.step)
    end = max(now, newest.at + left_seconds + extra * (1 + share_left))
    return _promised(end, now, before)


def _promised(end: float, now: float, before: float | None) -> Estimate:
    """The estimate for this end, compared with the end that was announced before."""
    if before is None or end <= before:
        return Estimate(end - now, in_words(end - now), end)
    if end - before <= _LEEWAY_SECONDS + _LEEWAY_SHARE * max(0.0, before - now):
        left = max(0.0, before - now)
        return Estimate(left, in_words(left), before)
    return Estimate(end - now, f"{in_words(end - now)}, {LONGER}", before, is_longer=True)


def _series(reports: Sequence[Report], now: float) -> list[Report]:
    """The reports since the last step back, without any from the future."""
    series: list[Report] = []
    for report in reports:
        if report.at > now:
            break
        if series and (report.step < series[-1].step or report.at < series[-1].at):
            series = []
        series.append(report)
    return series


def _bursts(series: Sequence[Report]) -> list[Report]:
    """The reports, with each burst reduced to its newest."""
    apart = max(_BURST_SECONDS, (series[-1].at - series[0].at) * _BURST_SHARE)
    began_at = series[0].at
    bursts = [series[0]]
    for report in series[1:]:
        if report.at - began_at >= apart:
            bursts.append(report)
            began_at = report.at
        elif len(bursts) > 1:
            bursts[-1] = report
        else:
            # The first burst only marks the start of the observation: its own steps may have taken any time.
            bursts[0] = Report(began_at, report.step, report.total)
    return bursts


def _pace(series: Sequence[Report]) -> float | None:
    """Seconds per step: the mean of the whole time and its second half; None while too little is known."""
    first, newest = series[0], series[-1]
    seconds = newest.at - first.at
    is_known = (
        len(series) >= MIN_REPORTS
        and seconds >= MIN_SECONDS
        and newest.step > first.step
        and newest.step >= MIN_SHARE * newest.total
    )
    if not is_known:
        return None
    overall = seconds / (newest.step - first.step)
    half_way = first.at + seconds / 2
    older = next(report for report in reversed(series) if report.at <= half_way)
    if newest.step <= older.step:
        return overall
    return (overall + (newest.at - older.at) / (newest.step - older.step)) / 2


def _longest_silence(series: Sequence[Report]) -> float:
    return max(later.at - earlier.at for earlier, later in itertools.pairwise(series))


def in_words(seconds: float) -> str:
    """A remaining time, rounded to the precision it deserves."""
    if seconds < 10:
        return "less than 10 seconds"
    if seconds < 55:
        return f"about {10 * max(1, round(seconds / 10))} seconds"
    minutes = max(1, round(seconds / 60))
    if minutes > 10:
        minutes = 5 * round(seconds / 300)
    if minutes < 90:
        return f"about {_plural(minutes, 'minute')}"
    hours = round(seconds / 3600)
    return f"about {_plural(hours, 'hour')}" if hours < 48 else f"about {_plural(round(hours / 24), 'day')}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
