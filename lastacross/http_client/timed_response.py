"""Reads an HTTP response within a single deadline.

A socket's own timeout restarts with each byte, so a server that sends a byte now and then would block its
reader forever.
"""

import http.client
import io
import socket
from collections.abc import Callable
from typing import Any


class TimedResponse(http.client.HTTPResponse):
    """An HTTP response with a deadline on every read from the socket.

    Args:
        sock: the socket to read from.
        *args: the same arguments as for ``http.client.HTTPResponse``.
        remaining: a callable that returns the seconds until the deadline.
        **kwargs: as for ``http.client.HTTPResponse``.
    """

    def __init__(
        self, sock: socket.socket, *args: Any, remaining: Callable[[], float], **kwargs: Any
    ) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _TimedReader(self.fp.detach(), sock, remaining)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read the head.

        Raises:
            RemoteDisconnected: the connection ended before the head was complete. http.client alone would
                accept the incomplete head.
        """
        super().begin()
        if self._reader.has_ended:
            raise http.client.RemoteDisconnected("the connection ended within the response's head")


class _TimedReader(io.RawIOBase):
    """Reads from a socket's file and sets the socket's timeout before each read."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, remaining: Callable[[], float]) -> None:
        self._raw = raw
        self._sock = sock
        self._remaining = remaining
        self.has_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        seconds = self._remaining()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(seconds)
        count = self._raw.readinto(buffer)
        self.has_ended = count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
