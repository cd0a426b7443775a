"""`make bench-quick`: what got worse, beyond what the machine got slower."""

from typing import Any

import pytest

from bench import quick, report

ROWS = {(row.measure, row.figure): row for row in report.ROWS}
AS_FAST = {"wall_seconds": 1.0, "cpu_seconds": 1.0}


def results_of(loop: float, **figures: float) -> dict[str, Any]:
    """Results of a machine on which the loop takes so many seconds."""
    return {
        "rounds": [{"calibration": {"wall_seconds": loop, "cpu_seconds": loop}}],
        "medians": [{"contender": "deferred", "variant": "", "measure": "drain", "figures": figures}],
    }


@pytest.mark.parametrize(
    ("figure", "then", "now", "worse"),
    [
        ("per_second", 20_000, 10_000, 1.0),
        ("per_second", 10_000, 20_000, -0.5),
        ("redis_cpu_us", 10, 13, 0.3),
        ("bytes_per_task", 500, 250, -0.5),
    ],
)
def test_worse_is_slower_or_dearer(figure: str, then: float, now: float, worse: float) -> None:
    found = quick.worse_by(ROWS["drain", figure], then, now, AS_FAST)

    assert found == pytest.approx(worse)


def test_a_machine_that_is_half_as_fast_explains_half_the_speed() -> None:
    [change] = quick.compare(results_of(0.2, per_second=20_000), results_of(0.4, per_second=10_000))

    assert change.worse == pytest.approx(0)
    assert not change.is_regression


def test_it_does_not_explain_more_commands_or_bytes() -> None:
    changes = quick.compare(
        results_of(0.2, redis_commands=2, bytes_per_task=500),
        results_of(0.4, redis_commands=4, bytes_per_task=1000),
    )

    assert [change.is_regression for change in changes] == [True, True]


def test_processor_time_is_compared_with_processor_time() -> None:
    """Other work makes the clock's loop slower, and does not make a task cost more."""
    crowded = {"wall_seconds": 3.0, "cpu_seconds": 1.0}

    assert quick.worse_by(ROWS["drain", "redis_cpu_us"], 10, 12, crowded) == pytest.approx(0.2)
    assert quick.worse_by(ROWS["drain", "per_second"], 30, 10, crowded) == pytest.approx(0)


def test_figures_that_one_run_lacks_are_left_out() -> None:
    assert quick.compare(results_of(0.2, per_second=1), results_of(0.2, seconds=1)) == []


def test_a_measure_that_this_run_lacks_is_told_as_failed() -> None:
    then, now = results_of(0.2, per_second=1), results_of(0.2, seconds=1)

    assert quick.lacking(then, now) == ["deferred drain"]
    assert quick.lacking(now, then) == []
    assert "1 measures failed, see .bench/logs: deferred drain" in quick.told([], ["deferred drain"])


def test_what_got_worse_by_more_than_noise_is_marked() -> None:
    text = quick.told(
        quick.compare(
            results_of(0.2, per_second=20_000, redis_cpu_us=10),
            results_of(0.2, per_second=15_000, redis_cpu_us=11),
        ),
        [],
    )

    worse = [line for line in text.splitlines() if line.endswith("worse")]
    assert [line.split()[:3] for line in worse] == [["deferred", "drain", "per_second"]]
    assert "1 of 2 figures are worse by more than 15%" in text
