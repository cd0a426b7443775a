"""What a worker process is made of: the application, and the rules that its app.yaml gives it."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import config, deferred, store
from lastacross.processes import application, worker
from lastacross.processes.application import Application
from tests.conftest import SECRET_KEY


class NotingWorker:
    """Stands for the worker: keeps what it was made with, and has nothing to do."""

    made_with: dict[str, Any]
    exit_code = 0

    def __init__(self, *_: object, **options: Any) -> None:
        type(self).made_with = options

    def drain(self) -> None:
        """Nothing runs."""

    def work(self) -> None:
        """Return at once."""


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A worker process takes over SIGTERM and SIGINT: they are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _ok(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


@pytest.mark.parametrize(
    ("scaling", "seconds"),
    [
        ("", 600),
        ("service: shop\n", 600),
        ("automatic_scaling:\n  max_instances: 3\n", 600),
        ("basic_scaling:\n  max_instances: 3\n", 86_400),
        ("manual_scaling:\n  instances: 1\n", 86_400),
    ],
)
def test_a_task_may_run_as_long_as_the_services_scaling_says(
    app_root: Path, test_store: store.Store, monkeypatch: pytest.MonkeyPatch, scaling: str, seconds: int
) -> None:
    (app_root / "app.yaml").write_text(f"{scaling}handlers:\n- url: /.*\n  script: main.app\n")
    loaded = config.load(app_root, {"REDIS_URL": test_store.url, "SECRET_KEY": SECRET_KEY})
    empty = Application(outside=_ok, inside=_ok, direct_calls={deferred.DEFAULT_URL: deferred.outcome})
    monkeypatch.setattr(application, "load", lambda _: empty)
    monkeypatch.setattr(worker, "Worker", NotingWorker)

    worker.run(loaded, threads=1)

    assert NotingWorker.made_with["deadline_seconds"] == seconds


def test_a_backends_tasks_may_run_for_a_day_and_its_worker_says_when_it_stops(
    app_root: Path, test_store: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app_root / "backends.yaml").write_text("backends:\n- name: counter\n")
    environ = {"REDIS_URL": test_store.url, "SECRET_KEY": SECRET_KEY, "LASTACROSS_SERVICE": "counter"}
    loaded = config.load(app_root, environ)
    asked: list[str] = []

    def noting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        return _ok(environ, start_response)

    noted = Application(outside=_ok, inside=noting, direct_calls={deferred.DEFAULT_URL: deferred.outcome})
    monkeypatch.setattr(application, "load", lambda _: noted)
    monkeypatch.setattr(worker, "Worker", NotingWorker)

    worker.run(loaded, threads=1)

    assert asked == ["/_ah/start"]
    assert NotingWorker.made_with["deadline_seconds"] == 86_400
    assert callable(NotingWorker.made_with["on_stop"])
