"""The isolated process: a suspect runs there, and kills nobody else."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross.worker.isolation import Crashed, IsolatedProcess, IsolatedProcesses
from tests.conftest import SECRET_KEY
from tests.support.leased import leased
from tests.support.processes import ROOT, is_alive, wait_until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.slow

MAIN = """\
import os
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
    made = IsolatedProcess(root)
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
    isolated = IsolatedProcess(root)
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
        "from lastacross.worker.isolation import IsolatedProcess\n"
        "from tests.support.leased import leased\n"
        "IsolatedProcess(pathlib.Path('.').absolute()).deliver(leased(url='/slow'))\n"
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
