"""Brings a database's tables up to date with two Alembic histories, the engine's and the application's.

An application needs one folder and no boilerplate: ``<root>/migrations/versions/*.py``, with ordinary
Alembic revisions (``from alembic import op``; ``revision``, ``down_revision``, ``upgrade()``,
``downgrade()``). It needs no alembic.ini, env.py or script.py.mako, because the engine is the
environment. ``revision("what changes")``, or ``lastacross db revision``, writes the next file. It compares
the database with ``datastore.Model``'s tables, as the application's modules declare them
(``config.read_project``).

The engine's own revisions are in ``lastacross/datastore/migrations/versions``. The version tables
are ``lastacross_alembic_version`` and ``alembic_version``.

One process at a time migrates; the others wait and then find nothing to do. On SQLite, a whole upgrade is
one transaction. On PostgreSQL each history is one, so that a revision may use
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

# How long an upgrade waits for another process's; migrating a large table takes time.
LOCK_SECONDS = 120
# An arbitrary number, the same in every process: ASCII "lastacro".
_ADVISORY_LOCK = 0x6C61737461_63726F
# Contains script.py.mako, for the application's revisions too.
_TEMPLATES = Path(__file__).parent / "migrations"
_ENGINE_TABLES = "lastacross_"

_REMEDY = "run `lastacross db upgrade`"


@dataclass(frozen=True)
class History:
    """One chain of revisions.

    Attributes:
        owner: the tables' owner, for messages.
        version_table: the table with the database's revision.
        versions: the folder of the revisions.
        metadata: the tables as the models declare them.
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
    """The history of the application in this folder; it may have no revisions."""
    return History("application", "alembic_version", root / "migrations" / "versions", Model.metadata)


# Alembic keeps its environment in a module global, so a process can use only one at a time.
_alembic = threading.Lock()


@dataclass(frozen=True)
class Upgraded:
    """The revisions that an upgrade ran in one history.

    Attributes:
        owner: ``engine`` or ``application``.
        revisions: the revisions in the order in which they ran.
    """

    owner: str
    revisions: Sequence[str]


def upgrade(url: str | None = None, root: Path | None = None) -> list[Upgraded]:
    """Upgrade the engine's tables, then the application's, to their newest revisions.

    Safe to call at every start and from several processes together. Makes a SQLite file and its folder if
    they are missing.

    Args:
        url: as DATABASE_URL; None is the configured one.
        root: the application's folder; None is the configured one.

    Returns:
        The revisions that ran, the engine's first.

    Raises:
        ConfigError: the URL is invalid.
        DatastoreUnavailableError: the database is unavailable, or another process migrates for over 120 s.
        DatastoreSchemaError: the database belongs to a newer version, or a revision cannot run.
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
    """Pass, or raise an error that names the command to run.

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
        message: the change in a few words; becomes part of the file's name.
        root: the application's folder; None is the configured one.
        url: a database that is up to date; None is the configured one.
        models: dotted names of the modules that declare tables; None: as ``config.read_project``.
        allow_drop: whether the revision may drop a table.

    Returns:
        The file, to be reviewed before use; None if nothing differs.

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
    """The app.yaml of a folder, None if it has none; the configured one for no folder."""
    if root is None:
        return config.current().app
    has_one = (root / "app.yaml").is_file()
    return config.load(root, os.environ, needs_secret_key=False).app if has_one else None


def _write_revision(
    message: str, history: History, database: DatabaseUrl, keeping_for: Sequence[str]
) -> Path | None:
    """Write a revision. ``keeping_for`` has the modules with models if no table may be dropped."""
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
            f"nothing was written: it would drop {', '.join(tables)}, which no model in {', '.join(models)} "
            "declares. Name the modules of all models in [tool.lastacross] of pyproject.toml, or let it drop "
            "tables with --allow-drop"
        )


def _import_models(root: Path, models: Sequence[str]) -> None:
    """Import the modules that declare tables, so that ``Model.metadata`` has them."""
    if not models:
        reason = "no module with models is known: name them in [tool.lastacross], as models = ['shop.models']"
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
    """Run Alembic as an env.py would."""
    is_sqlite = connection.dialect.name == "sqlite"
    with EnvironmentContext(AlembicConfig(), script, fn=steps, **options) as environment:
        environment.configure(
            connection=connection,
            target_metadata=history.metadata,
            version_table=history.version_table,
            # SQLite supports few ALTER statements, so Alembic copies the table instead. Its DDL runs in
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
        f"{history.versions}: a newer version has upgraded them; run that one"
    )


# --- connections --------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(database: DatabaseUrl) -> Iterator[Connection]:
    engine = build(database, for_migrations=True)
    with read_only(engine).connect() as connection:
        yield connection


@contextlib.contextmanager
def _locked(database: DatabaseUrl) -> Iterator[Connection]:
    """A connection for migrating, while no other process migrates."""
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
                f"to a row of {referred} that is not there ({len(broken)} such rows)"
            )


@contextlib.contextmanager
def _locked_postgresql(database: DatabaseUrl) -> Iterator[Connection]:
    engine = build(database, for_migrations=True)
    # The lock needs a connection without a transaction: CREATE INDEX CONCURRENTLY waits for those.
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
