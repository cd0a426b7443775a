"""The table of the benchmarks: medians, ratios, what did not run."""

import copy
from typing import Any

import pytest

from bench import report, rounds
from bench.contenders import CONTENDERS, OUR_OWN

DRAIN, ENQUEUE, FANIN = report.ROWS[0], report.ROWS[1], report.ROWS[3]
BY_NAME = {contender.name: contender for contender in CONTENDERS}


def record(contender: str, measure: str, variant: str = "", **figures: object) -> dict[str, Any]:
    """One run of a driver."""
    told = {"settings": {"workers": "two"}, "versions": {contender: "1.0"}, **figures}
    return {"contender": contender, "variant": variant, "measure": measure, "round": 1, "figures": told}


def results_of(*records: dict[str, Any]) -> dict[str, Any]:
    """What results.json would hold."""
    return {
        "date": "2030-01-02",
        "command": "make bench",
        "tasks": 10_000,
        "machine": {
            "cores": 2,
            "processor": "a processor",
            "memory_gib": 8,
            "kernel": "Linux 6.1",
            "python": "3.11.2",
            "redis": "7.0.15",
        },
        "rounds": [{"round": 1, "load": [0.1, 0.2, 0.3]}],
        "medians": rounds.medians(records),
    }


def test_the_median_is_of_each_figure_by_itself() -> None:
    runs = [
        record("rq", "drain", per_second=speed, redis_cpu_us=cost) for speed, cost in [(1, 9), (5, 7), (3, 8)]
    ]

    [median] = rounds.medians(runs)

    assert median["figures"] == {"per_second": 3, "redis_cpu_us": 8}
    assert median["runs"] == 3
    assert median["versions"] == {"rq": "1.0"}


def test_what_is_no_number_has_no_median() -> None:
    [median] = rounds.medians([record("rq", "drain", per_second=3, at_least_once=True, kind="deferred")])

    assert median["figures"] == {"per_second": 3}


def test_a_failed_run_does_not_move_the_median_and_is_told() -> None:
    failed = {"contender": "rq", "variant": "", "measure": "drain", "round": 2, "failed": "exit code 1"}

    [median] = rounds.medians([record("rq", "drain", per_second=3), failed])

    assert (median["figures"]["per_second"], median["runs"], median["failed"]) == (3, 1, "exit code 1")


def test_variants_have_medians_of_their_own() -> None:
    runs = [record("celery", "drain", variant=variant, per_second=1) for variant in ("prefork", "threads")]

    assert [median["variant"] for median in rounds.medians(runs)] == ["prefork", "threads"]


@pytest.mark.parametrize(
    ("row", "ours", "theirs", "times"),
    [(DRAIN, 20_000, 5_000, 4), (DRAIN, 1_000, 2_000, 0.5), (FANIN, 0.5, 2.0, 4), (FANIN, 3.0, 1.5, 0.5)],
)
def test_a_ratio_above_one_means_that_ours_is_better(
    row: report.Row, ours: float, theirs: float, times: float
) -> None:
    assert report.times_better(ours, theirs, row) == times


def test_there_is_no_ratio_without_both_figures() -> None:
    assert report.times_better(None, 5.0, DRAIN) is None
    assert report.times_better(5.0, 0.0, DRAIN) is None


def test_a_ratio_has_two_digits_that_count() -> None:
    assert [report.ratio(times) for times in (0.849, 4.21, 66.4)] == ["0.85x", "4.2x", "66x"]


def test_a_cell_has_the_figure_and_the_ratio() -> None:
    results = results_of(
        record("deferred", "drain", per_second=20_000), record("rq", "drain", per_second=400)
    )

    assert report.cell(results, BY_NAME["deferred"], DRAIN) == "20,000"
    assert report.cell(results, BY_NAME["rq"], DRAIN) == "400 (50x)"
    assert report.cell(results, BY_NAME["huey"], DRAIN) == "-"


def test_a_peer_without_ours_has_its_figure_alone() -> None:
    results = results_of(record("rq", "drain", per_second=400))

    assert report.cell(results, BY_NAME["rq"], DRAIN) == "400"


def test_a_cell_of_what_failed_says_so() -> None:
    failed = {"contender": "huey", "variant": "", "measure": "drain", "round": 1, "failed": "exit code 3"}
    results = results_of(record("rq", "drain", per_second=400), failed)

    assert report.cell(results, BY_NAME["huey"], DRAIN) == "failed"
    assert "- failed: huey drain: exit code 3" in report.page(results)


def test_the_best_variant_gives_all_figures_of_a_measure() -> None:
    results = results_of(
        record("celery", "drain", variant="prefork", per_second=900, redis_cpu_us=60),
        record("celery", "drain", variant="threads", per_second=1_000, redis_cpu_us=80),
        record("celery", "fanin", variant="prefork", seconds=20),
        record("celery", "fanin", variant="threads", seconds=30),
    )

    cost = next(row for row in report.ROWS if row.figure == "redis_cpu_us")
    assert report.value(results, "celery", DRAIN) == 1_000
    assert report.value(results, "celery", cost) == 80
    assert report.value(results, "celery", FANIN) == 20
    assert "drain threads, fanin prefork" in report.page(results)


def test_the_page_names_machine_versions_commands_and_load() -> None:
    page = report.page(
        results_of(record("deferred", "drain", per_second=1), record("rq", "drain", per_second=1))
    )

    for expected in ("2 cores (a processor)", "Redis 7.0.15", "rq 1.0", "0.1 0.2 0.3", "- workers: two"):
        assert expected in page
    assert "`bench/peers/rq_peer.py MEASURE --variant simple`" in page


def test_the_table_has_a_column_for_each_that_ran_and_as_many_cells_in_each_line() -> None:
    lines = report.table(
        results_of(record("deferred", "drain", per_second=1), record("rq", "bulk", per_second=1))
    )

    assert {line.count("|") for line in lines} == {4}
    assert "huey" not in lines[0]


def test_what_only_ours_has_is_told_figure_for_figure() -> None:
    page = report.page(results_of(record(OUR_OWN.name, "idle", calls_per_second=3.5)))

    assert "| idle | calls_per_second 3.5 |" in page


def test_the_bars_are_in_order_of_speed_and_without_those_that_did_not_run() -> None:
    results = results_of(record("rq", "drain", per_second=1), record("deferred", "drain", per_second=9))

    assert report.bars(results) == [("Last Across, deferred", 9), ("rq, SimpleWorker", 1)]


def test_rendering_does_not_change_the_results() -> None:
    results = results_of(record("rq", "drain", per_second=1))
    before = copy.deepcopy(results)

    report.page(results)

    assert results == before
