"""Sums up pytest's JUnit files: the ten slowest modules, and a last line with the number of tests."""

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SLOWEST = 10


@dataclass
class Summary:
    """The outcome of several runs.

    Attributes:
        passed, failed, skipped: the numbers of tests; an error counts as a failure.
        seconds: the duration of each module, including fixtures.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def text(self) -> str:
        """A table and the closing line."""
        slowest = sorted(self.seconds.items(), key=lambda entry: entry[1], reverse=True)[:SLOWEST]
        table = [f"{seconds:8.1f} s  {module}" for module, seconds in slowest]
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        closing = f"{self.passed} passed, {self.failed} failed{skipped}"
        return "\n".join([f"The {SLOWEST} slowest modules:", *table, "", closing])


def read(files: Iterable[Path]) -> Summary:
    """Add up the test cases in JUnit files written by pytest."""
    summary = Summary()
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            summary.seconds[case.get("classname", "")] += float(case.get("time", 0))
            if case.find("failure") is not None or case.find("error") is not None:
                summary.failed += 1
            elif case.find("skipped") is not None:
                summary.skipped += 1
            else:
                summary.passed += 1
    return summary


if __name__ == "__main__":
    print(read(Path(name) for name in sys.argv[1:]).text())
