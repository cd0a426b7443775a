"""cron.yaml at work: each due instant of a job becomes one task, whatever number of schedulers look.

What decides is in the datastore: a job's row says when it is due next, and whoever moves it on from that
instant writes, in the same transaction, the run and its task (the outbox sends it). So a scheduler
may die between any two steps: either nothing was written, or all. Rules: docs/appengine.md, "cron.yaml".

``model``: the steps in the datastore. ``tasks``: a run as a task. ``ticking``: what a scheduler does.
``recording``: what a worker says of a run's end.
"""

__all__ = [
    "model",
    "recording",
    "ticking",
]
