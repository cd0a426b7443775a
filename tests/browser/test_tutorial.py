"""docs/tutorial.md: its files and commands, step by step, and its site in a browser."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.processes import ROOT
from tests.support.site import running_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
STEPS = re.split(r"^## (?=\d+\. )", PAGE, flags=re.MULTILINE)[1:]
TITLES = [step.partition("\n")[0] for step in STEPS]
NAMED = re.compile(r"```\w+\n(?:# |<!-- )(\S+\.\w+)(?: -->)?\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)

SEND_TWO_LETTERS = """
from webtest import TestApp as Client
from lastacross import testing

with testing.application(".") as app:
    page = Client(app.wsgi).post("/", {"names": "ann ben"})
    attempts = app.run_tasks()
    assert page.status_int == 303, page
    assert [(each.url, each.status) for each in attempts][:2] == [("/tasks/letter", 200)] * 2, attempts
"""


def write_files(step: str, folder: Path) -> int:
    """Write the files that a step shows; returns their number."""
    files = NAMED.findall(step)
    for name, text in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return len(files)


def commands(step: str) -> list[list[str]]:
    """The command lines of a step, as words."""
    return [line.replace('"', "").split() for block in COMMANDS.findall(step) for line in block.splitlines()]


def run(folder: Path, *arguments: str, **environ: str) -> str:
    """Run Python in the folder, and return its output; it must succeed."""
    own = {"PYTHONPATH": f"{ROOT}:{folder}", "PATH": os.environ["PATH"], "TMPDIR": tempfile.gettempdir()}
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**own, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def run_command(words: list[str], folder: Path, **environ: str) -> str:
    """Run a command of the page with this tree's code."""
    plugin = ["-p", "lastacross.pytest_plugin", "-p", "no:cacheprovider"] if words[0] == "pytest" else []
    return run(folder, "-m", *words, *plugin, **environ)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application as it is after the last step that changes it; each step before has sent letters."""
    folder = tmp_path_factory.mktemp("tutorial") / "letters"
    folder.mkdir()
    # The reader has started `lastacross dev` in the first step, which made the database.
    write_files(STEPS[1], folder)
    run_command(["lastacross", "db", "upgrade"], folder)
    for step in STEPS:
        if write_files(step, folder) == 0:
            continue
        for words in commands(step):
            if words[:2] == ["lastacross", "db"]:
                run_command(words, folder)
        run(folder, "-c", SEND_TWO_LETTERS)
    return folder


def test_the_tutorial_has_the_promised_steps() -> None:
    words = ["Start", "task", "rate", "table", "batch", "long task", "cron", "Tests", "Deploy"]

    assert len(TITLES) == len(words)
    assert [word for word, title in zip(words, TITLES, strict=True) if word not in title] == []


def test_its_tests_pass(letters: Path) -> None:
    [pytest_line] = [words for words in commands(STEPS[7]) if words[0] == "pytest"]

    assert "3 passed" in run_command(pytest_line, letters)


def test_the_migration_has_the_table(letters: Path) -> None:
    [migration] = (letters / "migrations" / "versions").glob("*_letters.py")

    assert "op.create_table('letter'" in migration.read_text()


def test_its_site_shows_live_progress_and_the_report(letters: Path, chromium: Browser) -> None:
    with running_site(letters) as site:
        page = chromium.new_context(base_url=site.url).new_page()
        page.goto("/")
        page.get_by_role("button", name="Send letters").click()
        page.evaluate("window.isTheSamePage = true")
        expect(page.get_by_text("5 of 5 letters are sent")).to_be_visible()
        assert page.evaluate("[window.isTheSamePage, document.querySelector('progress').value]") == [True, 5]

        page.goto("/report")
        expect(page.get_by_role("link", name="Open the result")).to_be_visible()

        # The site's own environment, so that the command's steps are recorded like the site's.
        given = Path(f"/proc/{site.processes.pid}/environ").read_text().rstrip("\0").split("\0")
        environ = {**dict(line.split("=", 1) for line in given), "SECRET_KEY": site.secret_key}
        lines = [words for words in commands(STEPS[6]) if words[0] == "lastacross"]
        assert [words[:3] for words in lines] == [
            ["lastacross", "cron", "next"],
            ["lastacross", "cron", "run"],
        ]
        assert "Europe/Berlin" in run_command(lines[0], letters, **environ)
        assert "tasks-forget" in run_command(lines[1], letters, **environ)
        page.context.close()
