"""``lastacross db demo``: demo data that the application offers in its ``demo.py``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Capture, Command, command_line
from tests.support.modules import own_modules
from tests.support.processes import ROOT


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Iterator[Command]:
    """Runs a command without a secret key or Redis; gives exit code, standard output and error."""
    for name in ("SECRET_KEY", "REDIS_URL", "LASTACROSS_APP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/demo.db")
    monkeypatch.setenv("LASTACROSS_DATA_DIR", str(tmp_path / "var"))
    with command_line(capsys) as run:
        yield run


@pytest.fixture
def demo(app_root: Path) -> Iterator[Callable[[str], Path]]:
    """Writes an application with this ``demo.py``; answers its folder."""

    def write(code: str) -> Path:
        (app_root / "demo.py").write_text(code)
        return app_root

    with own_modules(app_root):
        yield write


def test_our_own_demo_is_loaded_once_however_often_it_is_asked_for(command: Command) -> None:
    assert command("--app", str(ROOT), "db", "upgrade")[0] == 0

    first = command("--app", str(ROOT), "db", "demo")
    second = command("--app", str(ROOT), "db", "demo")

    assert (first[0], first[2]) == (0, "")
    assert first[1].startswith("added ")
    assert second == (0, "nothing to add: the last 13 months already have invoices\n", "")


def test_without_tables_the_remedy_is_told_in_one_line(command: Command) -> None:
    code, out, err = command("--app", str(ROOT), "db", "demo")

    assert (code, out) == (1, "")
    assert "lastacross db upgrade" in err
    assert err.count("\n") == 1


def test_what_an_applications_load_returns_is_printed(command: Command, demo: Callable[[str], Path]) -> None:
    root = demo("def load():\n    return 'three orders'\n")

    assert command("--app", str(root), "db", "demo") == (0, "three orders\n", "")


def test_an_application_without_demo_data_is_told_what_is_missing(command: Command, app_root: Path) -> None:
    code, out, err = command("--app", str(app_root), "db", "demo")

    assert (code, out) == (2, "")
    assert f"{app_root}/demo.py" in err
    assert "no demo data" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("load = 3\n", "has no function load()"),
        ("", "has no function load()"),
        ("import no_such_module\n", "`demo` imports `no_such_module`, which is not installed"),
        ("raise SystemExit(0)\n", "importing `demo` failed: SystemExit"),
        ("def load(:\n", "importing `demo` failed: SyntaxError"),
    ],
)
def test_a_demo_that_cannot_be_used_is_a_mistake_of_its_file(
    command: Command, demo: Callable[[str], Path], code: str, told: str
) -> None:
    root = demo(code)

    exit_code, out, err = command("--app", str(root), "db", "demo")

    assert (exit_code, out) == (2, "")
    assert err.startswith(f"lastacross: {root}/demo.py")
    assert told in err
    assert err.count("\n") == 1


def test_it_explains_itself(command: Command) -> None:
    code, out, _ = command("db", "demo", "--help")

    assert code == 0
    assert "demo.py" in out
    assert "existing data stays unchanged" in out
