"""The kinds of processes and their supervisor: web, worker, scheduler, dev, embedded Redis.

Import only the module you need, because each brings its own dependencies, such as gunicorn. This package
imports none of them, because ``die_with_parent`` starts before each web server and Redis.
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
