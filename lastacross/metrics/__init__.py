"""Counts of attempts per queue and per handler: how they ended, how long they ran, and how long they waited.

A worker process has a ``Recorder``, which collects its attempts and adds them to Redis once a second.
Everything else reads::

    from lastacross import metrics

    hour = metrics.minutes(store, metrics.QUEUE, "mail", now - 3600, now)
    for began_at, counts in hour.items():  # ascending; minutes without an attempt are missing
        print(began_at, counts.attempts, counts.outcomes["retried"])
    p50, p95 = metrics.quantiles(metrics.total(hour.values()).times, (0.5, 0.95))

- A *queue* is named as in queue.yaml. Its name in Redis is the one in its tasks' ids, so cron's queue is
  ``config.CRON_QUEUE``.
- A *handler* is the ``url`` of its route in app.yaml, for example ``/tasks/.*``, or the module and name of a
  deferred function, for example ``workers.send_mail``.
- A run of a *cron job* is counted under ``CRON`` and the job's name when it ends, without times.
- ``names`` lists at most 200 queues and 200 handlers. Later ones are counted under ``OTHER`` until one of
  the listed names has gone 72 hours without an attempt.
- ``minutes(store, metrics.EVERYTHING, metrics.QUEUES, …)`` returns the sum over all queues, and ``hours``
  returns each name's sum over whole hours.
- ``Counts.outcomes`` has ``done``, ``retried``, ``dead`` (now a dead letter), ``crashed`` (its process
  died) and ``lost`` (the lease was lost, so another worker also runs the task).
- ``Counts.times`` and ``Counts.waits`` are histograms. Bucket 0 holds times up to 1 ms, each further bucket
  times up to twice as long (``BOUNDS``, in seconds), and the last one everything longer. A wait is the time
  from the task's eta to its start, so neither a countdown nor the pause before a retry counts.

A minute is kept for 72 hours. It takes 45 to 80 bytes per queue or handler that had an attempt in it, at most
350 if the times are spread over all buckets, and nothing if there was no attempt. docs/internals.md has the
total.
"""

from lastacross.metrics.counts import BOUNDS, BUCKETS, OUTCOMES, Counts, quantiles, total
from lastacross.metrics.recorder import Attempt, Recorder
from lastacross.metrics.storage import (
    CRON,
    EVERYTHING,
    HANDLER,
    KEPT_MINUTES,
    LIMITS,
    OTHER,
    QUEUE,
    QUEUES,
    STREAMS_REPORT_SECONDS,
    count,
    hours,
    minutes,
    minutes_of_all,
    names,
    open_streams,
    report_streams,
    totals,
)

__all__ = [
    "BOUNDS",
    "BUCKETS",
    "CRON",
    "EVERYTHING",
    "HANDLER",
    "KEPT_MINUTES",
    "LIMITS",
    "OTHER",
    "OUTCOMES",
    "QUEUE",
    "QUEUES",
    "STREAMS_REPORT_SECONDS",
    "Attempt",
    "Counts",
    "Recorder",
    "count",
    "hours",
    "minutes",
    "minutes_of_all",
    "names",
    "open_streams",
    "quantiles",
    "report_streams",
    "total",
    "totals",
]
