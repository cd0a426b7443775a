"""Processes that are forked from one that has imported the application, and those that cannot be."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis

from lastacross import datastore
from tests.conftest import SECRET_KEY
from tests.support import example_app
from tests.support.processes import ROOT, Started, kill, python, started, wait_until
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., Started]

IMPORTS_A_THREAD = """
import threading

def poll():
    threading.Event().wait()

threading.Thread(target=poll, name="poller", daemon=True).start()
"""
IMPORTS_A_CONNECTION = """
import os
import redis

connection = redis.Redis.from_url(os.environ["REDIS_URL"])
connection.ping()
"""
IMPORTS_A_FILE = """
import sqlite3

kept = sqlite3.connect(__file__ + ".db")
kept.execute("create table if not exists a (b)")
"""
COUNTS_FORKS = """
import os

def note_fork(where):
    with open(os.path.join(os.environ["LASTACROSS_APP"], "forks"), "a") as file:
        file.write(where)

os.register_at_fork(after_in_child=lambda: note_fork("c"), after_in_parent=lambda: note_fork("p"))
"""


@pytest.fixture
def environ(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """What every process of a set-up is given."""
    app = example_app.write(tmp_path / "shop")
    environ = {
        "LASTACROSS_APP": str(app),
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "SECRET_KEY": SECRET_KEY,
    }
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    datastore.upgrade(environ["DATABASE_URL"], app)
    datastore.dispose()
    return environ


@pytest.fixture
def main(environ: Mapping[str, str]) -> Path:
    """The application's module."""
    return Path(environ["LASTACROSS_APP"], "main.py")


@pytest.fixture
def start(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a worker's supervisor; all of its processes are ended after the test."""
    with contextlib.ExitStack() as stack:

        def begin(**settings: str) -> Started:
            command = python("-m", "lastacross", "worker", "--processes", "2", "--threads", "2")
            return stack.enter_context(started(command, tmp_path, {**environ, **settings}))

        yield begin


def children(running: Started, command: str) -> list[int]:
    """The supervisor's own children with this in their command line."""
    found = []
    for pid in running.others():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if command.encode() in words and int(parent) == running.pid:
                found.append(pid)
    return sorted(found)


def is_forked(pid: int) -> bool:
    """Whether a process was forked: its command line is not below its stack, where an exec puts it."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    start_stack, arg_start = int(stat[28 - 3]), int(stat[48 - 3])
    return arg_start < start_stack


def wait_for_workers(running: Started) -> list[int]:
    """The pids of both workers, once they have begun."""
    wait_until(lambda: running.text().count('"worker.start"') >= 2, what="two workers")
    return children(running, "worker-process")


def events(running: Started, name: str) -> list[dict[str, object]]:
    """The lines of the log with this event."""
    lines = [line for line in running.text().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["event"] == name]


@pytest.mark.parametrize("number", [40, pytest.param(300, marks=pytest.mark.long)])
def test_forked_processes_answer_their_first_request(
    environ: Mapping[str, str], main: Path, number: int
) -> None:
    """A lock that something holds during a fork is taken in the child for ever."""
    main.write_text(COUNTS_FORKS + main.read_text())
    command = python("-m", "tests.support.preloading", environ["LASTACROSS_APP"], str(number))

    printed = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=280
    )

    assert json.loads(printed.stdout or printed.stderr) == [0] * number
    forks = Path(environ["LASTACROSS_APP"], "forks").read_text()
    # The application's hooks run once for each child, and for no process in between.
    assert (forks.count("c"), forks.count("p")) == (number, number)


def test_workers_are_forked_and_a_killed_one_is_back_at_once(
    start: Start, environ: Mapping[str, str]
) -> None:
    running = start()
    first, second = wait_for_workers(running)
    assert is_forked(first)
    assert is_forked(second)
    began = running.text().count('"worker.start"')
    killed_at = time.monotonic()

    kill(first)

    wait_until(lambda: running.text().count('"worker.start"') > began)
    # It takes 0.3 s on an idle machine, and 3 s as a program.
    assert time.monotonic() - killed_at < 3.0
    [other, new] = sorted(set(children(running, "worker-process")), key=lambda pid: pid != second)
    assert other == second
    assert is_forked(new)
    [end] = events(running, "process.exit")
    assert (end["process"], end["pid"], end["code"]) == ("worker-1", first, -9)
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    assert running.others() == []
    assert "Traceback" not in running.text()


def test_the_death_of_the_preload_process_ends_nothing_and_it_comes_back(start: Start) -> None:
    running = start()
    workers = wait_for_workers(running)
    [preload] = children(running, "preload")

    kill(preload)

    wait_until(lambda: children(running, "preload") not in ([], [preload]), what="another preload process")
    assert children(running, "worker-process") == workers
    # Whether the next worker is forked or started as a program, it is back.
    kill(workers[0])
    wait_until(lambda: running.text().count('"worker.start"') == 3)


def test_a_supervisor_killed_outright_leaves_nothing(start: Start) -> None:
    running = start()
    wait_for_workers(running)

    running.send(signal.SIGKILL)

    wait_until(lambda: running.others() == [], seconds=20)


def test_a_supervisor_killed_during_the_import_leaves_nothing(start: Start, main: Path) -> None:
    main.write_text("print('importing', flush=True)\nimport threading\nthreading.Event().wait()\n")
    running = start()
    running.wait_for_text("importing")

    running.send(signal.SIGKILL)

    wait_until(lambda: running.others() == [], seconds=20)


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        (IMPORTS_A_THREAD, {"thread": "poller", "module": "main"}),
        (IMPORTS_A_CONNECTION, {"socket": ""}),
        (
            IMPORTS_A_FILE,
            {"file": "main.py.db"},
        ),
    ],
    ids=["thread", "connection", "file"],
)
def test_an_application_that_must_not_be_forked_is_imported_by_each_process(
    start: Start, main: Path, environ: Mapping[str, str], code: str, fields: Mapping[str, str]
) -> None:
    main.write_text(code + main.read_text())
    running = start()

    workers = wait_for_workers(running)

    assert [is_forked(pid) for pid in workers] == [False, False]
    [off] = events(running, "preload.off")
    assert [part in str(off[name]) for name, part in fields.items()] == [True] * len(fields)
    wait_until(lambda: children(running, "preload") == [])
    assert events(running, "process.exit") == []
    kill(workers[0])
    wait_until(lambda: running.text().count('"worker.start"') == 3)
    assert len(events(running, "preload.off")) == 1


def test_without_preloading_there_is_no_preload_process(start: Start) -> None:
    running = start(LASTACROSS_PRELOAD="0")

    workers = wait_for_workers(running)

    assert [is_forked(pid) for pid in workers] == [False, False]
    assert children(running, "preload") == []
    assert set(running.others()) == set(workers)


def test_an_application_that_cannot_be_imported_is_reported_by_its_processes_until_it_can(
    start: Start, main: Path
) -> None:
    text = main.read_text()
    main.write_text("import no_such_module\n")
    running = start()
    wait_until(lambda: len(events(running, "process.exit")) >= 4)

    main.write_text(text)

    wait_for_workers(running)
    ends = events(running, "process.exit")
    lines = running.text().count("`main` imports `no_such_module`, which is not installed")
    assert lines == len([end for end in ends if end["process"] != "preload"])
    assert {end["code"] for end in ends if end["process"] != "preload"} == {2}
    assert "Traceback" not in running.text()


def test_a_new_process_runs_the_code_that_is_there_now(start: Start, main: Path) -> None:
    main.write_text("print('this is the first', flush=True)\n" + main.read_text())
    running = start()
    workers = wait_for_workers(running)
    main.write_text(main.read_text().replace("the first", "another"))

    kill(workers[0])

    wait_until(lambda: running.text().count('"worker.start"') == 3)
    assert "this is another" in running.text()
    [reload] = events(running, "preload.reload")
    assert reload["changed"] == str(main)
    assert all(is_forked(pid) for pid in children(running, "worker-process"))


def test_orphans_of_workers_do_not_remain_as_zombies(start: Start, main: Path) -> None:
    """The supervisor is their parent now."""
    daemon = "import os\nif os.fork() == 0:\n    if os.fork() == 0:\n        os._exit(0)\n    os._exit(0)\n"
    main.write_text(
        f"import threading\nthreading.Timer(0.5, lambda: None).start()\n{daemon}" + main.read_text()
    )
    running = start()
    wait_for_workers(running)

    def zombies() -> list[str]:
        listed = subprocess.run(
            ["ps", "-o", "stat=", "--ppid", str(running.pid)], capture_output=True, text=True
        ).stdout
        return re.findall(r"Z", listed)

    wait_until(lambda: zombies() == [], seconds=20)


def test_nothing_of_the_engine_or_of_our_application_starts_a_thread_or_opens_anything_at_import(
    tmp_path: Path,
) -> None:
    code = """
import os, pathlib, pkgutil, importlib
from lastacross import config
from lastacross.processes import application, fork_safety
known = fork_safety.open_files()
import lastacross
for module in pkgutil.walk_packages(lastacross.__path__, "lastacross."):
    if "migrations" not in module.name and module.name != "lastacross.pytest_plugin":
        importlib.import_module(module.name)
configuration = config.load(pathlib.Path("."), os.environ)
application.load(configuration)
print(fork_safety.reason_against_forking(known))
"""
    environ = {**os.environ, "LASTACROSS_DEV": "1", "LASTACROSS_DATA_DIR": str(tmp_path / "var")}

    printed = subprocess.run(python("-c", code), cwd=ROOT, env=environ, capture_output=True, text=True)

    assert printed.stdout == "None\n", printed.stderr
