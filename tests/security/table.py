"""The table of the attacks at the end of a run: each class, how many variants of it, and what came of them.

A test adds its class with the fixture ``attacks``; a row travels with the test's report, so it comes from
whichever process ran the test.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import pytest

_PROPERTY = "attack"
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Row:
    """The outcome of one class of attacks.

    Attributes:
        name: of the class.
        variants: how many were tried.
        let_in: how many did what they should not: opened something, or cost more than the bar.
        cpu_ratio: the worst of them to a harmless request of the same size; None where time is not measured.
        memory: the most bytes that one of them took; None likewise.
    """

    name: str
    variants: int
    let_in: int
    cpu_ratio: float | None = None
    memory: int | None = None


def text(rows: Iterable[Row]) -> str:
    """The table, in the order of the names; rows of one name are added up."""
    lines = [_line("class", "variants", "let in", "worst CPU ratio", "worst memory")]
    for row in _added_up(rows):
        ratio = "" if row.cpu_ratio is None else f"{row.cpu_ratio:.1f}"
        memory = "" if row.memory is None else f"{row.memory / _MEGABYTE:.1f} MB"
        lines.append(_line(row.name, f"{row.variants:,}", f"{row.let_in:,}", ratio, memory))
    return "\n".join(lines)


def _line(name: str, variants: str, let_in: str, ratio: str, memory: str) -> str:
    return f"{name:<58} {variants:>8} {let_in:>7} {ratio:>16} {memory:>13}"


def _added_up(rows: Iterable[Row]) -> list[Row]:
    found: dict[str, Row] = {}
    for row in rows:
        known = found.get(row.name, Row(row.name, 0, 0))
        found[row.name] = Row(
            row.name,
            known.variants + row.variants,
            known.let_in + row.let_in,
            max((each.cpu_ratio for each in (known, row) if each.cpu_ratio is not None), default=None),
            max((each.memory for each in (known, row) if each.memory is not None), default=None),
        )
    return [found[name] for name in sorted(found)]


@pytest.fixture
def attacks(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Adds a row to the table."""

    def add(row: Row) -> None:
        request.node.user_properties.append((_PROPERTY, json.dumps(asdict(row))))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if there is anything in it."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    rows = [
        Row(**json.loads(str(value)))
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if rows:
        terminalreporter.section("attacks")
        terminalreporter.write_line(text(rows))
