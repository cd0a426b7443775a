"""Brings a database's tables up to date with two Alembic histories, the engine's and the application's.

An application needs only the folder ``<root>/migrations/versions`` with ordinary Alembic revisions
(``from alembic import op``; ``revision``, ``down_revision``, ``upgrade()``, ``downgrade()``). It needs no
alembic.ini, env.py or script.py.mako, because the engine takes over their role.
``revision("what changes")``, or ``lastacross db revision``, writes the next file. It compares the database
with the tables of ``datastore.Model``, which the application's modules declare (``config.read_project``).

The engine's own revisions are in ``lastacross/datastore/migrations/versions``. The version tables
are ``lastacross_alembic_version`` and ``alembic_version``.

Only one process at a time migrates. The others wait and then find nothing left to do. On SQLite, a whole
upgrade is one transaction. On PostgreSQL, each history has its own transaction, so that a revision may use
``op.get_context().autocommit_block()``.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.autogenerate import RevisionContext
from alembic.config import Config as AlembicConfig
from alembic.operations import MigrationScript
from alembic.operations.ops import DropTableOp
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import SQLAlchemyError

from lastacross import config
from lastacross.application_modules import import_own
from lastacross.datastore import failures
from lastacross.datastore.engines import build, make_folder, read_only
from lastacross.datastore.tables import EngineModel, Model
from lastacross.datastore.url import DatabaseUrl, parse
from lastacross.errors import ApplicationModuleError, ConfigError, DatastoreSchemaError

# An upgrade waits this long for another process's upgrade, because migrating a large table takes time.
LOCK_SECONDS = 120
# An arbitrary number that is the same in every process: "lastacro" in ASCII.
_ADVISORY_LOCK = 0x6C61737461_63726F
# This folder contains script.py.mako, which is also used for the application's revisions.
_TEMPLATES = Path(__file__).parent / "migrations"
_ENGINE_TABLES = "lastacross_"

_REMEDY = "run `lastacross db upgrade`"


@dataclass(frozen=True)
class History:
    """A chain of revisions.

    Attributes:
        owner: the name of the tables' owner, for messages.
        version_table: the table that contains the database's revision.
        versions: the folder that contains the revisions.
        metadata: the tables that the models declare.
    """

    owner: str
    version_table: str
    versions: Path
    metadata: MetaData

    def script(self) -> ScriptDirectory:
        """Alembic's view of the folder."""
        return ScriptDirectory(_TEMPLATES, version_locations=[self.versions], messaging_opts={"quiet": True})


ENGINE = History("engine", "lastacross_alembic_version", _TEMPLATES / "versions", EngineModel.metadata)


def application_history(root: Path) -> History:
    """The history of the application in this folder, which may have no revisions."""
    return History("application", "alembic_version", root / "migrations" / "versions", Model.metadata)


# Alembic keeps its environment in a global variable, so a process can use only one environment at a time.
_alembic = threading.Lock()


@dataclass(frozen=True)
class Upgraded:
    """The revisions of one history that an upgrade has applied.

    Attributes:
        owner: ``engine`` or ``application``.
        revisions: the revisions in the order in which they were applied.
    """

    owner: str
    revisions: Sequence[str]


def upgrade(url: str | None = None, root: Path | None = None) -> list[Upgraded]:
    """Upgrade the engine's tables, then the application's tables, to their newest revisions.

    This is safe to call at every start and from several processes at the same time. It creates a SQLite file
    and its folder if they are missing.

    Args:
        url: the database's URL; None means the configured DATABASE_URL.
        root: the application's folder; None means the configured folder.

    Returns:
        The revisions that were applied, starting with the engine's.

    Raises:
        ConfigError: the URL is invalid.
        DatastoreUnavailableError: the database is unavailable, or another process's migration exceeds 120 s.
        DatastoreSchemaError: the database belongs to a newer version, or a revision cannot be applied.
    """
    database, root = _target(url, root)
    make_folder(database)
    with _translated_errors(database), _alembic, _locked(database) as connection:
        return [_upgrade(connection, history) for history in (ENGINE, application_history(root))]


def is_current(url: str | None = None, root: Path | None = None) -> bool:
    """Whether the database has exactly the tables that this version and this application expect.

    Raises:
        ConfigError: the URL is invalid.
        DatastoreUnavailableError: the database is unavailable.
    """
    try:
        require_current(url, root)
    except DatastoreSchemaError:
        return False
    return True


def require_current(url: str | None = None, root: Path | None = None) -> None:
    """Raise an error that names the command to run, unless the tables are up to date.

    Raises:
        DatastoreSchemaError: the tables are older or newer than the program.
        ConfigError: the URL is invalid.
        DatastoreUnavailableError: the database is unavailable.
    """
    database, root = _target(url, root)
    if database.is_sqlite and not Path(str(database.url.database)).exists():
        raise DatastoreSchemaError(f"the datastore {database} does not exist yet: {_REMEDY}")
    with _translated_errors(database), _reading(database) as connection:
        for history in (ENGINE, application_history(root)):
            _require_head(connection, history, database)


def revision(
    message: str,
    root: Path | None = None,
    url: str | None = None,
    *,
    models: Sequence[str] | None = None,
    allow_drop: bool = False,
) -> Path | None:
    """Write the application's next revision from the differences between its models and the database.

    Args:
        message: a short description of the change, which becomes part of the file's name.
        root: the application's folder; None means the configured folder.
        url: the URL of an up-to-date database; None means the configured database.
        models: the dotted names of modules that declare tables; by default as in ``config.read_project``.
        allow_drop: whether the revision may drop a table.

    Returns:
        The new file, which must be reviewed before use; None if there are no differences.

    Raises:
        DatastoreSchemaError: the database is not up to date, or the revision would drop a table.
        ConfigError: the URL is invalid, or a module with models cannot be imported.
        DatastoreUnavailableError: the database is unavailable.
    """
    if models is None:
        models = config.read_project(root or config.current().root, _app_of(root)).models
    database, root = _target(url, root)
    require_current(url, root)
    _import_models(root, models)
    history = application_history(root)
    return _write_revision(message, history, database, () if allow_drop else models)


def _app_of(root: Path | None) -> config.AppConfig | None:
    """Load a folder's app.yaml; None if it has none. Without a folder, use the configured app.yaml."""
    if root is None:
        return config.current().app
    has_one = (root / "app.yaml").is_file()
    return config.load(root, os.environ, needs_secret_key=False).app if has_one else None


def _write_revision(
    message: str, history: History, database: DatabaseUrl, keeping_for: Sequence[str]
) -> Path | None:
    """Write a revision. ``keeping_for`` lists the modules with models if no table may be dropped."""
    script = history.script()
    arguments: dict[str, Any] = dict.fromkeys(
        ("head", "branch_label", "version_path", "rev_id", "depends_on")
    )
    arguments |= {"message": message, "autogenerate": True, "sql": False, "splice": False}

    def examine(_context: MigrationContext, _revision: object, directives: list[MigrationScript]) -> None:
        if keeping_for:
            _refuse_drops(directives, keeping_for)
        directives[:] = [d for d in directives if d.upgrade_ops is not None and not d.upgrade_ops.is_empty()]

    revisions = RevisionContext(AlembicConfig(), script, arguments, examine)

    def compare(revision_now: Any, context: MigrationContext) -> list[Any]:
        revisions.run_autogenerate(revision_now, context)
        return []

    with _translated_errors(database), _alembic, _locked(database) as connection:
        _run(connection, history, script, compare)
        written = [file for file in revisions.generate_scripts() if file is not None]
    return Path(written[0].path) if written else None


def _refuse_drops(directives: Sequence[MigrationScript], models: Sequence[str]) -> None:
    operations = [each for d in directives if d.upgrade_ops is not None for each in d.upgrade_ops.ops]
    tables = sorted(each.table_name for each in operations if isinstance(each, DropTableOp))
    if tables:
        raise DatastoreSchemaError(
            f"nothing was written, because the migration would drop {', '.join(tables)}, which no model in "
            f"{', '.join(models)} declares. List the modules of all models in [tool.lastacross] of "
            "pyproject.toml, or let it drop tables with --allow-drop"
        )


def _import_models(root: Path, models: Sequence[str]) -> None:
    """Import the modules that declare tables, so that ``Model.metadata`` has them."""
    if not models:
        reason = (
            "no module with models is known; list them in [tool.lastacross], such as models = ['shop.models']"
        )
        raise ConfigError(reason, file=str(root / "pyproject.toml"))
    for name in models:
        try:
            import_own(name, root)
        except ApplicationModuleError as error:
            raise ConfigError(f"the models of {name}: {error}") from error


def _target(url: str | None, root: Path | None) -> tuple[DatabaseUrl, Path]:
    if url is None:
        url = config.current().settings.database_url
    return parse(url), config.current().root if root is None else root


def _upgrade(connection: Connection, history: History) -> Upgraded:
    script = history.script()
    done: list[str] = []

    def to_heads(revision_now: Any, _context: MigrationContext) -> Any:
        steps = script._upgrade_revs("heads", revision_now)
        done.extend(step.revision.revision for step in steps)
        return steps

    if script.get_heads():
        _run(connection, history, script, to_heads, destination_rev="heads")
    return Upgraded(history.owner, done)


def _run(
    connection: Connection,
    history: History,
    script: ScriptDirectory,
    steps: Callable[..., Any],
    **options: Any,
) -> None:
    """Run Alembic in the same way as an env.py."""
    is_sqlite = connection.dialect.name == "sqlite"
    with EnvironmentContext(AlembicConfig(), script, fn=steps, **options) as environment:
        environment.configure(
            connection=connection,
            target_metadata=history.metadata,
            version_table=history.version_table,
            # SQLite supports few ALTER statements, so Alembic copies the table instead. SQLite's DDL runs in
            # transactions, which our engine begins itself.
            render_as_batch=is_sqlite,
            transactional_ddl=True,
            include_name=lambda name, kind, _parents: _is_of(history, name, kind),
        )
        with environment.begin_transaction():
            environment.run_migrations()


def _is_of(history: History, name: str | None, kind: str) -> bool:
    """Whether a table in the database belongs to this history."""
    if kind != "table" or name is None:
        return True
    return name.startswith(_ENGINE_TABLES) == (history is ENGINE) and not name.endswith("alembic_version")


def _require_head(connection: Connection, history: History, database: DatabaseUrl) -> None:
    options = {"version_table": history.version_table}
    present = set(MigrationContext.configure(connection, opts=options).get_current_heads())
    script = history.script()
    if present == set(script.get_heads()):
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if present - known:
        raise DatastoreSchemaError(_newer(history, database, sorted(present - known)))
    at, newest = ", ".join(sorted(present)) or "nothing", ", ".join(script.get_heads())
    raise DatastoreSchemaError(
        f"the {history.owner}'s tables in {database} are behind (at {at}, newest is {newest}): {_REMEDY}"
    )


def _newer(history: History, database: DatabaseUrl, unknown: list[str]) -> str:
    return (
        f"the {history.owner}'s tables in {database} are at revision {', '.join(unknown)}, which is not in "
        f"{history.versions}: a newer version has upgraded them; run that version"
    )


# --- connections --------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(database: DatabaseUrl) -> Iterator[Connection]:
    engine = build(database, for_migrations=True)
    with read_only(engine).connect() as connection:
        yield connection


@contextlib.contextmanager
def _locked(database: DatabaseUrl) -> Iterator[Connection]:
    """Open a connection for migrations while no other process is migrating."""
    with _locked_sqlite(database) if database.is_sqlite else _locked_postgresql(database) as connection:
        yield connection


@contextlib.contextmanager
def _locked_sqlite(database: DatabaseUrl) -> Iterator[Connection]:
    engine = build(database, for_migrations=True, busy_seconds=LOCK_SECONDS)
    with engine.connect() as connection, connection.begin():
        yield connection
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            table, row, referred, _ = broken[0]
            raise DatastoreSchemaError(
                f"nothing was changed in {database}: after the migration, row {row} of {table} would refer "
                f"to a row of {referred} that does not exist ({len(broken)} such rows)"
            )


@contextlib.contextmanager
def _locked_postgresql(database: DatabaseUrl) -> Iterator[Connection]:
    engine = build(database, for_migrations=True)
    # Hold the lock outside of a transaction, because CREATE INDEX CONCURRENTLY waits for open transactions.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as lock:
        lock.exec_driver_sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        lock.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_ADVISORY_LOCK)))
        with engine.connect() as connection:
            yield connection
            connection.commit()


@contextlib.contextmanager
def _translated_errors(database: DatabaseUrl) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        translated = failures.translate(error, database, read_only=False)
        if translated is not None:
            raise translated from error
        raise
    except CommandError as error:
        raise DatastoreSchemaError(f"the migrations of {database} cannot be run: {error}") from error
