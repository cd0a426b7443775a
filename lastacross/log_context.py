"""The task and the request that the running code belongs to, as fields of its log records.

The fields are ``queue``, ``task``, ``attempt``, ``batch`` and ``request_id``. They are read from context
variables only when a record is made, so a delivery has no extra cost. A thread starts with an empty context:
run its function with ``contextvars.copy_context().run`` to keep the fields.
"""

import hashlib
from contextvars import ContextVar
from typing import Any, Protocol

# An attempt's id has twice this many characters, so it has the form of a web request's id.
_ID_BYTES = 12


class TaskInProgress(Protocol):
    """The parts of ``taskqueue.CurrentTask`` that identify an attempt."""

    id: str
    name: str
    queue_name: str
    attempt: int
    request: str

    @property
    def batch_id(self) -> str | None:
        """The id of the task's batch, or None."""


# The broker sets the task (``broker.delivering``), and the web server's layers set the request's id.
task_in_progress: ContextVar[Any] = ContextVar("lastacross_current_task", default=None)
web_request_id: ContextVar[str] = ContextVar("lastacross_request_id", default="")


def fields() -> dict[str, Any]:
    """The fields of the calling code's records; empty outside tasks and requests."""
    found: dict[str, Any] = {}
    task: TaskInProgress | None = task_in_progress.get()
    if task is not None:
        found = fields_of(task)
    if request_id := web_request_id.get():
        found["request_id"] = request_id
    return found


def fields_of(task: TaskInProgress) -> dict[str, Any]:
    """The fields of records about one attempt of this task; ``batch`` is missing if it belongs to none."""
    found: dict[str, Any] = {"queue": task.queue_name, "task": task.name, "attempt": task.attempt}
    if batch_id := task.batch_id:
        found["batch"] = batch_id
    found["request_id"] = attempt_id(task)
    return found


def attempt_id(task: TaskInProgress) -> str:
    """The id of one attempt. Every process computes the same one, so the records can be matched up."""
    text = f"{task.id}\0{task.request}\0{task.attempt}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_ID_BYTES).hexdigest()
