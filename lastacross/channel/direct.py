"""Writes to a browser's socket without waking its stream's thread."""

import socket


class DirectWriter:
    """Writes as much as a socket accepts immediately, in the web server's chunk format.

    Use it only with a server that sends a body of unknown length in chunks (RFC 9112, 7.1), as gunicorn does
    over HTTP/1.1. The stream's own thread must not write at the same time.

    Args:
        connection: the browser's socket, without TLS.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, frames: bytes) -> bytes | None:
        """Send without waiting.

        Returns:
            The unsent rest, which must be sent first, or b"" if there is none. None if nothing was sent,
            because the socket is full or the browser has disconnected.
        """
        chunk = b"%X\r\n%b\r\n" % (len(frames), frames)
        try:
            sent = self._connection.send(chunk, socket.MSG_DONTWAIT)
        except OSError:
            return None
        return chunk[sent:]

    def finish(self, rest: bytes) -> None:
        """Send the rest of a ``write``, however long it takes; to be called by the stream's own thread.

        Raises:
            OSError: the browser has disconnected.
        """
        self._connection.sendall(rest)
