"""Transactional adds in a transaction of the application's own SQLAlchemy or Django session."""

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from django.db import connections, transaction
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
    synonym,
)

from lastacross import config, datastore, deferred, taskqueue
from lastacross.datastore import DeferredPayload, OutboxRow, marking, relay
from lastacross.datastore.outbox import now
from lastacross.datastore.url import parse
from lastacross.errors import (
    BadTransactionStateError,
    DatastoreSchemaError,
    DatastoreUsageError,
    TooManyTasksError,
)
from lastacross.taskqueue import Task
from tests.support import outbox_process
from tests.support.modules import ROOT
from tests.support.outbox_process import count, landed
from tests.support.own_sessions import OWN_KINDS, Opened, Transactions, configure_django
from tests.support.scripts import Scripts


@pytest.fixture(autouse=True)
def each_database(configuration: config.Config, scripts: Scripts, database: str) -> str:
    """On SQLite and on PostgreSQL; the others come first, so that this configuration is in use."""
    return database


@pytest.fixture(params=OWN_KINDS)
def own(request: pytest.FixtureRequest, database: str) -> Iterator[Transactions]:
    """Transactions of one kind, on an empty database."""
    outbox_process.create_table()
    made = Transactions(request.param, database, alias="joined")
    yield made
    made.close()


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine of the application's own."""
    outbox_process.create_table()
    made = Transactions("sqlalchemy", database)
    assert made.engine is not None
    yield made.engine
    made.close()


def land(opened: Opened, name: str = "one") -> None:
    outbox_process.land(opened, name)


def add(url: str = "/work") -> Task:
    return taskqueue.add(url=url, transactional=True)


def added_alone() -> Task:
    """A task of a transaction of ours."""
    with datastore.transaction():
        return add()


def names(*tasks: Task) -> list[str]:
    return [f"default_{task.name}" for task in tasks]


def relayed() -> int:
    """How many tasks were not sent by the process that committed them."""
    marking.flush()
    return relay.relay(now() + 60)


# --- with both ----------------------------------------------------------------------------


def test_a_task_is_sent_right_after_the_commit(own: Transactions, scripts: Scripts) -> None:
    with own.open() as opened:
        land(opened)
        task = add()
        assert (scripts.ready(), landed()) == ([], [])

    assert (scripts.ready(), landed()) == (names(task), ["one"])


def test_several_tasks_are_sent_in_the_order_in_which_they_were_added(
    own: Transactions, scripts: Scripts
) -> None:
    with own.open():
        tasks = [add(f"/{number}") for number in range(3)]

    assert scripts.ready() == names(*tasks)


def test_a_rollback_takes_the_row_and_the_task_back(own: Transactions, scripts: Scripts) -> None:
    task = Task(url="/again")
    with contextlib.suppress(KeyError), own.open() as opened:
        land(opened)
        taskqueue.Queue().add(task, transactional=True)
        raise KeyError

    assert (landed(), count(OutboxRow), relayed(), scripts.ready()) == ([], 0, 0, [])
    with own.open():
        taskqueue.Queue().add(task, transactional=True)
    assert scripts.ready() == names(task)


def test_a_savepoint_takes_its_own_tasks_back_and_no_others(own: Transactions, scripts: Scripts) -> None:
    with own.open() as opened:
        before = add()
        with pytest.raises(KeyError), opened.savepoint():
            raise KeyError(add())
        with opened.savepoint():
            kept = add()
        after = add()

    assert scripts.ready() == names(before, kept, after)
    assert relayed() == 0


def test_a_rollback_takes_back_what_a_released_savepoint_added(own: Transactions, scripts: Scripts) -> None:
    with contextlib.suppress(KeyError), own.open() as opened:
        land(opened)
        with opened.savepoint():
            task = add()
        raise KeyError

    assert (scripts.ready(), relayed(), landed(), task.was_enqueued) == ([], 0, [], False)


def test_a_task_that_a_savepoint_took_back_may_be_added_again(own: Transactions, scripts: Scripts) -> None:
    task = Task(url="/again")
    with own.open() as opened:
        with pytest.raises(KeyError), opened.savepoint():
            raise KeyError(taskqueue.Queue().add(task, transactional=True))
        taskqueue.Queue().add(task, transactional=True)

    assert (scripts.ready(), task.was_enqueued) == (names(task), True)


def test_only_tasks_that_were_not_taken_back_count_towards_five(own: Transactions, scripts: Scripts) -> None:
    with own.open() as opened:
        for _ in range(2):
            with pytest.raises(KeyError), opened.savepoint():
                raise KeyError([add() for _ in range(3)])
        tasks = [add() for _ in range(5)]
        with pytest.raises(TooManyTasksError):
            add()

    assert scripts.ready() == names(*tasks)


def test_a_large_deferred_call_is_part_of_the_transaction(own: Transactions, scripts: Scripts) -> None:
    with pytest.raises(KeyError), own.open():
        raise KeyError(deferred.defer(len, "x" * 200_000, _transactional=True))
    assert count(DeferredPayload) == 0

    with own.open():
        deferred.defer(len, "x" * 200_000, _transactional=True)

    assert (len(scripts.ready()), count(DeferredPayload)) == (1, 1)
    assert count(DeferredPayload, DeferredPayload.task_id == scripts.ready()[0]) == 1


def test_a_record_is_the_same_as_in_our_own_transaction(own: Transactions, scripts: Scripts) -> None:
    with own.open():
        task = Task(b"\x00\xff\n", url="/a?b=%c", method="PUT", countdown=0)
        taskqueue.Queue().add(task, transactional=True)

    record = scripts.record(*names(task))
    assert (record["body"], record["description"]) == ("\x00ÿ\n", "PUT /a?b=%c")


def test_the_next_transaction_knows_nothing_of_the_last(own: Transactions, scripts: Scripts) -> None:
    for _ in range(2):
        with own.open():
            tasks = [add() for _ in range(5)]

    assert scripts.ready()[5:] == names(*tasks)
    with pytest.raises(BadTransactionStateError, match=r"requires an open datastore\.transaction"):
        add()


def test_a_transaction_of_ours_inside_commits_by_itself(own: Transactions, scripts: Scripts) -> None:
    with own.open(), datastore.transaction():
        task = add()
    assert scripts.ready() == names(task)
    with pytest.raises(KeyError), own.open():
        raise KeyError(added_alone())

    assert len(scripts.ready()) == 2


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_second_writer_is_refused_before_it_waits_for_the_first(
    own: Transactions, scripts: Scripts
) -> None:
    with own.open():
        add()
        with pytest.raises(DatastoreUsageError, match="would wait forever for the joined one"):
            datastore.transaction().__enter__()


def test_inside_a_transaction_of_ours_nothing_can_be_joined(own: Transactions) -> None:
    with (
        datastore.transaction(),
        pytest.raises(BadTransactionStateError, match=r"inside a datastore\.transaction"),
    ):
        own.open().__enter__()


def test_a_missing_table_is_reported_with_its_remedy(own: Transactions, scripts: Scripts) -> None:
    with datastore.session() as session:
        session.execute(text("DROP TABLE lastacross_outbox"))
        session.execute(text("DELETE FROM lastacross_alembic_version"))

    with pytest.raises(DatastoreSchemaError, match="lastacross db upgrade"), own.open():
        add()


# --- the page -----------------------------------------------------------------------------

SECTION = (ROOT / "docs" / "frameworks.md").read_text().partition("## Tasks in your own transaction")[2]
FLASK, DJANGO = (part.partition("```")[0] for part in SECTION.split("```python\n")[1:3])


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "landed"
    name: Mapped[str] = mapped_column(primary_key=True)
    to = synonym("name")


def test_the_pages_example_for_sqlalchemy_runs(engine: Engine, scripts: Scripts) -> None:
    app = flask.Flask("example")
    db = SimpleNamespace(session=scoped_session(sessionmaker(engine)))
    names_of_page: dict[str, Any] = {"app": app, "db": db, "Order": Order, "request": flask.request}
    exec(FLASK, names_of_page)

    answer = app.test_client().post("/order", data={"to": "ann"})
    db.session.remove()

    assert (answer.text, landed(), len(scripts.ready())) == ("ordered", ["ann"], 1)


def test_the_pages_example_for_django_runs(database: str, scripts: Scripts) -> None:
    outbox_process.create_table()
    made = Transactions("django", database)

    def create(to: str) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO landed (name) VALUES (%s)", [to])

    names_of_page: dict[str, Any] = {
        "Order": SimpleNamespace(objects=SimpleNamespace(create=create)),
        "HttpResponse": str,
    }
    exec(DJANGO, names_of_page)

    assert names_of_page["order"](SimpleNamespace(POST={"to": "ann"})) == "ordered"
    assert (landed(), len(scripts.ready())) == (["ann"], 1)
    made.close()


# --- SQLAlchemy ---------------------------------------------------------------------------


def test_a_commit_within_the_block_sends_and_the_next_transaction_is_another(
    engine: Engine, scripts: Scripts
) -> None:
    with Session(engine) as session, datastore.join(session):
        first = add()
        session.commit()
        assert scripts.ready() == names(first)
        add()
        session.rollback()
        second = add()
        session.commit()
        add()

    assert scripts.ready() == names(first, second)


def test_a_commit_after_the_block_sends_too(engine: Engine, scripts: Scripts) -> None:
    with Session(engine) as session:
        with datastore.join(session):
            task = add()
        assert scripts.ready() == []
        session.commit()

    assert scripts.ready() == names(task)


def test_a_savepoint_from_before_the_block_takes_its_tasks_back(engine: Engine, scripts: Scripts) -> None:
    with Session(engine) as session, session.begin():
        with pytest.raises(KeyError), session.begin_nested(), datastore.join(session):
            raise KeyError(add())
        with datastore.join(session):
            task = add()

    assert (scripts.ready(), relayed()) == (names(task), 0)


def test_a_savepoint_of_the_connection_takes_its_tasks_back(engine: Engine, scripts: Scripts) -> None:
    """The session does not notice such a savepoint."""
    with Session(engine) as session, session.begin(), datastore.join(session):
        session.connection().execute(text("SELECT 1"))
        savepoint = session.connection().begin_nested()
        add()
        savepoint.rollback()

    assert (scripts.ready(), relayed()) == ([], 0)


def test_a_scoped_session_is_joined_as_its_session(engine: Engine, scripts: Scripts) -> None:
    scoped = scoped_session(sessionmaker(engine))
    with datastore.join(scoped), datastore.join(scoped()):
        task = add()
    scoped.commit()
    scoped.remove()

    assert scripts.ready() == names(task)


def test_another_session_is_refused_while_one_is_joined(engine: Engine) -> None:
    with (
        Session(engine) as one,
        Session(engine) as other,
        datastore.join(one),
        pytest.raises(BadTransactionStateError, match="while a SQLAlchemy session is joined"),
    ):
        datastore.join(other).__enter__()


def test_a_session_of_another_database_is_refused_with_both_names(database: str, tmp_path: Path) -> None:
    elsewhere = create_engine("postgresql+psycopg://ann:secret@db.example:6543/shop")
    with Session(elsewhere) as session, pytest.raises(BadTransactionStateError) as refused:
        datastore.join(session).__enter__()

    assert "postgresql+psycopg://ann:***@db.example:6543/shop" in str(refused.value)
    assert str(parse(database)) in str(refused.value)


def test_other_sessions_are_refused_by_name(engine: Engine, database: str) -> None:
    with Session(engine, twophase=True) as session, pytest.raises(BadTransactionStateError, match="twophase"):
        datastore.join(session).__enter__()
    with Session() as session, pytest.raises(BadTransactionStateError, match=r"Session\(engine\)"):
        datastore.join(session).__enter__()
    with (
        engine.connect() as connection,
        Session(connection) as session,
        pytest.raises(BadTransactionStateError, match="bound to a connection"),
    ):
        datastore.join(session).__enter__()
    with pytest.raises(BadTransactionStateError, match="an AsyncSession cannot be joined"):
        datastore.join(AsyncSession()).__enter__()
    inner = AsyncSession(create_async_engine("postgresql+psycopg://db.example/shop")).sync_session
    with pytest.raises(BadTransactionStateError, match="the Session of an AsyncSession"):
        datastore.join(inner).__enter__()
    with pytest.raises(TypeError, match="not Engine"):
        datastore.join(engine).__enter__()


@pytest.mark.parametrize(
    ("maker", "text"),
    [
        (sessionmaker(autobegin=False), "autobegin=False"),
        (sessionmaker(close_resets_only=False), "permanently closed"),
    ],
)
def test_a_session_that_cannot_begin_is_refused(
    engine: Engine, maker: sessionmaker[Session], text: str
) -> None:
    session = maker(bind=engine)
    session.close()

    with datastore.join(session), pytest.raises(BadTransactionStateError, match=text):
        add()


def test_a_session_whose_transaction_has_failed_is_refused(engine: Engine) -> None:
    with Session(engine) as session, datastore.join(session):
        session.add(DeferredPayload(created_at=1.0))
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(BadTransactionStateError, match="has failed"):
            add()


def test_an_engine_that_commits_each_statement_is_refused(engine: Engine, scripts: Scripts) -> None:
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with (
        Session(alone) as session,
        datastore.join(session),
        pytest.raises(BadTransactionStateError, match="AUTOCOMMIT"),
    ):
        add()

    assert count(OutboxRow) == 0


def test_a_coroutine_that_outlives_the_block_does_not_add_to_its_session(engine: Engine) -> None:
    async def add_later(ended: asyncio.Event) -> None:
        await ended.wait()
        add()

    async def run() -> None:
        ended = asyncio.Event()
        with Session(engine) as session:
            with datastore.join(session):
                later = asyncio.create_task(add_later(ended))
                await asyncio.sleep(0)
            ended.set()
            with pytest.raises(BadTransactionStateError, match="requires an open"):
                await later

    asyncio.run(run())


def test_a_transaction_may_be_joined_by_one_thread_after_another(engine: Engine, scripts: Scripts) -> None:
    with Session(engine) as session, datastore.join(session):
        first = add()

        def join_again() -> Task:
            with datastore.join(session):
                return add()

        with ThreadPoolExecutor(1) as other:
            second = other.submit(join_again).result()
        session.commit()

    assert scripts.ready() == names(first, second)


def test_the_schemas_of_tenants_do_not_apply_to_the_outbox(engine: Engine, scripts: Scripts) -> None:
    of_tenant = engine.execution_options(schema_translate_map={None: "tenant"})
    with Session(of_tenant) as session, session.begin(), datastore.join(session):
        tasks = [add(), add()]

    assert scripts.ready() == names(*tasks)


def test_a_session_that_is_dropped_takes_its_task_back(engine: Engine, scripts: Scripts) -> None:
    session = Session(engine)
    with datastore.join(session):
        add()
    session.close()
    del session
    gc.collect()

    assert (relayed(), scripts.ready()) == (0, [])


# --- Django -------------------------------------------------------------------------------


@pytest.fixture
def joined_django(database: str) -> Iterator[None]:
    """Django's database ``joined``."""
    made = Transactions("django", database, alias="joined")
    yield
    made.close()


@pytest.mark.usefixtures("joined_django")
def test_an_atomic_block_within_the_join_counts_too(scripts: Scripts) -> None:
    with datastore.join_django("joined"):
        with pytest.raises(BadTransactionStateError, match=r"transaction\.atomic\(\)"):
            add()
        with transaction.atomic("joined"):
            task = add()
        assert scripts.ready() == names(task)


@pytest.mark.usefixtures("joined_django")
def test_a_failed_atomic_block_is_refused(scripts: Scripts) -> None:
    with transaction.atomic("joined"), datastore.join_django("joined"):
        transaction.set_rollback(True, "joined")
        with pytest.raises(BadTransactionStateError, match="has failed"):
            add()


@pytest.mark.usefixtures("joined_django")
def test_tasks_are_sent_although_an_earlier_function_on_commit_fails(scripts: Scripts) -> None:
    with transaction.atomic("joined"), datastore.join_django("joined"):
        transaction.on_commit(lambda: 1 / 0, "joined", robust=True)
        task = add()

    assert scripts.ready() == names(task)


def test_another_database_of_django_is_refused_with_both_names(database: str, tmp_path: Path) -> None:
    configure_django("postgresql://ann:secret@db.example/shop", "joined")
    try:
        with pytest.raises(BadTransactionStateError, match=r"ann:\*\*\*@db\.example/shop.* DATABASE_URL is"):
            datastore.join_django("joined").__enter__()
    finally:
        del connections["joined"]
        connections.settings.pop("joined")
