"""Helps you test tasks: run them in order or as soon as they are added, and inspect those that are enqueued.

With pytest, use the fixtures ``run_tasks``, ``inline_tasks``, ``enqueued``, ``assert_enqueued`` or
``lastacross_app``. Without pytest:

    with testing.application("path/to/app") as app:
        taskqueue.add(url="/work")
        app.run_tasks()

See docs/testing.md for details.
"""

from lastacross.errors import RunTasksError, TaskFailedError
from lastacross.testing.clock import StoppedClock
from lastacross.testing.redis_server import redis_server
from lastacross.testing.seen import DeliveredTask, EnqueuedTask
from lastacross.testing.under_test import ApplicationUnderTest, application

__all__ = [
    "ApplicationUnderTest",
    "DeliveredTask",
    "EnqueuedTask",
    "RunTasksError",
    "StoppedClock",
    "TaskFailedError",
    "application",
    "redis_server",
]
