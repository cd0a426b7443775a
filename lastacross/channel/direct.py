"""Writing to a browser's socket without its stream's thread, which would have to be woken first."""

import socket


class DirectWriter:
    """Writes what a socket takes at once, in the chunks that its web server sends the body in.

    Only for a server that sends a body of unknown length in chunks (RFC 9112, 7.1), as gunicorn does over
    HTTP/1.1, and only while the stream's own thread is known to be writing nothing.

    Args:
        connection: the browser's; a plain socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, frames: bytes) -> bytes | None:
        """Send without waiting.

        Returns:
            What is still to be sent before anything else, b"" when all was; None when nothing was: the
            socket is full, or the browser gone.
        """
        chunk = b"%X\r\n%b\r\n" % (len(frames), frames)
        try:
            sent = self._connection.send(chunk, socket.MSG_DONTWAIT)
        except OSError:
            return None
        return chunk[sent:]

    def finish(self, rest: bytes) -> None:
        """Send what ``write`` has left, however long it takes; for the stream's own thread.

        Raises:
            OSError: the browser is gone.
        """
        self._connection.sendall(rest)
