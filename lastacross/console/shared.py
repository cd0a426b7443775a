"""The console's addresses, and how it learns of processes that only other modules know."""

from collections.abc import Callable, Iterable
from typing import Any

ROOT = "/_ah/admin/"
WORK_URL = "/_ah/bulk"
"""The URL of the tasks that carry out bulk actions."""

_list_processes: Callable[[Any], Iterable[Any]] | None = None


def list_processes_with(function: Callable[[Any], Iterable[Any]]) -> None:
    """Let the pages list web servers and schedulers, which only the package that starts them knows.

    Args:
        function: takes a store, and returns processes with a ``name`` (``kind:host:pid``) and the time
            ``at`` of their last sign of life.
    """
    global _list_processes
    _list_processes = function


def other_processes(opened: Any) -> list[Any]:
    """The live web servers and schedulers; none if no way to list them has been set."""
    return [] if _list_processes is None else list(_list_processes(opened))
