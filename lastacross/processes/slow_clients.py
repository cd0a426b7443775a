"""Limits slow clients: how long they may take to send or read, and how many of them a network may have.

Each of them holds a thread. The time is measured on the socket.
"""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lastacross.clock import SYSTEM, Clock
from lastacross.webapp import SlowClientError

# For the headers, nginx allows 60 s and Apache's mod_reqtimeout allows 20 to 40 s.
HEAD_SECONDS = 20.0
# Apache allows 20 s and requires 500 bytes a second.
BODY_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1_000
# The longest pause allowed to a client that has sent or read a lot, no matter how fast it was before.
MAX_PAUSE_SECONDS = 20.0
# A request that takes longer than this to arrive counts as slow for its network.
SLOW_SECONDS = 2.0
# How long a request may pause if its network has used up its share of slow requests. Clients may send a body
# separately from the headers.
FULL_SECONDS = 0.2
# How often to measure how much a client has read, because the socket is writable only when a third of its
# buffer is free.
PROGRESS_MILLISECONDS = 500

TOO_SLOW = (
    f"The request arrived too slowly: its headers may take {HEAD_SECONDS:.0f} s, and its body "
    f"{BODY_SECONDS:.0f} s plus one second per {MIN_BYTES_PER_SECOND:,} bytes."
)


class SlowRequests:
    """Counts a process's slowly arriving requests, each of which occupies a thread.

    Args:
        max_per_network: the maximum number of slow requests from one network.
        network_of: a callable that returns the network of a peer's address, or None if its requests are not
            counted.
    """

    def __init__(self, max_per_network: int, network_of: Callable[[Any], str | None]) -> None:
        self._max_per_network = max_per_network
        self._network_of = network_of
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, peer: Any) -> str | None:
        """Count a request; returns its network, to be passed to ``remove``, or None if it is not counted.

        Raises:
            SlowClientError: its network already has as many as it is allowed.
        """
        network = self._network_of(peer)
        if network is None:
            return None
        with self._lock:
            if self._counts[network] >= self._max_per_network:
                most = (
                    f"{self._max_per_network:,} requests that take more than {SLOW_SECONDS:.0f} s to arrive"
                )
                raise SlowClientError(f"Your network has {most}, which is the limit.")
            self._counts[network] += 1
        return network

    @contextlib.contextmanager
    def counted(self, peer: Any) -> Iterator[None]:
        """Count a request for the duration of the block.

        Raises:
            BlockingIOError: its network already has as many as it is allowed.
        """
        try:
            network = self.add(peer)
        except SlowClientError as error:
            raise BlockingIOError(str(error)) from error
        try:
            yield
        finally:
            if network is not None:
                self.remove(network)

    def is_full(self, peer: Any) -> bool:
        """Whether ``add`` would refuse another request."""
        network = self._network_of(peer)
        return network is not None and self._counts[network] >= self._max_per_network

    def remove(self, network: str) -> None:
        """Stop counting a request."""
        with self._lock:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]


class Answer:
    """Times a response whose client does not read it immediately, across all of the response's writes.

    Only the time during which a thread waits for the client counts. An event stream never counts, because a
    network's streams have their own limit.
    """

    def __init__(self, peer: Any, slow: SlowRequests, *, is_stream: bool, clock: Clock = SYSTEM) -> None:
        self._peer = peer
        self._slow = slow
        self._clock = clock
        self._network: str | None = None
        self._is_counted = is_stream
        self._waited = 0.0
        # How fast the client read before the first wait cannot be measured, because the kernel has already
        # taken the data.
        self._left = MAX_PAUSE_SECONDS

    def write(self, connection: socket.socket, rest: memoryview) -> None:
        """Send the rest of a write as fast as the client reads.

        Raises:
            BlockingIOError: the client reads too slowly, or its network has too many slow clients.
            OSError: the connection is broken.
        """
        queued = _queued_bytes(connection)
        while rest:
            begun_at = self._clock.monotonic()
            is_writable = is_ready(connection, select.POLLOUT, PROGRESS_MILLISECONDS)
            sent = _send(connection, rest) if is_writable else 0
            rest, queued_before, queued = rest[sent:], queued, _queued_bytes(connection)
            self.add(self._clock.monotonic() - begun_at, queued_before + sent - queued)

    def add(self, seconds: float, read: int) -> None:
        """Record how long a thread has waited and how many bytes the client has read meanwhile.

        Raises:
            BlockingIOError: the client reads too slowly, or its network has too many slow clients.
        """
        self._waited += seconds
        credit = self._left + max(read, 0) / MIN_BYTES_PER_SECOND
        self._left = min(credit, MAX_PAUSE_SECONDS) - seconds
        if self._left < 0:
            raise BlockingIOError("the client reads its response too slowly")
        if not self._is_counted and self._waited > SLOW_SECONDS:
            try:
                self._network = self._slow.add(self._peer)
            except SlowClientError as error:
                raise BlockingIOError(str(error)) from error
            self._is_counted = True

    def end(self) -> None:
        """Remove the response from its network's slow ones."""
        if self._network is not None:
            self._slow.remove(self._network)
            self._network = None


def is_event_stream(headers: Sequence[tuple[str, str]]) -> bool:
    """Whether these headers announce server-sent events."""
    kinds = (value for name, value in headers if name.lower() == "content-type")
    return any(kind.lower().startswith("text/event-stream") for kind in kinds)


def _send(connection: socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def _queued_bytes(connection: socket.socket) -> int:
    """The number of bytes in the kernel that the client has not acknowledged yet; 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def is_readable(connection: socket.socket, milliseconds: int) -> bool:
    """Whether data or the connection's end arrives within this time."""
    return is_ready(connection, select.POLLIN, milliseconds)


def is_ready(connection: socket.socket, events: int, milliseconds: int) -> bool:
    """Whether one of these ``poll`` events, or the connection's end, arrives within this time."""
    waiting = select.poll()
    waiting.register(connection, events)
    return bool(waiting.poll(milliseconds))
