"""The application that is measured: tasks that do nothing, and tasks that tell when they began."""

import os
import time

import redis
import webapp2

_redis = redis.Redis.from_url(os.environ["REDIS_URL"])


_ran_fds: dict[int, int] = {}


def count_run() -> None:
    """Leave a trace, so that a task that was lost or ran twice is noticed; the peers' tasks do the same."""
    pid = os.getpid()
    if pid not in _ran_fds:
        _ran_fds[pid] = os.open(os.environ["BENCH_RAN"], os.O_WRONLY | os.O_APPEND)
    os.write(_ran_fds[pid], b".")


def noop(row: int, column: int) -> None:
    """A deferred function that does next to nothing."""
    count_run()


def tell(key: str, name: str, seconds: float) -> None:
    """Push the instant at which this task began, and the process that runs it, to a list.

    Args:
        key: of the list.
        name: what the task is to be known by, without spaces.
        seconds: how long the task takes.
    """
    _redis.rpush(key, f"{name} {time.monotonic()!r} {os.getpid()}")
    if seconds:
        time.sleep(seconds)


class WorkHandler(webapp2.RequestHandler):  # type: ignore[misc]
    """Reads the two fields of a form, and does next to nothing."""

    def post(self) -> None:
        """A task."""
        int(self.request.get("row"))
        int(self.request.get("column"))
        count_run()


class TellHandler(webapp2.RequestHandler):  # type: ignore[misc]
    """The same as a handler."""

    def post(self) -> None:
        """A task; the fields are the arguments of ``tell``."""
        tell(self.request.get("key"), self.request.get("name"), float(self.request.get("seconds")))


app = webapp2.WSGIApplication([("/work", WorkHandler), ("/tell", TellHandler)])
