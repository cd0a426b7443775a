"""Services in real processes: how they start, what they do when told to stop, who starts them again."""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from rq import command

from lastacross import cli, config, logs, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.processes import workers
from tests.conftest import SECRET_KEY
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import Started, is_alive, kill, python, started, wait_until
from tests.support.site import free_port

slow = pytest.mark.slow
# As `lastacross web` starts them when nothing is said.
WEB_PROCESSES = 2
pytestmark = pytest.mark.timeout(180)

MAIN = '''\
"""Notes what happens to it; HOOK and START say how its hook and its start handler behave."""

import json
import os
import time
from pathlib import Path

from lastacross import runtime

FILE = os.environ["NOTES"]
NOTES = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
GO = Path(FILE + ".go")


def note(what, path="", task=""):
    seen = {"what": what, "path": path, "task": task, "pid": os.getpid(), "at": time.time()}
    seen["service"] = os.environ.get("LASTACROSS_SERVICE")
    seen["is_isolated"] = "single-task" in Path("/proc/self/cmdline").read_text()
    seen["is_shutting_down"] = runtime.is_shutting_down()
    os.write(NOTES, json.dumps(seen).encode() + b"\\n")


def wait_for_go():
    while not GO.exists():
        time.sleep(0.01)


def hook():
    note("hook")
    behaviour = os.environ.get("HOOK")
    if behaviour == "raises":
        raise ValueError("a broken hook")
    if behaviour == "hangs":
        time.sleep(600)
    if behaviour == "waits":
        wait_for_go()
    note("hook-end")


runtime.set_shutdown_hook(hook)
if "NOTE_HOOK" in os.environ:
    note("hook-set")


def start():
    note("start")
    behaviours = os.environ.get("START", "200").split(",")
    number = Path(FILE).read_text().count('"what": "start"')
    behaviour = behaviours[min(number, len(behaviours)) - 1]
    if behaviour == "waits":
        wait_for_go()
        behaviour = "200"
    note("started", behaviour)
    return behaviour


def app(environ, start_response):
    path = environ["PATH_INFO"]
    status = "200"
    if path == "/_ah/start":
        status = start()
    elif path == "/_ah/stop":
        note("stop")
    else:
        task = environ.get("HTTP_X_APPENGINE_TASKNAME", "")
        note("begin", path, task)
        if path == "/until-told":
            while not runtime.is_shutting_down():
                time.sleep(0.01)
            note("told", path, task)
        elif path == "/until-go":
            wait_for_go()
        note("end", path, task)
    start_response(f"{status} -", [("Content-Type", "text/plain")])
    return [b""]
'''
BACKENDS = """\
backends:
- name: counter
  instances: 1
  max_concurrent_requests: 4
- name: asleep
  state: STOP
"""


class Services(Lab):
    """A lab whose application has two backends, `counter` and `asleep`."""

    @contextlib.contextmanager
    def serving(self, *arguments: str, **environ: str) -> Iterator[Started]:
        """``lastacross worker`` with these arguments."""
        line = python("-m", "lastacross", "--app", str(self.root), "worker", *arguments)
        with started(line, self.root, {**self.environ, **environ}) as running:
            yield running

    def go(self) -> None:
        """Let those go on that wait for it."""
        Path(f"{self.notes_file}.go").touch()

    def of(self, what: str) -> list[dict[str, Any]]:
        """The notes of this kind."""
        return [note for note in self.notes() if note["what"] == what]

    def wait_for_notes(self, what: str, count: int = 1) -> list[dict[str, Any]]:
        """The notes of this kind, once there are so many."""
        wait_until(lambda: len(self.of(what)) >= count, 60, f"{count} notes of {what}")
        return self.of(what)

    def leased(self) -> int:
        """How many tasks of the default queue are leased."""
        return int(self.store.redis.zcard(store.leased_key("default")))

    def is_done(self, name: str) -> bool:
        """Whether a task of the default queue is gone."""
        return not self.record(f"default_{name}")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The application and its backends, on a Redis of their own."""
    with running_lab() as lab:
        (lab.root / "main.py").write_text(MAIN)
        (lab.root / "backends.yaml").write_text(BACKENDS)
        lab.__class__ = Services
        assert isinstance(lab, Services)
        configuration = config.load(lab.root, lab.environ)
        config.use(configuration)
        # As `web` does when it starts: which services there are is known from then on.
        queue_directory.upload_if_changed(lab.store, configuration)
        yield lab


def events(running: Started, name: str) -> list[dict[str, Any]]:
    """The lines of its log that tell of this event."""
    lines = [line for line in running.text().splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if line["event"] == name]


def add(url: str, name: str, service: str | None = "counter") -> None:
    """A task for a service."""
    taskqueue.add(url=url, name=name, target=service)


def stop(running: Started, seconds: float = 40.0) -> None:
    """End it as SIGTERM does; nobody may have been killed, and nobody is left."""
    running.send(signal.SIGTERM)
    assert running.wait(seconds) == 0, running.text()
    assert running.others() == []
    assert events(running, "process.kill") == []


# --- the beginning ------------------------------------------------------------------------


@slow
def test_no_task_of_a_service_begins_before_its_process_has_started(services: Services) -> None:
    with services.serving("--service", "counter", START="waits") as running:
        services.wait_for_notes("start")
        add("/work", "early")
        time.sleep(0.5)
        assert services.of("begin") == []
        assert services.leased() == 0

        services.go()

        wait_until(lambda: services.is_done("early"))
        stop(running)
    kinds = [note["what"] for note in services.notes()]
    assert kinds[:4] == ["start", "started", "begin", "end"]
    assert {note["service"] for note in services.notes()} == {"counter"}


@slow
def test_a_start_handler_that_fails_twice_is_asked_until_it_succeeds(services: Services) -> None:
    with services.serving("--service", "counter", START="500,503,waits") as running:
        services.wait_for_notes("start", 3)
        add("/work", "patient")
        services.go()
        wait_until(lambda: services.is_done("patient"), 60)
        failures = events(running, "service.start_failed")
        stop(running)

    assert [note["path"] for note in services.of("started")] == ["500", "503", "200"]
    assert [(line["answer"], line["pause_seconds"]) for line in failures] == [(500, 0.1), (503, 0.2)]
    assert services.of("begin")[0]["at"] > services.of("started")[2]["at"]


@slow
def test_every_process_of_a_service_is_started(services: Services) -> None:
    with services.serving("--service", "elsewhere", "--processes", "2") as running:
        found = services.wait_for_notes("started", 2)
        wait_until(lambda: len(events(running, "worker.start")) == 2)
        assert {note["pid"] for note in found} == set(worker_pids(running))
        stop(running)


@slow
@pytest.mark.parametrize("arguments", [(), ("--service", "default")])
def test_the_default_service_is_not_asked_and_its_hook_is_called(
    services: Services, arguments: tuple[str, ...]
) -> None:
    with services.serving(*arguments, "--processes", "1") as running:
        add("/work", "plain", None)
        wait_until(lambda: services.is_done("plain"), 60)
        stop(running)

    assert [note["what"] for note in services.notes()] == ["begin", "end", "hook", "hook-end"]


@slow
def test_a_process_told_to_stop_while_it_starts_calls_its_hook_and_ends(services: Services) -> None:
    with services.serving("--service", "counter", START="waits", LASTACROSS_DEV="1") as running:
        services.wait_for_notes("start")

        stop(running, 20)

    assert len(services.of("hook")) == 1
    assert services.of("begin") == []


# --- the end ------------------------------------------------------------------------------


@slow
def test_the_hook_runs_while_its_tasks_are_leased_and_running_ones_can_end_early(services: Services) -> None:
    lease = {"LASTACROSS_LEASE_SECONDS": "1"}
    with services.serving("--service", "counter", HOOK="waits", **lease) as running:
        add("/until-told", "polite")
        add("/until-go", "long")
        services.wait_for_notes("begin", 2)

        running.send(signal.SIGTERM)

        services.wait_for_notes("hook")
        wait_until(lambda: services.is_done("polite"))
        # Three times a lease: it is renewed while the hook runs.
        time.sleep(3)
        assert services.leased() == 1
        assert services.record("default_long")
        services.go()
        assert running.wait() == 0, running.text()
        assert running.others() == []
        hooks = events(running, "service.hook")
        assert events(running, "worker.drain")

    assert [note["is_shutting_down"] for note in services.of("told")] == [True]
    assert [note["is_shutting_down"] for note in services.of("begin")] == [False, False]
    for what in ("hook", "hook-end", "stop"):
        assert [note["is_shutting_down"] for note in services.of(what)] == [True]
    assert len(hooks) == 1
    assert services.is_done("long")
    assert len(services.of("begin")) == 2


@slow
def test_a_hook_that_hangs_does_not_keep_its_process_beyond_the_grace(services: Services) -> None:
    # Under dev the grace is 5 s, not 25.
    with services.serving("--service", "counter", HOOK="hangs", LASTACROSS_DEV="1") as running:
        add("/until-told", "polite")
        services.wait_for_notes("begin")
        began_at = time.monotonic()

        stop(running)

        assert 4 < time.monotonic() - began_at < 15
        assert len(events(running, "service.stop_cut_off")) == 1
    assert services.is_done("polite")


@slow
def test_a_hook_that_raises_is_logged_and_harms_nothing(services: Services) -> None:
    with services.serving("--service", "counter", HOOK="raises") as running:
        add("/until-told", "polite")
        services.wait_for_notes("begin")

        stop(running)

        assert "a broken hook" in running.text()
        assert len(events(running, "service.hook_failed")) == 1
    assert services.is_done("polite")
    assert len(services.of("hook")) == 1


@slow
def test_the_hook_runs_when_the_supervisor_is_killed(services: Services) -> None:
    with services.serving("--service", "counter") as running:
        add("/until-told", "polite")
        services.wait_for_notes("begin")

        running.send(signal.SIGKILL)

        wait_until(lambda: running.others() == [], 40, "the process to end")
    assert services.is_done("polite")
    assert len(services.of("hook-end")) == 1


@slow
def test_the_hook_runs_at_the_shutdown_command_of_rq(services: Services) -> None:
    with services.serving("--service", "counter") as running:
        wait_until(lambda: len(events(running, "worker.start")) == 1, 60)
        [pid] = worker_pids(running)
        [name] = [worker.name for worker in rq.Worker.all(connection=services.store.redis)]

        command.send_shutdown_command(services.store.redis, name)

        wait_until(lambda: not is_alive(pid), 20)
        assert [note["pid"] for note in services.of("hook-end")] == [pid]
        services.wait_for_notes("started", 2)
        wait_until(lambda: len(events(running, "worker.start")) == 2, 60)
        stop(running)


# --- when something dies ------------------------------------------------------------------


@slow
def test_a_backend_that_is_killed_is_started_again_and_asked_to_start_again(services: Services) -> None:
    with services.serving("--service", "counter") as running:
        [first] = services.wait_for_notes("started")
        wait_until(lambda: len(events(running, "worker.start")) == 1, 60)

        kill(first["pid"])

        second = services.wait_for_notes("started", 2)[1]
        assert second["pid"] != first["pid"]
        add("/work", "after")
        wait_until(lambda: services.is_done("after"), 60)
        assert [line["process"] for line in events(running, "process.exit")] == ["counter-1"]
        stop(running)
    assert [note["pid"] for note in services.of("hook")] == [second["pid"]]


@slow
def test_a_suspect_runs_in_a_process_that_was_started_and_calls_the_hook_too(services: Services) -> None:
    """A task that runs for hours is a suspect once its process was killed: it must not lose its state."""
    with services.serving("--service", "counter") as running:
        add("/until-told", "long")
        [first] = services.wait_for_notes("begin")
        kill(first["pid"])
        second = services.wait_for_notes("begin", 2)[1]
        assert second["is_isolated"]
        assert second["pid"] in {note["pid"] for note in services.of("started")}

        stop(running)

        assert second["pid"] in {note["pid"] for note in services.of("hook-end")}
    [told] = services.of("told")
    assert (told["pid"], told["is_shutting_down"]) == (second["pid"], True)
    assert services.is_done("long")


# --- other processes ----------------------------------------------------------------------


@slow
def test_dev_starts_the_backends_that_are_to_be_started(services: Services) -> None:
    environ = {**services.environ, "PORT": str(free_port()), "LASTACROSS_LOG_LEVEL": "DEBUG"}
    environ["LASTACROSS_SERVICE"] = "counter"  # dev runs all services, whatever this says
    line = python("-m", "lastacross", "--app", str(services.root), "dev")
    with started(line, services.root, environ) as running:
        running.wait_for_text("Ctrl-C stops everything.")
        services.wait_for_notes("started")
        add("/work", "counted")
        add("/work", "plain", None)
        wait_until(lambda: services.is_done("counted") and services.is_done("plain"), 60)
        names = [line["process"] for line in events(running, "process.start")]
        stop(running)

    assert sorted(names) == [
        *("announcement", "counter-1", "preload", "scheduler", "watch", "web", "worker-1", "worker-2")
    ]
    assert {note["service"] for note in services.of("started")} == {"counter"}
    ran = {note["task"]: note["service"] for note in services.of("end")}
    assert ran == {"counted": "counter", "plain": "default"}


@contextlib.contextmanager
def web_server(services: Services, port: int, **more: str) -> Iterator[Started]:
    """``lastacross web``, once it answers and each of its processes has its hook."""
    environ = {**services.environ, "HOST": "127.0.0.1", "PORT": str(port), **more}
    engine = ("-m", "lastacross", "--app", str(services.root))
    with started(python(*engine, "db", "upgrade"), services.root, environ) as upgrade:
        assert upgrade.wait() == 0
    with started(python(*engine, "web"), services.root, {**environ, "NOTE_HOOK": "1"}) as running:
        services.wait_for_notes("hook-set", WEB_PROCESSES)
        wait_until(lambda: _answers(port), 60, "the web server")
        yield running


def assert_each_web_process_did(notes: list[dict[str, Any]]) -> None:
    """Once each."""
    pids = [note["pid"] for note in notes]
    assert len(pids) == len(set(pids)) == WEB_PROCESSES


@slow
def test_a_hook_that_hangs_does_not_keep_a_web_process_beyond_the_grace(services: Services) -> None:
    with web_server(services, free_port(), HOOK="hangs", LASTACROSS_DEV="1") as running:
        stop(running, 20)

        assert "Traceback" not in running.text()
    assert_each_web_process_did(services.of("hook"))


@slow
def test_the_hook_runs_in_web_processes_while_their_requests_do(services: Services) -> None:
    port = free_port()
    with web_server(services, port) as running:
        url = f"http://127.0.0.1:{port}/until-told"
        program = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=60).status)"
        with started([sys.executable, "-c", program], services.root) as client:
            services.wait_for_notes("begin")

            running.send(signal.SIGTERM)

            assert running.wait() == 0
            assert client.wait() == 0
            assert "200" in client.text()
    assert [note["is_shutting_down"] for note in services.of("told")] == [True]
    assert_each_web_process_did(services.of("hook-end"))


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_ah/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def asked(app_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What ``worker`` asks the supervisor for; nothing is started."""
    (app_root / "backends.yaml").write_text(BACKENDS)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.delenv("LASTACROSS_SERVICE", raising=False)
    monkeypatch.chdir(app_root)
    found: list[dict[str, Any]] = []

    def run(_config: config.Config, _environ: dict[str, str], **given: Any) -> int:
        found.append(given)
        return 0

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(logs, "configure", lambda settings: None)
    yield found
    config.use(None)
    assert "LASTACROSS_SERVICE" not in os.environ


def test_the_service_of_the_command_line_is_the_one_that_is_served(asked: list[dict[str, Any]]) -> None:
    arguments = ("worker", "--service", "counter", "--threads", "3", "--queues", "a, b")

    assert cli.run(arguments) == 0

    [options] = asked
    assert callable(options.pop("run_command"))
    assert [options.pop(name) for name in ("max_tasks", "max_memory_mb", "health_at")] == [None] * 3
    assert options == {"service": "counter", "processes": None, "threads": 3, "queues": ["a", "b"]}


@pytest.mark.parametrize("name", ["countr", "Counter", "counters"])
def test_a_name_that_looks_misspelt_is_remarked_on(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code = cli.run(("worker", "--service", name))

    error = capsys.readouterr().err
    assert "Did you mean 'counter'?" in error
    # Only what cannot be a name is refused: anything else may be meant.
    assert code == (2 if name == "Counter" else 0)
    assert len(asked) == (0 if name == "Counter" else 1)


@pytest.mark.parametrize("name", ["counter", "default", "asleep", "something-else"])
def test_other_names_are_served_without_a_word(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert cli.run(("worker", "--service", name)) == 0

    assert capsys.readouterr().err == ""
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["", "-counter", "v1.counter", "a_b", "x" * 101, "count er"])
def test_what_cannot_be_the_name_of_a_service_is_refused(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert cli.run(("worker", "--service", name)) == 2

    assert "lowercase letters, digits or hyphens" in capsys.readouterr().err
    assert asked == []
