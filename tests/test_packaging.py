"""What is installed from a wheel has all that runs from the source tree."""

import glob
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lastacross"


def test_every_file_of_the_package_that_is_no_python_is_packed() -> None:
    """`make run` installs in place and would not miss it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = pyproject["tool"]["setuptools"]["package-data"]["lastacross"]
    packed = {name for pattern in patterns for name in glob.glob(pattern, root_dir=PACKAGE, recursive=True)}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

    missing = {str(path.relative_to(PACKAGE)) for path in files if path.suffix != ".py"} - packed
    assert missing == set()


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}

    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_module_of_long_tasks_is_packed_and_needs_nothing_else(tmp_path: Path) -> None:
    """`import longtask` works wherever the engine is installed; our application's modules stay here."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules = pyproject["tool"]["setuptools"]["py-modules"]
    assert modules == ["longtask"]

    installed = tmp_path / "installed"
    shutil.copytree(PACKAGE, installed / "lastacross", ignore=shutil.ignore_patterns("__pycache__"))
    for name in modules:
        shutil.copy(ROOT / f"{name}.py", installed)
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import longtask;"
        f"assert longtask.__file__.startswith({str(installed)!r});"
        "print(longtask.LongRunningTaskHandler.__name__)"
    )
    # Isolated: neither the folder that it runs in nor PYTHONPATH lends it anything.
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout.strip(), ran.returncode) == ("LongRunningTaskHandler", 0), ran.stderr
