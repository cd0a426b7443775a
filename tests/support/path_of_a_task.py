"""Runs one task from ``taskqueue.add`` to the ack that fires its batch's task, and prints its path.

    python -m tests.support.path_of_a_task FOLDER REDIS_URL

This is a separate program, because a profile affects all threads of its process, and pytest has several.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from lastacross import config, store, taskqueue, webapp
from lastacross.broker import queue_directory
from lastacross.worker import Serving
from lastacross.worker.isolation import IsolatedProcesses
from lastacross.worker.maintenance import Maintenance
from lastacross.worker.worker import Worker
from tests.support.frames import Frames

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""


class QuietWorker(Worker):
    """A worker in this thread, without the periodic work that does not depend on a task."""

    def _beat(self) -> None:
        pass

    def run_until(self, is_over: Callable[[], bool], frames: Frames) -> None:
        """Make turns, which ``frames`` notes if it is on, until something is over."""
        was_on = frames.is_on
        for _ in range(1000):
            frames.is_on = False
            if is_over():
                return
            frames.is_on = was_on
            self._turn()
        raise SystemExit("1,000 turns were not enough")

    @property
    def done(self) -> int:
        """The number of successful tasks."""
        return self._recorder.done


def measure(root: Path, redis_url: str) -> Frames:
    """Record the path of one task of the application in this folder, on an empty Redis."""
    environ = {
        "REDIS_URL": redis_url,
        "SECRET_KEY": "k" * 40,
        "DATABASE_URL": f"sqlite:///{root}/test.db",
        "LASTACROSS_DATA_DIR": str(root / "var"),
    }
    (root / "main.py").write_text(APP)
    configuration = config.load(root, environ)
    config.use(configuration)
    opened = store.Store(redis_url)
    store.use(opened)
    queue_directory.upload(opened, configuration)
    Maintenance.run_due = lambda _: False  # type: ignore[assignment, method-assign]
    with Frames() as frames:
        worker = QuietWorker(
            opened,
            Serving(queue_directory.of(opened), ["default"]),
            webapp.inside(configuration, webapp.load_script, {}),
            threads=1,
            lease_seconds=8,
            direct_calls={},
            isolated=IsolatedProcesses(root),
        )
        worker.register_birth()  # type: ignore[no-untyped-call]
        worker._deadlines.start()
        worker._runners.start()
        _run_tasks(worker, frames)
        worker._runners.stop()
        worker._deadlines.stop()
        worker.register_death()  # type: ignore[no-untyped-call]
    return frames


def _run_tasks(worker: QuietWorker, frames: Frames) -> None:
    taskqueue.add(url="/warm-up")
    worker.run_until(lambda: worker.done == 1, frames)
    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(taskqueue.Task(url="/member"))
    frames.is_on = True
    taskqueue.add(url="/work", params={"n": 1})
    worker.run_until(lambda: batch.progress().finished_at is not None and worker.done >= 3, frames)


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), sys.argv[2])
    borders = [[one, other, calls] for (one, other), calls in sorted(found.borders.items())]
    print(json.dumps({"files": sorted(found.files), "borders": borders}))
