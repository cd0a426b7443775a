"""``lastacross doctor``: each test breaks a sound set-up in one way, and the finding names the fix."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy

from lastacross import config, datastore, signing, store, taskqueue
from lastacross.broker import STATUS_FIELD, Broker, WorkerStatus, listing, queue_directory
from lastacross.cronruns import entries
from lastacross.processes import presence
from lastacross.store import Store
from tests.conftest import SECRET_KEY
from tests.support import databases
from tests.support.command_line import Capture, Command, command_line
from tests.support.lab import Lab, running_lab
from tests.support.processes import python, started, wait_until
from tests.support.redis_clock import SettableClock
from tests.support.redis_server import RedisServer, running_server
from tests.support.wrong_servers import answering, replies

BEAT = "2026-11-30T12:00:00.000000Z"
OTHER_KEY = "another secret key of the tests, also long enough"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server of this module's own, with an append-only file and a clock that a test may set."""
    with running_server(append_only=True, clock=SettableClock) as running:
        yield running


@pytest.fixture
def environ(server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a set-up that is right."""
    return {
        "REDIS_URL": server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/site.db",
        "SECRET_KEY": SECRET_KEY,
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "1",
    }


@pytest.fixture
def opened(server: RedisServer) -> Iterator[Store]:
    """The server's contents, emptied."""
    opened = Store(server.url)
    opened.redis.flushall()
    yield opened
    opened.close()


@pytest.fixture
def command(
    app_root: Path,
    opened: Store,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    tmp_path: Path,
) -> Iterator[Command]:
    """Runs a command in a set-up that is right: deployed, with a scheduler and a worker."""
    for name in ("LASTACROSS_APP", "LASTACROSS_DATA_DIR", "LASTACROSS_DEV"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(app_root)
    databases.migrated_sqlite(tmp_path / "site.db", app_root)
    loaded = config.load(app_root, environ)
    queue_directory.deploy(opened, loaded, cron=entries.dump_all(loaded.cron), cause="deploy")
    presence.beat(opened, loaded, "scheduler")
    register_worker(opened)
    with command_line(capsys) as run:
        yield run


def register_worker(opened: Store, name: str = "lastacross-here-1-aaaa", **status: Any) -> None:
    """Register a worker as its process does."""
    shown = WorkerStatus("1", 8, 0, 0, (), 1, ("default",), **status).dump() if "here" in name else ""
    given = {"state": "idle", "hostname": "here", "pid": "1", "last_heartbeat": BEAT, STATUS_FIELD: shown}
    opened.redis.sadd("rq:workers", f"rq:worker:{name}")
    opened.redis.hset(f"rq:worker:{name}", mapping=given)  # type: ignore[arg-type]


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def findings(command: Command, *options: str) -> dict[str, tuple[str, str]]:
    """The name, problem and remedy of each finding."""
    code, out, err = command("doctor", "--json", *options)
    assert err == ""
    found = json.loads(out)
    assert code == (1 if found else 0)
    return {each["name"]: (each["problem"], each["remedy"]) for each in found}


def the_finding(command: Command, name: str) -> tuple[str, str]:
    """The problem and the remedy of the only finding."""
    found = findings(command)
    assert list(found) == [name]
    return found[name]


def test_nothing_is_wrong_with_a_set_up_that_is_right(command: Command) -> None:
    assert command("doctor") == (0, "nothing is wrong\n", "")
    assert findings(command) == {}


def test_people_get_the_problem_and_the_fix(command: Command, opened: Store) -> None:
    opened.redis.delete(store.PROCESSES)

    code, out, err = command("doctor")

    assert (code, err) == (1, "")
    assert out == (
        "no scheduler runs, so cron jobs do not start and tasks of transactions may wait\n"
        "    fix: lastacross scheduler\n"
    )


# --- Redis -------------------------------------------------------------------------------------


def test_a_redis_that_is_not_there(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")

    problem, remedy = the_finding(command, "redis_unreachable")

    assert "127.0.0.1" in problem
    assert remedy == "start Redis, or correct REDIS_URL"


def test_a_redis_that_is_too_old(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(replies(b"5.0.14")) as address:
        monkeypatch.setenv("REDIS_URL", f"redis://{address}/0")
        problem, remedy = the_finding(command, "redis_version")

    assert "5.0.14" in problem
    assert "6.2" in remedy


@contextlib.contextmanager
def configured(opened: Store, **settings: str) -> Iterator[None]:
    """Let the server have these settings during the block."""
    before = {name: str(opened.redis.config_get(name)[name]) for name in settings}
    for name, value in settings.items():
        opened.redis.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            opened.redis.config_set(name, value)


def test_a_redis_that_evicts(command: Command, opened: Store) -> None:
    with configured(opened, **{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}):
        problem, remedy = the_finding(command, "redis_evicting")

    assert "allkeys-lru" in problem
    assert remedy == "redis-cli CONFIG SET maxmemory-policy noeviction"


def test_a_redis_without_an_append_only_file(command: Command, opened: Store) -> None:
    with configured(opened, appendonly="no"):
        _, remedy = the_finding(command, "redis_without_aof")

    assert remedy == "redis-cli CONFIG SET appendonly yes"


def test_a_user_without_a_right(
    command: Command, opened: Store, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    url = environ["REDIS_URL"].replace("://", "://shop:pw@", 1)
    opened.redis.acl_setuser(
        "shop",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-xadd", "-setbit"],
    )
    monkeypatch.setenv("REDIS_URL", url)
    try:
        problem, remedy = the_finding(command, "redis_rights")
    finally:
        opened.redis.acl_deluser("shop")

    assert problem == "the user in REDIS_URL may not run XADD, SETBIT"
    assert remedy.startswith("redis-cli ACL SETUSER")
    assert [key for key in opened.redis.keys("*") if b"probe" in key] == []


@pytest.mark.parametrize(("seconds", "where"), [(90, "ahead of"), (-90, "behind")])
def test_a_clock_that_is_off(
    command: Command, server: RedisServer, opened: Store, seconds: int, where: str
) -> None:
    assert server.clock is not None
    server.clock.jump(seconds)
    try:
        presence.beat(Store(server.url), config.load(Path.cwd(), dict(os.environ)), "scheduler")
        problem, remedy = the_finding(command, "clock")
    finally:
        server.clock.jump(-seconds)

    assert f"s {where} this machine's" in problem
    assert "timedatectl" in remedy


# --- the datastore -----------------------------------------------------------------------------


def test_a_database_that_cannot_be_reached(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:hunter2@127.0.0.1:{free_port()}/shop")

    problem, remedy = the_finding(command, "database_unreachable")

    assert "hunter2" not in problem
    assert "DATABASE_URL" in remedy


def test_a_database_that_is_behind(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/new.db")

    _, remedy = the_finding(command, "database_behind")

    assert remedy == "lastacross db upgrade"


def test_a_database_that_is_ahead(command: Command, environ: dict[str, str]) -> None:
    engine = sqlalchemy.create_engine(environ["DATABASE_URL"])
    with engine.begin() as connection:
        [table] = [
            name
            for name in sqlalchemy.inspect(connection).get_table_names()
            if "alembic" in name and "lastacross" in name
        ]
        connection.execute(sqlalchemy.text(f"UPDATE {table} SET version_num = '9999'"))
    engine.dispose()

    problem, remedy = the_finding(command, "database_ahead")

    assert "9999" in problem
    assert remedy == "run the newer release"


# --- this machine ------------------------------------------------------------------------------


def test_a_port_that_another_program_has(command: Command, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(environ["PORT"]))):
        problem, remedy = the_finding(command, "port")

    assert f"PORT {environ['PORT']}" in problem
    assert remedy == f"PORT={int(environ['PORT']) + 1} lastacross web"


def test_too_few_open_files(command: Command, app_root: Path) -> None:
    """The limit holds for a process and its children, so the command runs in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "lastacross", "doctor", "--json"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=app_root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )

    [finding] = json.loads(run.stdout)
    assert (run.returncode, finding["name"]) == (1, "open_files")
    assert "may open 256 files" in finding["problem"]
    assert finding["remedy"].startswith("ulimit -n ")


@pytest.mark.parametrize("key", ["", "sixteen letters!"])
def test_a_secret_key_that_is_missing_or_short(
    command: Command, monkeypatch: pytest.MonkeyPatch, opened: Store, key: str
) -> None:
    opened.redis.delete(store.PROCESSES)
    monkeypatch.setenv("SECRET_KEY", key)
    presence.beat(
        opened, config.load(Path.cwd(), {**os.environ, "LASTACROSS_DEV": "0"}) if key else _dev(), "scheduler"
    )

    found = findings(command)

    assert "secret_key" in found
    assert "export SECRET_KEY=$(python -c" in found["secret_key"][1]


def _dev() -> config.Config:
    return config.load(Path.cwd(), {**os.environ, "SECRET_KEY": SECRET_KEY})


def test_processes_with_different_keys(
    command: Command, opened: Store, environ: dict[str, str], app_root: Path
) -> None:
    presence.beat(opened, config.load(app_root, environ | {"SECRET_KEY": OTHER_KEY}), "web")
    register_worker(opened, key=signing.fingerprint(SECRET_KEY))

    problem, remedy = the_finding(command, "different_keys")

    assert "web:" in problem
    assert "this command" in problem
    assert "same SECRET_KEY" in remedy


# --- the site ----------------------------------------------------------------------------------


def test_files_that_are_not_deployed(command: Command, app_root: Path) -> None:
    (app_root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 1/s\n")

    problem, remedy = the_finding(command, "not_deployed")

    assert problem == "queue.yaml of this folder differ from the deployed files"
    assert remedy == "lastacross deploy"


def test_a_queue_that_no_worker_serves(command: Command, opened: Store) -> None:
    register_worker(opened, only=("other",))

    problem, remedy = the_finding(command, "unserved")

    assert problem == "no worker serves the queue default"
    assert remedy == "lastacross worker"


def test_a_target_that_no_worker_serves(
    command: Command, opened: Store, environ: dict[str, str], app_root: Path
) -> None:
    opened.redis.sadd(store.SERVICES, "counter")
    config.use(config.load(app_root, environ))
    store.use(opened)
    taskqueue.add(url="/count", target="counter")
    store.use(None)

    problem, remedy = the_finding(command, "unserved")

    assert problem == "no worker serves the tasks of queue default for the service counter"
    assert remedy == "lastacross worker --service counter"


def test_rqs_own_workers_on_our_queues(command: Command, opened: Store) -> None:
    register_worker(opened, "rq-worker-7")

    problem, remedy = the_finding(command, "foreign_workers")

    assert problem == "RQ's own workers serve our queues: rq-worker-7"
    assert "lastacross worker" in remedy


def test_dead_letters_and_tasks_that_fail_again_and_again(
    command: Command, opened: Store, environ: dict[str, str], app_root: Path
) -> None:
    config.use(config.load(app_root, environ))
    store.use(opened)
    broker = Broker(opened)
    for name, failures in (("dead", 0), ("failing", 10), ("young", 9)):
        taskqueue.add(url="/x", name=name)
        [task] = broker.lease(["default"], token="w", number=1, wanted=1, free=1, lease_seconds=600).tasks
        if name == "dead":
            broker.dead_letter(task, 500, "answered 500")
        else:
            opened.redis.hset(store.record_key(task.id), "failures", failures - 1)
            broker.retry(task, opened.now() + 600, 500)
    store.use(None)

    found = findings(command)

    assert found["dead_letters"] == (
        "queue default has 1 dead letter",
        "lastacross tasks list default --state dead",
    )
    assert found["failing_tasks"] == (
        "1 tasks of queue default have failed 10 times or more",
        "lastacross tasks show default failing",
    )
    assert len(found) == 2
    assert listing.delete_dead(broker, "default") == ["default_dead"]


# --- real processes ----------------------------------------------------------------------------


@pytest.mark.slow
def test_real_processes_are_seen(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A scheduler and workers of a site, and RQ's own worker beside them."""
    with running_lab(append_only=True) as lab, command_line(capsys) as command:
        databases.migrated_sqlite(lab.root / "lab.db", lab.root)
        for name, value in {**lab.environ, "PORT": str(free_port())}.items():
            monkeypatch.setenv(name, value)
        folder = ("--app", str(lab.root))

        def listed() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(command("workers", "list", "--json", *folder)[1])
            return found

        assert {"no_scheduler", "unserved"} <= findings(command, *folder).keys()
        with scheduling(lab), lab.workers(1):
            wait_until(lambda: not findings(command, *folder), 60, "a doctor with nothing to say")
            wait_until(lambda: listed()[0]["status"] is not None, 30, "the worker's first status")
            [row] = listed()
            assert (row["groups"], row["status"]["only"], row["status"]["threads"]) == (["default"], [], 8)
    datastore.dispose()


@contextlib.contextmanager
def scheduling(machine: Lab) -> Iterator[None]:
    """``lastacross scheduler`` of a lab."""
    arguments = python("-m", "lastacross", "--app", str(machine.root), "scheduler")
    with started(arguments, machine.root, machine.environ) as running:
        running.wait_for_text("scheduler.start")
        yield


def test_a_client_can_list_workers_of_an_earlier_release(command: Command, opened: Store) -> None:
    """Its registration says neither what it serves nor how many threads it has."""
    opened.redis.delete("rq:worker:lastacross-here-1-aaaa")
    given = {"state": "busy", "hostname": "there", "pid": "7", "queues": "default", "last_heartbeat": BEAT}
    opened.redis.hset("rq:worker:lastacross-here-1-aaaa", mapping=given)  # type: ignore[arg-type]

    code, out, _ = command("workers", "list")

    assert code == 0
    assert out.splitlines()[1].split() == [
        "there",
        "7",
        "busy",
        "default",
        "all",
        "-",
        "2026-11-30T12:00:00.000Z",
    ]
    assert isinstance(opened.redis, redis.Redis)
