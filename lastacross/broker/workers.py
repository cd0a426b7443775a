"""The worker processes of all machines, as they register themselves, and the command that drains one.

Each process has RQ's worker hash, which expires half a minute after its last heartbeat. Our workers add one
field with their status. They write it together with RQ's fields, every five seconds and when they become busy
or idle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lastacross.broker.record import text_of
from lastacross.broker.steps import DEFAULT_GROUP, Steps, transient_errors
from lastacross.store import RQ_COMMANDS_PREFIX, RQ_WORKER_PREFIX, RQ_WORKERS

STATUS_FIELD = "lastacross"
OWN_NAME_PREFIX = "lastacross-"
MAX_WORKERS = 1000
MAX_RUNNING = 64
MAX_ERROR_CHARACTERS = 300

_FIELDS = (
    *("hostname", "pid", "state", "birth", "last_heartbeat", "queues", "death"),
    *("successful_job_count", "failed_job_count", STATUS_FIELD),
)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process's report about itself.

    ``running`` has the ids of the running tasks and their start times, oldest first, at most 64. Times are in
    seconds since the epoch. ``waiting`` counts tasks that the process has leased but not started.
    ``last_error`` is the beginning of the last failed attempt's reason, or ''. ``only`` names the queues to
    which the process is restricted, or none if it serves all. ``key`` is its SECRET_KEY's fingerprint, or ''.
    """

    release: str
    threads: int
    busy: int
    waiting: int
    running: tuple[tuple[str, float], ...]
    memory_bytes: int
    groups: tuple[str, ...]
    is_draining: bool = False
    last_error: str = ""
    last_error_task: str = ""
    last_error_at: float | None = None
    only: tuple[str, ...] = ()
    key: str = ""

    def dump(self) -> str:
        """This status as it is stored."""
        fields = {
            "release": self.release,
            "threads": self.threads,
            "busy": self.busy,
            "waiting": self.waiting,
            "running": [[task, round(at, 3)] for task, at in self.running[:MAX_RUNNING]],
            "memory_bytes": self.memory_bytes,
            "groups": list(self.groups),
            "is_draining": self.is_draining,
            "last_error": self.last_error[:MAX_ERROR_CHARACTERS],
            "last_error_task": self.last_error_task,
            "last_error_at": self.last_error_at,
            "only": list(self.only),
            "key": self.key,
        }
        return json.dumps(fields, separators=(",", ":"))


def load_status(text: bytes) -> WorkerStatus | None:
    """Parse a stored status; None if it is missing or malformed."""
    try:
        fields = json.loads(text)
        at = fields["last_error_at"]
        return WorkerStatus(
            release=str(fields["release"]),
            threads=int(fields["threads"]),
            busy=int(fields["busy"]),
            waiting=int(fields["waiting"]),
            running=tuple((str(task), float(start)) for task, start in fields["running"]),
            memory_bytes=int(fields["memory_bytes"]),
            groups=tuple(str(group) for group in fields["groups"]),
            is_draining=bool(fields["is_draining"]),
            last_error=str(fields["last_error"]).encode("utf-8", "replace").decode(),
            last_error_task=str(fields["last_error_task"]),
            last_error_at=None if at is None else float(at),
            only=tuple(str(queue) for queue in fields["only"]),
            key=str(fields["key"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A registered worker process.

    ``state`` is RQ's: ``idle``, ``busy`` or ``suspended``. ``born_at`` and ``heartbeat_at`` are in seconds
    since the epoch by the clock of the worker's machine. ``queues`` are the lists of ready tasks that it
    serves. ``status`` is None for a worker of the previous release and for RQ's own.
    """

    name: str
    hostname: str
    pid: int
    state: str
    born_at: float | None
    heartbeat_at: float | None
    queues: tuple[str, ...]
    done: int
    failed: int
    status: WorkerStatus | None

    @property
    def is_ours(self) -> bool:
        """Whether this is one of our workers rather than RQ's own."""
        return self.name.startswith(OWN_NAME_PREFIX)

    @property
    def groups(self) -> tuple[str, ...]:
        """The services whose tasks it runs; none for RQ's own worker."""
        if self.status is None:
            # The previous release does not say, and most of its workers serve the default service.
            return (DEFAULT_GROUP,) if self.is_ours else ()
        return self.status.groups

    def serves(self, queue: str, group: str) -> bool:
        """Whether it runs this queue's tasks for this service."""
        only = self.status.only if self.status else ()
        return self.is_ours and group in self.groups and (not only or queue in only)


class WorkerDirectory(Steps):
    """Reads and drains workers. Every method raises ``TransientError`` if Redis is unavailable."""

    def all(self) -> list[WorkerProcess]:
        """All live worker processes by name (at most 1,000), in two round trips."""
        with transient_errors():
            keys: Any = self.store.redis.smembers(RQ_WORKERS)
            kept = sorted(keys)[:MAX_WORKERS]
            with self.store.redis.pipeline(transaction=False) as pipeline:
                for key in kept:
                    pipeline.hmget(key, _FIELDS)
                answers = pipeline.execute(raise_on_error=False)
        found = [_worker(text_of(key), answer) for key, answer in zip(kept, answers, strict=True)]
        return [worker for worker in found if worker is not None]

    def drain(self, name: str) -> bool:
        """Ask one of our workers to finish its running tasks, release the others, and exit.

        Its supervisor then starts a new process. Returns False if none of our workers with this name is
        listening.
        """
        if not name.startswith(OWN_NAME_PREFIX):
            return False
        with transient_errors():
            listeners: Any = self.store.redis.publish(
                RQ_COMMANDS_PREFIX + name, json.dumps({"command": "shutdown"})
            )
        return bool(listeners)


def _worker(key: str, values: Any) -> WorkerProcess | None:
    """Build a worker from its hash; None if it has expired or ended."""
    if not isinstance(values, list) or values[_FIELDS.index("last_heartbeat")] is None:
        return None
    text = {name: text_of(value or b"") for name, value in zip(_FIELDS, values, strict=True)}
    if text["death"]:
        return None
    return WorkerProcess(
        name=key.removeprefix(RQ_WORKER_PREFIX),
        hostname=text["hostname"],
        pid=_count(text, "pid"),
        state=text["state"],
        born_at=_time(text["birth"]),
        heartbeat_at=_time(text["last_heartbeat"]),
        queues=tuple(name for name in text["queues"].split(",") if name),
        done=_count(text, "successful_job_count"),
        failed=_count(text, "failed_job_count"),
        status=load_status(values[-1] or b""),
    )


def _count(text: Mapping[str, str], name: str) -> int:
    value = text[name]
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else 0


def _time(text: str) -> float | None:
    """Parse a time in RQ's format; None if it is malformed."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
