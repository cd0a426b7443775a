"""What the pages tell a reader to do exists."""

import re
from pathlib import Path

import pytest

from lastacross import cli
from lastacross.config import app, handlers, known_keys

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_every_make_command_of_the_readme_is_a_target() -> None:
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE))

    assert {"run", "test"} <= named <= TARGETS


def test_every_command_line_of_the_readme_is_understood() -> None:
    lines = re.findall(r"^    lastacross (.+?)(?: {3,}.*)?$", README, re.MULTILINE)

    assert len(lines) >= 6
    for line in lines:
        # With --help everything before it is parsed, and nothing runs.
        assert cli.run([*line.split(), "--help"]) == 0, line


def test_the_procfile_names_commands() -> None:
    for line in (ROOT / "Procfile").read_text().splitlines():
        program, *arguments = line.partition(": ")[2].split()
        assert program == "lastacross"
        # With --help everything before it is parsed, and nothing runs.
        assert cli.run([*arguments, "--help"]) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())

    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_headings_that_docstrings_name_are_there() -> None:
    named = {
        (page, heading)
        for folder in (ROOT, ROOT / "programs", ROOT / "lastacross")
        for path in (folder.glob("*.py") if folder == ROOT else folder.rglob("*.py"))
        for page, headings in re.findall(
            r'docs/(\w+)\.md, (?:under )?("[^"]+"(?: and\s+"[^"]+")?)', path.read_text()
        )
        for heading in re.findall(r'"([^"]+)"', headings)
    }

    assert ("appengine", "Targets") in named
    missing = [
        (page, heading)
        for page, heading in sorted(named)
        if f"\n## {heading}\n" not in (ROOT / "docs" / f"{page}.md").read_text()
    ]
    assert missing == []


def test_each_key_of_app_yaml_is_in_the_table_of_its_effects() -> None:
    section = (ROOT / "docs" / "appengine.md").read_text().partition("\n## app.yaml\n")[2]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))
    keys = {
        *app.FileEntry.model_fields,
        *app.ErrorHandlerEntry.model_fields,
        *handlers.HandlerEntry.model_fields,
    }
    keys |= {*known_keys.APP_KEYS, *known_keys.BUILTINS}
    keys |= {key for refusal in known_keys.REFUSALS for key in refusal.path}

    assert len(keys) > 80
    assert keys - named == set()
