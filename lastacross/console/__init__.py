"""The operator's pages under ``/_ah/admin/``: what runs, what waits, what is wrong, and what to do about it.

``page`` has the base classes, ``app`` the addresses, and each other module the pages on one subject. The
pages are imported on the first request, because most processes never show one.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from lastacross.console.shared import ROOT, WORK_URL, list_processes_with

__all__ = ["ROOT", "WORK_URL", "list_processes_with", "serve", "work"]


def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request to the console."""
    app: Any = importlib.import_module("lastacross.console.app")
    found: Iterable[bytes] = app.serve(environ, start_response)
    return found


def work(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer the request from a bulk action's task."""
    dead: Any = importlib.import_module("lastacross.console.dead")
    found: Iterable[bytes] = dead.work(environ, start_response)
    return found
