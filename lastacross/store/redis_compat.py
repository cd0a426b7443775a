"""The private parts of redis-py that we rely on; tests/integration/test_redis_compat.py lists the versions.

redis-py has no public way to use ``select`` to wait for a reply and for another file at the same time, and no
public way to choose a server's address each time a connection is made.
"""

import socket
from collections.abc import Callable
from typing import Any

import redis

Address = tuple[str, int]
TimeLeft = Callable[[], float | None]

MIN_CONNECT_SECONDS = 0.001


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a redis-py connection; None while it is not connected."""
    found: socket.socket | None = connection._sock
    return found


class DeadlinePassedError(redis.RedisError):
    """The caller's time has passed, so nothing is retried."""

    def __init__(self) -> None:
        super().__init__("the caller's deadline has passed")


def limit_answer(connection: Any, seconds_left: TimeLeft) -> None:
    """Connect if necessary, and let a redis-py connection wait so long for its next reply.

    Raises:
        DeadlinePassedError: no time is left.
        redis.RedisError: the connection is not connected, and cannot be.
    """
    connection.connect()
    seconds = seconds_left()
    timeout: float | None = connection.socket_timeout
    if seconds is not None:
        if seconds <= 0:
            raise DeadlinePassedError
        timeout = seconds if timeout is None else min(seconds, timeout)
    _set_timeout(connection, timeout)


def restore_answer(connection: Any) -> None:
    """Let a redis-py connection wait as long as it was made to."""
    _set_timeout(connection, connection.socket_timeout)


def _set_timeout(connection: Any, seconds: float | None) -> None:
    connected = socket_of(connection)
    if connected is not None:
        connected.settimeout(seconds)


class _Attended:
    """A connection that reports its errors, and that may look up its server's address.

    Args:
        on_made: called with this connection.
        on_error: called with each error that redis-py raises while it reads a reply.
        find: returns the address to connect to; None to use the address in the URL.
        seconds_left: returns how long the caller may still wait for the connection; None to have no limit.
        options: as for redis-py's connection.
    """

    def __init__(
        self,
        *,
        on_made: Callable[[Any], None],
        on_error: Callable[[redis.RedisError], None],
        find: Callable[[], Address] | None,
        seconds_left: TimeLeft = lambda: None,
        **options: Any,
    ) -> None:
        self._seconds_left = seconds_left
        super().__init__(**options)
        self._on_error = on_error
        self._find = find
        on_made(self)

    def _connect(self: Any) -> Any:
        left = self._seconds_left()
        if left is None:
            return self._connect_to_found()
        if left <= 0:
            raise DeadlinePassedError
        whole = self.socket_connect_timeout
        # Each of the server's addresses gets this time.
        self.socket_connect_timeout = left if whole is None else min(left, whole)
        try:
            return self._connect_to_found()
        finally:
            self.socket_connect_timeout = whole

    def _connect_to_found(self) -> Any:
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
    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        if self._seconds_left() is None:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        sock.settimeout(self.socket_connect_timeout)
        wrapped = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        wrapped.settimeout(self.socket_timeout)
        return wrapped


class _Unix(_Attended, redis.UnixDomainSocketConnection):
    pass


def connection_class(url: str) -> type[Any]:
    """The class of connections for a URL; their additional options are those of ``_Attended``."""
    return {"rediss": _Tls, "unix": _Unix}.get(url.partition("://")[0], _Tcp)
