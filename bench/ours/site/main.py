"""The application that is measured: tasks that do nothing, and tasks that tell when they began."""

import os
import time

import redis
import webapp2

_redis = redis.Redis.from_url(os.environ["REDIS_URL"])


def noop(row: int, column: int) -> None:
    """A deferred function that does nothing."""


def tell(key: str, name: str = "") -> None:
    """Push the instant at which this task began to a list.

    Args:
        key: of the list.
        name: put before the instant, to know the task by.
    """
    _redis.rpush(key, f"{name} {time.monotonic()!r}")


def tell_and_last(key: str, name: str, seconds: float) -> None:
    """The same in a task that takes so many seconds."""
    tell(key, name)
    time.sleep(seconds)


class WorkHandler(webapp2.RequestHandler):  # type: ignore[misc]
    """Reads the two fields of a form, and does nothing."""

    def post(self) -> None:
        """A task."""
        int(self.request.get("row"))
        int(self.request.get("column"))


class TellHandler(webapp2.RequestHandler):  # type: ignore[misc]
    """Tells when it began: a task for the latency, and the one that ends a batch."""

    def post(self) -> None:
        """A task; ``key`` and ``name`` as for ``tell``."""
        tell(self.request.get("key"), self.request.get("name"))


app = webapp2.WSGIApplication([("/work", WorkHandler), ("/tell", TellHandler)])
