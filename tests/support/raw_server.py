"""A server that answers with the given bytes, however wrong, on one connection after the other."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[socket.socket], None]


class RawServer:
    """Receives and notes requests, and answers each of them by calling a function with the connection.

    ``connected`` counts connections; ``left`` counts the connections that clients have closed.

    Args:
        answer: a function that is called for each complete request; it may send, wait and close.
        wrap: a function that wraps a new connection, for example in TLS.
        host: the address to listen on.
    """

    def __init__(
        self,
        answer: Answer,
        wrap: Callable[[socket.socket], socket.socket] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._answer = answer
        self._wrap = wrap
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=256)
        self._serving: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.port = self._listening.getsockname()[1]
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self.requests: list[bytes] = []
        self.connected = 0
        self.left = 0
        self._accepting = _started(self._accept)

    def stop(self) -> None:
        """Stop listening and close all connections."""
        _shut(self._listening)
        self._accepting.join(10)
        for connection in self._connections:
            _shut(connection)
        for thread in self._serving:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connected += 1
            self._connections.append(connection)
            self._serving.append(_started(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            talked = self._wrap(connection) if self._wrap else connection
            self._connections.append(talked)
            with talked:
                while request := _request(talked):
                    self.requests.append(request)
                    self._answer(talked)
                self.left += 1


def _started(target: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _request(connection: socket.socket) -> bytes:
    """Read one request with its body; empty if the client has disconnected."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    wanted = int(found[1]) if found else 0
    while len(body) < wanted:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        body += chunk
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def raw_server(
    answer: bytes | Answer,
    wrap: Callable[[socket.socket], socket.socket] | None = None,
    host: str = "127.0.0.1",
) -> Iterator[RawServer]:
    """Run a server that answers all requests with these bytes or by calling this function."""
    given: Answer = (lambda connection: connection.sendall(answer)) if isinstance(answer, bytes) else answer
    server = RawServer(given, wrap, host)
    try:
        yield server
    finally:
        server.stop()
