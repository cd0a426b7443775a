"""The closing lines of `make test`: continuous integration reads the last one."""

from pathlib import Path

from tests.support import summary

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
