"""The time that a long task may still take: late rather than wrong, and never going up in silence."""

import itertools
import random
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.longtasks import estimate
from lastacross.longtasks.estimate import Estimate, Report

BEGINNING = 1_800_000_000.0

SHOWN_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def linear(seconds: float, steps: int, share: float = 1.0) -> list[Report]:
    """A report before the first step and after each, evenly spread, as far as this share of them."""
    count = int(steps * share)
    return [Report(BEGINNING + seconds * n / steps, n, steps) for n in range(count + 1)]


def shown(text: str) -> float:
    """The seconds that a text names; of "less than 10 seconds", 10."""
    found = re.match(r"(?:about|less than) (\d+) (second|minute|hour|day)", text)
    assert found, text
    return int(found[1]) * SHOWN_SECONDS[found[2]]


def watched(reports: list[Report], until: float, every: float = 1.0) -> Iterator[tuple[float, Estimate]]:
    """What a page shows that looks again and again, the worker having told it what was promised."""
    kept: list[Report] = []
    waiting = list(reports)
    before: float | None = None
    now = BEGINNING
    while now < until:
        while waiting and waiting[0].at <= now:
            report = waiting.pop(0)
            kept = estimate.keep(kept, report)
            told = estimate.remaining(kept, report.at, before)
            before = told.promised_at if told else None
        seen = estimate.remaining(kept, now, before)
        if seen is not None:
            yield now, seen
        now += every


# --- when it speaks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reports", "why"),
    [
        ([], "nothing was reported"),
        (linear(100, 10)[:1], "one report"),
        (linear(100, 10)[:2], "two reports"),
        (linear(100, 100)[:5], "less than a twentieth"),
        ([Report(BEGINNING + n, n, 0) for n in range(9)], "the total is not known"),
        ([Report(BEGINNING + n, 5, 10) for n in range(9)], "it stands still"),
        ([Report(BEGINNING + n / 100, n, 10) for n in range(9)], "it has been watched for a moment only"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_said_as_long_as_too_little_is_known(reports: list[Report], why: str) -> None:
    now = reports[-1].at if reports else BEGINNING

    assert estimate.remaining(reports, now) is None, why


def test_after_three_reports_and_a_twentieth_it_speaks() -> None:
    told = estimate.remaining(linear(120, 20, 0.1), BEGINNING + 12)

    assert told == Estimate(108, "about 2 minutes", BEGINNING + 120)


def test_a_burst_counts_as_one_report() -> None:
    burst = [Report(BEGINNING + n / 100, n, 100) for n in range(10)]

    assert estimate.remaining(burst, BEGINNING + 3) is None
    assert estimate.remaining([*burst, Report(BEGINNING + 10, 20, 100)], BEGINNING + 10) is None
    later = [*burst, Report(BEGINNING + 10, 20, 100), Report(BEGINNING + 20, 30, 100)]
    told = estimate.remaining(later, BEGINNING + 20)
    assert told is not None
    assert told.text == "about 1 minute"


def test_between_reports_the_time_runs_down() -> None:
    reports = linear(100, 10, 0.5)

    texts = [estimate.remaining(reports, BEGINNING + 50 + gone) for gone in (0, 4, 8)]

    assert [told and told.seconds for told in texts] == pytest.approx([50, 46, 42])


def test_the_last_step_has_no_number() -> None:
    told = estimate.remaining(linear(100, 10), BEGINNING + 100, BEGINNING + 90)

    assert told == Estimate(None, "the last step is under way", BEGINNING + 90)


# --- when it takes longer -------------------------------------------------------------------


def test_what_takes_longer_than_was_said_says_so() -> None:
    told = estimate.remaining(linear(300, 10, 0.5), BEGINNING + 150, before=BEGINNING + 200)

    assert told == Estimate(150, "about 2 minutes, longer than expected", BEGINNING + 200, is_longer=True)


def test_a_little_longer_is_as_was_said() -> None:
    told = estimate.remaining(linear(105, 10, 0.5), BEGINNING + 52.5, before=BEGINNING + 100)

    assert told == Estimate(47.5, "about 50 seconds", BEGINNING + 100)


def test_sooner_than_was_said_becomes_what_is_said() -> None:
    told = estimate.remaining(linear(100, 10, 0.5), BEGINNING + 50, before=BEGINNING + 500)

    assert told is not None
    assert told.promised_at == pytest.approx(BEGINNING + 100, abs=1)
    assert not told.is_longer


def test_a_silence_makes_it_longer_and_in_the_end_unknown() -> None:
    reports = linear(100, 100, 0.9)

    texts = [
        told.text
        for seconds in (0, 1, 9, 20, 60, 3600)
        if (told := estimate.remaining(reports, BEGINNING + 90 + seconds, BEGINNING + 100))
    ]

    assert texts[:3] == [
        "about 10 seconds",
        "less than 10 seconds",
        "about 10 seconds, longer than expected",
    ]
    assert texts[3:] == ["longer than expected"] * 3


# --- what a program may do ------------------------------------------------------------------


def test_a_new_attempt_begins_anew() -> None:
    old = linear(100, 10, 0.9)
    again = [Report(BEGINNING + 300 + 10 * n, n, 10) for n in range(3)]

    assert estimate.remaining([*old, *again[:2]], BEGINNING + 310) is None
    told = estimate.remaining([*old, *again], BEGINNING + 320)
    assert told is not None
    assert told.seconds == pytest.approx(80)
    assert estimate.keep(old, again[0]) == [again[0]]


def test_a_total_that_grows_makes_it_longer_and_one_that_shrinks_shorter() -> None:
    reports = linear(100, 10, 0.5)
    now = BEGINNING + 50
    before = estimate.remaining(reports, now)
    assert before is not None

    grown = estimate.remaining([*reports[:-1], Report(now, 5, 20)], now, before.promised_at)
    shrunk = estimate.remaining([*reports[:-1], Report(now, 5, 6)], now, before.promised_at)

    assert grown is not None
    assert shrunk is not None
    assert grown.text == "about 2 minutes, longer than expected"
    assert shrunk.seconds == pytest.approx(10)


def test_kept_reports_are_few_and_spread_over_the_whole_time() -> None:
    kept: list[Report] = []
    for report in linear(1000, 1000):
        kept = estimate.keep(kept, report)

    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(kept)]
    assert len(kept) == estimate.MAX_REPORTS
    assert (kept[0].step, kept[-1].step) == (0, 1000)
    assert max(gaps) < 200


# --- in words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than 10 seconds"),
        (9.9, "less than 10 seconds"),
        (10, "about 10 seconds"),
        (34, "about 30 seconds"),
        (54.9, "about 50 seconds"),
        (55, "about 1 minute"),
        (100, "about 2 minutes"),
        (610, "about 10 minutes"),
        (700, "about 10 minutes"),
        (1000, "about 15 minutes"),
        (5000, "about 85 minutes"),
        (5400, "about 2 hours"),
        (170_000, "about 47 hours"),
        (180_000, "about 2 days"),
    ],
)
def test_times_are_named_no_finer_than_they_can_be_kept(seconds: float, text: str) -> None:
    assert estimate.in_words(seconds) == text


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_words_never_go_up_while_the_time_goes_down(times: list[float]) -> None:
    named = [shown(estimate.in_words(seconds)) for seconds in sorted(times)]

    assert named == sorted(named)


# --- whatever is reported -------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(-5, 200, width=32), st.floats(0, 150, width=32)), max_size=60
)


@given(STEPS, st.floats(0, 5000), st.none() | st.floats(BEGINNING - 100, BEGINNING + 9000))
def test_whatever_is_reported_no_time_is_negative(
    steps: list[tuple[float, float, float]], wait: float, before: float | None
) -> None:
    at = BEGINNING
    kept: list[Report] = []
    for gap, step, total in steps:
        at += gap
        kept = estimate.keep(kept, Report(at, step, total))
        assert len(kept) <= estimate.MAX_REPORTS
        assert kept[-1] == Report(at, step, total)

    told = estimate.remaining(kept, at + wait, before)

    if told is not None:
        assert told.text
        assert told.seconds is None or told.seconds >= 0
        assert before is None or told.promised_at is None or told.promised_at <= before


@given(st.lists(st.tuples(st.floats(0.01, 30), st.floats(0, 5)), min_size=5, max_size=80))
def test_what_is_shown_never_goes_up_without_saying_so(steps: list[tuple[float, float]]) -> None:
    at, step = BEGINNING, 0.0
    reports = [Report(at, 0, 100)]
    for gap, more in steps:
        at += gap
        step = min(99.0, step + more)
        reports.append(Report(at, step, 100))

    numbers = [
        (told.is_longer, shown(told.text))
        for _, told in watched(reports, at + 60, 0.5)
        if told.seconds is not None
    ]

    for (_, earlier), (is_longer, later) in itertools.pairwise(numbers):
        assert is_longer or later <= earlier


# --- a task of two minutes, watched ---------------------------------------------------------

TASK_SECONDS = 120.0
END = BEGINNING + TASK_SECONDS


def simulate(steps: int, spent: Callable[[random.Random], float], seed: int) -> list[Report]:
    """The reports of a task of two minutes whose steps take times as drawn."""
    rng = random.Random(seed)
    times = [spent(rng) for _ in range(steps)]
    scale = TASK_SECONDS / sum(times)
    at = BEGINNING
    reports = [Report(at, 0, steps)]
    for place, seconds in enumerate(times, 1):
        at += seconds * scale
        reports.append(Report(at, place, steps))
    return reports


def shares_within(runs: list[list[Report]], tolerance: float) -> float:
    """How often the number on the page is right within this share, once a quarter of the time is over."""
    good = every = 0
    for reports in runs:
        for now, told in watched(reports, END):
            if now < BEGINNING + TASK_SECONDS / 4:
                continue
            truth = END - now
            every += 1
            if told.seconds is None:
                continue
            if told.text.startswith("less"):
                good += truth <= 10 * (1 + tolerance)
            else:
                good += abs(shown(told.text) - truth) <= tolerance * truth
    print(f"measured estimate: {good} of {every} within {tolerance:.0%}")
    return good / every


def test_of_an_even_task_four_fifths_of_what_is_shown_are_true_within_thirty_per_cent() -> None:
    even = [simulate(60, lambda rng: rng.uniform(0.7, 1.3), seed) for seed in range(30)]

    assert shares_within(even, 0.3) >= 0.8


def test_of_a_task_in_bursts_more_than_half_of_it_is_true() -> None:
    def burst(rng: random.Random) -> float:
        return 50.0 if rng.random() < 0.1 else 0.05

    bursty = [simulate(120, burst, seed) for seed in range(30)]

    assert shares_within(bursty, 0.5) >= 0.5
    for reports in bursty:
        assert all(told.seconds is None or told.seconds >= 0 for _, told in watched(reports, END, 0.2))
