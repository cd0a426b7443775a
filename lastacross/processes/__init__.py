"""The kinds of processes, and who starts them again: supervisor, web, worker, scheduler, dev, embedded Redis.

Import the one you need: each brings what it runs on, gunicorn for instance.
"""

from lastacross.processes.application import Application

__all__ = [
    "Application",
    "application",
    "dev",
    "embedded",
    "scheduler",
    "supervisor",
    "web",
    "worker",
    "workers",
]
