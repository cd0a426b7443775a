"""``lastacross cron``: what an operator sees of jobs and runs, and lets run."""

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text, update

from lastacross import audit, config, datastore, store
from lastacross.clock import SYSTEM
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model, ticking
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
    code, out, _ = command("cron", "next", "--file", "--count", "2", "--json")

    rows = json.loads(out)
    assert code == 0
    assert [len(row["next_runs"]) for row in rows] == [2, 2]
    assert command("cron", "next", "--file", rows[0]["name"])[1].count("Europe/Berlin") == 3


def test_list_and_next_agree_on_the_deployed_jobs_whatever_the_file_says(
    command: Command, jobs: list[str], app_root: Path
) -> None:
    (app_root / "cron.yaml").write_text("cron:\n- url: /other\n  schedule: every 1 mins\n")

    listed = {row["name"]: row["next_run"] for row in json.loads(command("cron", "list", "--json")[1])}
    following = json.loads(command("cron", "next", "--json")[1])

    assert {row["name"]: row["next_runs"][0] for row in following} == listed
    assert set(listed) == set(jobs)
    [load] = json.loads(command("cron", "next", "/load", "--count", "2", "--json")[1])
    first, second = map(datetime.fromisoformat, load["next_runs"])
    assert (load["name"], 23 <= (second - first).total_seconds() / 3600 <= 25) == (jobs[0], True)


def test_a_job_is_run_by_its_url(command: Command, jobs: list[str]) -> None:
    code, out, _ = command("cron", "run", "/load", "--json")

    assert (code, json.loads(out)["name"]) == (0, jobs[0])
    assert len(json.loads(command("cron", "history", "/load", "--json")[1])) == 1


def test_a_url_of_several_jobs_is_refused(command: Command, app_root: Path, jobs: list[str]) -> None:
    (app_root / "cron.yaml").write_text(FILE + "- url: /load\n  schedule: every 9 mins\n")
    loaded = config.load(app_root, {"SECRET_KEY": "a secret key of the tests"})
    model.deploy(loaded.cron, SYSTEM.now())

    code, _, complaint = command("cron", "run", "/load")

    assert code == 1
    assert f"several jobs have the URL /load; name one of {jobs[0]}, {jobs[0]}-2" in complaint


def test_a_paused_job_does_not_run_until_it_is_resumed(
    command: Command, jobs: list[str], redis_server: RedisServer
) -> None:
    """A former scheduler, which knows no pauses, finds no due time either once this one has seen the job."""
    assert command("cron", "pause", "/tick") == (0, f"job {jobs[1]} is paused\n", "")
    with datastore.session() as session:
        session.execute(update(CronJob).values(next_at=SYSTEM.now() - 1))
    opened = Store(redis_server.url)
    store.use(opened)
    ticker = ticking.Ticker(iter([config.current().cron, None, None]).__next__)

    assert ticker.act(SYSTEM.now()) == 1
    assert [job.next_at is None for job in model.jobs()] == [False, True]
    [load, tick] = json.loads(command("cron", "list", "--json")[1])
    assert (load["state"], tick["state"], tick["next_run"]) == ("runs", "paused", None)
    [_, row] = json.loads(command("cron", "next", "--json")[1])
    assert row["next_runs"] == []

    code, out, _ = command("cron", "resume", jobs[1], "--json")

    assert (code, json.loads(out)) == (0, [{"name": jobs[1], "is_paused": False}])
    actions = [(each.action, each.ids) for each in audit.read(opened).entries]
    assert actions == [("cron.resume", (jobs[1],)), ("cron.pause", (jobs[1],))]
    [_, tick] = json.loads(command("cron", "list", "--json")[1])
    assert tick["state"] == "waits"
    assert datetime.fromisoformat(tick["next_run"]).timestamp() > SYSTEM.now()
    store.use(None)
    opened.close()


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


@pytest.mark.parametrize("name", ["run", "history", "next", "pause", "resume"])
def test_a_job_that_is_not_there_is_named(command: Command, jobs: list[str], name: str) -> None:
    code, _, complaint = command("cron", name, "nobody")

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

    code, _, complaint = command("cron", "next", "--file")

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
