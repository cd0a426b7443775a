"""What is installed from a wheel has all that runs from the source tree."""

import glob
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
