"""Rows of the engine's tables that something wrote over: the rows behind them are done, sent and shown.

On SQLite, which keeps in a column whatever is written there; PostgreSQL refuses all but what its types allow.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from lastacross import clock, config, datastore, taskqueue
from lastacross.datastore import OutboxRow, outbox
from lastacross.datastore import relay as relays
from lastacross.datastore.tables import CronJob, CronRun, LongTask
from lastacross.longtasks import expiry, model
from lastacross.store import Store, ready_key
from tests.support import databases, longtask_lab, uploads
from tests.support.clock import StoppedClock
from tests.support.cron_lab import CronLab, File, at, job
from tests.support.longtask_lab import JSON, running_lab
from tests.support.redis_server import RedisServer
from tests.support.scripts import Scripts

VALUES = {
    "empty": "",
    "a word": "x",
    "negative": -1,
    "infinite": math.inf,
    "NUL": "1\0",
    "bytes": b"\xff\xfe",
}
ALLOWED_BY_POSTGRESQL = {"negative": -1.0, "infinite": math.inf, "NaN": math.nan, "years ahead": 1e15}

values = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test says otherwise."""
    return str(request.param)


def write(table: str, column: str, value: object, key: str, row: object) -> None:
    """Write a value past the models."""
    with datastore.session() as session:
        statement = text(f"UPDATE {table} SET {column} = :value WHERE {key} = :row")
        session.execute(statement, {"value": value, "row": row})


# --- the outbox -------------------------------------------------------------------------------

OUTBOX = ("queue", "task_id", "record", "created_at", "sent_at", "set_aside_at", "error")


@pytest.fixture
def unsent(
    configuration: config.Config, database: str, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The ids of tasks whose process died after the commit: one for each column, and two more."""
    tasks: list[taskqueue.Task] = []
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        for _ in range(3):
            with datastore.transaction():
                tasks += [taskqueue.add(url="/work", transactional=True) for _ in range(3)]
    return [f"default_{task.name}" for task in tasks]


def damage_and_send(scripts: Scripts, unsent: list[str], columns: Sequence[str], value: object) -> None:
    """Damage a column of each row, do what a scheduler does in minutes, and check what became of them."""
    with datastore.session(read_only=True) as session:
        ids = {row.task_id: row.id for row in session.execute(select(OutboxRow.task_id, OutboxRow.id))}
    for column, task in zip(columns, unsent, strict=False):
        write("lastacross_outbox", column, value, "id", ids[task])

    for seconds in (5, 70, 140):
        now = clock.SYSTEM.now() + seconds
        relays.relay(now)
        relays.forget_sent(now)
        relays.retry_set_aside(now)

    ready = set(scripts.ready())
    assert set(unsent[len(columns) :]) <= ready
    with datastore.session(read_only=True) as session:
        waiting = set(session.scalars(select(OutboxRow.id).where(OutboxRow.set_aside_at.is_not(None))))
    lost = [
        c for c, task in zip(columns, unsent, strict=False) if task not in ready and ids[task] not in waiting
    ]
    assert lost == []


@values
def test_a_damaged_row_of_the_outbox_is_sent_or_set_aside_and_the_others_go_out(
    scripts: Scripts, unsent: list[str], value: object
) -> None:
    damage_and_send(scripts, unsent, OUTBOX, value)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("value", ALLOWED_BY_POSTGRESQL.values(), ids=ALLOWED_BY_POSTGRESQL)
def test_so_are_those_with_numbers_that_postgresql_takes(
    scripts: Scripts, unsent: list[str], value: float
) -> None:
    damage_and_send(scripts, unsent, ("created_at", "sent_at", "set_aside_at"), value)


# --- long tasks -------------------------------------------------------------------------------

MAIN = longtask_lab.MAIN.replace(
    '        ("/told", Told),', '        ("/longtasks", longtask.ListHandler),\n        ("/told", Told),'
)
COLUMNS = [column.name for column in LongTask.__table__.columns if column.name != "id"]


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[longtask_lab.Lab]:
    url = databases.migrated_sqlite(tmp_path / "rows.db", app_root)
    with running_lab(app_root, redis_server.url, url, MAIN) as running:
        yield running


def ask(lab: longtask_lab.Lab, task: str) -> int:
    """The status of the answer to who asks how a task is doing."""
    fields = {"_longtaskjob": "query", "_longtaskid": task}
    return int(lab.client.get("/told", fields, headers=JSON, expect_errors=True).status_int)


@values
def test_a_damaged_row_of_a_long_task_hides_no_other_and_keeps_none_from_its_end(
    lab: longtask_lab.Lab, value: object
) -> None:
    damaged = {column: lab.start(column=column) for column in COLUMNS}
    healthy, old = lab.start(), lab.start()
    for column, task in damaged.items():
        write("lastacross_long_task", column, value, "id", task)

    listed = lab.client.get("/longtasks", headers=JSON).json["longtasks"]
    assert {f"told/{healthy}", f"told/{old}"} <= {operation["name"] for operation in listed}
    answers = {column: ask(lab, task) for column, task in damaged.items()}
    assert answers == {**dict.fromkeys(COLUMNS, 200), "path": 404}
    while lab.store.redis.llen(ready_key("default")):
        lab.run()

    assert [lab.state(task) for task in (healthy, old)] == ["done", "done"]
    assert lab.client.get("/longtasks").status_int == 200
    with datastore.session() as session:
        session.execute(update(LongTask).where(LongTask.id == old).values(expires_at=1.0))
    expiry.Pruner().act(clock.SYSTEM.now())
    found = model.find(old)
    assert found is not None
    assert found.expired_at is not None


# --- cron -------------------------------------------------------------------------------------


@pytest.fixture
def cron(
    configuration: config.Config,
    database: str,
    test_store: Store,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> CronLab:
    uploads.upload(test_store)
    monkeypatch.setattr(outbox, "now", clock.now)
    found = CronLab(test_store, clock)
    found.go_to(at("2027-03-01 10:00:00"))
    return found


JOBS = [column.name for column in CronJob.__table__.columns if column.name != "name"]
RUNS = [column.name for column in CronRun.__table__.columns if column.name not in ("id", "job", "due_at")]


@values
def test_a_damaged_job_keeps_no_other_from_its_run(cron: CronLab, value: object) -> None:
    jobs = [job("every 1 minutes", column.replace("_", "-")) for column in JOBS]
    scheduler = File(*jobs, job("every 1 minutes", "good")).scheduler()
    cron.tick_at(scheduler, "2027-03-01 10:00:00")
    for column in JOBS:
        write("lastacross_cron_job", column, value, "name", column.replace("_", "-"))

    for minute in range(1, 4):
        cron.tick_at(scheduler, f"2027-03-01 10:0{minute}:00.5", f"2027-03-01 10:0{minute}:02")
        cron.work()

    assert [state for _, state in cron.history("good")] == ["done"] * 3


@values
def test_a_damaged_run_keeps_neither_its_own_job_nor_another_from_the_next(
    cron: CronLab, value: object
) -> None:
    jobs = [job("every day 10:01", column.replace("_", "-")) for column in RUNS]
    scheduler = File(*jobs, job("every 1 minutes", "good")).scheduler()
    cron.tick_at(scheduler, "2027-03-01 10:00:00", "2027-03-01 10:01:00.5")
    for column in RUNS:
        write("lastacross_cron_run", column, value, "job", column.replace("_", "-"))

    for minute in range(2, 5):
        cron.work()
        cron.tick_at(scheduler, f"2027-03-01 10:0{minute}:00.5", f"2027-03-01 10:0{minute}:09")
    cron.tick_at(scheduler, "2027-03-02 10:01:00.5")

    assert len(cron.history("good")) >= 4
    again = select(CronRun.job).where(CronRun.due_at == at("2027-03-02 10:01:00"))
    with datastore.session(read_only=True) as session:
        assert {column.replace("_", "-") for column in RUNS} <= set(session.scalars(again))
