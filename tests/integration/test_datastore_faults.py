"""Several processes at one database, locks that are held too long, and a server that restarts."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text

from lastacross import config, datastore
from lastacross.datastore import DatastoreUnavailableError, DatastoreUsageError, engines
from lastacross.datastore.url import parse
from tests.support import datastore_process, history, judging
from tests.support.evidence import State
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.processes import wait_until


@pytest.fixture
def environ(database: str, app_root: Path) -> dict[str, str]:
    """The environment of processes on the configured database, which has a counter at 0."""
    with datastore.session() as session:
        session.execute(text("CREATE TABLE counter (value BIGINT NOT NULL)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
        session.execute(text("CREATE TABLE landed (name VARCHAR(100) NOT NULL)"))
    recording = {datastore_process.HISTORY: str(app_root / "commits.jsonl")}
    return {"LASTACROSS_APP": str(app_root), "DATABASE_URL": database, "SECRET_KEY": "k" * 40, **recording}


def landed() -> list[str]:
    """The rows of all commits."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(text("SELECT name FROM landed")))


def check_commits(environ: dict[str, str]) -> None:
    """Confirmed commits are complete. Commits with an unknown outcome are complete or absent."""
    commits = history.read(Path(environ[datastore_process.HISTORY]))
    rows = Counter(landed())
    judging.check(commits, State({name: ["landed"] * rows[name] for name in rows}, frozenset(rows)))


def counter() -> int:
    """What the counter says."""
    with datastore.session(read_only=True) as session:
        return int(session.scalar(text("SELECT value FROM counter")) or 0)


@pytest.fixture
def one_postgres() -> Iterator[PostgresServer]:
    """A server for one test, which may restart it."""
    with running_postgres() as server:
        yield server


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_eight_processes_that_count_on_sqlite_lose_nothing_and_never_see_it_locked(
    environ: dict[str, str],
) -> None:
    processes = [datastore_process.start("count", 500, environ) for _ in range(8)]
    results = [datastore_process.result(process) for process in processes]
    assert counter() == 8 * 500
    p99 = max(result["p99"] for result in results)
    print(f"measured counting by 8 processes on SQLite: p99 {p99 * 1000:.0f} ms (promised: 500)")
    assert p99 < 3 * 0.5


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_writers_that_keep_the_lock_for_a_while_all_get_their_turn_on_sqlite(environ: dict[str, str]) -> None:
    waited: list[float] = []

    def write() -> None:
        for _ in range(40):
            started = time.monotonic()
            with datastore.transaction() as t:
                t.session.execute(text("UPDATE counter SET value = value + 1"))
                waited.append(time.monotonic() - started)
                time.sleep(0.01)

    threads = [threading.Thread(target=write) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter() == 8 * 40
    # With SQLite's own busy handler the unluckiest one waits for two thirds of it and more.
    assert max(waited) < (time.monotonic() - began) * 0.6


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_lock_held_too_long_by_somebody_else_is_named(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 0.05)
    datastore.dispose()
    raised: list[Exception] = []

    def write() -> None:
        try:
            with datastore.transaction() as t:
                t.session.execute(text("UPDATE counter SET value = 1"))
        except DatastoreUnavailableError as error:
            raised.append(error)

    with datastore.transaction() as t:
        t.session.execute(text("UPDATE counter SET value = 2"))
        other = threading.Thread(target=write)
        other.start()
        other.join()
    assert "locked" in str(raised[0])
    write()
    assert counter() == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_code_that_would_wait_for_itself_on_sqlite_is_told_so_at_once(environ: dict[str, str]) -> None:
    with datastore.transaction() as t:
        t.session.execute(text("UPDATE counter SET value = 2"))
        with pytest.raises(DatastoreUsageError, match="read_only=True"), datastore.session():
            pass
    with datastore.session() as session:
        session.execute(text("UPDATE counter SET value = 3"))
        with pytest.raises(DatastoreUsageError, match="read_only=True"), datastore.transaction():
            pass
        session.commit()
        with datastore.transaction() as t:
            t.session.execute(text("UPDATE counter SET value = 4"))
    assert counter() == 4


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_sqlite_is_set_up_as_the_url_says(database: str, app_root: Path) -> None:
    def settings() -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        with datastore.session() as session:
            return [session.scalar(text(f"PRAGMA {name}")) for name in names]

    assert settings() == ["wal", 1, 1, 5000]
    environ = {"DATABASE_URL": f"{database}?synchronous=full", "SECRET_KEY": "k" * 40}
    config.use(config.load(app_root, environ))
    assert settings() == ["wal", 2, 1, 5000]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_folder_that_is_not_there_is_named(database: str, app_root: Path) -> None:
    environ = {"DATABASE_URL": f"sqlite:///{app_root}/nowhere/app.db", "SECRET_KEY": "k" * 40}
    config.use(config.load(app_root, environ))
    with pytest.raises(DatastoreUnavailableError, match=r"nowhere/app\.db .*db upgrade"):
        datastore.ping()


def test_processes_that_open_a_new_file_at_once_all_get_it_in_wal_mode(tmp_path: Path) -> None:
    database = parse(f"sqlite:///{tmp_path}/new.db")
    started = threading.Barrier(8)
    modes: list[object] = []

    def open_it() -> None:
        engine = engines.build(database, for_migrations=True)
        started.wait()
        with engine.connect() as connection:
            modes.append(connection.scalar(text("PRAGMA journal_mode")))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modes == ["wal"] * 8


@pytest.mark.slow
def test_a_process_killed_in_the_middle_leaves_whole_units(environ: dict[str, str]) -> None:
    process = datastore_process.start("insert", 1_000_000, environ)
    wait_until(lambda: len(landed()) >= 20)
    process.kill()
    process.communicate()
    check_commits(environ)
    with datastore.session() as session:
        session.execute(text("UPDATE counter SET value = value + 1"))
    assert counter() == 1


def upgraded(server: PostgresServer, app_root: Path) -> dict[str, str]:
    """A new database on the server, configured, with a counter; the environment of its processes."""
    environ = {"DATABASE_URL": server.url(server.new_database()), "SECRET_KEY": "k" * 40}
    config.use(config.load(app_root, environ))
    datastore.upgrade()
    with datastore.session() as session:
        session.execute(text("CREATE TABLE counter (value BIGINT NOT NULL)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
        session.execute(text("CREATE TABLE landed (name VARCHAR(100) NOT NULL)"))
    recording = {datastore_process.HISTORY: str(app_root / "commits.jsonl")}
    return {"LASTACROSS_APP": str(app_root), **environ, **recording}


@pytest.fixture
def restartable(one_postgres: PostgresServer, app_root: Path) -> Iterator[dict[str, str]]:
    """The environment of processes on a server that the test restarts."""
    yield upgraded(one_postgres, app_root)
    datastore.dispose()
    config.use(None)


@pytest.mark.slow
def test_a_restarted_server_costs_the_units_under_way_and_no_later_one(
    one_postgres: PostgresServer, restartable: dict[str, str]
) -> None:
    def write_through_a_restart() -> None:
        with datastore.transaction() as t:
            t.session.execute(text("UPDATE counter SET value = 100"))
            one_postgres.kill()
            one_postgres.start()
            t.session.execute(text("UPDATE counter SET value = 101"))

    with pytest.raises(DatastoreUnavailableError):
        write_through_a_restart()
    assert counter() == 0
    one_postgres.kill()
    with pytest.raises(DatastoreUnavailableError):
        datastore.ping()
    one_postgres.start()
    datastore.ping()


@pytest.mark.slow
def test_processes_that_write_through_restarts_lose_nothing_that_was_committed(
    one_postgres: PostgresServer, restartable: dict[str, str]
) -> None:
    processes = [datastore_process.start("insert", 1500, restartable) for _ in range(2)]
    for restart in (one_postgres.kill, one_postgres.stop):
        before = len(landed())
        wait_until(lambda before=before: len(landed()) >= before + 200)  # type: ignore[misc]
        restart()
        one_postgres.start()
    results = [datastore_process.result(process) for process in processes]
    assert sum(result["failures"] for result in results) > 0
    check_commits(restartable)


def test_the_processes_own_connections_are_closed_by_dispose(database: str) -> None:
    datastore.ping()
    pool = datastore.engine().pool
    assert isinstance(pool, sqlalchemy.QueuePool)
    assert pool.checkedin() == 1
    datastore.dispose()
    assert pool.checkedin() == 0
