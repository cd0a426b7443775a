"""Keeps the ids of the visitor's own recent tasks, and no other data, in a signed cookie."""

from typing import Any

from lastacross.webapp import SignedList

COOKIE = "lastacross_longtasks"

_TASKS = SignedList(COOKIE, "longtasks")


def recent_ids(request: Any) -> list[str]:
    """Return the ids of this browser's tasks, newest first; a forged cookie counts as empty."""
    return _TASKS.read(request)


def remember(request: Any, response: Any, task_id: str) -> None:
    """Put a task at the front of this browser's list, and drop the oldest tasks beyond 50."""
    _TASKS.add(request, response, task_id)
