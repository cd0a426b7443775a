"""A lab for faults, with workers, a dedicated Redis, and an application that notes the tasks it runs."""

import contextlib
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lastacross import config, store
from tests.conftest import SECRET_KEY
from tests.support import history, recording
from tests.support.evidence import Limit
from tests.support.history import Operation
from tests.support.judging import judged
from tests.support.processes import Started, python, started, wait_until
from tests.support.redis_clock import SettableClock
from tests.support.redis_server import RedisServer, running_server

FILES = {
    "app.yaml": "handlers:\n- url: /.*\n  script: main.app\n",
    "queue.yaml": """\
queue:
- name: default
  rate: 50000/s
  bucket_size: 50000
- name: other
  rate: 50000/s
  bucket_size: 50000
- name: three
  rate: 50000/s
  bucket_size: 50000
  max_concurrent_requests: 3
- name: limited
  rate: 500/s
  retry_parameters:
    task_retry_limit: 1
    min_backoff_seconds: 0.1
""",
    "main.py": '''\
"""Notes what it runs in a file that outlives any process."""

import json
import os
import signal
import sys
import time
import urllib.parse

from lastacross import taskqueue

NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(environ, what):
    seen = {
        "what": what,
        "at": time.time(),
        "pid": os.getpid(),
        "path": environ["PATH_INFO"],
        "queue": environ["HTTP_X_APPENGINE_QUEUENAME"],
        "task": environ["HTTP_X_APPENGINE_TASKNAME"],
        "retry_count": int(environ["HTTP_X_APPENGINE_TASKRETRYCOUNT"]),
        "execution_count": int(environ["HTTP_X_APPENGINE_TASKEXECUTIONCOUNT"]),
        "previous_response": environ.get("HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE"),
    }
    os.write(NOTES, json.dumps(seen).encode() + b"\\n")
    return seen


def die():
    """kill -9 of this process, noted in the history."""
    sys.modules["tests_recording"].fault("killed", "by itself", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def fill(fields, attempt):
    """A batch, killed in the middle on the first attempts."""
    kills = [int(number) for number in fields.get("kill_after", "").split(",") if number]

    def members():
        for index in range(int(fields["count"])):
            if attempt <= len(kills) and index == kills[attempt - 1]:
                die()
            yield taskqueue.Task(url="/work")

    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(members())


def app(environ, start_response):
    if environ["PATH_INFO"] in {"/_ah/start", "/_ah/stop"}:
        start_response("404 -", [])
        return []
    body = environ["wsgi.input"].read().decode()
    fields = dict(urllib.parse.parse_qsl(body))
    seen = note(environ, "begin")
    path = environ["PATH_INFO"]
    if path == "/poison":
        die()
    elif path == "/fill":
        fill(fields, seen["retry_count"] + 1)
    while fields.get("turns") and seen["execution_count"] == 0:
        time.sleep(0.01)
    time.sleep(float(fields.get("seconds", "0")))
    statuses = fields.get("statuses", "200").split(",")
    status = statuses[min(seen["execution_count"], len(statuses) - 1)]
    note(environ, "end")
    start_response(f"{status} -", [("Content-Type", "text/plain")])
    return [b""]
''',
}


class Lab:
    """One application, its Redis and its notes.

    Args:
        folder: the application's folder.
        redis_server: a server that only this lab uses.
        files: the application's files by name, which replace or extend ``FILES``.
        environ: further variables, for processes that record a history (``judging.judged``).
        limits: the limits by queue, by which the history is judged; a test may add rates.
    """

    def __init__(
        self,
        folder: Path,
        redis_server: RedisServer,
        files: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        limits: dict[str, Limit] | None = None,
    ) -> None:
        self.root = folder
        self.redis_server = redis_server
        self.notes_file = folder / "notes.jsonl"
        self._notes: list[dict[str, Any]] = []
        self._read_to = 0
        self.environ = {
            "REDIS_URL": redis_server.url,
            "DATABASE_URL": f"sqlite:///{folder}/lab.db",
            "SECRET_KEY": SECRET_KEY,
            "LASTACROSS_DATA_DIR": str(folder / "var"),
            "NOTES": str(self.notes_file),
            **(environ or {}),
        }
        for name, text in {**FILES, **(files or {})}.items():
            (folder / name).write_text(text)
        self.config = config.load(folder, self.environ)
        self.store = store.Store(redis_server.url)
        self.limits = {} if limits is None else limits
        for queue_name, queue in self.config.queues.items():
            self.limits[queue_name] = Limit(at_once=queue.max_concurrent_requests)

    @contextlib.contextmanager
    def workers(self, processes: int = 2, threads: int = 8, *options: str) -> Iterator[Started]:
        """Run ``lastacross worker``, yield when its processes are working, and end it by SIGTERM."""
        with self.started_workers(processes, threads, *options) as running:
            yield running
            running.send(signal.SIGTERM)
            running.wait()
            assert running.others() == []

    @contextlib.contextmanager
    def started_workers(
        self, processes: int = 2, threads: int = 8, *options: str, environ: Mapping[str, str] | None = None
    ) -> Iterator[Started]:
        """Like ``workers``, but the processes are killed at the end; ``environ`` has further variables."""
        command = ["worker", "--processes", str(processes), "--threads", str(threads), *options]
        arguments = python("-m", "lastacross", "--app", str(self.root), *command)
        before = self._registered()
        with started(arguments, self.root, {**self.environ, **(environ or {})}) as running:
            wait_until(
                lambda: len(self._registered() - before) >= processes or running.process.poll() is not None,
                60,
                "workers",
            )
            assert running.process.poll() is None, running.text()
            yield running

    def _registered(self) -> set[bytes]:
        return set(self.store.redis.smembers("rq:workers"))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def stock(self, *arguments: str) -> Iterator[Started]:
        """Run a command of RQ's own command line in a process."""
        command, *others = arguments
        line = python("-W", "ignore", "-m", "rq.cli", command, "-u", self.redis_server.url, *others)
        with contextlib.ExitStack() as stack:
            if command == "worker":
                stack.callback(recording.begin_fault(history.FOREIGN, "RQ's own worker"))
            yield stack.enter_context(started(line, self.root, self.environ))

    def ask_stock(self, *arguments: str) -> str:
        """The output of a command of RQ's own command line."""
        if arguments[0] == "requeue":
            dead = [f"{queue}_{name}" for queue in self.config.queues for name in self.dead(queue)]
            recording.note("requeue", ids=dead)
        with self.stock(*arguments) as running:
            assert running.wait() == 0, running.text()
            return running.text()

    def notes(self) -> list[dict[str, Any]]:
        """All notes of deliveries, in order."""
        if self.notes_file.exists():
            with self.notes_file.open("rb") as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._read_to += len(line)
                    self._notes.append(json.loads(line))
        return self._notes

    def ran(self, path: str | None = None, what: str = "end") -> Counter[str]:
        """How many times each task ran to its end, or started."""
        return Counter(
            note["task"] for note in self.notes() if note["what"] == what and path in (None, note["path"])
        )

    def wait_for(self, count: int, path: str, seconds: float) -> float:
        """Wait until this many different tasks have run; returns how many seconds that took."""
        began_at = time.monotonic()
        wait_until(lambda: len(self.ran(path)) >= count, seconds, f"{count} tasks of {path} to run")
        return time.monotonic() - began_at

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no task is ready, leased or scheduled."""
        wait_until(lambda: not self.open_tasks(), seconds, "nothing to be left")

    def open_tasks(self) -> dict[str, int]:
        """The numbers of ready, leased and scheduled tasks of all queues, without zeros."""
        redis = self.store.redis
        counts: dict[str, int] = {}
        for queue in self.config.queues:
            counts[f"ready {queue}"] = int(redis.llen(store.ready_key(queue)))
            counts[f"leased {queue}"] = int(redis.zcard(store.leased_key(queue)))
            counts[f"scheduled {queue}"] = int(redis.zcard(store.scheduled_key(queue)))
        return {name: count for name, count in counts.items() if count}

    @property
    def history_file(self) -> Path:
        """The file into which the lab's processes record."""
        return Path(self.environ[recording.HISTORY])

    def history(self) -> list[Operation]:
        """The operations of this process and of the lab's processes so far."""
        return history.read(self.history_file)

    def record(self, task_id: str) -> dict[str, str]:
        """A task's record in Redis without RQ's data; empty if the task no longer exists."""
        raw: dict[bytes, bytes] = self.store.redis.hgetall(store.record_key(task_id))  # type: ignore[assignment]
        return {name.decode(): value.decode() for name, value in raw.items() if name != b"data"}

    def dead(self, queue: str = "default") -> list[str]:
        """The names of the dead letters."""
        ids: list[bytes] = self.store.redis.zrange(store.dead_key(queue), 0, -1)  # type: ignore[assignment]
        return [identifier.decode().partition("_")[2] for identifier in ids]

    def dead_records(self, *queues: str) -> dict[str, dict[bytes, bytes]]:
        """The records of the dead letters in Redis, for the message of a failed test."""
        redis: Any = self.store.redis
        ids = [f"{queue}_{name}" for queue in queues for name in self.dead(queue)]
        return {task_id: redis.hgetall(store.record_key(task_id)) for task_id in ids}


def worker_pids(running: Started) -> list[int]:
    """The pids of a supervisor's living worker processes."""
    return [pid for pid in running.others() if b"\0worker-process\0" in _command(pid)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def running_lab(
    *,
    append_only: bool = False,
    files: Mapping[str, str] | None = None,
    clock: Callable[[Path], SettableClock] | None = None,
    binary: str | None = None,
) -> Iterator[Lab]:
    """Provide a lab that this process uses, so that ``taskqueue.add`` adds to its Redis.

    All operations on tasks by its processes and this one are judged at the end
    (``history_rules.violations``).
    """
    with (
        tempfile.TemporaryDirectory(prefix="la-lab-") as name,
        running_server(append_only=append_only, clock=clock, binary=binary) as server,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        limits: dict[str, Limit] = {}
        environ = stack.enter_context(judged(folder / "history.jsonl", server.url, limits))
        lab = Lab(folder, server, files, environ, limits)
        config.use(lab.config)
        store.use(lab.store)
        try:
            yield lab
        finally:
            store.use(None)
            config.use(None)
            lab.store.close()
