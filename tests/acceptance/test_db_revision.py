"""``lastacross db upgrade`` and ``db revision``: what they say, write and refuse."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lastacross import datastore
from tests.support.processes import ROOT, python

MODELS = """
from lastacross import datastore
from sqlalchemy.orm import Mapped, mapped_column

class {name}(datastore.Model):
    __tablename__ = "{table}"
    id: Mapped[int] = mapped_column(primary_key=True)
"""

pytestmark = pytest.mark.slow

Db = Callable[..., tuple[int, str, str]]


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/shop.db"


@pytest.fixture
def db(app_root: Path, tmp_path: Path) -> Db:
    """Runs ``lastacross db`` in a process of its own, since models are declared once."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LASTACROSS")}
    environ |= {"DATABASE_URL": url_of(tmp_path), "LASTACROSS_DATA_DIR": str(tmp_path / "var")}
    environ["LASTACROSS_LOG_LEVEL"] = "ERROR"

    def run(*arguments: str) -> tuple[int, str, str]:
        command = python("-m", "lastacross", "--app", str(app_root), "db", *arguments)
        done = subprocess.run(command, env=environ, cwd=app_root, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


def declare(path: Path, name: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(MODELS.format(name=name, table=name.lower()))


def versions(app_root: Path) -> list[str]:
    return sorted(path.name for path in (app_root / "migrations" / "versions").glob("*.py"))


def test_a_model_becomes_a_migration_and_the_migration_a_table(db: Db, app_root: Path) -> None:
    declare(app_root / "models.py", "Horse")
    code, out, err = db("revision", "horses")
    assert (code, out) == (1, "")
    assert "run `lastacross db upgrade`" in err

    code, out, err = db("upgrade")
    assert code == 0, err
    assert out.startswith("engine: ran 0001")
    code, out, err = db("revision", "horses")
    assert code == 0, err
    [written] = versions(app_root)
    assert out == f"wrote migrations/versions/{written}: read it, then run `lastacross db upgrade`\n"

    code, out, _ = db("upgrade")
    assert out.splitlines()[0] == f"application: ran {written.partition('_')[0]}"
    assert db("upgrade")[1].startswith("the datastore sqlite:///")
    assert db("revision", "nothing")[1].startswith("nothing was written: the datastore sqlite:///")
    assert versions(app_root) == [written]


def test_models_are_found_where_the_script_imports_them(db: Db, app_root: Path, tmp_path: Path) -> None:
    declare(app_root / "stable" / "tables.py", "Mule")
    (app_root / "main.py").write_text("from stable import tables\napp = lambda environ, start: []\n")
    datastore.upgrade(url_of(tmp_path), app_root)

    assert db("revision", "mules")[1].startswith("wrote ")


def test_models_are_found_where_pyproject_toml_says(db: Db, app_root: Path, tmp_path: Path) -> None:
    declare(app_root / "stable" / "tables.py", "Mule")
    (app_root / "pyproject.toml").write_text('[tool.lastacross]\nmodels = ["stable.tables"]\n')
    datastore.upgrade(url_of(tmp_path), app_root)

    assert db("revision", "mules")[1].startswith("wrote ")


def test_a_table_is_dropped_only_when_that_is_asked_for(db: Db, app_root: Path, tmp_path: Path) -> None:
    """A module that was not imported must not cost a table."""
    declare(app_root / "models.py", "Horse")
    datastore.upgrade(url_of(tmp_path), app_root)
    db("revision", "horses")
    datastore.upgrade(url_of(tmp_path), app_root)
    declare(app_root / "models.py", "Donkey")

    code, out, err = db("revision", "donkeys")
    assert (code, out) == (1, "")
    assert (
        "nothing was written, because the migration would drop horse, which no model in models declares"
        in err
    )
    assert "--allow-drop" in err
    assert len(versions(app_root)) == 1

    assert db("revision", "donkeys", "--allow-drop")[0] == 0
    assert len(versions(app_root)) == 2


def test_the_programs_have_a_migration_for_every_table(db: Db, app_root: Path, tmp_path: Path) -> None:
    """app.yaml names main.py, which imports each program with its tables."""
    for name in ("programs", "static", "migrations"):
        shutil.copytree(ROOT / name, app_root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.yaml"), ROOT / "pyproject.toml"]:
        shutil.copy(path, app_root)
    assert db("upgrade")[0] == 0
    before = versions(app_root)

    code, out, err = db("revision", "nothing")

    assert (code, out[:19]) == (0, "nothing was written"), err
    assert versions(app_root) == before
    with (app_root / "programs" / "quilt" / "models.py").open("a") as file:
        file.write(MODELS.format(name="Horse", table="horse"))
    assert db("revision", "horses")[1].startswith("wrote ")
