"""Transactions of the three kinds to which a transactional add may belong: ours, SQLAlchemy's and Django's.

All of them are used in the same way, so that one test can run with each.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import django
from django.conf import settings
from django.db import ConnectionHandler, connections, transaction
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.orm import Session

from lastacross import datastore

KINDS = ("ours", "sqlalchemy", "django")
OWN_KINDS = KINDS[1:]


class Opened(Protocol):
    """A transaction in progress."""

    def execute(self, statement: str, parameters: dict[str, Any]) -> object:
        """Execute a statement with placeholders such as ``:name``."""

    def savepoint(self) -> contextlib.AbstractContextManager[object]:
        """Set a savepoint, which an exception rolls back."""

    def driver(self) -> Any:
        """The driver's connection."""


class _OfSqlalchemy:
    def __init__(self, session: Session) -> None:
        self.session = session

    def execute(self, statement: str, parameters: dict[str, Any]) -> object:
        return self.session.execute(text(statement), parameters)

    def savepoint(self) -> contextlib.AbstractContextManager[object]:
        return self.session.begin_nested()

    def driver(self) -> Any:
        return self.session.connection().connection.driver_connection


class _OfDjango:
    def __init__(self, alias: str) -> None:
        self.alias = alias

    def execute(self, statement: str, parameters: dict[str, Any]) -> object:
        for name in parameters:
            statement = statement.replace(f":{name}", f"%({name})s")
        with connections[self.alias].cursor() as cursor:
            return cursor.execute(statement, parameters)

    def savepoint(self) -> contextlib.AbstractContextManager[object]:
        made: contextlib.AbstractContextManager[object] = transaction.atomic(self.alias)
        return made

    def driver(self) -> Any:
        connections[self.alias].ensure_connection()
        return connections[self.alias].connection


class Transactions:
    """Opens transactions of one kind on one database.

    Args:
        kind: one of ``KINDS``.
        url: the database's URL.
        alias: the database's name in Django.
    """

    def __init__(self, kind: str, url: str, alias: str = "default") -> None:
        self.kind = kind
        self.alias = alias
        self.engine: Engine | None = None
        if kind == "sqlalchemy":
            self.engine = create_engine(make_url(url).set(drivername=_driver(url)))
        if kind == "django":
            configure_django(url, alias)

    @contextlib.contextmanager
    def open(self) -> Iterator[Opened]:
        """Open a transaction, which commits at the end of the block, or rolls back on an exception."""
        if self.kind == "ours":
            with datastore.transaction() as opened:
                yield _OfSqlalchemy(opened.session)
        elif self.kind == "django":
            with transaction.atomic(self.alias), datastore.join_django(self.alias):
                yield _OfDjango(self.alias)
        else:
            with Session(self.engine) as session, session.begin(), datastore.join(session):
                yield _OfSqlalchemy(session)

    def close(self) -> None:
        """Close the connections."""
        if self.engine is not None:
            self.engine.dispose()
        if self.kind == "django":
            connections[self.alias].close()
            del connections[self.alias]
            connections.settings.pop(self.alias, None)


def _driver(url: str) -> str:
    return "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"


def configure_django(url: str, alias: str) -> None:
    """Let this process's Django know a database."""
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF="main",
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="of tests",
            LOGGING_CONFIG=None,
            USE_I18N=False,
        )
        django.setup()
    connections.settings[alias] = ConnectionHandler({"default": {}, alias: django_settings(url)}).settings[
        alias
    ]


def django_settings(url: str) -> dict[str, Any]:
    """A URL as an entry of Django's DATABASES."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(parsed.database or "")}
    host = parsed.host or parsed.query.get("host") or ""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parsed.database,
        "USER": parsed.username or "",
        "PASSWORD": parsed.password or "",
        "HOST": host,
        "PORT": str(parsed.port or parsed.query.get("port") or ""),
    }
