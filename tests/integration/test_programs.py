"""Each program is in a folder of its own: without it, and the lines that name it, the others go on."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross.testing import ApplicationUnderTest
from tests.support import databases
from tests.support.processes import ROOT

ADDRESSES = {
    "count": "/count",
    "errors": "/errors",
    "intrastat": "/intrastat/form",
    "quilt": "/quilt",
    "reload": "/reloads",
}
ANSWERS = {
    "/": 200,
    "/count": 200,
    "/errors": 403,  # the administrator alone sees them
    "/intrastat/form": 200,
    "/quilt": 200,
    "/reloads": 200,
}

ASK = """
import os, sys
from pathlib import Path

import webapp2

from lastacross import config, store

config.use(config.load(Path.cwd(), os.environ))

import main, workers

for address in sys.argv[1:]:
    print(address, webapp2.Request.blank(address).get_response(main.app).status_int)
"""


def copy(folder: Path) -> None:
    """The application in another folder."""
    for name in ("programs", "static", "templates", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.yaml")]:
        shutil.copy(path, folder)


def remove(program: str, folder: Path) -> None:
    """Delete a program: its folder, its imports in the root, and the lines that use them."""
    shutil.rmtree(folder / "programs" / program)
    for path in (folder / "main.py", folder / "workers.py"):
        text = path.read_text()
        imported = re.findall(rf"^from programs\.{program}\b.*? import \w+ as (\w+)$", text, re.M)
        text = re.sub(rf"^from programs\.{program}\b.*\n", "", text, flags=re.M)
        for name in imported:
            text = re.sub(rf"^ +\*?{name}\.\w+,\n", "", text, flags=re.M)
        path.write_text(text)


def test_the_list_has_every_program() -> None:
    folders = {path.parent.name for path in ROOT.glob("programs/*/pages.py")}

    assert folders == set(ADDRESSES)


@pytest.mark.parametrize("program", ["", *ADDRESSES])
def test_a_program_is_removed_with_its_folder(program: str, tmp_path: Path) -> None:
    copy(tmp_path)
    if program:
        remove(program, tmp_path)
    url = databases.migrated_sqlite(tmp_path / "site.db", ROOT)
    environ = {
        **os.environ,
        "DATABASE_URL": url,
        "SECRET_KEY": "a secret key of the tests, long enough",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }

    asked = subprocess.run(
        [sys.executable, "-c", ASK, *ANSWERS],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    answers = {path: int(status) for path, status in map(str.split, asked.stdout.splitlines())}
    assert answers == {**ANSWERS, **({ADDRESSES[program]: 404} if program else {})}, asked.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("programs/*/static/*")))
def test_a_script_of_a_program_keeps_its_address(script: str, lastacross_app: ApplicationUnderTest) -> None:
    [path] = ROOT.glob(f"programs/*/static/{script}")

    answer = Client(lastacross_app.wsgi).get(f"/static/{script}")

    assert answer.body == path.read_bytes()
    assert answer.headers["Cache-Control"] == "max-age=60, public"


def test_the_site_has_an_icon_at_the_usual_address(lastacross_app: ApplicationUnderTest) -> None:
    answer = Client(lastacross_app.wsgi).get("/favicon.ico")

    assert answer.content_type == "image/svg+xml"
    assert answer.body == (ROOT / "static" / "icon.svg").read_bytes()


@pytest.mark.parametrize("path", ["page.html", "templates/page.html", "quilt/quilt.js", "quilt.py"])
def test_nothing_else_of_a_program_has_an_address(path: str, lastacross_app: ApplicationUnderTest) -> None:
    Client(lastacross_app.wsgi).get(f"/static/{path}", status=404)
