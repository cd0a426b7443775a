"""The kinds of processes, and who starts them again: supervisor, web, worker, scheduler, dev, embedded Redis.

Import the one you need: each brings what it runs on, gunicorn for instance. This module imports none, because
``die_with_parent`` is started before each web server and Redis.
"""

__all__ = [
    "application",
    "dev",
    "embedded",
    "scheduler",
    "supervisor",
    "web",
    "worker",
    "workers",
]
