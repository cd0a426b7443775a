"""``--health-port`` and systemd's notifications: what an orchestrator learns of a worker and a scheduler."""

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import config
from lastacross.errors import ConfigError
from lastacross.processes import probes, scheduler, workers
from lastacross.processes.probes import Address, Notifier, Probes
from lastacross.store import Store
from lastacross.worker.started import StartedTable
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import python, started, wait_until
from tests.support.site import free_port

NOTHING = Notifier({})


def answer(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """The status and the body of a probe; (0, "") if nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        found = connection.getresponse()
        return found.status, found.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


class Systemd:
    """The socket on which systemd receives notifications."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def receive(self) -> str:
        """The next notification."""
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        """End it."""
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """A receiver of notifications."""
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


@contextlib.contextmanager
def answering(problems: dict[str, str | None]) -> Iterator[Probes]:
    """Probes with these problems, on a free port."""
    found = Probes(
        lambda: problems["health"],
        lambda: problems["readiness"],
        address=Address("127.0.0.1", free_port()),
        notifier=NOTHING,
    )
    found.start()
    yield found
    found.close()


def test_a_probe_answers_with_the_problem() -> None:
    problems: dict[str, str | None] = {"health": None, "readiness": "Redis is not available"}
    with answering(problems) as made:
        assert answer(made.port, "/healthz") == (200, "ok\n")
        assert answer(made.port, "/readyz?verbose") == (503, "Redis is not available\n")
        assert answer(made.port, "/healthz", "HEAD") == (200, "")
        assert answer(made.port, "/other") == (404, "not found\n")
        assert answer(made.port, "/healthz", "POST")[0] == 501
        problems["health"] = "its main loop has not turned for 41 s"
        assert answer(made.port, "/healthz") == answer(made.port, "/readyz")
        assert answer(made.port, "/healthz")[0] == 503


def test_a_process_that_stops_is_healthy_and_not_ready() -> None:
    with answering({"health": None, "readiness": None}) as made:
        assert answer(made.port, "/readyz")[0] == 200
        made.note_stop()
        assert answer(made.port, "/readyz") == (503, "is stopping\n")
        assert answer(made.port, "/healthz")[0] == 200


def test_a_check_that_raises_is_a_problem() -> None:
    made = Probes(lambda: str(1 / 0), lambda: None, address=None, notifier=NOTHING)
    assert made.problem_of("/healthz") == "ZeroDivisionError: division by zero"
    assert made.port == 0
    made.close()


def test_slow_clients_take_no_probe_from_others() -> None:
    with answering({"health": None, "readiness": None}) as made, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.port)))
        assert answer(made.port, "/healthz")[0] == 200


def test_a_port_in_use_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"--health-port {address.port} cannot be used"):
            Probes(lambda: None, lambda: None, address=address, notifier=NOTHING)


# --- systemd ------------------------------------------------------------------------------


def test_systemd_is_told_when_the_process_is_ready_lives_and_stops(systemd: Systemd) -> None:
    problems: dict[str, str | None] = {"health": None, "readiness": "starting"}
    notifier = Notifier({"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "100000"})
    made = Probes(lambda: problems["health"], lambda: problems["readiness"], address=None, notifier=notifier)
    made.start()
    assert [systemd.receive() for _ in range(2)] == ["WATCHDOG=1"] * 2
    problems["readiness"] = None
    wait_until(lambda: systemd.receive() == "READY=1", 60)

    made.note_stop()
    made.note_stop()

    wait_until(lambda: systemd.receive() == "STOPPING=1", 60)
    # A drain may take longer than the watchdog's time.
    assert [systemd.receive() for _ in range(2)] == ["WATCHDOG=1"] * 2
    problems["health"] = "its main loop has not turned for 41 s"


def test_an_unhealthy_process_does_not_pacify_the_watchdog(systemd: Systemd) -> None:
    problem: list[str | None] = ["its main loop has not turned for 41 s"]
    notifier = Notifier({"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "20000"})
    made = Probes(lambda: problem[0], lambda: None, address=None, notifier=notifier)
    made.start()
    time.sleep(0.1)
    notifier.send("MARK")
    assert systemd.receive() == "MARK"
    problem[0] = None
    assert systemd.receive() in ("READY=1", "WATCHDOG=1")
    problem[0] = "ended"
    made.note_stop()


def test_the_abstract_namespace_is_understood() -> None:
    name = f"lastacross-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1")
        assert receiver.recv(100) == b"READY=1"


def test_a_watchdog_of_another_process_and_a_lost_socket_do_no_harm(tmp_path: Path) -> None:
    environ = {"WATCHDOG_USEC": "1000000", "NOTIFY_SOCKET": str(tmp_path / "none")}
    assert Notifier({**environ, "WATCHDOG_PID": "1"}).watchdog_seconds == 0
    assert Notifier({**environ, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 1
    assert Notifier({**environ, "WATCHDOG_USEC": "soon"}).watchdog_seconds == 0
    Notifier(environ).send("READY=1")
    assert not Notifier({}).is_on


def test_child_processes_do_not_notify() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "REDIS_URL": "redis://x"}
    assert probes.without_systemd(environ) == {"REDIS_URL": "redis://x"}


# --- the checks ---------------------------------------------------------------------------


def test_workers_are_healthy_while_their_loops_turn(tmp_path: Path, test_store: Store) -> None:
    table = StartedTable(tmp_path / "worker-1", "token", 1)
    health = workers.Health([tmp_path / "worker-1", tmp_path / "worker-2"], test_store, lease_seconds=8)
    assert (health.problem(), health.unreadiness()) == (None, "worker-1, worker-2: not started")
    now = time.monotonic()
    table.beat(now)
    table.note_turn(now)
    StartedTable(tmp_path / "worker-2", "token", 1).note_turn(now)
    assert (health.problem(), health.unreadiness()) == (None, None)

    table.note_turn(now - 9)
    table.beat(now)

    assert str(health.problem()).startswith("worker-1: its main loop has not turned for 9 s")


def test_workers_without_redis_are_healthy_and_not_ready(tmp_path: Path) -> None:
    StartedTable(tmp_path / "worker-1", "token", 1).note_turn(time.monotonic())
    away = Store("redis://127.0.0.1:1", patience_seconds=1)
    health = workers.Health([tmp_path / "worker-1"], away, lease_seconds=8)
    assert health.problem() is None
    assert "Redis is not available" in str(health.unreadiness())


def test_a_scheduler_is_ready_when_it_has_ticked(configuration: config.Config, test_store: Store) -> None:
    health = scheduler.Health(configuration.settings)
    assert (health.problem(), health.unreadiness()) == (None, "not started")
    health.note_tick()
    assert health.problem() is None
    health._ticked_at = time.monotonic() - 41
    assert health.problem() == "its main loop has not turned for 41 s"


# --- the commands -------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application on a Redis of its own."""
    with running_lab() as made:
        yield made


@pytest.mark.slow
def test_a_worker_answers_probes_and_notifies_systemd(lab: Lab, systemd: Systemd) -> None:
    port = free_port()
    # A forked process would show its parent's environment.
    lab.environ |= {"NOTIFY_SOCKET": str(systemd.path), "LASTACROSS_PRELOAD": "0"}
    with lab.workers(1, 2, "--health-port", str(port)) as running:
        wait_until(lambda: answer(port, "/readyz") == (200, "ok\n"), 60, "the worker to be ready")
        assert answer(port, "/healthz") == (200, "ok\n")
        assert systemd.receive() == "READY=1"
        [pid] = worker_pids(running)
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environ
        assert b"REDIS_URL" in environ
    assert systemd.receive() == "STOPPING=1"
    assert answer(port, "/healthz") == (0, "")


@pytest.mark.slow
def test_a_scheduler_answers_probes_and_notifies_systemd(lab: Lab, systemd: Systemd) -> None:
    port = free_port()
    environ = {**lab.environ, "NOTIFY_SOCKET": str(systemd.path)}
    command = ["scheduler", "--health-port", str(port)]
    line = python("-m", "lastacross", "--app", str(lab.root), *command)
    with started(line, lab.root, environ) as running:
        wait_until(lambda: answer(port, "/healthz") == (200, "ok\n"), 60, "the scheduler to live")
        # Its database has no tables, but it answers.
        wait_until(lambda: answer(port, "/readyz") == (200, "ok\n"), 60, "the scheduler to be ready")
        assert systemd.receive() == "READY=1"
        running.send(signal.SIGTERM)
        assert systemd.receive() == "STOPPING=1"
        running.wait()
