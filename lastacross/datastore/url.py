"""Parses and checks DATABASE_URL, which names the database and sets the durability of SQLite's commits.

Pure: it does not open the database.

For SQLite, use ``sqlite:///relative/path.db`` or ``sqlite:////absolute/path.db``. Add ``?synchronous=full``
if a commit must survive a power loss; each commit then waits for the disk. The default, ``normal``, survives
the death of any process. A power loss may cost the last commits, but it never damages the file.

For PostgreSQL, use ``postgresql://user:password@host/database``, with libpq's own parameters after a ``?``.
Heroku's ``postgres://`` is also accepted.
"""

import os
from dataclasses import dataclass

import sqlalchemy
from psycopg import pq
from sqlalchemy.exc import ArgumentError

from lastacross.errors import ConfigError

_SYNCHRONOUS = ("normal", "full", "extra")
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "[::1]"})
_HIDDEN = "***"
_EXAMPLES = "sqlite:////absolute/path.db or postgresql://user:password@host/database"


@dataclass(frozen=True)
class DatabaseUrl:
    """A valid DATABASE_URL.

    Attributes:
        url: the URL for SQLAlchemy.
        synchronous: the value of SQLite's PRAGMA of this name; unused for PostgreSQL.
    """

    url: sqlalchemy.URL
    synchronous: str = "normal"

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    def __str__(self) -> str:
        return shown(self.url)


def parse(text: str) -> DatabaseUrl:
    """Parse a database's URL.

    Raises:
        ConfigError: the text is not a URL, or the database is not supported.
    """
    try:
        url = sqlalchemy.make_url(text)
    except ArgumentError as error:
        # The text may contain a password, so the error does not repeat it.
        raise ConfigError(f"DATABASE_URL is not the URL of a database; use {_EXAMPLES}") from error
    if url.drivername in _SQLITE:
        return _sqlite(url)
    if url.drivername in _POSTGRESQL:
        _check_parameters(url)
        return DatabaseUrl(url.set(drivername="postgresql+psycopg"))
    raise ConfigError(f"DATABASE_URL begins with {url.drivername!r}; use {_EXAMPLES}")


def _check_parameters(url: sqlalchemy.URL) -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    unknown = sorted(set(url.query) - known)
    if unknown:
        raise ConfigError(f"DATABASE_URL: PostgreSQL has no parameter {unknown[0]!r}")


def _sqlite(url: sqlalchemy.URL) -> DatabaseUrl:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError(
            "DATABASE_URL must name a file, because only one connection can see a SQLite database in memory, "
            "while web, workers and scheduler share theirs (sqlite:////absolute/path.db)"
        )
    if url.host or url.username:
        raise ConfigError(
            f"DATABASE_URL has a host for SQLite: three slashes begin a relative path, four an absolute "
            f"one (sqlite:////{url.database})"
        )
    unknown = sorted(set(url.query) - {"synchronous"})
    if unknown:
        raise ConfigError(f"DATABASE_URL: SQLite accepts only ?synchronous=full, not {unknown[0]!r}")
    synchronous = url.query.get("synchronous", "normal")
    if not isinstance(synchronous, str) or synchronous.lower() not in _SYNCHRONOUS:
        raise ConfigError(
            f"DATABASE_URL: synchronous={synchronous!r} is not one of {', '.join(_SYNCHRONOUS)}"
        )
    return DatabaseUrl(url.difference_update_query(["synchronous"]), synchronous.lower())


def shown(url: sqlalchemy.URL) -> str:
    """A URL without its passwords, which may also be among libpq's parameters."""
    hidden = {name: _HIDDEN for name in url.query if "password" in name.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


@dataclass(frozen=True)
class Place:
    """Where a database is, in a form that can be compared.

    Attributes:
        backend: ``sqlite``, ``postgresql`` or another of SQLAlchemy's names.
        host: the server's host in lower case, or the folder of its socket; '' is libpq's default.
        port: the server's port.
        database: the database's name, or the file's real path.
    """

    backend: str
    host: str
    port: str
    database: str


def place_of(url: sqlalchemy.URL) -> Place:
    """Where the database of a URL is. Users, passwords, drivers and other parameters make no difference."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        return Place(backend, "", "", _real_path(url))
    if backend != "postgresql":
        return Place(backend, url.host or "", str(url.port or ""), url.database or "")
    user = url.username or os.environ.get("PGUSER", "")
    host = _text(url.host or url.query.get("host") or os.environ.get("PGHOST", "")).lower()
    return Place(
        backend,
        "localhost" if host in _LOOPBACK else host,
        _text(url.port or url.query.get("port") or os.environ.get("PGPORT", "5432")),
        _text(url.database or url.query.get("dbname") or os.environ.get("PGDATABASE", user)),
    )


def _real_path(url: sqlalchemy.URL) -> str:
    """The file of a SQLite database. A database in memory has a name that no file has."""
    database = url.database or ""
    path, _, options = database.removeprefix("file:").partition("?")
    is_uri = database.startswith("file:")
    if path in {"", ":memory:"} or (
        is_uri and ("mode=memory" in options or url.query.get("mode") == "memory")
    ):
        return ":memory:"
    return os.path.realpath(path)


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
