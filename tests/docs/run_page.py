"""Runs the files of one page in a process of their own: `python -m tests.docs.run_page FOLDER REDIS_URL`.

It checks the configuration, makes the tables of the page's models by a migration, imports every module and
parses the templates. Then it executes the page's unnamed Python blocks, which are in the folder `unnamed`,
inside the application, and the page's tests. One process does all this, because starting one takes a second.
"""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import jinja2
import pytest

import longtask
from lastacross import (
    channel,
    cli,
    datastore,
    deferred,
    events,
    memcache,
    runtime,
    taskqueue,
    testing,
    urlfetch,
    webapp,
)

UNNAMED = "unnamed"
NAMES: dict[str, Any] = {
    "channel": channel,
    "datastore": datastore,
    "deferred": deferred,
    "events": events,
    "longtask": longtask,
    "memcache": memcache,
    "runtime": runtime,
    "taskqueue": taskqueue,
    "testing": testing,
    "urlfetch": urlfetch,
    "webapp": webapp,
}


def modules(folder: Path) -> list[str]:
    """The names of a folder's modules, without its tests."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*.py"))]
    skipped = (UNNAMED, "tests", "migrations")
    return [
        ".".join(path.with_suffix("").parts)
        for path in paths
        if path.parts[0] not in skipped and not path.name.startswith("test_")
    ]


def migrate(folder: Path) -> None:
    """Write and apply the migration of the page's tables, if it has any."""
    if any("datastore.Model" in path.read_text() for path in folder.glob("*.py")):
        for command in (["upgrade"], ["revision", "tables"], ["upgrade"]):
            assert cli.run(["db", *command]) == 0, command


def run(folder: Path, redis_url: str) -> None:
    """Run a page's files; raises whatever they raise."""
    migrate(folder)
    with testing.application(folder, redis_url=redis_url):
        for name in modules(folder):
            importlib.import_module(name)
        for page in sorted((folder / UNNAMED).glob("*")):
            names = dict(NAMES)
            for path in sorted(page.glob("*.py")):
                exec(compile(path.read_text(), str(path), "exec"), names)
    for path in folder.rglob("*.html"):
        jinja2.Environment(autoescape=True).parse(path.read_text())


def run_tests(folder: Path) -> int:
    """Run the page's tests; returns pytest's exit status."""
    if not [*folder.rglob("test_*.py")]:
        return 0
    return pytest.main(["-q", "-p", "lastacross.pytest_plugin", "-p", "no:cacheprovider"])


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), sys.argv[2])
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(run_tests(Path(sys.argv[1])))
