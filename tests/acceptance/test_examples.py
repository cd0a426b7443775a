"""The examples: a stranger's application each, ten lines that add long tasks to it, and tests that pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from lastacross import cli
from tests.support.code_lines import code_lines
from tests.support.processes import ROOT

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/app.yaml"))
EACH = pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)

# What our package adds to an example. Everything else is the stranger's, and does not know us.
ADDED = {"main.py", "frame.html", "app.yaml", "requirements.txt", "README.md", "pytest.ini"}
MAX_ADDED_LINES = 10


def files_of(folder: Path) -> list[Path]:
    """The files of an example, without those that Python makes."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_there_is_an_example_for_each_framework() -> None:
    assert [folder.name for folder in EXAMPLES] == ["bottle", "django", "fastapi", "flask", "webapp2"]


@EACH
def test_ten_added_lines_are_enough(folder: Path) -> None:
    frames = [path.read_text() for path in files_of(folder) if path.name == "frame.html"]
    lines = code_lines((folder / "main.py").read_text()) + sum(len(text.splitlines()) for text in frames)
    assert lines <= MAX_ADDED_LINES


@EACH
def test_the_rest_is_an_application_that_does_not_know_us(folder: Path) -> None:
    own = [path for path in files_of(folder) if path.name not in ADDED and "tests" not in path.parts]
    assert len(own) >= 2
    assert [path for path in own if "longtask" in path.read_text() or "lastacross" in path.read_text()] == []


@EACH
def test_its_readme_is_short_and_its_configuration_valid(folder: Path) -> None:
    assert len((folder / "README.md").read_text().splitlines()) <= 15
    assert cli.run(["--app", str(folder), "config", "check"]) == 0


@EACH
@pytest.mark.slow
def test_its_own_tests_pass(folder: Path) -> None:
    options = ("-q", "-p", "lastacross.pytest_plugin", "-p", "no:cacheprovider")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
