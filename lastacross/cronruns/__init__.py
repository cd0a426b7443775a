"""Runs the jobs of cron.yaml. Each due time becomes one task, however many schedulers run.

A job's row in the datastore has its next due time. The process that advances the due time writes the run
and its task in the same transaction, and the outbox sends the task. Therefore, if a scheduler dies between
two steps, either everything or nothing was written. The rules are in docs/appengine.md, "cron.yaml".

``model`` contains the datastore's steps, ``tasks`` creates a run's task, ``ticking`` is the scheduler's
part, and ``recording`` is the worker's part when an attempt ends.
"""

__all__ = [
    "model",
    "recording",
    "ticking",
]
