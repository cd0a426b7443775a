"""Processes that die in the middle of a transactional add: ``python -m tests.support.outbox_process JOB …``.

They commit rows of the table ``landed`` together with tasks of the same names. DATABASE_URL, REDIS_URL and
LASTACROSS_APP name the database, the Redis and the application.
"""

import contextlib
import itertools
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import django.db
import sqlalchemy
from sqlalchemy import text

from lastacross import config, datastore, deferred, store, taskqueue
from lastacross.datastore import marking, outbox, relay
from lastacross.store import Store
from tests.support.history import Recorder
from tests.support.own_sessions import Opened, Transactions

LARGE = "x" * 200_000
# This is less than SQLite's page cache, so nothing is written before the commit.
COMMIT_BYTES = 1_000_000


def die() -> NoReturn:
    """Kill this process, which nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def land(opened: Opened, name: str, *, size: int = 0) -> None:
    """Write one row."""
    statement = "INSERT INTO landed (name, padding) VALUES (:name, :padding)"
    opened.execute(statement, {"name": name, "padding": "x" * size})


def transactions(session_kind: str) -> Transactions:
    """Transactions of one of ``own_sessions.KINDS`` on the configured database."""
    return Transactions(session_kind, config.current().settings.database_url)


# --- dying at a named point ---------------------------------------------------------------


def commit(point: str, kind: str, session_kind: str = "ours") -> None:
    """Run one transaction with a row and a task, and die at the given point."""
    if point in BEFORE_SENDING:
        BEFORE_SENDING[point]()
    with transactions(session_kind).open() as opened:
        land(opened, "one", size=COMMIT_BYTES)
        if kind == "large":
            deferred.defer(json.dumps, LARGE, _transactional=True)
        else:
            taskqueue.add(url="/work/one", transactional=True)
        if point == "before_commit":
            die()
        if point.startswith("in_commit"):
            die_in_commit(opened, int(point.partition(":")[2] or 0))
    raise AssertionError(f"{point} was not met")


def commit_and_end(count: str) -> None:
    """Run this many transactions with a task each, and end the program."""
    ours = transactions("ours")
    for number in range(int(count)):
        with ours.open() as opened:
            land(opened, str(number))
            taskqueue.add(url=f"/work/{number}", transactional=True)


def send_and_die() -> None:
    """Do the relay's work, and die between the steps in Redis and in the datastore."""
    die_after_adding()
    relay.relay(outbox.now() + 60)


def die_before_sending() -> None:
    """Die when the commit has landed but nothing has been sent."""
    outbox.send = lambda tasks: die()


def die_after_asking() -> None:
    """Die when the request has been sent to Redis, but there is no answer yet."""

    def ask(opened: Store, script: str, keys: Sequence[str], args: Sequence[Any]) -> NoReturn:
        body = store.SCRIPTS.find(script)[0]
        connection = opened.redis.connection_pool.get_connection()
        connection.send_command("EVAL", body, len(keys), *keys, *args)
        die()

    Store.run = ask  # type: ignore[method-assign, assignment]


def die_after_adding() -> None:
    """Die when Redis has the tasks, but their rows say that they are still unsent."""
    run = Store.run

    def run_and_die(opened: Store, script: str, keys: Sequence[str], args: Sequence[Any]) -> NoReturn:
        run(opened, script, keys, args)
        die()

    Store.run = run_and_die  # type: ignore[method-assign, assignment]


def die_before_marking() -> None:
    """Die when the task may already be running, but its row says that it is still unsent."""
    marking.PROCESS.note = lambda task_ids, at: die()  # type: ignore[method-assign]


def die_in_commit(opened: Opened, most_bytes: int) -> None:
    """Die after this many bytes of the commit were written, or on PostgreSQL after it was requested."""
    connection = opened.driver()
    if not isinstance(connection, sqlite3.Connection):
        connection.pgconn.send_query(b"COMMIT")
        connection.pgconn.flush()
        die()
    # The kernel kills at exactly this byte. On a busy machine, a thread watching the file would be too late.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log_of(connection).stat().st_size + most_bytes, hard))


def log_of(connection: Any) -> Path:
    """The path of SQLite's write-ahead log, to which a commit is written."""
    [(_, _, file)] = connection.execute("PRAGMA database_list").fetchall()
    return Path(f"{file}-wal")


BEFORE_SENDING: Mapping[str, Callable[[], None]] = {
    "after_commit": die_before_sending,
    "in_sending": die_after_asking,
    "after_sending": die_after_adding,
    "before_marking": die_before_marking,
}


# A database that another process has locked for too long.
UNAVAILABLE = (
    datastore.DatastoreUnavailableError,
    sqlalchemy.exc.OperationalError,
    django.db.OperationalError,
)

# --- dying anywhere -----------------------------------------------------------------------


def write_for_ever(seed: str, commits: str, session_kind: str = "ours") -> None:
    """Run transactions of every kind, each recorded as one add, until this process is ended."""
    used = transactions(session_kind)
    random_number = random.Random(seed)
    recorder = Recorder(Path(commits))
    for number in itertools.count():
        with contextlib.suppress(ZeroDivisionError, *UNAVAILABLE):
            write_some(used, recorder, f"{seed}-{number}", random_number.random())


def write_some(used: Transactions, recorder: Recorder, name: str, chance: float) -> None:
    """Run one transaction. Some roll back, some roll back to a savepoint, and some have many tasks."""
    names = [f"{name}-{part}" for part in range(1 if chance < 0.7 else 3)]
    with recorder.operation("add", ZeroDivisionError, ids=names), used.open() as opened:
        for each in names:
            land(opened, each)
            taskqueue.add(url=f"/work/{each}", transactional=True)
        if 0.3 < chance < 0.5:
            with contextlib.suppress(ZeroDivisionError), opened.savepoint():
                land(opened, f"{name}-taken-back")
                taskqueue.add(url=f"/work/{name}-taken-back", transactional=True)
                raise ZeroDivisionError
        if chance < 0.2:
            raise ZeroDivisionError


# --- for the tests ------------------------------------------------------------------------


def create_table() -> None:
    """Create the table to which the processes write."""
    with datastore.session() as session:
        session.execute(text("CREATE TABLE landed (name VARCHAR(100) NOT NULL, padding TEXT)"))


def landed() -> list[str]:
    """The names that have been committed."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(text("SELECT name FROM landed")))


def count(table: type[datastore.EngineModel], *where: Any) -> int:
    """How many rows one of the engine's tables has."""
    with datastore.session(read_only=True) as session:
        query = sqlalchemy.select(sqlalchemy.func.count()).select_from(table).where(*where)
        return session.scalar(query) or 0


def command(*arguments: str) -> list[str]:
    """The command line for a job."""
    return [sys.executable, "-m", __name__, *arguments]


def run_to_its_death(
    arguments: Sequence[str], environ: Mapping[str, str], number: signal.Signals = signal.SIGKILL
) -> None:
    """Run a job that is ended by this signal."""
    process = subprocess.run(
        command(*arguments), env={**os.environ, **environ}, timeout=60, capture_output=True, check=False
    )
    assert process.returncode == -number, process.stderr.decode()


JOBS: Mapping[str, Callable[..., None]] = {
    "commit": commit,
    "end": commit_and_end,
    "relay": send_and_die,
    "write": write_for_ever,
}

if __name__ == "__main__":
    config.use(config.load(Path(os.environ["LASTACROSS_APP"]), os.environ))
    JOBS[sys.argv[1]](*sys.argv[2:])
