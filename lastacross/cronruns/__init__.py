"""Runs the jobs of cron.yaml. Each due time becomes one task, however many schedulers run.

A job's row in the datastore has its next due time. The process that advances the due time writes the run
and its task in the same transaction, and the outbox sends the task. Therefore, if a scheduler dies between
two steps, either everything or nothing was written. The rules are in docs/appengine.md, "cron.yaml".

``model`` contains the datastore's steps, ``entries`` converts jobs to text, ``overview`` shows the jobs,
``pauses`` knows the paused jobs, ``tasks`` creates a run's task, ``ticking`` is the scheduler's part, and
``recording`` is the worker's part when an attempt ends.
"""

import importlib
from typing import Any

__all__ = [
    "entries",
    "model",
    "overview",
    "pauses",
    "recording",
    "ticking",
]


def __getattr__(name: str) -> Any:
    """Import the module with this name, if it is in ``__all__``, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
