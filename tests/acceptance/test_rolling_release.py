"""A release of two applications under load, during which machines with old and new code run side by side."""

import json
import sys
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lastacross import config, datastore, deferred, store, taskqueue
from lastacross.cronruns import model
from lastacross.processes import deploying
from tests.support import recording
from tests.support.lab import Lab, running_lab
from tests.support.processes import Started, python, started, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RETRY = "  retry_parameters:\n    min_backoff_seconds: 0.2\n    max_backoff_seconds: 0.5\n"
OLD_QUEUES = f"queue:\n- name: default\n  rate: 500/s\n{RETRY}"
NEW_QUEUES = (
    f"queue:\n- name: default\n  rate: 400/s\n  bucket_size: 400\n{RETRY}- name: fresh\n  rate: 90/s\n{RETRY}"
)
OLD_JOBS = "cron:\n- url: /cron/old\n  schedule: every 1 minutes\n"
NEW_JOBS = "cron:\n- url: /cron/new\n  schedule: every 1 minutes\n"

WITH_HANDLERS = "handlers:\n- url: /work\n  script: main.app\n- url: /cron/.*\n  script: main.app\n"
WITH_NEW_HANDLER = WITH_HANDLERS + "- url: /newer\n  script: main.app\n"

JOBS = '''\
"""Functions that note their calls."""

import main
from lastacross import taskqueue


def note(what):
    task = taskqueue.current_task()
    environ = {
        "PATH_INFO": what,
        "HTTP_X_APPENGINE_QUEUENAME": task.queue_name,
        "HTTP_X_APPENGINE_TASKNAME": task.name,
        "HTTP_X_APPENGINE_TASKRETRYCOUNT": task.retry_count,
        "HTTP_X_APPENGINE_TASKEXECUTIONCOUNT": task.execution_count,
    }
    main.note(environ, "begin")
    main.note(environ, "end")


def work():
    note("/work")
'''
NEWER = """

def newer():
    note("/newer")
"""


@dataclass(frozen=True)
class Application:
    """An application in two releases, and its ways to add a task that both have and one that the new has."""

    old: Mapping[str, str]
    new: Mapping[str, str]
    is_deferred: bool

    def add(self, name: str, queue: str) -> str:
        """Add a task and return its name."""
        if self.is_deferred:
            return str(deferred.defer(getattr(sys.modules["jobs"], name), _queue=queue).name)
        return str(taskqueue.Queue(queue).add(taskqueue.Task(url=f"/{name}")).name)


APPLICATIONS = {
    "handlers": Application(
        {"app.yaml": WITH_HANDLERS, "queue.yaml": OLD_QUEUES, "cron.yaml": OLD_JOBS},
        {"app.yaml": WITH_NEW_HANDLER, "queue.yaml": NEW_QUEUES, "cron.yaml": NEW_JOBS},
        is_deferred=False,
    ),
    "functions": Application(
        {"queue.yaml": OLD_QUEUES, "cron.yaml": OLD_JOBS, "jobs.py": JOBS},
        {"queue.yaml": NEW_QUEUES, "cron.yaml": NEW_JOBS, "jobs.py": JOBS + NEWER},
        is_deferred=True,
    ),
}


@pytest.fixture(params=list(APPLICATIONS.values()), ids=list(APPLICATIONS))
def application(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Application:
    """Each application in turn."""
    functions = types.ModuleType("jobs")
    for name in ("work", "newer"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "jobs", name
        setattr(functions, name, function)
    monkeypatch.setitem(sys.modules, "jobs", functions)
    found: Application = request.param
    return found


@dataclass
class Load:
    """Adds tasks steadily in the background, and keeps the names of those that were accepted."""

    application: Application
    per_second: float
    accepted: set[str] = field(default_factory=set)
    kinds: list[tuple[str, str]] = field(default_factory=lambda: [("work", "default")])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add until the block ends."""
        stopping = threading.Event()
        thread = threading.Thread(target=self._run, args=(stopping,))
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def _run(self, stopping: threading.Event) -> None:
        number = 0
        while not stopping.wait(1 / self.per_second):
            name, queue = self.kinds[number % len(self.kinds)]
            number += 1
            self.accepted.add(self.application.add(name, queue))


@contextmanager
def machines(application: Application) -> Iterator[tuple[Lab, Lab]]:
    """A machine with the old code and one with the new code, on one Redis and one database."""
    with (
        running_lab(files=application.old) as old,
        tempfile.TemporaryDirectory(prefix="la-new-") as name,
    ):
        shared = {"DATABASE_URL": old.environ["DATABASE_URL"], **recording.environ_of(old.history_file)}
        new = Lab(Path(name), old.redis_server, application.new, shared)
        try:
            yield old, new
        finally:
            new.store.close()
            datastore.dispose()


@contextmanager
def working(machine: Lab) -> Iterator[tuple[Started, Started]]:
    """A scheduler and two worker processes of a machine."""
    arguments = python("-m", "lastacross", "--app", str(machine.root), "scheduler")
    with started(arguments, machine.root, machine.environ) as scheduler, machine.workers(2) as workers:
        scheduler.wait_for_text("scheduler.start")
        yield scheduler, workers


def deploy(machine: Lab) -> dict[str, Any]:
    """Run the release step of a machine; returns its answer."""
    arguments = python("-m", "lastacross", "--app", str(machine.root), "deploy", "--json")
    with started(arguments, machine.root, machine.environ) as running:
        assert running.wait() == 0, running.text()
        text = running.text()
    answer: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return answer


def run_release(application: Application, seconds: float, per_second: float) -> None:
    """Release under load, with a restart of an old machine in between, and check that nothing was harmed."""
    load = Load(application, per_second)
    with machines(application) as (old, new), ExitStack() as running:
        deploy(old)
        with load.running():
            with working(old):
                time.sleep(seconds)
                deployed_at = time.time()
                assert deploy(new)["queues"] == ["default", "fresh"]
            # The old machine restarts after the deployment, and meets tasks that only the new code has.
            load.kinds += [("newer", "default"), ("newer", "fresh")]
            with working(old) as logs:
                wait_until(
                    lambda: "is it older than the code" in logs[1].text(), 60, "a call that is retried"
                )
                time.sleep(seconds)
                for each in logs:
                    assert each.text().count("deploy.differs") == 1
                    assert "queues.upload" not in each.text()
                running.enter_context(working(new))
                time.sleep(seconds)
            time.sleep(seconds)
        wait_until(lambda: not open_tasks(new), 60, "all tasks to end")
        ran = old.ran() + new.ran()
        assert load.accepted
        assert Counter({name: ran[name] for name in load.accepted}) == Counter(load.accepted)
        assert new.dead("default") + new.dead("fresh") == []
        check_settings(new)
        notes = old.notes() + new.notes()
        assert {note["path"] for note in old.notes()} <= {"/work", "/cron/old", "/cron/new"}
        cron = {note["path"]: note["at"] for note in notes if note["path"].startswith("/cron/")}
        assert cron.get("/cron/old", 0.0) < deployed_at + 1
        assert ("/cron/new" in cron) or 4 * seconds < 61


def open_tasks(machine: Lab) -> dict[str, int]:
    """The tasks of the application's own queues that have not ended."""
    return {name: count for name, count in machine.open_tasks().items() if "cron" not in name}


def check_settings(machine: Lab) -> None:
    """The scripts and the schedulers go by the new files."""
    for queue, rate in (("default", b"400.0"), ("fresh", b"90.0")):
        found = machine.store.redis.hmget(store.settings_key(queue), ("rate", "is_disabled"))
        assert found == [rate, b"0"]
    with in_use(machine):
        assert [json.loads(job.entry)["url"] for job in model.jobs()] == ["/cron/new"]
        assert deploying.harm_of(machine.config).queues == {}


@contextmanager
def in_use(machine: Lab) -> Iterator[None]:
    """Let this process use the machine's configuration."""
    before = config.current()
    config.use(machine.config)
    try:
        yield
    finally:
        config.use(before)


def test_a_release_under_load_loses_disables_and_reverts_nothing(application: Application) -> None:
    run_release(application, seconds=0.5, per_second=20)


@pytest.mark.long
def test_a_release_under_load_runs_jobs_by_the_new_schedule_only(application: Application) -> None:
    """Long enough for a minute to begin, which is when the jobs are due."""
    run_release(application, seconds=20, per_second=100)
