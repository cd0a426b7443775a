"""How processes stop: what a worker's end costs, what SIGHUP does, and that Ctrl-C is silent at any time."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lastacross import datastore, taskqueue
from tests.conftest import SECRET_KEY
from tests.support import example_app, lab
from tests.support.lab import Lab, running_lab
from tests.support.processes import Started, is_alive, python, started, wait_until
from tests.support.redis_server import RedisServer, running_server
from tests.support.site import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# --- a worker's end ------------------------------------------------------------------------

# Python's own end needs 1.4 s of processor time for these objects, on a quiet machine.
LARGE = """
HEAP = [{"number": number, "text": str(number), "list": [number]} for number in range(1_000_000)]
"""

HOOKS = """
import atexit
import logging
import logging.handlers
import threading

FOLDER = os.path.dirname(__file__)
UNFLUSHED = open(os.path.join(FOLDER, "unflushed.txt"), "w")
UNFLUSHED.write("written")
HIDDEN = [open(os.path.join(FOLDER, "hidden.txt"), "w")]
HIDDEN[0].write("written")
KEPT = logging.handlers.MemoryHandler(1000, target=logging.FileHandler(os.path.join(FOLDER, "kept.log")))
logging.getLogger("shop").addHandler(KEPT)
logging.getLogger("shop").warning("kept until the end")


def write(name, text):
    with open(os.path.join(FOLDER, name), "w") as file:
        file.write(text)


def linger():
    threading.main_thread().join()
    write("thread.txt", "ended")


threading.Thread(target=linger).start()
atexit.register(lambda: write("atexit.txt", str(time.process_time())))
"""


def _application(extra: str) -> Mapping[str, str]:
    first = "\n\ndef note("
    return {"main.py": lab.FILES["main.py"].replace(first, f"\n{extra}{first}", 1)}


@contextlib.contextmanager
def _working(made: Lab) -> Iterator[Started]:
    """One worker process without a supervisor that has run some tasks."""
    arguments = python("-m", "lastacross", "--app", str(made.root), "worker-process", "--threads", "4")
    for _ in range(5):
        taskqueue.Queue("default").add([taskqueue.Task(url="/work") for _ in range(100)])
    with started(arguments, made.root, made.environ) as running:
        made.wait_for(500, "/work", 120)
        yield running


def test_a_drained_workers_process_ends_at_once_however_large_its_heap() -> None:
    with running_lab(files=_application(HOOKS + LARGE)) as made, _working(made) as running:
        before = _cpu_of_ended_children()
        running.send(signal.SIGTERM)
        assert running.wait() == 0

        # This process measured its time in the last hook before its end, just after `worker.stop`.
        seconds = _cpu_of_ended_children() - before - float((made.root / "atexit.txt").read_text())
        assert "worker.stop" in running.text()

    print(f"measured end of a worker process with 500 MB: {seconds:.2f} s of processor time (promised: 0.3)")
    assert seconds < 3 * 0.3


def test_the_end_runs_hooks_waits_for_threads_and_flushes_logs_and_files() -> None:
    with running_lab(files=_application(HOOKS)) as made, _working(made) as running:
        running.send(signal.SIGTERM)
        assert running.wait() == 0

        found = {path.name: path.read_text() for path in made.root.glob("*.txt")}
        kept = (made.root / "kept.log").read_text()
        assert "Traceback" not in running.text()

    assert float(found.pop("atexit.txt")) > 0
    assert {name: text for name, text in found.items() if not name.startswith("output-")} == {
        "unflushed.txt": "written",
        "hidden.txt": "written",
        "thread.txt": "ended",
    }
    assert kept == "kept until the end\n"


def test_a_profiler_gets_its_results() -> None:
    """A program that runs ours expects to go on afterwards."""
    line = python("-m", "cProfile", "-m", "lastacross", "--version")

    ran = subprocess.run(line, capture_output=True, text=True, timeout=120)

    assert "lastacross, version" in ran.stdout
    assert "function calls" in ran.stdout


def _cpu_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- SIGHUP --------------------------------------------------------------------------------

Start = Callable[..., Started]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with running_server() as running:
        yield running


@pytest.fixture
def environ(server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a set-up's processes, with a migrated database."""
    root = example_app.write(tmp_path / "shop")
    url = f"sqlite:///{tmp_path}/shop.db"
    datastore.upgrade(url, root)
    datastore.dispose()
    main = (root / "main.py").read_text()
    sleep = "        __import__('time').sleep(float(self.request.get('s') or 0))\n"
    (root / "main.py").write_text(main.replace("        words =", f"{sleep}        words ="))
    return {
        "LASTACROSS_APP": str(root),
        "REDIS_URL": server.url,
        "DATABASE_URL": url,
        "SECRET_KEY": SECRET_KEY,
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
    }


@pytest.fixture
def start(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts commands with this environment, as from a terminal, even if the tests are run by nohup."""
    with contextlib.ExitStack() as stack:

        def start_one(*line: str) -> Started:
            inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
            try:
                return stack.enter_context(started(python(*line), tmp_path, environ))
            finally:
                signal.signal(signal.SIGHUP, inherited)

        yield start_one


STARTED = {"worker": "worker.start", "scheduler": "scheduler.start", "dev": "Ctrl-C stops everything."}


@pytest.mark.parametrize("command", STARTED)
def test_a_closed_terminal_drains(start: Start, command: str) -> None:
    running = start("-m", "lastacross", command)
    running.wait_for_text(STARTED[command])
    if command == "dev":
        running.wait_for_text("worker.start")

    os.killpg(running.pid, signal.SIGHUP)

    assert running.wait() == 0, running.text()
    assert running.others() == []
    assert "Traceback" not in running.text()
    assert ("worker.stop" in running.text()) == (command != "scheduler")


def test_a_closed_terminal_lets_web_finish_its_requests(start: Start, environ: Mapping[str, str]) -> None:
    web = start("-m", "lastacross", "web")
    wait_until(lambda: _answers(environ))
    url = f"http://127.0.0.1:{environ['PORT']}/?s=1"
    asking = subprocess.Popen(
        python("-c", f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=60).read())"),
        stdout=subprocess.PIPE,
    )
    wait_until(lambda: _is_connected(int(environ["PORT"])), 60)

    os.killpg(web.pid, signal.SIGHUP)

    answered, _ = asking.communicate(timeout=60)
    assert b"hello" in answered
    assert web.wait() == 0
    assert web.others() == []
    assert "Traceback" not in web.text()


@pytest.mark.parametrize("command", ["worker", "scheduler", "web"])
def test_started_by_nohup_it_survives_its_terminal(
    start: Start, environ: Mapping[str, str], command: str
) -> None:
    ignoring = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    line = python("-m", "lastacross", command)
    running = start("-c", f"{ignoring}; os.execv(sys.executable, {line})")
    if command == "web":
        wait_until(lambda: _answers(environ))
    else:
        running.wait_for_text(STARTED[command])

    for pid in [running.pid, *running.others()]:
        os.kill(pid, signal.SIGHUP)

    # The signals arrive in the order in which they were sent only if the first one was ignored.
    pids = [running.pid, *running.others()]
    assert all(_ignores_hangups(pid) for pid in pids if is_alive(pid))
    assert running.process.poll() is None
    running.send(signal.SIGTERM)
    assert running.wait() == 0


def _ignores_hangups(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) & 1 << (signal.SIGHUP - 1))


def _answers(environ: Mapping[str, str]) -> bool:
    url = f"http://127.0.0.1:{environ['PORT']}/_ah/health"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=20) as answer:
        return bool(answer.status == 200)
    return False


def _is_connected(port: int) -> bool:
    """Whether the kernel has an established connection to this port."""
    end = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(end) and line.split()[3] == "01" for line in lines)


# --- Ctrl-C during the start -----------------------------------------------------------------

# The moments by processor time, because a busy machine needs many times longer.
SHORT = (0.05, 0.2, 0.6)
MOMENTS = {
    "dev": (0.05, 0.7),
    "web": (0.3, 1.2),
    "worker": (0.05, 1.2),
    "scheduler": (0.3, 0.7),
    **dict.fromkeys(("queues list", "config check", "db upgrade"), SHORT),
}
PROCESSES = ("dev", "web", "worker", "scheduler")
ALL_MOMENTS = (0.05, 0.3, 0.7, 1.2, 2.0)


@pytest.fixture
def heard_ctrl_c() -> Iterator[None]:
    """Hear Ctrl-C, so that started programs do; a process in the background ignores it, and so do they."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_ctrl_c")
@pytest.mark.parametrize(
    ("command", "moments"),
    [
        *MOMENTS.items(),
        *(pytest.param(command, ALL_MOMENTS, marks=pytest.mark.long) for command in PROCESSES),
    ],
)
def test_ctrl_c_during_the_start_prints_no_traceback(
    environ: Mapping[str, str], tmp_path: Path, command: str, moments: tuple[float, ...]
) -> None:
    """Each moment is given in seconds of processor time after a bare interpreter's start."""
    bare = _bare_start()
    for seconds in moments:
        with started(python("-m", "lastacross", *command.split()), tmp_path, environ) as running:
            _wait_for_cpu(running, bare + seconds)
            # The terminal sends it to all processes of the command.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGINT)

            code = running.wait()

            assert "Traceback" not in running.text(), (seconds, running.text())
            assert "KeyboardInterrupt" not in running.text(), (seconds, running.text())
            # 130 during the start, 0 for what drains or was ready.
            assert code == 130 or (code == 0 and seconds > SHORT[0]), (seconds, code, running.text())
            assert running.others() == []


def _bare_start() -> float:
    """What Python itself needs before the first line of a program; nobody can change that."""
    line = [sys.executable, "-c", "import runpy, time; print(time.process_time())"]
    return max(float(subprocess.run(line, capture_output=True, check=True).stdout) for _ in range(2))


def _wait_for_cpu(running: Started, seconds: float) -> None:
    """Wait until the process has used this much processor time, or has ended, or has nothing more to do."""
    most, since = -1.0, time.monotonic()
    while running.process.poll() is None and most < seconds and time.monotonic() - since < 3:
        used = _cpu(running.pid)
        if used > most:
            most, since = used, time.monotonic()
        time.sleep(0.002)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
