"""Estimates a long task's remaining time from its progress reports, only as precisely as they allow.

All functions are pure. There is no estimate until a twentieth of the work is done and three reports have
arrived at different times. If the estimated end moves later, the text says "longer than expected".
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_REPORTS = 20
"""The maximum number of reports that ``keep`` retains."""

MIN_REPORTS = 3
MIN_SHARE = 0.05
"""The fraction of all steps that must be done before there is an estimate."""
MIN_SECONDS = 2.0
"""The minimum observation time; a task that ends sooner needs no estimate."""

LONGER = "longer than expected"
LAST_STEP = "the last step is under way"

# Reports closer together than this fraction of the observed time, or this many seconds, form one burst.
_BURST_SHARE = 1 / 20
_BURST_SECONDS = 0.25
# A delay up to this limit does not change the promised end, so that the displayed number does not flicker.
_LEEWAY_SHARE = 0.25
_LEEWAY_SECONDS = 5.0
# If a silence exceeds every earlier one by this much, any estimate would be a guess.
_LONGEST_EXTRA_SILENCE_SECONDS = 10.0


class Report(NamedTuple):
    """One ``log_progress`` call: its time (seconds since the epoch), the step and the total."""

    at: float
    step: float
    total: float


@dataclass(frozen=True)
class Estimate:
    """The estimated time left.

    Attributes:
        seconds: the time left, never negative; None if it cannot be estimated honestly.
        text: the time left in words, such as "about 2 minutes".
        promised_at: the earliest end announced so far; pass it as ``before`` next time.
        is_longer: whether the end is later than ``promised_at``, in which case the text says so.
    """

    seconds: float | None
    text: str
    promised_at: float | None
    is_longer: bool = False


def keep(reports: Sequence[Report], report: Report, most: int = MAX_REPORTS) -> list[Report]:
    """Add a report and thin out the list to at most ``most``; the first and the newest are always kept.

    If the step goes back, as when a new attempt begins, all earlier reports are dropped, because they no
    longer predict the future.
    """
    last = reports[-1] if reports else None
    if last is not None and (report.step < last.step or report.at < last.at):
        return [report]
    kept = [*reports, report]
    while len(kept) > max(2, most):
        # Drop the report with the closest neighbours, so that the others remain spread over the whole time.
        middle = range(1, len(kept) - 1)
        del kept[min(middle, key=lambda place: kept[place + 1].at - kept[place - 1].at)]
    return kept


def remaining(reports: Sequence[Report], now: float, before: float | None = None) -> Estimate | None:
    """Estimate the time left, or return None while there are too few reports.

    Args:
        reports: one attempt's reports, oldest first, as returned by ``keep``.
        now: the current time, in seconds since the epoch.
        before: the ``promised_at`` of the previous estimate, or None for an attempt's first estimate.
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
    # An unusually long silence adds to the total time, and it slows the pace assumed for the remaining steps.
    share_left = (newest.total - newest.step) / (newest.step - first.step)
    end = max(now, newest.at + left_seconds + extra * (1 + share_left))
    return _promised(end, now, before)


def _promised(end: float, now: float, before: float | None) -> Estimate:
    """Build the estimate for this end, and compare it with the previously announced end."""
    if before is None or end <= before:
        return Estimate(end - now, in_words(end - now), end)
    if end - before <= _LEEWAY_SECONDS + _LEEWAY_SHARE * max(0.0, before - now):
        left = max(0.0, before - now)
        return Estimate(left, in_words(left), before)
    return Estimate(end - now, f"{in_words(end - now)}, {LONGER}", before, is_longer=True)


def _series(reports: Sequence[Report], now: float) -> list[Report]:
    """Return the reports since the step last went back, without any dated in the future."""
    series: list[Report] = []
    for report in reports:
        if report.at > now:
            break
        if series and (report.step < series[-1].step or report.at < series[-1].at):
            series = []
        series.append(report)
    return series


def _bursts(series: Sequence[Report]) -> list[Report]:
    """Reduce each burst of reports to its newest report."""
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
            # The first burst only marks when observation began, as its steps may have taken any time.
            bursts[0] = Report(began_at, report.step, report.total)
    return bursts


def _pace(series: Sequence[Report]) -> float | None:
    """Return the seconds per step, averaged over the whole time and its second half; None if unknown."""
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
    """Format a remaining time, rounded to a sensible precision."""
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
