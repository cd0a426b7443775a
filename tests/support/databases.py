"""Databases with all their tables, migrated once in a test process and then reused by each test.

Running every revision for each test, and creating and dropping a PostgreSQL database, takes about 0.4 s per
test. Copying a SQLite file takes almost no time, and emptying the few used tables of a PostgreSQL database
takes 0.02 s. Copying it with ``CREATE DATABASE … TEMPLATE`` takes as long as creating it anew.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from lastacross import config, datastore
from tests.support.postgres import PostgresServer

# Digest of an application's revisions → the SQLite file with its tables and the engine's.
_sqlite_files: dict[str, bytes] = {}


class _Kept(NamedTuple):
    """A migrated database on a server, and the columns of its tables."""

    name: str
    columns: list[tuple[str, str]]


# Folder of a server, and digest of an application's revisions → the database.
_postgres_databases: dict[tuple[Path, str], _Kept] = {}

_COLUMNS = """
    SELECT relname::text, attname::text FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND relkind = 'r' ORDER BY relname, attnum
"""
_END_OTHER_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def upgrade() -> None:
    """Create the tables of ``datastore.upgrade`` in the configured SQLite database, which must be empty."""
    configuration = config.current()
    url = configuration.settings.database_url
    assert url.startswith("sqlite:"), "for PostgreSQL there is the fixture `new_database`"
    migrated_sqlite(Path(make_url(url).database or ""), configuration.root)


def migrated_sqlite(file: Path, root: Path) -> str:
    """Create a SQLite file with the tables of the engine and the application in ``root``; returns its URL."""
    url = f"sqlite:///{file}"
    revisions = _digest(root)
    if revisions in _sqlite_files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_sqlite_files[revisions])
    else:
        datastore.upgrade(url, root)
        # Closing the last connection moves the contents of the write-ahead log into the file.
        datastore.dispose()
        _sqlite_files[revisions] = file.read_bytes()
    return url


def migrated_postgres(server: PostgresServer, root: Path) -> str:
    """The URL of a database on ``server`` with the same tables, all empty. Earlier tests may have used it."""
    key = server.folder, _digest(root)
    kept = _postgres_databases.get(key)
    if kept is not None and not _emptied(server.url(kept.name), kept.columns):
        server.drop(kept.name)
        kept = None
    if kept is None:
        name = server.new_database()
        datastore.upgrade(server.url(name), root)
        datastore.dispose()
        with psycopg.connect(server.url(name)) as connection:
            kept = _postgres_databases[key] = _Kept(name, connection.execute(_COLUMNS).fetchall())
    return server.url(kept.name)


def _emptied(url: str, columns: list[tuple[str, str]]) -> bool:
    """End all sessions and delete all rows; returns False if a test has changed the tables themselves."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_END_OTHER_SESSIONS)
        if connection.execute(_COLUMNS).fetchall() != columns:
            return False
        tables = [
            sql.Identifier(name) for name in sorted({table for table, _ in columns}) if "alembic" not in name
        ]
        looks = [sql.SQL("EXISTS (SELECT FROM {})").format(table) for table in tables]
        has_rows = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(looks))).fetchone()
        assert has_rows is not None
        used = [table for table, is_used in zip(tables, has_rows, strict=True) if is_used]
        if used:
            names = sql.SQL(", ").join(used)
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
    return True


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted((root / "migrations" / "versions").glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
