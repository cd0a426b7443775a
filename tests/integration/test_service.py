"""The life of a process of a service: how it starts, how it stops, and how many there are of which."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lastacross import config
from lastacross.config import Backend, Config
from lastacross.processes import lifecycle, workers
from lastacross.processes.lifecycle import Life
from lastacross.runtime import Shutdown
from tests.support.processes import wait_until

Answer = Callable[[str], str]

BACKEND = Backend(name="counter", instances=3, max_concurrent_requests=5)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A life takes over SIGTERM and SIGINT: they are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying again takes no time."""
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def shutdown() -> Shutdown:
    """A shutdown of this test's own."""
    return Shutdown()


class Program:
    """An application that notes what it is asked.

    Args:
        answer: the status of a path; it may wait, or raise.
    """

    def __init__(self, answer: Answer = lambda path: "200 OK") -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.environs: list[dict[str, Any]] = []
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> "Program":
        """Answer one request."""
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        self.environs.append(environ)
        start_response(self.answer(environ["PATH_INFO"]), [])
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"an", b"swer"])

    def close(self) -> None:
        """As PEP 3333 has it."""
        self.closed += 1


def of_service(configuration: Config, name: str) -> Config:
    """The configuration of this service's processes."""
    return replace(configuration, settings=replace(configuration.settings, service=name))


@pytest.fixture
def counter(configuration: Config) -> Config:
    """The configuration of a backend's processes."""
    return of_service(replace(configuration, backends={"counter": BACKEND}), "counter")


def life_of(program: Any, of: Config, shutdown: Shutdown, seconds: float = 10.0) -> Life:
    """The life of a process of this service."""
    return Life(program, of, drain_seconds=seconds, shutdown=shutdown)


# --- the beginning ------------------------------------------------------------------------


def test_a_process_of_the_default_service_is_not_asked_to_start(
    configuration: Config, shutdown: Shutdown
) -> None:
    program = Program()

    assert life_of(program, configuration, shutdown).start()

    assert program.asked == []


@pytest.mark.parametrize(
    ("name", "mode", "is_asked"),
    [
        ("default", "automatic", False),
        ("default", "manual", True),
        ("default", "basic", True),
        ("counter", "automatic", True),
        ("anything", "automatic", True),
    ],
)
def test_services_with_a_name_and_those_with_manual_or_basic_scaling_are_resident(
    configuration: Config, name: str, mode: Any, is_asked: bool
) -> None:
    app = replace(configuration.app, scaling=replace(configuration.app.scaling, mode=mode))

    assert lifecycle.is_resident(of_service(replace(configuration, app=app), name)) is is_asked


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 -", "404 Not Found"])
def test_success_and_not_found_count_as_started(counter: Config, shutdown: Shutdown, status: str) -> None:
    program = Program(lambda path: status)

    assert life_of(program, counter, shutdown).start()

    assert program.asked == ["GET /_ah/start"]
    assert program.closed == 1
    assert program.environs[0]["lastacross.system"] == "counter"


@pytest.mark.parametrize("status", ["500 -", "503 -", "302 Found", "403 Forbidden", "199 -", "300 -"])
def test_any_other_answer_is_tried_again(counter: Config, shutdown: Shutdown, status: str) -> None:
    answers = [status, status, "200 OK"]
    program = Program(lambda path: answers.pop(0))

    assert life_of(program, counter, shutdown).start()

    assert len(program.asked) == 3


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_in_the_start_handler_is_tried_again(
    counter: Config, shutdown: Shutdown, error: BaseException
) -> None:
    errors = [error]

    def answer(path: str) -> str:
        if errors:
            raise errors.pop()
        return "200 OK"

    program = Program(answer)

    assert life_of(program, counter, shutdown).start()

    assert len(program.asked) == 2


def test_an_application_that_does_not_answer_is_asked_again(counter: Config, shutdown: Shutdown) -> None:
    calls: list[str] = []

    def silent_at_first(environ: Any, start_response: Any) -> list[bytes]:
        calls.append(environ["PATH_INFO"])
        if len(calls) > 1:
            start_response("200 OK", [])
        return []

    assert life_of(silent_at_first, counter, shutdown).start()

    assert len(calls) == 2


def test_the_pause_before_another_try_doubles_to_a_limit(
    counter: Config, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["500 -"] * 6 + ["200 OK"]
    pauses: list[float] = []
    monkeypatch.setattr(lifecycle, "MAX_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(lifecycle._log, "warning", lambda event, **seen: pauses.append(seen["pause_seconds"]))

    life_of(Program(lambda path: answers.pop(0)), counter, shutdown).start()

    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01]


def test_a_process_told_to_stop_while_it_starts_lets_the_handler_end_and_calls_the_hook(
    counter: Config, shutdown: Shutdown
) -> None:
    events: list[str] = []
    shutdown.set_hook(lambda: events.append("hook"))

    def answer(path: str) -> str:
        if path == lifecycle.START:
            _terminate()
            wait_until(lambda: shutdown.has_begun)
        events.append(path)
        return "200 OK"

    assert not life_of(Program(answer), counter, shutdown).start()

    assert sorted(events) == ["/_ah/start", "/_ah/stop", "hook"]


def test_a_process_told_to_stop_while_its_start_fails_does_not_try_on(
    counter: Config, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_SECONDS", 60.0)
    program = Program(lambda path: "500 -")
    life = life_of(program, counter, shutdown)
    threading.Timer(0.05, life.ask_to_stop).start()

    assert not life.start()

    assert program.asked == ["GET /_ah/start", "GET /_ah/stop"]


def test_a_start_handler_that_hangs_does_not_outlive_the_grace(counter: Config, shutdown: Shutdown) -> None:
    release = threading.Event()

    def answer(path: str) -> str:
        if path == lifecycle.START:
            life.ask_to_stop()
            release.wait(60)
        return "200 OK"

    program = Program(answer)
    life = life_of(program, counter, shutdown, seconds=0.05)
    start = time.monotonic()
    try:
        assert not life.start()
    finally:
        release.set()
    assert time.monotonic() - start < 30
    wait_until(lambda: program.asked, what="the start handler to be called")
    assert program.asked[0] == "GET /_ah/start"


def test_a_drain_attached_too_late_for_the_signal_is_called_at_once(
    configuration: Config, shutdown: Shutdown
) -> None:
    life = life_of(Program(), configuration, shutdown)
    drained: list[str] = []
    life.start()
    life.ask_to_stop()

    life.attach(lambda: drained.append("now"))
    life.ask_to_stop()

    assert drained == ["now", "now"]


# --- the end ------------------------------------------------------------------------------


def test_stopping_calls_the_hook_once_and_asks_the_application_once(
    counter: Config, shutdown: Shutdown
) -> None:
    calls: list[bool] = []
    shutdown.set_hook(lambda: calls.append(shutdown.has_begun))
    program = Program()
    life = life_of(program, counter, shutdown)

    life.stop()
    life.stop()

    assert calls == [True]
    assert program.asked == ["GET /_ah/stop"]


def test_the_default_services_hook_is_called_and_its_application_not_asked(
    configuration: Config, shutdown: Shutdown
) -> None:
    calls: list[str] = []
    shutdown.set_hook(lambda: calls.append("hook"))
    program = Program()

    life_of(program, configuration, shutdown).stop()

    assert calls == ["hook"]
    assert program.asked == []


@pytest.mark.parametrize("error", [ValueError("a broken hook"), SystemExit(1)])
def test_what_a_hook_raises_harms_nothing(counter: Config, shutdown: Shutdown, error: BaseException) -> None:
    def broken() -> None:
        raise error

    shutdown.set_hook(broken)
    program = Program()

    life_of(program, counter, shutdown).stop()

    assert program.asked == ["GET /_ah/stop"]


def test_what_the_stop_handler_raises_harms_nothing(counter: Config, shutdown: Shutdown) -> None:
    calls: list[str] = []
    shutdown.set_hook(lambda: calls.append("hook"))

    def answer(path: str) -> str:
        raise ValueError("a broken stop handler")

    life_of(Program(answer), counter, shutdown).stop()

    assert calls == ["hook"]


def test_neither_the_hook_nor_the_stop_handler_waits_for_the_other(
    counter: Config, shutdown: Shutdown
) -> None:
    both = threading.Barrier(2, timeout=20)
    met: list[str] = []

    def meet(path: str = "hook") -> str:
        both.wait()
        met.append(path)
        return "200 OK"

    shutdown.set_hook(meet)

    life_of(Program(meet), counter, shutdown).stop()

    assert sorted(met) == ["/_ah/stop", "hook"]


def test_a_stop_that_is_cut_off_is_told(
    counter: Config, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(lifecycle._log, "warning", lambda event, **_: warned.append(event))
    release = threading.Event()
    shutdown.set_hook(lambda: release.wait(60))
    life = life_of(Program(), counter, shutdown)
    life.close()
    assert warned == []
    thread = threading.Thread(target=life.stop)
    thread.start()
    wait_until(lambda: shutdown.has_begun)

    life.close()
    release.set()
    thread.join()

    assert set(warned) == {"service.stop_cut_off"}


def test_a_process_that_drains_by_itself_stops_when_it_is_asked(counter: Config, shutdown: Shutdown) -> None:
    called = threading.Event()
    shutdown.set_hook(called.set)
    life = life_of(Program(), counter, shutdown)

    life.stop_when_asked()
    assert not called.wait(0.05)
    _terminate_with(life)

    assert called.wait(20)


def _terminate() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _terminate_with(life: Life) -> None:
    life.start()
    _terminate()


# --- how many of which --------------------------------------------------------------------


def numbers(of: Config, folder: Path, **given: Any) -> tuple[list[str], str, set[str]]:
    """Names, threads and services of the worker processes."""
    specs = workers.specs(of, {"GIVEN": "1"}, folder, **given)
    commands = {spec.command[spec.command.index("--threads") + 1] for spec in specs}
    [threads] = commands
    tables = {(spec.environ or {})[workers.STARTED_TABLE] for spec in specs}
    assert len(tables) == len(specs)
    return [spec.name for spec in specs], threads, {(spec.environ or {})[workers.SERVICE] for spec in specs}


@pytest.fixture
def with_backends(configuration: Config) -> Config:
    """A configuration with two backends, used by the default service."""
    backends = {"counter": BACKEND, "worker": Backend(name="worker")}
    return replace(configuration, backends=backends)


def test_the_default_services_processes_are_as_the_environment_says(
    with_backends: Config, tmp_path: Path
) -> None:
    assert numbers(with_backends, tmp_path) == (["worker-1", "worker-2"], "8", {"default"})


def test_a_backend_has_the_processes_and_threads_of_its_file(with_backends: Config, tmp_path: Path) -> None:
    found = numbers(with_backends, tmp_path, service="counter")

    assert found == (["counter-1", "counter-2", "counter-3"], "5", {"counter"})


def test_a_backend_without_numbers_has_one_process_and_the_threads_of_the_environment(
    with_backends: Config, tmp_path: Path
) -> None:
    assert numbers(with_backends, tmp_path, service="worker") == (["worker-1"], "8", {"worker"})


def test_the_command_line_counts_more_than_the_file(with_backends: Config, tmp_path: Path) -> None:
    found = numbers(with_backends, tmp_path, service="counter", processes=1, threads=2)

    assert found == (["counter-1"], "2", {"counter"})


def test_a_service_that_no_file_names_has_the_numbers_of_the_environment(
    with_backends: Config, tmp_path: Path
) -> None:
    found = numbers(with_backends, tmp_path, service="elsewhere")

    assert found == (["elsewhere-1", "elsewhere-2"], "8", {"elsewhere"})


def test_the_environment_may_name_the_service(with_backends: Config, tmp_path: Path) -> None:
    found = numbers(of_service(with_backends, "counter"), tmp_path)

    assert found == (["counter-1", "counter-2", "counter-3"], "5", {"counter"})


def test_the_name_that_app_yaml_gives_the_default_service_means_it(
    with_backends: Config, tmp_path: Path
) -> None:
    named = replace(with_backends, app=replace(with_backends.app, service="shop"))

    assert numbers(named, tmp_path, service="shop") == (["worker-1", "worker-2"], "8", {"default"})


def test_a_backend_named_worker_shares_no_table_with_the_workers(
    with_backends: Config, tmp_path: Path
) -> None:
    tables = [
        (spec.environ or {})[workers.STARTED_TABLE]
        for name in ("default", "worker")
        for spec in workers.specs(with_backends, {}, tmp_path, service=name)
    ]

    assert len(set(tables)) == 3


def test_a_backends_own_process_knows_its_deadline(app_root: Path) -> None:
    (app_root / "backends.yaml").write_text("backends:\n- name: counter\n")
    environ = {"SECRET_KEY": "a secret key of the tests, long enough", workers.SERVICE: "counter"}

    assert config.load(app_root, environ).deadline_seconds == 86_400
