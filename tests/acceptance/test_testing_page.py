"""docs/testing.md: its example is written into a folder, and its tests pass there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lastacross import pytest_plugin, testing
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text()


def assert_passes(count: int, folder: Path) -> None:
    """Run pytest in a folder: so many tests pass, and none fails."""
    options = ("-q", "-p", "lastacross.pytest_plugin", "-p", "no:cacheprovider")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert (ran.returncode, f"{count} passed" in said) == (0, True), said


@pytest.mark.slow
def test_the_example_of_the_page_passes(tmp_path: Path) -> None:
    files = re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", PAGE, re.DOTALL)
    assert {name for name, _ in files} == {"app.yaml", "queue.yaml", "main.py", "test_orders.py"}
    for name, text in files:
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")

    # Named twice, as where the package is installed and a conftest.py names it, too.
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["lastacross.pytest_plugin"]\n')
    assert_passes(4, tmp_path)


@pytest.mark.slow
def test_the_option_names_another_folder(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (site / "main.py").write_text("def app(environ, start_response):\n    raise NotImplementedError\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nlastacross_app = site\n")
    (tmp_path / "test_it.py").write_text(
        "def test_it(lastacross_app):\n    assert lastacross_app.config.root.name == 'site'\n"
    )
    assert_passes(1, tmp_path)


@pytest.mark.slow
def test_a_pytest_that_tests_something_else_pays_nothing() -> None:
    code = (
        "import sys; import lastacross.pytest_plugin;"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in"
        " {'lastacross', 'sqlalchemy', 'redis', 'webapp2'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ran.stdout.strip() == "['lastacross', 'lastacross.pytest_plugin']", ran.stderr


def test_the_entry_point_has_the_name_of_its_module() -> None:
    """Else pytest would register it twice where a conftest.py names the module, too."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert pyproject["project"]["entry-points"]["pytest11"] == {
        pytest_plugin.__name__: pytest_plugin.__name__
    }


def test_the_package_can_be_used_without_pytest() -> None:
    modules = (ROOT / "lastacross" / "testing").glob("*.py")

    assert [path.name for path in modules if "import pytest" in path.read_text()] == []


def test_every_fixture_and_name_is_on_the_page() -> None:
    fixtures = re.findall(r"@pytest\.fixture.*\ndef (\w+)", Path(pytest_plugin.__file__).read_text())

    assert len(fixtures) == 8
    assert [name for name in fixtures if f"`{name}" not in PAGE] == []
    for name in ("run_tasks", "inline_tasks", "enqueued", "assert_enqueued"):
        assert hasattr(testing.ApplicationUnderTest, name)
