"""Runs the jobs of cron.yaml: each due time becomes one task, however many schedulers run.

The datastore decides: a job's row has its next due time. The process that advances it writes the run and
its task in the same transaction, and the outbox sends the task. So a scheduler may die between any two
steps: either everything was written, or nothing. The rules are in docs/appengine.md, "cron.yaml".

``model`` has the steps in the datastore, ``tasks`` makes a run's task, ``ticking`` is the scheduler's part,
and ``recording`` is the worker's part at a run's end.
"""

__all__ = [
    "model",
    "recording",
    "ticking",
]
