"""HTTP clients that cost little: kept-alive connections, requests that are bytes already."""

import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Answer:
    """One answer.

    Attributes:
        status: 200, 304, …
        headers: as they came.
        body: whole.
    """

    status: int
    headers: bytes
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header, '' where there is none."""
        for line in self.headers.split(b"\r\n"):
            found, _, value = line.decode("latin-1").partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return ""


class Connection:
    """A connection that is kept alive.

    Args:
        port: on loopback.
        source: the client's own address, on loopback too: limits per client tell them apart by it.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer."""
        self.socket.sendall(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def receive(self) -> Answer | None:
        """Read what is there; the answer when it is whole."""
        chunk = self.socket.recv(262_144)
        if not chunk:
            raise EOFError("the server has closed the connection")
        self._received += chunk
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        answer = Answer(int(head[9:12]), head, b"")
        if answer.status != 304:
            length = int(answer.header("Content-Length") or 0)
            if len(rest) < length:
                return None
            answer.body, rest = rest[:length], rest[length:]
        self._received = rest
        return answer


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def storm(port: int, requests: list[bytes], *, clients: int, seconds: float) -> dict[int, int]:
    """So many clients ask one after the other, each again as soon as it is answered; answers by status."""
    selector = selectors.DefaultSelector()
    connections = [Connection(port) for _ in range(clients)]
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.socket.sendall(requests[0])
    answered: dict[int, int] = {}
    asked = 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        for key, _ in selector.select(1.0):
            connection = key.data
            answer = connection.receive()
            if answer is None:
                continue
            answered[answer.status] = answered.get(answer.status, 0) + 1
            asked += 1
            connection.socket.sendall(requests[asked % len(requests)])
    for connection in connections:
        connection.socket.close()
    return answered
