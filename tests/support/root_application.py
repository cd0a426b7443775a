"""The application in the root of the repository, configured for a test in its own process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lastacross import config, datastore, store
from tests.support import databases
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer, unavailable_store


@contextmanager
def configured(database_url: str, folder: Path, **variables: str) -> Iterator[config.Config]:
    """The application's configuration, in use with this database.

    Args:
        database_url: of a database with its tables.
        folder: where its data folder goes.
        variables: more of its environment.
    """
    environ = {
        "DATABASE_URL": database_url,
        "SECRET_KEY": "a secret key of the tests, long enough",
        "LASTACROSS_DATA_DIR": str(folder / "var"),
        **variables,
    }
    loaded = config.load(ROOT, environ)
    config.use(loaded)
    try:
        yield loaded
    finally:
        datastore.dispose()
        config.use(None)


@contextmanager
def in_use(opened: store.Store) -> Iterator[None]:
    """This store as that of the process; closed at the end."""
    store.use(opened)
    try:
        yield
    finally:
        store.use(None)
        opened.close()


@contextmanager
def with_unavailable_store(database_url: str, folder: Path, **variables: str) -> Iterator[config.Config]:
    """The same while no Redis answers, so that tasks stay in the outbox."""
    opened = unavailable_store(folder)
    with configured(database_url, folder, REDIS_URL=opened.url, **variables) as loaded, in_use(opened):
        yield loaded


@contextmanager
def with_empty_store(
    redis_server: RedisServer, folder: Path, database_url: str | None = None, **variables: str
) -> Iterator[config.Config]:
    """The same with an empty store and no uploaded queues; on SQLite unless a database is given."""
    url = database_url or databases.migrated_sqlite(folder / "test.db", ROOT)
    with configured(url, folder, REDIS_URL=redis_server.url, **variables) as loaded:
        opened = store.Store(redis_server.url)
        opened.redis.flushall()
        with in_use(opened):
            yield loaded
