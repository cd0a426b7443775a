"""A long task's interface for programs: its state as JSON, and requests that wait for its end."""

import re
import threading
from typing import Any

from lastacross import clock, config
from lastacross.datastore import LongTask
from lastacross.longtasks import looking, model, results
from lastacross.longtasks.view import View
from lastacross.webapp import Operation

MAX_INLINE_BYTES = 1024 * 1024
"""The maximum size of an inline result. A larger result must be fetched from its own URL."""

MAX_WAIT_SECONDS = 5.0
MAX_WAITING = 64
"""The maximum number of waiting requests per process, and never more than a quarter of its threads."""
POLL_SECONDS = 0.2

_waiting = 0
_waiting_lock = threading.Lock()


def of(view: View, *, has_result: bool = True) -> dict[str, Any]:
    """Return the operation, with the result if it is requested, is text or JSON, and is not too large."""
    operation = Operation(
        name=f"{view.path.strip('/')}/{view.id}",
        state=view.state,
        step=view.step,
        total_steps=view.total_steps,
        failed=1 if view.state == "failed" else 0,
        cancelled=1 if view.state == "cancelled" else 0,
        message=view.message or view.status,
        created_at=view.created_at,
        finished_at=view.finished_at,
        eta_seconds=view.eta_seconds,
        is_lost=view.error_text == looking.LOST,
        error=view.error_text or view.status,
    )
    return operation.json(
        _response(view) if has_result and view.state == "done" else None,
        title=view.title,
        status=view.status,
        percent=view.percent,
        eta_text=view.eta_text,
        attempts=view.attempts,
        is_blind=view.is_blind,
        next_try_at=clock.iso(view.next_try_at),
        next_try_text=view.next_try_text,
        next_try_seconds=view.next_try_seconds,
        error=view.error_text,
        started_at=clock.iso(view.started_at),
        elapsed_seconds=round(view.elapsed_seconds, 1),
        expires_at=clock.iso(view.expires_at) if view.is_over else None,
        status_url=view.urls.status,
        result_url=view.urls.result if view.state == "done" else None,
    )


def _response(view: View) -> dict[str, Any]:
    response: dict[str, Any] = {
        "kind": view.result_kind,
        "size": view.result_size,
        "result_url": view.urls.result,
    }
    if view.result_kind in ("text", "json") and view.result_size <= MAX_INLINE_BYTES:
        body = model.result_of(view.id)
        if body is not None:
            response["result"] = results.decode(view.result_kind, body)
    return response


def retry_after_seconds(view: View) -> int:
    """Return how many seconds a client should wait before polling again; the wait grows over time."""
    if view.elapsed_seconds < 10:
        return 1
    return 2 if view.elapsed_seconds < 60 else 5


def wanted_seconds(prefer: str | None) -> float:
    """Return a Prefer header's ``wait`` preference (RFC 7240), at most 5 s; 0 if it has none."""
    found = re.search(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", prefer or "", re.IGNORECASE)
    return min(float(found[1]), MAX_WAIT_SECONDS) if found else 0.0


def wait_for_end(task: LongTask, seconds: float) -> tuple[LongTask, bool]:
    """Wait for the end or the timeout; return the task, and whether the process had room to wait."""
    if not task.is_open or seconds <= 0 or not _enter():
        return task, False
    deadline = clock.SYSTEM.monotonic() + seconds
    pause = threading.Event()
    try:
        while task.is_open and (left := deadline - clock.SYSTEM.monotonic()) > 0:
            pause.wait(min(POLL_SECONDS, left))
            task = model.find(task.id) or task
    finally:
        _leave()
    return task, True


def _enter() -> bool:
    global _waiting
    most = min(MAX_WAITING, config.current().settings.web_threads // 4)
    with _waiting_lock:
        if _waiting >= most:
            return False
        _waiting += 1
        return True


def _leave() -> None:
    global _waiting
    with _waiting_lock:
        _waiting -= 1
