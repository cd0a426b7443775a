"""Takes connections from redis-py's pool once and reuses them for running scripts.

Whenever a connection is taken or returned, the pool takes a lock, polls the socket and updates its counts.
That takes longer than a short script.
"""

import os
import threading
from typing import Any

import hiredis

from lastacross import clock
from lastacross.store.redis_compat import limit_answer

# The server may have closed a connection that was idle for longer than this, so the pool must check it.
FRESH_SECONDS = 0.1
# No block waits for so long beyond its limit, because nothing in it waits for more than a few seconds.
LEFT_OVER_SECONDS = 60.0


# The number of forks between the program's start and this process. Comparing it takes no system call.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Limit(threading.local):
    """The end of this thread's block, in monotonic seconds."""

    ends_at: float | None = None


class _Within:
    """A block with a limit.

    It is no generator: a handler's deadline may be raised anywhere, and a generator whose block was never
    entered would restore the limit when it is freed, perhaps in another thread.
    """

    def __init__(self, limit: Limit, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._before: float | None = None

    def __enter__(self) -> None:
        self._before = self._limit.ends_at
        ends_at = clock.SYSTEM.monotonic() + self._seconds
        self._limit.ends_at = ends_at if self._before is None else min(self._before, ends_at)

    def __exit__(self, *_error: object) -> None:
        self._limit.ends_at = self._before


class Connections:
    """A process's free connections. The most recently used connection is taken first.

    Any number of threads may make calls at the same time, because each call uses its own connection. A forked
    child starts without any connections.

    Args:
        pool: redis-py's pool, which creates the connections and treats the connections kept here as in use.
        limit: the end of each thread's block, which the pool may look at.
    """

    def __init__(self, pool: Any, limit: Limit | None = None) -> None:
        self._pool = pool
        self._free: list[tuple[Any, float]] = []
        self._forks = _forks
        self._limit = Limit() if limit is None else limit

    def within(self, seconds: float) -> "_Within":
        """Let this thread's calls wait for their replies until so many seconds from now, at most."""
        return _Within(self._limit, seconds)

    def call(self, *command: str | bytes | int | float) -> Any:
        """Send one command and wait for its reply. Reconnects in the same way as redis-py's client.

        Raises:
            redis.RedisError: in the same cases as redis-py's client.
        """
        connection = self._take()
        ends_at = self._limit.ends_at
        if ends_at is not None and clock.SYSTEM.monotonic() - ends_at > LEFT_OVER_SECONDS:
            # A handler's deadline was raised just as the block began, so the block has not ended it.
            ends_at = self._limit.ends_at = None

        def ask() -> Any:
            if ends_at is not None:
                limit_answer(connection, ends_at - clock.SYSTEM.monotonic())
            # redis-py's own `send_command` looks at each argument twice before it calls the same function.
            # Its annotation is that of a tuple with one argument.
            packed = hiredis.pack_command(command)  # type: ignore[arg-type]
            connection.send_packed_command([packed])
            return connection.read_response()

        try:
            answer = connection.retry.call_with_retry(ask, lambda error: connection.disconnect())
        except BaseException:
            # A thread may be interrupted anywhere. The next call would then read the rest of this reply.
            connection.disconnect()
            self._pool.release(connection)
            raise
        if ends_at is not None:
            limit_answer(connection, None)
        if connection.should_reconnect():
            self._pool.release(connection)
        else:
            self._free.append((connection, clock.SYSTEM.monotonic()))
        return answer

    def _take(self) -> Any:
        if self._forks != _forks:
            self._free, self._forks = [], _forks
        try:
            connection, used_at = self._free.pop()
        except IndexError:
            return self._pool.get_connection()
        if clock.SYSTEM.monotonic() - used_at < FRESH_SECONDS and not connection.should_reconnect():
            return connection
        self._pool.release(connection)
        return self._pool.get_connection()
