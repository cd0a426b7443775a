"""A TCP connection to a Redis that can fall silent: nothing is lost or refused, and nothing arrives."""

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_BYTES = 65_536
_LOOK_SECONDS = 0.05


class Network:
    """Forwards connections from a local TCP port to a Redis on a Unix socket.

    Args:
        path: the path of the server's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._is_silent = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """The REDIS_URL of processes behind this network."""
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def __enter__(self) -> "Network":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Forward nothing during the block. Bytes that wait in a socket arrive afterwards."""
        self._is_silent.set()
        try:
            yield
        finally:
            self._is_silent.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._is_silent.is_set():
                self._stopping.wait(_LOOK_SECONDS)
                continue
            for key, _ in self._selector.select(_LOOK_SECONDS):
                if key.data is None:
                    self._accept()
                elif key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                    self._forward(key.fileobj, key.data)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.fspath(self._path))
        self._selector.register(client, selectors.EVENT_READ, server)
        self._selector.register(server, selectors.EVENT_READ, client)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(_BYTES)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            for one in (source, target):
                self._selector.unregister(one)
                one.close()
