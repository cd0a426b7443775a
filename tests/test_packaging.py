"""What is installed from a wheel has all that runs from the source tree."""

import glob
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the virtual environment"),
        (["", "", "requirements.lock"], "name the virtual environment"),
        ([".venv", ""], "name the lock"),
        (["work", "", "requirements.lock"], "work is not a virtual environment"),
        ([".", "", "requirements.lock"], ". is not a virtual environment"),
    ],
)
def test_an_installation_empties_no_folder_of_the_users(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    """`python -m venv --clear` empties any folder, the current one if the name is empty."""
    kept = tmp_path / "work" / "kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    ran = subprocess.run(
        [str(ROOT / ".ci" / "install"), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert ran.returncode != 0
    assert message in ran.stderr
    assert kept.read_text() == "mine"


def pins_of(name: str) -> dict[str, set[str]]:
    """Of a lock: each distribution's versions, which may differ between Pythons."""
    pins: dict[str, set[str]] = {}
    for distribution, version in re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.M):
        pins.setdefault(distribution, set()).add(version)
    return pins


def test_what_make_run_installs_is_what_make_test_installs() -> None:
    run, tested = pins_of("requirements.lock"), pins_of("requirements-dev.lock")

    assert run.keys() < tested.keys()
    assert {name: tested[name] for name in run} == run


def test_a_lock_has_every_dependency_with_hashes_and_no_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [Requirement(text) for text in project["project"]["dependencies"]]
    groups = project["dependency-groups"]
    listed = [text for text in groups["dev"] if isinstance(text, str)]
    development = [Requirement(text) for text in [*listed, *groups["docs"]]]
    for lock, wanted in (("requirements.lock", named), ("requirements-dev.lock", named + development)):
        text = (ROOT / lock).read_text()
        pins = pins_of(lock)
        for requirement in wanted:
            versions = pins[canonicalize_name(requirement.name)]
            assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)
        entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
        assert "://" not in text


def test_a_dependency_of_the_package_is_a_range_with_a_reason() -> None:
    """Exact versions would refuse to live beside another library's."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.M | re.S)
    assert listed is not None
    lines = listed[1].splitlines()
    assert len(lines) > 20
    assert [line for line in lines if not re.fullmatch(r' +"[^"]+>=[^"]+", +# .{10,}', line)] == []
