"""The closing lines of `make test`, whose last one continuous integration reads, and of `make faults`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support import summary

ROOT = Path(__file__).parents[2]

TOGETHER = """<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_one" time="0.25"/>
<testcase classname="tests.unit.test_a" name="test_two" time="0.5"><failure>why</failure></testcase>
<testcase classname="tests.unit.test_b" name="test_three" time="2"><error>why</error></testcase>
</testsuite></testsuites>"""
ALONE = """<testsuites><testsuite>
<testcase classname="tests.unit.test_b" name="test_four" time="1"/>
<testcase classname="tests.unit.test_c" name="test_five" time="0"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def test_the_last_line_counts_the_tests_of_all_runs(tmp_path: Path) -> None:
    files = [tmp_path / "together.xml", tmp_path / "alone.xml"]
    for file, text in zip(files, (TOGETHER, ALONE), strict=True):
        file.write_text(text)

    lines = summary.read(files).text().splitlines()

    assert lines[-1] == "2 passed, 2 failed, 1 skipped"
    assert lines[1:4] == [
        "     3.0 s  tests.unit.test_b",
        "     0.8 s  tests.unit.test_a",
        "     0.0 s  tests.unit.test_c",
    ]


def test_without_skipped_tests_the_last_line_has_two_numbers() -> None:
    assert summary.Summary(passed=3).text().splitlines()[-1] == "3 passed, 0 failed"


def test_no_more_than_ten_modules_are_listed() -> None:
    many = summary.Summary()
    many.seconds.update({f"tests.test_{number}": float(number) for number in range(30)})

    assert len([line for line in many.text().splitlines() if line.endswith(tuple("0123456789"))]) == 10


def test_a_run_ends_with_the_figures_that_its_tests_measured(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("def test_it():\n    print('seed 7')\n    print('measured stop: 1.5 s (promised: 5)')\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.measured", "-c", os.devnull, str(test)]

    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "stop: 1.5 s (promised: 5)" in found.splitlines()
    assert "seed 7" not in found
