"""``lastacross longtasks``: an operator sees everybody's long tasks, and cancels one."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from lastacross import audit, config, datastore, memcache, store, taskqueue
from lastacross.cli import longtasks
from lastacross.clock import SYSTEM
from lastacross.datastore import LongTask
from lastacross.longtasks import View, looking, overview, progress
from lastacross.store import Store
from tests.acceptance.test_command_weight import heavy_modules
from tests.conftest import SECRET_KEY
from tests.support import databases
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer
from tests.support.uploads import upload

OPEN, DONE, FAILED = "-hpenpenpenpenpenpenpe", "donedonedonedonedonedo", "failfailfailfailfailfa"
NOBODY = "nobodynobodynobodynobo"
ROW = {"path": "/report", "method": "POST", "queue_name": "default", "expires_seconds": 1e6, "given": "[]"}


@pytest.fixture
def opened(redis_server: RedisServer) -> Iterator[Store]:
    """An empty Redis with the queue "default"."""
    store_ = Store(redis_server.url)
    store_.redis.flushall()
    upload(store_)
    yield store_
    store_.close()


@pytest.fixture
def command(
    app_root: Path, opened: Store, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> Iterator[Command]:
    """Runs a command beside an open long task, which is queued, a done one and a failed one."""
    for name in ("LASTACROSS_APP", "LASTACROSS_DATA_DIR", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", opened.url)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.chdir(app_root)
    config.use(config.load(app_root, {"SECRET_KEY": SECRET_KEY, "REDIS_URL": opened.url}))
    databases.upgrade()
    store.use(opened)
    add(OPEN, "ready", 10, task_name="t", title="Sums \x1b[2J")
    add(DONE, "done", 20, title="Report", attempts=1)
    add(FAILED, "failed", 30, title="Report", attempts=2, error="There are no invoices.")
    taskqueue.add(url="/report", name="t")
    memcache.set(progress.KEY % OPEN, {"message": "Adding up", "step": 3, "total_steps": 12})
    store.use(None)
    config.use(None)
    with command_line(capsys) as run:
        yield run


def add(task_id: str, status: str, age: float, **values: Any) -> None:
    """Add the row of a long task that somebody started ``age`` seconds ago."""
    now = SYSTEM.now()
    finished_at = None if status == "ready" else now - 1
    times = {"created_at": now - age, "expires_at": now - age + 1e6, "finished_at": finished_at}
    with datastore.session() as session:
        session.execute(insert(LongTask).values(**{**ROW, **times, **values}, id=task_id, status=status))


def status_of(task_id: str) -> str | None:
    """The status in the row."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTask.status).where(LongTask.id == task_id))


def rows(command: Command, *options: str) -> list[dict[str, Any]]:
    """The list for programs."""
    code, out, err = command("longtasks", "list", "--json", *options)
    assert (code, err) == (0, "")
    return list(json.loads(out))


def test_long_tasks_are_listed_with_their_progress(command: Command) -> None:
    code, out, err = command("longtasks", "list")

    assert (code, err) == (0, "")
    table = [line.split() for line in out.splitlines()[1:]]
    assert [row[:2] for row in table] == [[OPEN, "ready"], [DONE, "done"], [FAILED, "failed"]]
    assert table[0][2:7] == ["Sums", "\\x1b[2J", "25", "Adding", "up"]
    assert out.splitlines()[3].endswith("There are no invoices.")


def test_the_list_for_programs(command: Command) -> None:
    first, second, third = rows(command)

    assert first["url"] == f"/report?_longtaskjob=status&_longtaskid={OPEN}"
    assert (first["step"], first["total_steps"], first["percent"]) == (3, 12, 25)
    assert (first["attempts"], first["finished_at"], first["error"]) == (0, None, None)
    assert first["created_at"].endswith("Z")
    assert (second["percent"], second["error"], second["message"]) == (100, None, None)
    assert (third["error"], third["attempts"]) == ("There are no invoices.", 2)
    assert third["finished_at"].endswith("Z")


@pytest.mark.parametrize(("state", "expected"), [("open", [OPEN]), ("failed", [FAILED]), ("cancelled", [])])
def test_only_one_state(command: Command, state: str, expected: list[str]) -> None:
    assert [row["id"] for row in rows(command, "--state", state)] == expected


def test_a_limit_leaves_the_newest_open_and_ended_ones(command: Command) -> None:
    assert [row["id"] for row in rows(command, "--limit", "1")] == [OPEN, DONE]


def test_the_command_offers_the_states_of_the_page() -> None:
    assert longtasks.STATES == overview.STATES


def test_a_long_list_is_read_in_bounded_steps(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(250):
        add(f"{number:022}", "done", 100 + number, title="Report")
    sizes = []
    views_of = looking.views_of

    def counted(ids: Sequence[str]) -> list[View]:
        sizes.append(len(ids))
        return views_of(ids)

    monkeypatch.setattr(looking, "views_of", counted)

    found = rows(command, "--limit", "1000")

    assert (len(found), sizes) == (253, [100, 100, 53])
    assert [row["id"] for row in found[:4]] == [OPEN, DONE, FAILED, f"{0:022}"]


def test_without_redis_the_list_has_no_progress(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nothing.sock")

    code, out, err = command("longtasks", "list", "--state", "open", "--json")

    [row] = json.loads(out)
    assert (code, row["id"], row["percent"]) == (0, OPEN, None)
    assert err == ("lastacross: the progress of open long tasks is unknown, because Redis is unavailable\n")


def test_without_a_key_the_list_has_no_progress(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY")

    code, out, err = command("longtasks", "list", "--json")

    assert (code, [row["percent"] for row in json.loads(out)]) == (0, [None, 100, None])
    assert err == "lastacross: the progress of open long tasks is unknown, because SECRET_KEY is not set\n"
    assert command("longtasks", "list", "--state", "done")[2] == ""
    assert command("longtasks", "cancel", OPEN)[::2] == (0, "")


def test_without_tables_the_remedy_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    datastore.dispose()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/new.db")

    for arguments in (("list",), ("cancel", DONE)):
        code, out, err = command("longtasks", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "lastacross db upgrade" in err
        datastore.dispose()


def test_the_help_loads_neither_sqlalchemy_nor_the_web_framework(app_root: Path, tmp_path: Path) -> None:
    loaded = heavy_modules(["longtasks", "list", "--help"], dict(os.environ), tmp_path)

    assert not loaded & {"sqlalchemy", "webapp2", "webob", "jinja2", "lastacross.taskqueue"}
    assert "sqlalchemy" in sys.modules


# --- cancelling ----------------------------------------------------------------------------


def test_a_long_task_is_cancelled_and_recorded(command: Command, opened: Store) -> None:
    code, out, err = command("longtasks", "cancel", OPEN)

    assert (code, out, err) == (0, f"long task {OPEN} is cancelled: Sums \\x1b[2J\n", "")
    assert status_of(OPEN) == "cancelled"
    assert not opened.redis.exists(store.record_key("default_t"))
    [entry] = audit.read(opened).entries
    assert (entry.action, entry.ids, entry.source) == ("longtask.cancel", (OPEN,), "cli")


def test_cancelling_for_programs(command: Command) -> None:
    code, out, _ = command("longtasks", "cancel", OPEN, "--json")

    row = json.loads(out)
    assert (code, row["id"], row["state"]) == (0, OPEN, "cancelled")
    assert row["finished_at"].endswith("Z")


@pytest.mark.parametrize(("task_id", "state"), [(DONE, "done"), (FAILED, "failed")])
def test_an_ended_long_task_is_not_cancelled(
    command: Command, opened: Store, task_id: str, state: str
) -> None:
    code, out, err = command("longtasks", "cancel", task_id)

    assert (code, out) == (1, "")
    assert err == f"lastacross: long task {task_id} was already over: it is {state}\n"
    assert status_of(task_id) == state
    assert audit.read(opened).entries == ()


@pytest.mark.parametrize("task_id", [NOBODY, "no such\nid"])
def test_an_unknown_long_task_is_named(command: Command, opened: Store, task_id: str) -> None:
    code, out, err = command("longtasks", "cancel", task_id)

    assert (code, out) == (1, "")
    assert err == (f"lastacross: there is no long task {task_id!r}; `lastacross longtasks list` shows them\n")
    assert audit.read(opened).entries == ()


def test_without_redis_nothing_is_cancelled(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nothing.sock")

    code, out, err = command("longtasks", "cancel", OPEN)

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("lastacross: Redis is not available")
    assert status_of(OPEN) == "ready"
