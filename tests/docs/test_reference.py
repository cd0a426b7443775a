"""The pages of docs/reference/ are what the code says: modules, settings and commands."""

import importlib

import pytest

from lastacross.cli.base import cli
from lastacross.config import settings
from tests.docs import reference

PAGES = reference.pages()


@pytest.mark.parametrize("file", sorted(PAGES))
def test_the_page_says_what_the_code_says(file: str) -> None:
    assert (reference.FOLDER / file).read_text(encoding="utf-8") == PAGES[file], "run: make reference"


def test_every_setting_has_a_row() -> None:
    names = [variable.name for variable in settings.VARIABLES]

    assert [name for name in names if f"\n| `{name}` |" not in PAGES["settings.md"]] == []
    assert set(reference.SETTINGS) == set(names)


def test_every_command_has_a_section() -> None:
    commands = [" ".join(names) for names, _ in reference.walk(("lastacross",), cli)]

    assert len(commands) > 30
    assert [name for name in commands if f"\n## {name}\n" not in PAGES["commands.md"]] == []


@pytest.mark.parametrize("page", sorted(reference.MODULES))
def test_each_public_function_and_class_has_a_docstring(page: str) -> None:
    module = importlib.import_module(reference.MODULES[page])

    assert [
        name
        for name in reference.public_names(page)
        if callable(value := getattr(module, name)) and not value.__doc__
    ] == []


def test_the_internal_names_exist() -> None:
    missing = [
        (page, name)
        for page, names in reference.INTERNAL.items()
        for name in names
        if not hasattr(importlib.import_module(reference.MODULES[page]), name)
    ]

    assert missing == []
