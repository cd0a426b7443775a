"""The application in the repository's root, configured for a test in the test's own process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lastacross import config, datastore, store
from tests.support import databases
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer, unavailable_store


@contextmanager
def configured(database_url: str, folder: Path, **variables: str) -> Iterator[config.Config]:
    """Use the application's configuration with this database during the block.

    Args:
        database_url: the URL of a migrated database.
        folder: the folder in which its data folder is created.
        variables: further environment variables.
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
    """Use this store in the process, and close it at the end."""
    store.use(opened)
    try:
        yield
    finally:
        store.use(None)
        opened.close()


@contextmanager
def with_unavailable_store(database_url: str, folder: Path, **variables: str) -> Iterator[config.Config]:
    """The same as ``configured``, but Redis does not answer, so that tasks stay in the outbox."""
    opened = unavailable_store(folder)
    with configured(database_url, folder, REDIS_URL=opened.url, **variables) as loaded, in_use(opened):
        yield loaded


@contextmanager
def with_empty_store(
    redis_server: RedisServer, folder: Path, database_url: str | None = None, **variables: str
) -> Iterator[config.Config]:
    """The same as ``configured``, with an empty store and no uploaded queues; on SQLite by default."""
    url = database_url or databases.migrated_sqlite(folder / "test.db", ROOT)
    with configured(url, folder, REDIS_URL=redis_server.url, **variables) as loaded:
        opened = store.Store(redis_server.url)
        opened.redis.flushall()
        with in_use(opened):
            yield loaded
