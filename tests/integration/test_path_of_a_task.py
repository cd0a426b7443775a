"""How many files and rooms one task passes, from ``taskqueue.add`` to the ack that fires its batch's task."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import taskqueue, webapp
from lastacross.broker import queue_directory
from lastacross.config import Config
from lastacross.store import Store
from lastacross.worker.leasing import Serving
from lastacross.worker.maintenance import Maintenance
from lastacross.worker.worker import Worker
from tests.support.frames import Frames, room_of
from tests.test_architecture import FOUNDATION

MAIN = """
ran = []

def app(environ, start_response):
    ran.append(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""

# The goal is 20 files. The worker has twelve of them, webapp six, the store four; the number may only fall.
MAX_FILES = 34
MAX_BORDERS = 7


@pytest.fixture
def app_root(app_root: Path) -> Path:
    """An application that answers everything."""
    (app_root / "main.py").write_text(MAIN)
    return app_root


@pytest.fixture
def frames() -> Iterator[Frames]:
    """The profile of this thread and of the threads that the test starts."""
    before, before_threading = sys.getprofile(), threading.getprofile()
    with Frames() as made:
        yield made
    sys.setprofile(before)
    if before_threading is not None:
        threading.setprofile(before_threading)


@pytest.fixture
def worker(
    frames: Frames,
    test_store: Store,
    configuration: Config,
    app_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Worker]:
    """A worker in this thread, whose turns the test makes."""
    assert not frames.is_on
    # A worker does these now and then, whether or not there is a task.
    monkeypatch.setattr(Maintenance, "run_due", lambda _: False)
    monkeypatch.setattr(Worker, "_beat", lambda _: None)
    queue_directory.upload(test_store, configuration)
    made = Worker(
        test_store,
        Serving(queue_directory.of(test_store), ["default"]),
        webapp.inside(configuration, webapp.load_script, {}),
        threads=1,
        lease_seconds=8,
        direct_calls={},
        root=app_root,
    )
    made.register_birth()
    made._deadlines.start()
    made._runners.start()
    yield made
    made._runners.stop()
    made._deadlines.stop()
    made.register_death()


def run(worker: Worker, tasks: int) -> None:
    """Make turns until so many more tasks are done."""
    until = worker._recorder.done + tasks
    for _ in range(1000):
        if worker._recorder.done >= until:
            return
        worker._turn()
    raise AssertionError(f"{until - worker._recorder.done} tasks were not done in 1,000 turns")


def test_one_task_passes_few_files_and_rooms(worker: Worker, frames: Frames) -> None:
    complete = taskqueue.Task(url="/complete")
    taskqueue.add(url="/warm-up")
    run(worker, 1)
    with taskqueue.Batch(on_complete=complete) as batch:
        batch.add(taskqueue.Task(url="/member"))

    frames.is_on = True
    taskqueue.add(url="/work", params={"n": 1})
    run(worker, 2)
    frames.is_on = False

    assert batch.progress().finished_at is not None
    rooms = {border: calls for border, calls in frames.borders.items() if border[1] not in FOUNDATION}
    for path in sorted(frames.files):
        print(path)
    for (one, other), calls in sorted(frames.borders.items()):
        print(f"{one} → {other}: {calls} calls")
    own = {path for path in frames.files if room_of(path) not in FOUNDATION}
    print(
        f"{len(frames.files)} files, {len(own)} of them outside the foundation; {len(rooms)} borders of rooms"
    )
    assert {"broker/steps.py", "taskqueue/task.py", "worker/delivery.py"} <= frames.files
    assert len(frames.files) <= MAX_FILES
    assert len(rooms) <= MAX_BORDERS


@pytest.mark.usefixtures("test_store")
def test_a_border_is_seen(frames: Frames) -> None:
    frames.is_on = True
    queue_directory.current().all()
    taskqueue.Task(url="/work", headers={"a": "b"})
    frames.is_on = False

    assert {"broker/queue_directory.py", "store/store.py", "taskqueue/task.py"} <= frames.files
    assert ("broker", "store") in frames.borders
    assert ("taskqueue", "broker") in frames.borders
    assert ("broker", "broker") not in frames.borders
