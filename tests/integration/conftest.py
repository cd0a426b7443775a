"""Fixtures of the integration tests: a datastore, on SQLite and on a real PostgreSQL."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.store import Store
from tests.support import databases
from tests.support.clock import StoppedClock
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.scripts import Scripts


@pytest.fixture(autouse=True)
def no_running_loop() -> Iterator[None]:
    """Hide the event loop that a browser test of the same process leaves running in this thread.

    Otherwise Django and asyncio would refuse to work here.
    """
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server, shared by the tests of a run."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that is not there yet, nor is its folder."""
    return f"sqlite:///{tmp_path}/data/lastacross.db"


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """The kind of the test's database; a test that asks for a database runs once on each kind."""
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_kind: str) -> str:
    """The URL of a database without tables."""
    return str(request.getfixturevalue("sqlite_url" if database_kind == "sqlite" else "postgres_url"))


@pytest.fixture
def new_database(request: pytest.FixtureRequest, database_kind: str, tmp_path: Path) -> Callable[[Path], str]:
    """Makes a database with the tables of the engine and of the application in a folder; returns its URL."""
    if database_kind == "sqlite":
        return lambda root: databases.migrated_sqlite(tmp_path / "data" / "lastacross.db", root)
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda root: databases.migrated_postgres(server, root)


@pytest.fixture
def database(app_root: Path, new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[str]:
    """The URL of the configured database, with the engine's tables, in use for this test."""
    database_url = new_database(app_root)
    environ = {
        "DATABASE_URL": database_url,
        "SECRET_KEY": "a secret key of the tests, long enough",
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
    }
    config.use(config.load(app_root, environ))
    yield database_url
    datastore.dispose()
    config.use(None)


@pytest.fixture
def scripts(test_store: Store, clock: StoppedClock) -> Scripts:
    """The steps of a task's life on an empty store; queues "default" and "other" are not throttled."""
    return Scripts(test_store, clock)
