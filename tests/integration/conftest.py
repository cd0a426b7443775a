"""What the integration tests may ask for: a datastore, on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.store import Store
from tests.support.clock import StoppedClock
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.scripts import Scripts


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
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database; a test that asks for it runs once on each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def database(app_root: Path, database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the configured database, with the engine's tables, in use for this test."""
    environ = {
        "DATABASE_URL": database_url,
        "SECRET_KEY": "a secret key of the tests, long enough",
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
    }
    config.use(config.load(app_root, environ))
    datastore.upgrade()
    yield database_url
    datastore.dispose()
    config.use(None)


@pytest.fixture
def scripts(test_store: Store, clock: StoppedClock) -> Scripts:
    """The steps of a task's life on an empty store; queues "default" and "other" are not throttled."""
    return Scripts(test_store, clock)
