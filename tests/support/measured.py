"""For `make faults`, lists a run's figures at its end: all printed lines that begin with "measured"."""

import pytest

MARK = "measured "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures in one list."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [line for report in reports for line in report.capstdout.splitlines() if line.startswith(MARK)]
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.line(line.removeprefix(MARK))
