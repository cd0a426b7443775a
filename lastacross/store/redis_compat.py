"""The private parts of redis-py that we rely on; tests/integration/test_redis_compat.py lists the versions.

redis-py has no public way to use ``select`` to wait for a reply and for another file at the same time, and no
public way to choose a server's address each time a connection is made.
"""

import socket
from collections.abc import Callable
from typing import Any

import redis

Address = tuple[str, int]


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a redis-py connection; None while it is not connected."""
    found: socket.socket | None = connection._sock
    return found


def limit_answer(connection: Any, seconds: float | None) -> None:
    """Let a redis-py connection wait so long for its next reply; None restores its own timeout.

    Raises:
        redis.TimeoutError: no time is left.
        redis.RedisError: the connection is not connected, and cannot be.
    """
    timeout: float | None = connection.socket_timeout
    if seconds is not None:
        if seconds <= 0:
            raise redis.TimeoutError("the caller's deadline has passed")
        timeout = seconds if timeout is None else min(seconds, timeout)
        connection.connect()
    connected = socket_of(connection)
    if connected is not None:
        connected.settimeout(timeout)


class _Attended:
    """A connection that reports its errors, and that may look up its server's address.

    Args:
        on_made: called with this connection.
        on_error: called with each error that redis-py raises while it reads a reply.
        find: returns the address to connect to; None to use the address in the URL.
        options: as for redis-py's connection.
    """

    def __init__(
        self,
        *,
        on_made: Callable[[Any], None],
        on_error: Callable[[redis.RedisError], None],
        find: Callable[[], Address] | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._on_error = on_error
        self._find = find
        on_made(self)

    def _connect(self) -> Any:
        if self._find is not None:
            self.host, self.port = self._find()
        return super()._connect()  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except redis.RedisError as error:
            self._on_error(error)
            raise


class _Tcp(_Attended, redis.Connection):
    pass


class _Tls(_Attended, redis.SSLConnection):
    pass


class _Unix(_Attended, redis.UnixDomainSocketConnection):
    pass


def connection_class(url: str) -> type[Any]:
    """The class of connections for a URL; their additional options are those of ``_Attended``."""
    return {"rediss": _Tls, "unix": _Unix}.get(url.partition("://")[0], _Tcp)
