"""The visitor's own recent tasks: their ids in a signed cookie, and nothing else."""

from typing import Any

from lastacross.webapp import SignedList

COOKIE = "lastacross_longtasks"

_TASKS = SignedList(COOKIE, "longtasks")


def recent_ids(request: Any) -> list[str]:
    """The ids of the tasks that this browser has started, newest first; a forged cookie counts as none."""
    return _TASKS.read(request)


def remember(request: Any, response: Any, task_id: str) -> None:
    """Put a task in front of those that this browser has started; the oldest beyond 50 is dropped."""
    _TASKS.add(request, response, task_id)
