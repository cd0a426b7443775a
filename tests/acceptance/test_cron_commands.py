"""``lastacross cron``: what an operator sees of jobs and runs, and lets run."""

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text, update

from lastacross import config, datastore
from lastacross.clock import SYSTEM
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model
from lastacross.datastore.tables import CronJob
from lastacross.store import Store, record_key
from tests.support import databases
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer
from tests.support.uploads import upload

FILE = """\
cron:
- url: /load
  schedule: every day 02:30
  timezone: Europe/Berlin
  description: "the \\e[31mnight"
- url: /tick
  schedule: every 5 mins
"""


@pytest.fixture
def command(
    app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> Iterator[Command]:
    """Runs a command in the application's folder; gives exit code, standard output and error."""
    for name in ("SECRET_KEY", "LASTACROSS_APP", "LASTACROSS_DATA_DIR", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.chdir(app_root)
    (app_root / "cron.yaml").write_text(FILE)
    with command_line(capsys) as run:
        yield run


@pytest.fixture
def jobs(command: Command, app_root: Path, redis_server: RedisServer) -> Iterator[list[str]]:
    """The names of the two jobs, deployed; an empty Redis with their queue."""
    loaded = config.load(app_root, {"SECRET_KEY": "a secret key of the tests", "REDIS_URL": redis_server.url})
    config.use(loaded)
    databases.upgrade()
    model.deploy(loaded.cron, SYSTEM.now())
    opened = Store(redis_server.url)
    opened.redis.flushall()
    upload(opened, ("default", CRON_QUEUE))
    yield [entry.name for entry in loaded.cron]
    opened.close()


def test_list_shows_each_job_with_its_next_run(command: Command, jobs: list[str]) -> None:
    code, out, _ = command("cron", "list", "--json")

    rows = json.loads(out)
    assert (code, [row["name"] for row in rows]) == (0, jobs)
    assert (rows[0]["schedule"], rows[0]["timezone"], rows[0]["url"]) == (
        "every day 02:30",
        "Europe/Berlin",
        "/load",
    )
    assert datetime.fromisoformat(rows[0]["next_run"]).timestamp() > SYSTEM.now()
    assert (rows[0]["state"], rows[0]["last_run"]) == ("waits", None)


def test_a_next_run_that_is_past_is_marked_for_no_scheduler_runs(command: Command, jobs: list[str]) -> None:
    assert [row["is_overdue"] for row in json.loads(command("cron", "list", "--json")[1])] == [False, False]
    with datastore.session() as session:
        past = update(CronJob).where(CronJob.name == jobs[1])
        session.execute(past.values(next_at=SYSTEM.now() - 60))

    rows = json.loads(command("cron", "list", "--json")[1])
    _, out, _ = command("cron", "list")

    assert [row["is_overdue"] for row in rows] == [False, True]
    assert [f"{row['next_run']} overdue" in out for row in rows] == [False, True]


def test_the_table_gives_a_terminal_nothing_to_obey(command: Command, jobs: list[str]) -> None:
    code, out, _ = command("cron", "list")

    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["JOB", "SCHEDULE", "TIMEZONE"]
    assert "\x1b" not in out
    assert "\\x1b[31mnight" in out


def test_next_tells_the_runs_of_the_file_though_nothing_was_deployed(command: Command) -> None:
    code, out, _ = command("cron", "next", "--count", "2", "--json")

    rows = json.loads(out)
    assert code == 0
    assert [len(row["next_runs"]) for row in rows] == [2, 2]
    assert command("cron", "next", rows[0]["name"])[1].count("Europe/Berlin") == 3


def test_run_lets_a_job_run_once_at_a_time(
    command: Command, jobs: list[str], redis_server: RedisServer
) -> None:
    code, out, _ = command("cron", "run", jobs[0], "--json")
    task = json.loads(out)["task"]
    again, _, complaint = command("cron", "run", jobs[0])

    opened = Store(redis_server.url)
    assert code == 0
    assert opened.redis.exists(record_key(f"{CRON_QUEUE}_{task}"))
    opened.close()
    assert again == 1
    assert "only one run is allowed at a time" in complaint
    _, out, _ = command("cron", "history", jobs[0], "--json")
    assert [(run["cause"], run["state"], run["task"]) for run in json.loads(out)] == [("hand", "open", task)]
    assert "open" in command("cron", "history", jobs[0])[1]


def test_a_job_that_cannot_be_read_is_listed_as_such(command: Command, jobs: list[str]) -> None:
    with datastore.session() as session:
        session.execute(update(CronJob).where(CronJob.name == jobs[0]).values(entry="[]"))

    code, out, _ = command("cron", "list", "--json")
    refused, _, complaint = command("cron", "run", jobs[0])

    assert (code, [row["state"] for row in json.loads(out)]) == (0, ["unreadable", "waits"])
    assert refused == 1
    assert len(complaint.splitlines()) == 1
    assert "cannot be read" in complaint


@pytest.mark.parametrize("arguments", [("run", "nobody"), ("history", "nobody"), ("next", "nobody")])
def test_a_job_that_is_not_there_is_named(
    command: Command, jobs: list[str], arguments: tuple[str, str]
) -> None:
    code, _, complaint = command("cron", *arguments)

    assert code == 1
    assert "no job 'nobody'" in complaint
    assert "Traceback" not in complaint


def test_a_datastore_without_tables_names_the_remedy(command: Command) -> None:
    code, _, complaint = command("cron", "list")

    assert code == 1
    assert "db upgrade" in complaint
    assert len(complaint.splitlines()) == 1


def test_a_wrong_file_is_told_of(command: Command, app_root: Path) -> None:
    (app_root / "cron.yaml").write_text("cron:\n- url: /x\n  schedule: every 5 minuts\n")

    code, _, complaint = command("cron", "next")

    assert code == 2
    assert "cron.yaml:3:13:" in complaint


def test_without_jobs_list_says_who_deploys_them(command: Command, app_root: Path) -> None:
    config.use(config.load(app_root, {"SECRET_KEY": "a secret key of the tests"}))
    databases.upgrade()

    code, out, _ = command("cron", "list")

    assert code == 0
    assert "no jobs are deployed" in out


@pytest.mark.parametrize("value", ["x", b"\xff\xfe", -1, math.inf], ids=str)
def test_damaged_rows_are_listed_as_they_are(command: Command, jobs: list[str], value: object) -> None:
    for column in ("entry", "schedule", "timezone", "next_at"):
        with datastore.session() as session:
            statement = text(f"UPDATE lastacross_cron_job SET {column} = :value WHERE name = :name")
            session.execute(statement, {"value": value, "name": jobs[0]})

    for more in ((), ("--json",)):
        code, out, err = command("cron", "list", *more)
        assert (code, err) == (0, "")
        assert jobs[1] in out
        assert "unreadable" in out
