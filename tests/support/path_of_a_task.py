"""Runs one task from ``taskqueue.add`` to the ack that fires its batch's task, and prints its path.

    python -m tests.support.path_of_a_task FOLDER REDIS_URL

This is a separate program, because a profile affects all threads of its process, and pytest has several.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lastacross import config, store, taskqueue, webapp
from lastacross.broker import queue_directory
from lastacross.worker import Serving
from lastacross.worker.isolation import IsolatedProcesses
from lastacross.worker.worker import Worker
from tests.support.frames import Frames

MAX_SECONDS = 60

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""


class QuietWorker(Worker):
    """A worker in this thread; ``frames`` leaves out the periodic work that does not depend on a task."""

    frames: Frames

    def _beat(self) -> None:
        pass

    def _maintain(self) -> None:
        with self.frames.leaving_out():
            super()._maintain()

    def _require_threads(self) -> None:
        pass

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Make turns, which ``frames`` notes if it is on, until something is over."""
        ends_at = time.monotonic() + MAX_SECONDS
        turns = 0
        was_on = self.frames.is_on
        while True:
            self.frames.is_on = False
            if is_over():
                return
            if time.monotonic() > ends_at or self._recorder.failed:
                raise SystemExit(
                    f"{turns} turns: {self.done} done, {self._recorder.failed} failed, held {self._held}"
                )
            self.frames.is_on = was_on
            self._turn()
            turns += 1

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
        worker.frames = frames
        worker.register_birth()  # type: ignore[no-untyped-call]
        worker._deadlines.start()
        worker._runners.start()
        _run_tasks(worker)
        worker._runners.stop()
        worker._deadlines.stop()
        worker.register_death()  # type: ignore[no-untyped-call]
    return frames


def _run_tasks(worker: QuietWorker) -> None:
    taskqueue.add(url="/warm-up")
    worker.run_until(lambda: worker.done == 1)
    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(taskqueue.Task(url="/member"))
    worker.frames.is_on = True
    taskqueue.add(url="/work", params={"n": 1})
    worker.run_until(lambda: batch.progress().finished_at is not None and worker.done >= 3)


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), sys.argv[2])
    borders = [[one, other, calls] for (one, other), calls in sorted(found.borders.items())]
    print(json.dumps({"files": sorted(found.files), "borders": borders}))
