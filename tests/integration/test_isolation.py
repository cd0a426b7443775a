"""The isolated process: a suspect runs there, and kills nobody else."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross.worker import isolation
from lastacross.worker.isolation import Crashed, Interpreter, IsolatedProcess, IsolatedProcesses
from tests.conftest import SECRET_KEY
from tests.support.clock import StoppedClock
from tests.support.leased import leased
from tests.support.processes import ROOT, is_alive, wait_until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.slow

MAIN = """\
import os
import re
import signal
import subprocess
import sys
import time


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/leave":
        os._exit(3)
    elif path == "/print":
        print("[200, \\"forged\\"]")
        os.write(1, b"noise without a line end")
        os.system("cat; echo more noise")
    elif path == "/child":
        child = subprocess.Popen(["sleep", "600"])
        open("child.pid", "w").write(str(child.pid))
        os._exit(4)
    elif path == "/endless":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif path == "/slow":
        open("slow.pid", "w").write(str(os.getpid()))
        time.sleep(600)
    body = environ["wsgi.input"].read()
    start_response("200 OK" if path != "/fail" else "503 No", [])
    return [str(os.getpid()).encode() + b" " + body[:10]]
"""


@pytest.fixture
def root(app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An application whose handlers end their process in several ways."""
    (app_root / "main.py").write_text(MAIN)
    for name, value in {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{app_root}/test.db",
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(app_root / "var"),
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(app_root)
    return app_root


@pytest.fixture
def isolated(root: Path) -> Iterator[IsolatedProcess]:
    """The process beside a worker."""
    made = IsolatedProcess(lambda: Interpreter(root), is_reused=True)
    yield made
    made.close()


def pid_of(isolated: IsolatedProcess) -> int:
    """The process of a task that fails with its pid as the answer."""
    outcome = isolated.deliver(leased(url="/fail", payload=b"why"))
    assert outcome.status == 503
    return int(outcome.reason.removeprefix("answered 503: ").split()[0])


def test_an_innocent_suspect_simply_succeeds(isolated: IsolatedProcess) -> None:
    outcome = isolated.deliver(leased(url="/work", payload=bytes(range(256)) * 390))
    assert outcome.is_success
    assert not isinstance(outcome, Crashed)


def test_the_process_is_kept_for_the_next_one(isolated: IsolatedProcess) -> None:
    assert pid_of(isolated) == pid_of(isolated)


@pytest.mark.parametrize(("url", "code"), [("/kill", -9), ("/leave", 3)])
def test_a_crash_is_told_and_the_next_task_has_a_new_process(
    isolated: IsolatedProcess, url: str, code: int
) -> None:
    before = pid_of(isolated)
    outcome = isolated.deliver(leased(url=url))
    assert isinstance(outcome, Crashed)
    assert outcome.status is None
    assert outcome.reason == f"its process ended with code {code}"
    assert pid_of(isolated) != before


def test_what_a_handler_prints_or_reads_does_not_mix_with_the_answers(isolated: IsolatedProcess) -> None:
    assert isolated.deliver(leased(url="/print")).status == 200
    assert isolated.deliver(leased(url="/fail")).status == 503


def test_what_a_crashed_task_had_started_is_swept_up(isolated: IsolatedProcess, root: Path) -> None:
    assert isinstance(isolated.deliver(leased(url="/child")), Crashed)
    child = int((root / "child.pid").read_text())
    wait_until(lambda: not is_alive(child))


def test_a_process_that_never_gets_ready_is_not_held_against_the_task(root: Path) -> None:
    (root / "main.py").write_text("raise SystemExit(7)")
    isolated = IsolatedProcess(lambda: Interpreter(root), is_reused=True)
    outcome = isolated.deliver(leased(url="/work"))
    assert not isinstance(outcome, Crashed)
    assert not outcome.is_success
    assert outcome.status is None
    assert "before it was ready" in outcome.reason
    isolated.close()


def test_closing_cuts_off_what_runs(isolated: IsolatedProcess, root: Path) -> None:
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(isolated.deliver(leased(url="/slow"))))
    thread.start()
    wait_until(lambda: (root / "slow.pid").exists() and (root / "slow.pid").read_text())
    isolated.close()
    thread.join(20)
    assert [type(outcome) for outcome in outcomes] == [Crashed]
    assert not is_alive(int((root / "slow.pid").read_text()))


def test_it_ends_with_its_worker_even_in_the_middle_of_a_task(root: Path) -> None:
    program = (
        "import pathlib\n"
        "from lastacross.worker.isolation import IsolatedProcesses\n"
        "from tests.support.leased import leased\n"
        "IsolatedProcesses(pathlib.Path('.').absolute()).deliver(leased(url='/slow'))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: (root / "slow.pid").exists() and (root / "slow.pid").read_text(), 40)
    isolated = int((root / "slow.pid").read_text())
    assert is_alive(isolated)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not is_alive(isolated), 30, "the isolated process to end")


def test_suspects_that_run_at_once_have_a_process_each_and_later_ones_share_them(root: Path) -> None:
    isolated = IsolatedProcesses(root)
    answers = []
    try:
        slow = threading.Thread(target=lambda: isolated.deliver(leased(url="/slow")))
        slow.start()
        wait_until((root / "slow.pid").exists)
        answers = [isolated.deliver(leased(url="/fail")).reason for _ in range(2)]
    finally:
        isolated.close()
    slow.join(timeout=20)
    assert len(set(answers)) == 1
    assert (root / "slow.pid").read_text() not in answers[0]


def test_an_interpreter_that_was_killed_while_idle_is_not_held_against_the_next_task(
    isolated: IsolatedProcess,
) -> None:
    before = pid_of(isolated)
    os.kill(before, signal.SIGKILL)
    # Its main thread may be dead while another one still holds the connection.
    interpreter = isolated._child
    assert isinstance(interpreter, Interpreter)
    wait_until(lambda: interpreter._process.poll() is not None)
    assert pid_of(isolated) != before


def test_an_interpreter_is_kept_for_a_while_and_then_ended(root: Path) -> None:
    clock = StoppedClock()
    isolated = IsolatedProcesses(root, clock=clock)
    outcome = isolated.deliver(leased(url="/fail"))
    pid = int(outcome.reason.removeprefix("answered 503: ").split()[0])
    isolated.end_idle()
    assert is_alive(pid)
    clock.advance(isolation.IDLE_SECONDS)
    isolated.end_idle()
    wait_until(lambda: not is_alive(pid))


# --- forked processes ---------------------------------------------------------------------

FORKS = """\
import os, pathlib, signal, sys, threading, time
from lastacross import config, logs
from lastacross.processes import worker
from lastacross.worker import isolation
from tests.support.leased import leased

isolation.GRACE_SECONDS = 0.5
configuration = config.load(pathlib.Path("."), os.environ)
logs.configure(configuration.settings)
app, forks = worker._load(configuration, lambda: None)
isolated = isolation.IsolatedProcesses(configuration.root, forks and forks.fork, threads=8)

def deliver(url, **fields):
    return isolated.deliver(leased(url=url, **fields))

"""


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """What a worker process with a fork server prints."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS + textwrap.dedent(program)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done


def test_each_task_has_a_forked_process_of_its_own_which_ends_with_it(root: Path) -> None:
    printed = run(
        """
        began_at = time.monotonic()
        pids = [int(deliver("/fail").reason.removeprefix("answered 503: ").split()[0]) for _ in range(20)]
        print(len(set(pids)), os.getpid() in pids, time.monotonic() - began_at < 6)
        print([pid for pid in pids if os.path.exists(f"/proc/{pid}")])
        print(deliver("/work", payload=bytes(range(256)) * 390).status)
        """
    )
    assert printed.stdout.splitlines() == ["20 False True", "[]", "200"]


@pytest.mark.parametrize(("url", "code"), [("/kill", -9), ("/leave", 3)])
def test_a_crash_of_a_forked_process_is_told(root: Path, url: str, code: int) -> None:
    printed = run(
        f"""
        outcome = deliver({url!r})
        print(type(outcome).__name__, outcome.reason)
        print(deliver("/work").status)
        """
    )
    assert printed.stdout.splitlines() == [f"Crashed its process ended with code {code}", "200"]


def test_a_task_that_never_lets_go_of_the_interpreter_is_killed_after_its_deadline(root: Path) -> None:
    printed = run(
        """
        isolated = isolation.IsolatedProcesses(configuration.root, forks.fork, deadline_seconds=0.5)
        outcome = deliver("/endless")
        print(type(outcome).__name__, outcome.status, outcome.reason)
        print(deliver("/work").status)
        """
    )
    assert printed.stdout.splitlines() == ["Stuck 500 did not end 0.5 s after its deadline", "200"]
    assert printed.stderr.count("task.stuck") == 1


def test_what_a_forked_process_had_started_is_swept_up_and_its_output_is_not_an_answer(root: Path) -> None:
    printed = run(
        """
        print(type(deliver("/child")).__name__, deliver("/print").status)
        """
    )
    assert printed.stdout == "Crashed 200\n"
    wait_until(lambda: not is_alive(int((root / "child.pid").read_text())))


@pytest.mark.parametrize("how", ["close", "kill"])
def test_forked_processes_end_with_their_worker(root: Path, how: str) -> None:
    end = "isolated.close(); forks.close()" if how == "close" else "os.kill(os.getpid(), signal.SIGKILL)"
    program = textwrap.dedent(
        f"""
        threading.Thread(target=deliver, args=("/slow",), daemon=True).start()
        while not os.path.exists("slow.pid") or not open("slow.pid").read():
            time.sleep(0.01)
        {end}
        """
    )
    subprocess.run([sys.executable, "-c", FORKS + program], timeout=100)
    wait_until(lambda: not is_alive(int((root / "slow.pid").read_text())))


def test_eight_at_once_run_side_by_side(root: Path) -> None:
    (root / "main.py").write_text(
        "import time\n\n\ndef app(environ, start_response):\n"
        "    time.sleep(1)\n    start_response('200 OK', [])\n    return [b'']\n"
    )
    printed = run(
        """
        began_at = time.monotonic()
        threads = [threading.Thread(target=deliver, args=("/",)) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(time.monotonic() - began_at < 6)
        """
    )
    assert printed.stdout == "True\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import threading; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "Thread-"),
        ("import socket; s = socket.create_connection(('127.0.0.1', {port}))", "('127.0.0.1', {port})"),
    ],
)
def test_an_application_with_a_thread_or_a_connection_is_not_forked(
    root: Path, redis_server: RedisServer, line: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (root / "main.py").write_text(MAIN + line.format(port=port) + "\n")
        printed = run("print(forks, deliver('/work').status); isolated.close()")
    assert printed.stdout == "None 200\n"
    assert "fork_server.off" in printed.stderr
    assert reason.format(port=port) in printed.stderr


def test_preloading_can_be_turned_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTACROSS_PRELOAD", "0")
    assert run("print(forks)").stdout == "None\n"
