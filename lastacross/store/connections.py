"""The connections on which scripts run: taken from redis-py's pool once, and kept for the next script.

The pool locks, polls the socket and counts each time a connection is taken and given back: together that
takes longer than a short script does.
"""

import os
from typing import Any

from lastacross import clock

# The server may have closed what was left alone for longer: the pool looks.
FRESH_SECONDS = 0.1


class Connections:
    """Free connections of one process, the one used last on top.

    Any number of threads may call; each call has a connection to itself. A forked child begins anew.

    Args:
        pool: redis-py's, which makes them, and knows those that are kept here as in use.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._free: list[tuple[Any, float]] = []
        self._pid = os.getpid()

    def call(self, *command: str | bytes | int | float) -> Any:
        """Send one command and wait for its answer; what is lost is made again as redis-py's client does.

        Raises:
            redis.RedisError: as redis-py.
        """
        connection = self._take()

        def ask() -> Any:
            connection.send_command(*command)
            return connection.read_response()

        try:
            answer = connection.retry.call_with_retry(ask, lambda error: connection.disconnect())
        except BaseException:
            # A thread may be interrupted anywhere: what is still to come would be the next call's answer.
            connection.disconnect()
            self._pool.release(connection)
            raise
        if connection.should_reconnect():
            self._pool.release(connection)
        else:
            self._free.append((connection, clock.SYSTEM.monotonic()))
        return answer

    def _take(self) -> Any:
        pid = os.getpid()
        if pid != self._pid:
            self._free, self._pid = [], pid
        try:
            connection, used_at = self._free.pop()
        except IndexError:
            return self._pool.get_connection()
        if clock.SYSTEM.monotonic() - used_at < FRESH_SECONDS:
            return connection
        self._pool.release(connection)
        return self._pool.get_connection()
