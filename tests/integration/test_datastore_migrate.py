"""Migrations: two histories, one upgrade, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from lastacross import datastore
from lastacross.datastore import DatastoreSchemaError, DatastoreUnavailableError, EngineModel, Model
from lastacross.datastore.engines import build
from lastacross.datastore.url import parse
from lastacross.errors import ConfigError
from programs.count import models as count_models
from programs.errors import models as error_models
from programs.intrastat import models as intrastat_models
from programs.quilt import models as quilt_models
from programs.reload import models as reload_models
from tests.support import datastore_process
from tests.support.processes import ROOT

OURS = {
    "lastacross_cron_job",
    "lastacross_account",
    "lastacross_cron_run",
    "lastacross_outbox",
    "lastacross_deferred_payload",
    "lastacross_alembic_version",
    "lastacross_long_task",
    "lastacross_long_task_file",
    "lastacross_long_task_usage",
}

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("owner", sa.Column("id", sa.Integer, primary_key=True))
    op.create_table(
        "cat",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owner.id", name="fk_cat_owner", ondelete="CASCADE")),
    )
    op.execute("INSERT INTO owner (id) VALUES (1)")
    op.execute("INSERT INTO cat (id, owner_id) VALUES (7, 1)")
"""
REBUILD = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    with op.batch_alter_table("owner") as table:
        table.add_column(sa.Column("name", sa.String(20), nullable=False, server_default="?"))
    with op.batch_alter_table("owner") as table:
        table.alter_column("name", server_default=None)
"""
FAILS = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.create_table("dog", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO no_such_table (id) VALUES (1)")
"""
ORPHANS = """
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.execute("DELETE FROM owner")
"""
MODELS = """
from sqlalchemy.orm import Mapped, mapped_column
from lastacross import datastore
class Horse(datastore.Model):
    __tablename__ = "horse"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
"""


def write_revision(root: Path, name: str, source: str) -> None:
    """Add a revision to the application in ``root``."""
    folder = root / "migrations" / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source)


def tables(url: str) -> set[str]:
    """The names of the tables that a database has."""
    engine = build(parse(url), for_migrations=True)
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    """What a statement returns."""
    engine = build(parse(url), for_migrations=True)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def environment(root: Path, url: str) -> dict[str, str]:
    """What a process of the application in ``root`` has in its environment."""
    return {"LASTACROSS_APP": str(root), "DATABASE_URL": url, "SECRET_KEY": "k" * 40}


def test_an_upgrade_makes_the_engines_tables_and_may_be_repeated(database_url: str, tmp_path: Path) -> None:
    assert not datastore.is_current(database_url, tmp_path)
    datastore.upgrade(database_url, tmp_path)
    datastore.upgrade(database_url, tmp_path)
    assert tables(database_url) == OURS
    assert datastore.is_current(database_url, tmp_path)


def test_an_application_needs_nothing_but_its_revisions(database_url: str, tmp_path: Path) -> None:
    write_revision(tmp_path, "0001_cats.py", FIRST)
    datastore.upgrade(database_url, tmp_path)
    assert tables(database_url) == OURS | {"owner", "cat", "alembic_version"}
    assert rows(database_url, "SELECT id, owner_id FROM cat") == [(7, 1)]


def test_a_database_that_is_behind_says_what_to_run(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(DatastoreSchemaError, match="run `lastacross db upgrade`"):
        datastore.require_current(database_url, tmp_path)
    datastore.upgrade(database_url, tmp_path)
    write_revision(tmp_path, "0001_cats.py", FIRST)
    assert not datastore.is_current(database_url, tmp_path)
    with pytest.raises(DatastoreSchemaError, match=r"application's tables .* are behind .*newest is 0001"):
        datastore.require_current(database_url, tmp_path)


def test_a_database_of_a_newer_version_is_left_alone(database_url: str, tmp_path: Path) -> None:
    write_revision(tmp_path, "0001_cats.py", FIRST)
    datastore.upgrade(database_url, tmp_path)
    (tmp_path / "migrations" / "versions" / "0001_cats.py").unlink()
    write_revision(tmp_path, "0000_other.py", FIRST.replace('"0001"', '"0000"'))
    with pytest.raises(DatastoreSchemaError, match=r"0001.*newer version"):
        datastore.require_current(database_url, tmp_path)
    with pytest.raises(DatastoreSchemaError, match="0001"):
        datastore.upgrade(database_url, tmp_path)
    assert "cat" in tables(database_url)


def test_rebuilding_a_table_keeps_what_refers_to_it(database_url: str, tmp_path: Path) -> None:
    write_revision(tmp_path, "0001_cats.py", FIRST)
    datastore.upgrade(database_url, tmp_path)
    write_revision(tmp_path, "0002_names.py", REBUILD)
    datastore.upgrade(database_url, tmp_path)
    assert rows(database_url, "SELECT id, name FROM owner") == [(1, "?")]
    assert rows(database_url, "SELECT id, owner_id FROM cat") == [(7, 1)]


def test_a_migration_that_fails_leaves_nothing_of_itself(database_url: str, tmp_path: Path) -> None:
    write_revision(tmp_path, "0001_cats.py", FIRST)
    datastore.upgrade(database_url, tmp_path)
    write_revision(tmp_path, "0002_dogs.py", FAILS)
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="no_such_table"):
        datastore.upgrade(database_url, tmp_path)
    assert "dog" not in tables(database_url)
    assert rows(database_url, "SELECT version_num FROM alembic_version") == [("0001",)]


def test_a_migration_on_sqlite_that_leaves_orphans_is_undone(sqlite_url: str, tmp_path: Path) -> None:
    write_revision(tmp_path, "0001_cats.py", FIRST)
    datastore.upgrade(sqlite_url, tmp_path)
    write_revision(tmp_path, "0002_orphans.py", ORPHANS)
    with pytest.raises(DatastoreSchemaError, match="row 7 of cat would refer to a row of owner"):
        datastore.upgrade(sqlite_url, tmp_path)
    assert rows(sqlite_url, "SELECT id FROM owner") == [(1,)]


def test_the_engines_migrations_make_what_its_models_declare(database_url: str, tmp_path: Path) -> None:
    datastore.upgrade(database_url, tmp_path)
    engine = build(parse(database_url), for_migrations=True)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "lastacross_alembic_version"})
        assert compare_metadata(context, EngineModel.metadata) == []


def test_the_applications_migrations_make_what_its_models_declare(
    new_database: Callable[[Path], str],
) -> None:
    """Its own models alone: other tests declare more, and the engine's tables are in the same database."""
    declared = {
        name
        for module in (count_models, error_models, intrastat_models, quilt_models, reload_models)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Model) and "__tablename__" in vars(model)
        for name in [model.__tablename__]
    }

    def is_the_applications(item: object, name: str | None, kind: str, is_reflected: bool, _: object) -> bool:
        if kind != "table":
            return True
        return not str(name).startswith("lastacross_") if is_reflected else name in declared

    engine = build(parse(new_database(ROOT)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_the_applications})
        assert compare_metadata(context, Model.metadata) == []
    engine.dispose()
    assert {"quilt", "count_run", "invoice", "account", "error_report"} <= declared


def test_a_revision_is_written_from_the_models_once(database_url: str, app_root: Path) -> None:
    (app_root / "models.py").write_text(MODELS)
    process = datastore_process.start("revise", 1, environment(app_root, database_url))
    assert datastore_process.result(process) == {"written": 1, "is_current": True}
    assert "horse" in tables(database_url)
    assert {name for name in tables(database_url) if name.startswith("lastacross_")} == OURS
    files = [file.name for file in (app_root / "migrations" / "versions").glob("*.py")]
    assert any(name.endswith("_horses.py") for name in files)


def test_a_revision_of_a_folder_finds_the_models_that_its_app_yaml_names(
    database_url: str, app_root: Path
) -> None:
    (app_root / "app.yaml").write_text("handlers:\n- url: /.*\n  script: stable.app\n")
    (app_root / "stable.py").write_text(MODELS)
    process = datastore_process.start("revise_folder", 1, environment(app_root, database_url))
    assert datastore_process.result(process) == {"written": 1}


def test_a_revision_without_models_is_refused(database_url: str, tmp_path: Path) -> None:
    datastore.upgrade(database_url, tmp_path)
    with pytest.raises(ConfigError, match=r"pyproject\.toml: no module with models is known"):
        datastore.revision("horses", tmp_path, database_url)


def test_two_processes_may_upgrade_at_once(database_url: str, app_root: Path) -> None:
    write_revision(app_root, "0001_cats.py", FIRST)
    environ = environment(app_root, database_url)
    processes = [datastore_process.start("upgrade", 1, environ) for _ in range(2)]
    assert [datastore_process.result(process) for process in processes] == [{"is_current": True}] * 2
    assert rows(database_url, "SELECT count(*) FROM cat") == [(1,)]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_text("no database, whatever its name says" * 100)
    with pytest.raises(DatastoreUnavailableError, match=r"app\.db .*not a database"):
        datastore.upgrade(f"sqlite:///{tmp_path}/app.db", tmp_path)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(DatastoreUnavailableError) as caught:
        datastore.upgrade("postgresql://ada:secret@127.0.0.1:1/app", tmp_path)
    assert "127.0.0.1:1/app" in str(caught.value)
    assert "secret" not in str(caught.value)
