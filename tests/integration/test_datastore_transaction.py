"""Sessions and transactions, on SQLite and on PostgreSQL."""

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, exc, select, text
from structlog.testing import capture_logs

from lastacross import config, datastore
from lastacross.datastore import (
    DatastoreSchemaError,
    DatastoreUnavailableError,
    DatastoreUsageError,
    OutboxRow,
    engines,
)

pytestmark = pytest.mark.usefixtures("database")


def row(task_id: str) -> OutboxRow:
    return OutboxRow(queue="default", task_id=task_id, record=b"\x00record", created_at=1_800_000_000.25)


def stored() -> list[str]:
    """The task ids that are committed, as another connection sees them."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(select(OutboxRow.task_id).order_by(OutboxRow.id)))


def in_thread(work: Callable[[], object]) -> object:
    """What a function returns, or the exception that it raises, in a thread of its own."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


# --- session ------------------------------------------------------------------------------


def test_a_session_commits_at_the_end_of_its_with() -> None:
    with datastore.session() as session:
        session.add(row("default_a"))
    assert stored() == ["default_a"]


def test_a_session_that_ends_in_an_exception_leaves_nothing() -> None:
    def work() -> None:
        with datastore.session() as session:
            session.add(row("default_a"))
            session.flush()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert stored() == []


def test_an_object_is_readable_after_its_session() -> None:
    with datastore.session() as session:
        added = row("default_a")
        session.add(added)
    assert added.id >= 1
    assert (added.record, added.created_at) == (b"\x00record", 1_800_000_000.25)


def test_a_session_may_commit_in_parts() -> None:
    def work() -> None:
        with datastore.session() as session:
            session.add(row("default_a"))
            session.commit()
            session.add(row("default_b"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert stored() == ["default_a"]


def test_a_read_only_session_refuses_to_write() -> None:
    with pytest.raises(DatastoreUsageError, match="read-only"), datastore.session(read_only=True) as session:
        session.add(row("default_a"))
    with datastore.session() as session:
        session.add(row("default_b"))
    assert stored() == ["default_b"]


def test_reading_goes_on_while_a_writer_is_open_and_sees_what_is_committed() -> None:
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.session.flush()
        assert stored() == []
        assert in_thread(stored) == []
    assert stored() == ["default_a"]


def test_a_read_only_session_keeps_no_writer_waiting() -> None:
    with datastore.session(read_only=True) as reader:
        assert reader.scalars(select(OutboxRow)).all() == []
        with datastore.session() as writer:
            writer.add(row("default_a"))
    assert stored() == ["default_a"]


def test_an_id_is_never_given_twice() -> None:
    with datastore.session() as session:
        session.add(row("default_a"))
    with datastore.session() as session:
        [first] = session.scalars(select(OutboxRow))
        session.delete(first)
    with datastore.session() as session:
        second = row("default_b")
        session.add(second)
    assert second.id > first.id


def test_an_error_of_the_callers_sql_comes_through_unchanged() -> None:
    with pytest.raises(exc.IntegrityError), datastore.session() as session:
        session.add_all([row("default_a"), row("default_a")])
    with pytest.raises(exc.DBAPIError), datastore.session() as session:
        session.execute(text("SELECT * FROM no_such_table"))


def test_a_missing_table_of_a_database_that_is_behind_says_what_to_run() -> None:
    with datastore.session() as session:
        session.execute(text("DROP TABLE lastacross_outbox"))
        session.execute(text("DELETE FROM lastacross_alembic_version"))
    with (
        pytest.raises(DatastoreSchemaError, match="run `lastacross db upgrade`"),
        datastore.session() as session,
    ):
        session.add(row("default_a"))


# --- transaction --------------------------------------------------------------------------


def test_a_transaction_commits_as_a_whole() -> None:
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.session.add(row("default_b"))
    assert stored() == ["default_a", "default_b"]


def test_a_transaction_that_ends_in_an_exception_leaves_nothing() -> None:
    def work() -> None:
        with datastore.transaction() as t:
            t.session.add(row("default_a"))
            t.session.flush()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert stored() == []
    assert datastore.current_transaction() is None


def test_a_transaction_that_is_interrupted_leaves_nothing() -> None:
    def work() -> None:
        with datastore.transaction() as t:
            t.session.add(row("default_a"))
            t.session.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stored() == []


def test_an_inner_transaction_is_the_outer_one() -> None:
    with datastore.transaction() as outer:
        outer.session.add(row("default_a"))
        with datastore.transaction() as inner:
            assert inner is outer
            inner.session.add(row("default_b"))
        assert stored() == []
        assert datastore.current_transaction() is outer
    assert stored() == ["default_a", "default_b"]


def test_an_inner_transaction_falls_with_the_outer_one() -> None:
    def work() -> None:
        with datastore.transaction():
            with datastore.transaction() as inner:
                inner.session.add(row("default_a"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert stored() == []


def test_a_failed_inner_transaction_dooms_the_outer_one_even_if_it_is_caught() -> None:
    def work() -> None:
        with datastore.transaction() as outer:
            outer.session.add(row("default_a"))
            try:
                with datastore.transaction() as inner:
                    inner.session.add(row("default_b"))
                    _ = 1 / 0
            except ZeroDivisionError:
                pass

    with pytest.raises(DatastoreUsageError, match="begin_nested"):
        work()
    assert stored() == []


def test_a_savepoint_fails_alone() -> None:
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        with pytest.raises(exc.IntegrityError), t.session.begin_nested():
            t.session.add(row("default_a"))
        t.session.add(row("default_b"))
    assert stored() == ["default_a", "default_b"]


def test_a_flush_that_fails_and_is_caught_commits_nothing() -> None:
    def work() -> None:
        with datastore.transaction() as t:
            t.session.add(row("default_a"))
            t.session.flush()
            t.session.add(row("default_a"))
            with pytest.raises(exc.IntegrityError):
                t.session.flush()

    with pytest.raises(exc.PendingRollbackError):
        work()
    assert stored() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_nobody_inside_ends_a_transaction(end: str) -> None:
    def work() -> None:
        with datastore.transaction() as t:
            t.session.add(row("default_a"))
            getattr(t.session, end)()

    with pytest.raises(DatastoreUsageError, match=r"transaction\(\)"):
        work()
    assert stored() == []


def test_a_closed_session_inside_changes_nothing() -> None:
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.session.close()
        t.session.add(row("default_b"))
    assert stored() == ["default_a", "default_b"]


def test_there_is_a_current_transaction_only_inside_one() -> None:
    assert datastore.current_transaction() is None
    with datastore.transaction() as t:
        assert datastore.current_transaction() is t
        t.notes["service"] = 1
    assert datastore.current_transaction() is None
    with datastore.transaction() as t:
        assert t.notes == {}


def test_threads_do_not_share_a_transaction_even_with_a_copied_context() -> None:
    with datastore.transaction():
        copied = contextvars.copy_context()
        assert in_thread(datastore.current_transaction) is None
        assert in_thread(lambda: copied.run(datastore.current_transaction)) is None


def test_a_thread_given_a_copied_context_has_transactions_of_its_own() -> None:
    with datastore.transaction() as outer:
        copied = contextvars.copy_context()

        def work() -> bool:
            with datastore.transaction() as own:
                own.session.add(row("default_b"))
                return own is not outer

        assert in_thread(lambda: copied.run(work)) is True
        outer.session.add(row("default_a"))
    assert stored() == ["default_b", "default_a"]


# --- after_commit -------------------------------------------------------------------------


def test_after_commit_runs_in_order_once_the_data_is_there() -> None:
    seen: list[object] = []
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.after_commit(lambda: seen.append(stored()))
        t.after_commit(lambda: seen.append(datastore.current_transaction()))
        assert seen == []
    assert seen == [["default_a"], None]


def test_after_commit_of_an_inner_transaction_waits_for_the_outer_one() -> None:
    seen: list[str] = []
    with datastore.transaction():
        with datastore.transaction() as inner:
            inner.after_commit(lambda: seen.append("called"))
        assert seen == []
    assert seen == ["called"]


def test_after_commit_is_not_called_on_rollback() -> None:
    seen: list[str] = []

    def work() -> None:
        with datastore.transaction() as t:
            t.after_commit(lambda: seen.append("called"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert seen == []


def test_after_commit_is_not_called_when_the_commit_itself_fails() -> None:
    seen: list[str] = []

    def work() -> None:
        with datastore.transaction() as t:
            t.session.add_all([row("default_a"), row("default_a")])
            t.after_commit(lambda: seen.append("called"))

    with pytest.raises(exc.IntegrityError):
        work()
    assert seen == []


def test_after_commit_of_a_savepoint_goes_with_the_savepoint() -> None:
    seen: list[str] = []
    with datastore.transaction() as t:
        t.after_commit(lambda: seen.append("before"))
        savepoint = t.session.begin_nested()
        t.after_commit(lambda: seen.append("undone"))
        with t.session.begin_nested():
            t.after_commit(lambda: seen.append("undone with the one around it"))
        savepoint.rollback()
        with t.session.begin_nested():
            t.after_commit(lambda: seen.append("kept"))
        t.after_commit(lambda: seen.append("after"))
    assert seen == ["before", "kept", "after"]


def test_an_exception_in_after_commit_is_no_failed_commit() -> None:
    seen: list[str] = []
    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.after_commit(lambda: 1 / 0)
        t.after_commit(lambda: seen.append("called"))
    assert stored() == ["default_a"]
    assert seen == ["called"]


def test_after_commit_may_begin_another_transaction() -> None:
    def follow() -> None:
        with datastore.transaction() as t:
            t.session.add(row("default_b"))

    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.after_commit(follow)
    assert stored() == ["default_a", "default_b"]


def test_after_commit_is_refused_when_the_transaction_is_over() -> None:
    with datastore.transaction() as t:
        pass
    with pytest.raises(DatastoreUsageError, match="too late"):
        t.after_commit(lambda: None)


# --- the engine ---------------------------------------------------------------------------


def test_after_rollback_runs_the_last_first_when_nothing_is_committed() -> None:
    called: list[str] = []
    with contextlib.suppress(ZeroDivisionError), datastore.transaction() as t:
        t.after_rollback(lambda: called.append("first"))
        t.after_rollback(lambda: called.append("second"))
        raise ZeroDivisionError

    assert called == ["second", "first"]


def test_after_rollback_is_not_called_when_all_is_committed() -> None:
    called: list[str] = []
    with datastore.transaction() as t:
        t.after_rollback(lambda: called.append("outer"))
        with t.session.begin_nested():
            t.after_rollback(lambda: called.append("inner"))

    assert called == []


def test_after_rollback_of_a_savepoint_runs_with_the_savepoint_and_once() -> None:
    called: list[str] = []
    with contextlib.suppress(KeyError), datastore.transaction() as t:
        t.after_rollback(lambda: called.append("outer"))
        with contextlib.suppress(ZeroDivisionError), t.session.begin_nested():
            t.after_rollback(lambda: called.append("inner"))
            raise ZeroDivisionError
        assert called == ["inner"]
        raise KeyError

    assert called == ["inner", "outer"]


def test_after_rollback_is_called_when_the_commit_itself_fails() -> None:
    called: list[str] = []
    with contextlib.suppress(DatastoreUsageError), datastore.transaction() as t:
        t.after_rollback(lambda: called.append("called"))
        t.spoil()

    assert called == ["called"]


def test_an_exception_in_after_rollback_hides_nothing() -> None:
    called: list[str] = []

    def fail() -> None:
        raise KeyError

    def divide() -> None:
        with datastore.transaction() as t:
            t.after_rollback(lambda: called.append("called"))
            t.after_rollback(fail)
            raise ZeroDivisionError

    with capture_logs() as logged, pytest.raises(ZeroDivisionError):
        divide()

    assert called == ["called"]
    [line] = logged
    assert (line["event"], line["exc_info"]) == ("datastore.after_rollback", True)


def test_after_rollback_is_refused_when_the_transaction_is_over() -> None:
    with datastore.transaction() as t:
        pass
    with pytest.raises(DatastoreUsageError, match="after_rollback"):
        t.after_rollback(lambda: None)


def test_a_ping_reads_from_the_database(database: str) -> None:
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(datastore.engine(), "before_cursor_execute", note)

    datastore.ping()

    assert ("PRAGMA schema_version" if database.startswith("sqlite") else "SELECT 1") in statements


def test_a_process_has_one_engine_until_it_is_disposed_of() -> None:
    first = datastore.engine()
    assert datastore.engine() is first
    datastore.dispose()
    assert datastore.engine() is not first


def in_fork(work: Callable[[], bool]) -> bool:
    """Whether a function returns True in a child of this process; nothing of the test goes on there."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return status == 0


def test_a_forked_process_works_beside_its_parent() -> None:
    before = datastore.engine()
    with datastore.session() as session:
        session.add(row("default_a"))

    def work() -> bool:
        with datastore.transaction() as t:
            t.session.add(row("default_b"))
        return datastore.engine() is not before and stored() == ["default_a", "default_b"]

    assert in_fork(work)
    with datastore.session() as session:
        session.add(row("default_c"))
    assert stored() == ["default_a", "default_b", "default_c"]


def test_a_process_forked_inside_a_transaction_does_not_touch_it(database: str) -> None:
    def work() -> bool:
        if database.startswith("sqlite"):
            with pytest.raises(DatastoreUsageError, match="forked"):
                datastore.engine()
            return datastore.current_transaction() is None
        with datastore.transaction() as own:
            own.session.add(row("default_b"))
        return stored() == ["default_b"]

    with datastore.transaction() as t:
        t.session.add(row("default_a"))
        t.session.flush()
        assert in_fork(work)
    assert "default_a" in stored()


def test_another_configured_database_gets_another_engine(database: str, tmp_path: Path) -> None:
    first = datastore.engine()
    configured = config.current()
    settings = replace(configured.settings, database_url=f"sqlite:///{tmp_path}/other.db")
    config.use(replace(configured, settings=settings))
    second = datastore.engine()
    assert second is not first
    assert second.url.database != first.url.database


def test_a_process_that_uses_all_its_connections_waits_and_then_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"POOL_SIZE": 1, "POOL_OVERFLOW": 0, "POOL_TIMEOUT_SECONDS": 0.1}.items():
        monkeypatch.setattr(engines, name, value)
    datastore.dispose()
    with datastore.session(read_only=True) as session:
        session.scalars(select(OutboxRow)).all()
        assert isinstance(in_thread(stored), DatastoreUnavailableError)
