"""The ids of the visitor's own recent tasks, kept in a signed cookie without any other data."""

from typing import Any

from lastacross.webapp import SignedList

COOKIE = "lastacross_longtasks"

_TASKS = SignedList(COOKIE, "longtasks")


def recent_ids(request: Any) -> list[str]:
    """The ids of this browser's tasks, newest first; a forged cookie counts as empty."""
    return _TASKS.read(request)


def remember(request: Any, response: Any, task_id: str) -> None:
    """Put a task at the front of this browser's list; the oldest beyond 50 is dropped."""
    _TASKS.add(request, response, task_id)
