"""Servers that are no usable Redis: silent ones, and ones that answer something else."""

import contextlib
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator

import redis

from tests.support.redis_server import RedisServer

PASSWORD = "open:sesame/1"
VERSION = b"version"


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers each piece of data with these bytes; gives its host and port.

    If the bytes are those of ``replies``, they answer HELLO, and anything else is OK.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while data := self.request.recv(65_536):
                    is_other = VERSION in answer and b"HELLO" not in data
                    self.request.sendall(b"+OK\r\n" if is_other else answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


def replies(version: bytes) -> bytes:
    """What a server of this version says to hello."""
    fields = {b"server": b"redis", VERSION: version, b"proto": b":3"}
    parts = [b"%%%d\r\n" % len(fields)]
    for key, value in fields.items():
        parts.append(b"$%d\r\n%s\r\n" % (len(key), key))
        parts.append(value + b"\r\n" if value[:1] == b":" else b"$%d\r\n%s\r\n" % (len(value), value))
    return b"".join(parts)


@contextlib.contextmanager
def never_accepting() -> Iterator[str]:
    """A listening socket that accepts nobody: the kernel connects the client, and nothing answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address that drops every packet of a new connection, because its queue of connections is full."""
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"redis://127.0.0.1:{address[1]}/0"


@contextlib.contextmanager
def with_password(server: RedisServer) -> Iterator[None]:
    """Let the server require a password during the block."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", PASSWORD)
        try:
            yield
        finally:
            client.config_set("requirepass", "")


def with_credentials(url: str, credentials: str) -> str:
    """A URL of a Unix socket with a user or a password."""
    path = re.sub(r"^unix://", "", url)
    assert os.path.isabs(path)
    return f"unix://{credentials}@{path}"
