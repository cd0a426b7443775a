"""Creates leased tasks as a worker holds them, without Redis."""

from typing import Any

from lastacross.broker import record
from lastacross.broker.record import Leased
from lastacross.taskqueue import Task
from lastacross.taskqueue.task import record_of

NOW = 1_800_000_000.0


def leased(queue: str = "default", *, name: str = "t1", lease: str = "w.1", **options: Any) -> Leased:
    """Create a leased task.

    Args:
        queue: the task's queue.
        name: the task's name.
        lease: the id of the lease.
        options: arguments of ``Task``, and fields of the record such as failures, lost and suspect.
    """
    extra = {
        key: str(options.pop(key)).encode()
        for key in ("failures", "lost", "unreached", "previous_response", "batch", "first_try_at", "suspect")
        if key in options
    }
    options.setdefault("url", "/work")
    flat = record_of(Task(**options), queue, NOW)
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    stored = {b"first_try_at": record.instant_text(NOW).encode()}
    stored |= {key.encode(): value for key, value in extra.items()}
    return Leased(record.task_id(queue, name), lease, fields | stored)
