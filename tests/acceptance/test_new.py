"""``lastacross new``: the application that it writes runs, and its tests pass, for each framework."""

import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import cli
from tests.support.command_line import Command, command_line
from tests.support.processes import ROOT, python, started, wait_until
from tests.support.site import free_port

FRAMEWORKS = ("webapp2", "flask", "django", "fastapi")
EACH = pytest.mark.parametrize("framework", FRAMEWORKS)
FILES = (
    *("app.yaml", "queue.yaml", "cron.yaml", "main.py", "tasks.py", "report.py", "models.py"),
    *("migrations/versions/0001_notes.py", "tests/test_app.py", "Makefile", "Dockerfile", "compose.yaml"),
    *(".gitignore", ".dockerignore", "README.md", "requirements.txt", "templates/home.html"),
)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Command]:
    """The command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with command_line(capsys) as run:
        yield run


def environ_of(folder: Path) -> dict[str, str]:
    """An environment in which commands find this checkout, and none of our own settings."""
    mine = ("LASTACROSS_", "PYTEST_")
    found = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return {
        **found,
        "PYTHONPATH": str(ROOT),
        "LASTACROSS_DATA_DIR": str(folder / "var"),
        "SECRET_KEY": "k" * 32,
    }


def run(folder: Path, *line: str, seconds: float = 110) -> str:
    """What a command prints; it must succeed."""
    ran = subprocess.run(
        line,
        cwd=folder,
        env=environ_of(folder),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@EACH
@pytest.mark.slow
def test_its_tests_pass_its_files_are_valid_and_its_tables_are_those_of_its_models(
    command: Command, tmp_path: Path, framework: str
) -> None:
    code, _, err = command("new", "shop", "--framework", framework)
    assert (code, err) == (0, "")
    folder = tmp_path / "shop"
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert [path for path in folder.rglob("*") if ".tmpl" in path.name or "$" in path.name] == []
    assert "$name" not in (folder / "README.md").read_text() + (folder / "templates/home.html").read_text()

    assert "3 passed" in run(
        folder,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "lastacross.pytest_plugin",
        "-p",
        "no:cacheprovider",
    )
    assert cli.run(["--app", str(folder), "config", "check"]) == 0
    run(folder, *python("-m", "lastacross", "db", "upgrade"))
    assert "already matches the models" in run(folder, *python("-m", "lastacross", "db", "revision", "again"))


@pytest.mark.slow
def test_the_printed_steps_lead_to_a_site_that_stores_a_note(command: Command, tmp_path: Path) -> None:
    """Word by word, but for the names of the programs, which are this checkout's."""
    steps = re.findall(r"^    (.+)$", command("new", "shop")[1], re.MULTILINE)
    assert steps == ["cd shop", "lastacross dev", "pytest"]
    folder, port = tmp_path / "shop", free_port()
    # Processes of the tests run in the root of this checkout.
    environ = {**environ_of(folder), "PORT": str(port), "LASTACROSS_APP": str(folder)}
    with started(python("-m", "lastacross", "dev"), folder, environ) as dev:
        dev.wait_for_text("Ctrl-C stops everything.")
        url = f"http://127.0.0.1:{port}/"

        def page() -> str:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return str(answer.read().decode())

        body = urllib.parse.urlencode({"text": "hello"}).encode()
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            assert answer.status == 200
        wait_until(lambda: "<li>hello</li>" in page(), what="the note")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new",), "Missing argument 'NAME'"),
        (("new", "3shops"), "'3shops' is not a name of letters"),
        (("new", "a b"), "'a b' is not a name of letters"),
        (("new", "class"), "'class' is not a name"),
        (("new", "../.."), "is not a name"),
        (("new", "there"), "there already exists; choose another name"),
        (("new", "file/shop"), "file/shop cannot be created: Not a directory"),
        (("new", "shop", "--framework", "rails"), "'rails' is not one of"),
    ],
)
def test_a_wrong_name_is_explained_and_nothing_is_written(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")

    code, _, err = command(*arguments)

    assert code == 2
    assert words in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_framework_is_a_step(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastacross.cli.new._is_installed", lambda name: name != "flask")
    assert "    pip install -r requirements.txt\n" in command("new", "shop", "--framework", "flask")[1]
    assert "pip install" not in command("new", "other", "--framework", "django")[1]


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Whatever the wheel is not built from."""
    beside = {"tests", "bench", "build", "var"} if Path(folder) == ROOT else set()
    return [name for name in names if name in beside or name == "__pycache__" or name.startswith(".")]


@EACH
@pytest.mark.long
def test_an_installed_wheel_writes_a_working_application(tmp_path: Path, framework: str) -> None:
    """In an environment that has the dependencies but not this checkout."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=_left_out)
    wheels = tmp_path / "wheels"
    run(
        source,
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(wheels),
        str(source),
        seconds=300,
    )
    [wheel] = wheels.iterdir()
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", "empty")
    binaries = tmp_path / "empty" / "bin"
    [packages] = (tmp_path / "empty").glob("lib/python3*/site-packages")
    shutil.unpack_archive(wheel, packages, "zip")
    # The dependencies, without our own editable installation.
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")
    environ = {"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    program = "import sys; from lastacross.__main__ import main; sys.exit(main())"

    def ran(folder: Path, *line: str) -> str:
        done = subprocess.run(
            line, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    interpreter = str(binaries / "python")
    ran(tmp_path, interpreter, "-c", program, "new", "shop", "--framework", framework)
    where = ran(tmp_path, interpreter, "-c", "import lastacross; print(lastacross.__file__)")
    assert where.startswith(str(packages))
    assert "3 passed" in ran(tmp_path / "shop", interpreter, "-m", "pytest", "-q")
