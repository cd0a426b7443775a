"""Rows of the outbox are marked as sent behind the back of whoever waits for an answer, many at once."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url, select, text
from structlog.testing import capture_logs

from lastacross import clock, config, datastore, taskqueue
from lastacross.datastore import OutboxRow, marking, outbox
from lastacross.datastore import relay as relays
from tests.support import outbox_process
from tests.support.outbox_process import command, count
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.scripts import Scripts


@pytest.fixture(autouse=True)
def each_database(configuration: config.Config, database: str) -> str:
    """On SQLite and on PostgreSQL; ``configuration`` first, so that this one is in use."""
    return database


@pytest.fixture
def statements(scripts: Scripts) -> Iterator[list[str]]:
    """What is written to the outbox, statement by statement."""
    seen: list[str] = []

    def see(_connection: object, _cursor: object, line: str, *_: object) -> None:
        if "lastacross_outbox" in line and not line.startswith("SELECT"):
            seen.append(line.split()[0])

    engine: Any = datastore.engine()
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


def add(number: int = 1) -> None:
    """So many transactions with a task each."""
    for _ in range(number):
        with datastore.transaction():
            taskqueue.add(url="/work", transactional=True)


def unsent() -> int:
    return count(OutboxRow, OutboxRow.sent_at.is_(None))


def test_many_commits_are_marked_in_one_statement(
    scripts: Scripts, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "GATHER_SECONDS", 5.0)

    add(30)
    assert (len(scripts.ready()), statements) == (30, ["INSERT"] * 30)

    marking.flush()
    assert (unsent(), statements[30:]) == (0, ["UPDATE"])


def test_a_thread_marks_them_a_moment_later(scripts: Scripts) -> None:
    for _ in range(2):
        add(3)
        wait_until(lambda: not unsent(), 30, "the thread to mark the rows")


def test_a_thread_that_had_nothing_to_mark_goes_and_another_comes(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "IDLE_SECONDS", 0.05)
    # A thread of an earlier test, which waits for longer, hears of it with its next row.
    add()

    for _ in range(2):
        wait_until(lambda: all(each.name != "outbox-marks" for each in threading.enumerate()), 45, "it to go")
        add()
        wait_until(lambda: not unsent(), 30, "the thread to mark the row")


def test_the_relay_leaves_alone_what_a_living_process_is_about_to_mark(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert marking.GATHER_SECONDS * 4 < relays.RELAY_AFTER_SECONDS
    monkeypatch.setattr(marking, "GATHER_SECONDS", 5.0)
    add()

    assert relays.relay(clock.SYSTEM.now() + relays.RELAY_AFTER_SECONDS / 2) == 0
    assert unsent() == 1


def test_a_row_is_said_to_be_sent_when_it_was_and_not_when_it_was_marked(scripts: Scripts) -> None:
    before = outbox.now()
    add()
    after = outbox.now()

    marking.flush()

    with datastore.session(read_only=True) as session:
        assert before <= (session.scalar(select(OutboxRow.sent_at)) or 0) <= after


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_commit_does_not_wait_for_sqlite_s_writer_twice(scripts: Scripts, each_database: str) -> None:
    """Only SQLite has a single writer."""
    other = sqlite3.connect(str(make_url(each_database).database), isolation_level=None)
    begun = clock.SYSTEM.monotonic()
    with datastore.transaction() as transaction:
        # Somebody else is the writer at the very moment of the commit, before the task is sent.
        transaction.after_commit(lambda: other.execute("BEGIN IMMEDIATE"))
        taskqueue.add(url="/work", transactional=True)
    took = clock.SYSTEM.monotonic() - begun
    other.close()

    assert took < 4  # the longest wait for the writer is 5 s
    assert len(scripts.ready()) == 1
    marking.flush()
    assert unsent() == 0


def test_what_cannot_be_marked_is_left_to_the_relay(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "GATHER_SECONDS", 5.0)
    add()
    with monkeypatch.context() as patch, capture_logs() as logged:
        patch.setattr(marking, "statement", lambda ids, at: text("UPDATE nowhere SET sent_at = 1"))
        marking.flush()
    [line] = logged
    assert (line["event"], line["tasks"]) == ("outbox.relay_later", 1)
    assert "nowhere" in line["error"]
    assert unsent() == 1

    assert relays.relay(clock.SYSTEM.now() + 60) == 1

    assert (unsent(), len(scripts.ready())) == (0, 1)


def test_what_is_still_to_be_marked_is_so_before_the_datastore_is_closed(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "GATHER_SECONDS", 5.0)
    add(2)

    datastore.dispose()

    assert unsent() == 0


def test_a_fork_s_child_marks_its_own_rows_and_leaves_its_parent_s(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "GATHER_SECONDS", 5.0)
    add(2)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            marking.flush()
            assert unsent() == 2
            add(3)
            marking.flush()
            status = 0 if unsent() == 2 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    marking.flush()

    assert (unsent(), len(scripts.ready())) == (0, 5)


def test_two_threads_that_fork_at_once_do_not_stop_the_marking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "FORK_PATIENCE_SECONDS", 0.01)
    marks = marking.Marks()
    has_given_up, has_forked = threading.Event(), threading.Event()

    def fork_in_vain() -> None:
        marks.before_fork()
        has_given_up.set()
        assert has_forked.wait(30)
        marks.after_fork()

    other = threading.Thread(target=fork_in_vain)
    marks.before_fork()
    other.start()
    assert has_given_up.wait(30)
    marks.after_fork()
    has_forked.set()
    other.join(10)

    flushing = threading.Thread(target=marks.flush, daemon=True)
    flushing.start()
    flushing.join(10)
    assert not flushing.is_alive()


@pytest.mark.slow
def test_a_program_that_ends_has_marked_all_that_it_has_sent(
    scripts: Scripts, each_database: str, app_root: Path, redis_server: RedisServer
) -> None:
    outbox_process.create_table()
    datastore.dispose()
    environ = {
        "LASTACROSS_APP": str(app_root),
        "DATABASE_URL": each_database,
        "REDIS_URL": redis_server.url,
        "SECRET_KEY": config.current().settings.secret_key,
    }

    subprocess.run(command("end", "7"), env={**os.environ, **environ}, timeout=60, check=True)

    assert (unsent(), len(scripts.ready())) == (0, 7)
