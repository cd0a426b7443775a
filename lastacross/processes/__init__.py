"""The kinds of processes (web, worker, scheduler, dev, embedded Redis) and their supervisor.

Import only the module that you need, because each has dependencies of its own, such as gunicorn. This package
imports none of them, because ``die_with_parent`` starts before each web server and Redis.
"""

__all__ = [
    "application",
    "deploying",
    "dev",
    "doctor",
    "embedded",
    "ending",
    "parent_watch",
    "preload",
    "probes",
    "scheduler",
    "start_upload",
    "supervisor",
    "web",
    "worker",
    "workers",
]
