"""docs/performance.md: its figures are those of bench/RESULTS.md."""

import re

from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
# The page's columns, and the measures in the order of its rows.
COLUMNS = ["**Last Across**, deferred", "**Last Across**, handler", "celery", "dramatiq", "rq, SimpleWorker"]
MEASURES = [
    "drain, tasks/s",
    "enqueue one by one, /s",
    "fan-out → one callback, s",
    "idle worker, enqueue → start, p50 ms",
    "Redis memory per waiting task, bytes",
]


def table(text: str) -> list[list[str]]:
    """The rows of a page's first table that has figures, as cells."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set(row[-1]) <= set("-: ")]


def test_the_figures_are_those_of_the_results() -> None:
    head, *measured = table(RESULTS)
    by_measure = {row[0]: row for row in measured}
    expected = [
        [re.sub(r" \(.*", "", by_measure[measure][head.index(column)]) for column in COLUMNS]
        for measure in MEASURES
    ]

    assert [row[1:] for row in table(PAGE)[1:]] == expected
